"""What all attempts of one worker process share."""

import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from service.database import create_database_engine, create_session_factory
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sources import Sources
from service.storage import ObjectStore, open_store
from worker.cache import FileCache
from worker.retry import until_reachable

T = TypeVar("T")


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@dataclass(frozen=True)
class WorkerContext:
    """Connections, settings, and whether the worker is about to stop.

    Attributes:
        draining: Set once: no further unit is begun, the one under way is handed back.
    """

    settings: ServiceSettings
    engine: Engine
    sessions: sessionmaker[Session]
    store: ObjectStore
    sources: Sources
    doorbell: Doorbell
    cache: FileCache
    name: str = field(default_factory=_worker_name)
    draining: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: ServiceSettings) -> "WorkerContext":
        """Set everything up; nothing is contacted yet."""
        engine = create_database_engine(settings, pool_size=5)
        store = open_store(settings)
        return cls(
            settings=settings,
            engine=engine,
            sessions=create_session_factory(engine),
            store=store,
            sources=Sources(settings, store),
            doorbell=Doorbell(settings),
            cache=FileCache(cls.cache_folder_of(settings), settings.cache_bytes),
        )

    @staticmethod
    def cache_folder_of(settings: ServiceSettings) -> Path:
        """Return where fetched files and the engine's statistics are kept."""
        return settings.cache_folder or settings.work_folder / "cache"

    def transact(self, work: Callable[[Session], T], give_up: Callable[[], bool]) -> T:
        """Do ``work`` in a transaction, again and again while the database cannot be reached.

        ``work`` must be fenced or idempotent: the answer to a commit may get lost.

        Args:
            work: Called with a fresh session.
            give_up: Asked before every further attempt.
        """

        def once() -> T:
            with self.sessions.begin() as session:
                return work(session)

        return until_reachable(once, give_up)

    def close(self) -> None:
        """Close all connections."""
        self.doorbell.close()
        self.engine.dispose()
