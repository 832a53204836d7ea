"""The API served by uvicorn from a thread, files that its jobs may name, and clients with keys."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker

from service.auth import create_key


@dataclass(frozen=True)
class Inputs:
    """Files that jobs may name."""

    root: Path
    base_checkpoint: str
    dataset: str
    feature_network: str

    def body(self, **changes: object) -> dict[str, object]:
        """A job that is fine, with some fields changed."""
        return {
            "preset": "digits",
            "base_checkpoint": self.base_checkpoint,
            "dataset": {"uri": self.dataset},
            "feature_network": self.feature_network,
        } | changes

    def complete_body(self) -> dict[str, object]:
        """A job that says everything itself."""
        return {
            "base_checkpoint": self.base_checkpoint,
            "dataset": {"uri": self.dataset, "grey_levels": 17},
            "feature_network": self.feature_network,
            "rounds": 2,
            "grid": {"alpha": [2.0, 4.0], "beta": [0.5]},
            "training": {
                "kimg": 2.0,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "ema_half_life_kimg": 1.0,
                "evaluate_every_kimg": 1.0,
            },
            "reference_set": {"num_samples": 101, "shards": 2},
            "evaluation": {"num_samples": 50},
            "seed": 7,
        }


def write_inputs(root: Path) -> Inputs:
    """Write three files of 1000, 500 and 200 bytes below ``root``."""
    root.mkdir()
    sizes = {"base.safetensors": 1000, "train.zip": 500, "features.safetensors": 200}
    for name, size in sizes.items():
        (root / name).write_bytes(b"x" * size)
    return Inputs(root, *((root / name).as_uri() for name in sizes))


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve ``app`` from a thread and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def client_of(url: str, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False)


def key_for(sessions: sessionmaker[Session], tenant: str) -> str:
    with sessions.begin() as session:
        return create_key(session, tenant=tenant, name="tests")
