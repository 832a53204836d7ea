"""The whole service on this machine, on ports and in a folder of its own."""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import httpx

from deploy.commands import MIGRATE, WORKER, api_command
from deploy.local.postgres import PostgresServer
from deploy.local.processes import LocalError, Process, signals_held_back, start_on_free_port
from deploy.local.valkey import ValkeyServer

_ROOT = Path(__file__).parents[2]
_DATABASE = "ddo"
_HOST = "127.0.0.1"


class LocalStack:
    """Postgres, Valkey, the migrated schema, the API, workers and an API key; all of it ends with the ``with`` block.

    Attributes:
        url: Where the API is.
        api_key: A key of the tenant ``local``.
        environment: The settings (``DDO_…``) under which API and workers run.
        folder: Data and logs.
        postgres: The database server.
        valkey: The broker.
        api: The API's process.
        workers: The workers' processes, in order of their start.
    """

    def __init__(
        self,
        *,
        num_workers: int = 1,
        input_roots: Sequence[Path] = (),
        settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
        port: int | None = None,
    ) -> None:
        """Describe the stack; ``with`` starts it.

        Args:
            num_workers: Workers to start.
            input_roots: Folders from which jobs may read ``file://`` inputs.
            settings: Further settings (``DDO_…``) of API and workers; they win.
            folder: Keeps its data for the next time; None: a temporary one, removed at the end.
            port: The API's port; None: a free one.
        """
        self._num_workers = num_workers
        self._settings = dict(settings or {})
        self._input_roots = [str(Path(root).resolve()) for root in input_roots]
        self._kept = folder
        self._port = port
        self._exit = ExitStack()
        self.workers: list[Process] = []

    @property
    def logs(self) -> Path:
        """The folder of log files, one a process."""
        return self.folder / "logs"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            with signals_held_back():
                self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with signals_held_back():
            for process in self.workers:
                process.begin_stop()
            self._exit.close()

    def _start(self) -> None:
        self._open_folder()
        postgres_folder = self._kept / "postgres" if self._kept else None
        self.postgres = self._exit.enter_context(PostgresServer(postgres_folder, log=self.logs / "postgres.log"))
        self.valkey = self._exit.enter_context(ValkeyServer(log=self.logs / "valkey.log"))
        if not self.postgres.has_database(_DATABASE):
            self.postgres.create_database(_DATABASE)
        remembered = self._secrets()
        self.environment = self._environment(remembered["url_signing_key"])
        self._run_once("migrate", MIGRATE)
        # first, as they load their code while the rest goes on
        for _ in range(self._num_workers):
            self.start_worker()
        if "api_key" not in remembered:
            remembered["api_key"] = self.create_api_key("local", "local stack")
            self._remember(remembered)
        self.api_key = remembered["api_key"]
        self._start_api()

    def _open_folder(self) -> None:
        if self._kept is None:
            self.folder = Path(mkdtemp(prefix="ddo-stack-"))
            self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)
        else:
            self.folder = self._kept.resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._exit.enter_context((self.folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalError(f"another stack is using {self.folder}") from error
        for name in ("logs", "objects", "work"):
            (self.folder / name).mkdir(exist_ok=True)

    def _secrets(self) -> dict[str, str]:
        file = self.folder / "secrets.json"
        remembered: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        if "url_signing_key" not in remembered:
            remembered["url_signing_key"] = secrets.token_urlsafe(32)
            self._remember(remembered)
        return remembered

    def _remember(self, remembered: dict[str, str]) -> None:
        file = self.folder / "secrets.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(remembered))

    def _environment(self, url_signing_key: str) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // max(1, self._num_workers))
        return {
            "DDO_DATABASE_URL": self.postgres.url(_DATABASE),
            "DDO_BROKER_URL": self.valkey.url(),
            "DDO_STORAGE_URL": (self.folder / "objects").as_uri(),
            "DDO_URL_SIGNING_KEY": url_signing_key,
            "DDO_INPUT_ROOTS": ":".join(self._input_roots),
            "DDO_WORK_FOLDER": str(self.folder / "work"),
            "DDO_ENGINE_THREADS": str(threads),
            "DDO_GRACE_SECONDS": "10",
            **self._settings,
        }

    def process_environment(self) -> dict[str, str]:
        """Return our own environment with the stack's settings instead of any ``DDO_…`` of ours."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DDO_")}
        paths = [str(_ROOT), *filter(None, [ours.get("PYTHONPATH")])]
        return ours | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | self.environment

    def _run_once(self, name: str, arguments: Sequence[str]) -> str:
        done = subprocess.run(  # noqa: S603
            [sys.executable, *arguments],
            cwd=_ROOT,
            env=self.process_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LocalError(f"{name} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def create_api_key(self, tenant: str, name: str) -> str:
        """Create a key, and the tenant if it is new; return the key."""
        return self._run_once("create-key", ("-m", "service.admin", "create-key", tenant, name)).strip()

    def _spawn(
        self, name: str, arguments: Sequence[str], grace_seconds: float, settings: Mapping[str, str] | None = None
    ) -> Process:
        return Process(
            name,
            [sys.executable, *arguments],
            log=self.logs / f"{name}.log",
            env=self.process_environment() | dict(settings or {}),
            cwd=_ROOT,
            stop_signal=signal.SIGTERM,
            grace_seconds=grace_seconds,
        )

    def _start_api(self) -> None:
        def start(port: int) -> Process:
            self.url = f"http://{_HOST}:{port}"
            self.environment["DDO_PUBLIC_URL"] = self._settings.get("DDO_PUBLIC_URL", self.url)
            return self._spawn("api", api_command(_HOST, port), grace_seconds=5)

        if self._port is None:
            self.api, _ = start_on_free_port(start, self._is_ready)
            self._exit.callback(self._stop_api)
        else:
            port = self._port
            self.api = start(port)
            self._exit.callback(self._stop_api)
            self.api.wait_until(lambda: self._is_ready(port))

    def _stop_api(self) -> None:
        self.api.stop()

    def _is_ready(self, port: int) -> bool:
        try:
            return httpx.get(f"http://{_HOST}:{port}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def restart_api(self) -> None:
        """Start the API again on its port, after it was stopped or killed."""
        self.api.stop()
        port = int(self.url.rpartition(":")[2])
        self.api = self._spawn("api", api_command(_HOST, port), grace_seconds=5)
        self.api.wait_until(lambda: self._is_ready(port))

    def start_worker(self, settings: Mapping[str, str] | None = None) -> Process:
        """Start one more worker, with its own work folder; it is not waited for.

        Args:
            settings: Further settings (``DDO_…``) of this worker alone.
        """
        number = len(self.workers) + 1
        own = {"DDO_WORK_FOLDER": str(self.folder / "work" / str(number)), **(settings or {})}
        worker = self._spawn(f"worker-{number}", WORKER, 20, own)
        self.workers.append(worker)
        self._exit.callback(worker.stop)
        return worker

    def ensure_running(self) -> None:
        """Check all processes.

        Raises:
            ProcessEnded: One has ended; says which, with the end of its log.
        """
        for process in (self.postgres.process, self.valkey.process, self.api, *self.workers):
            process.ensure_running()
