"""A private Postgres on a free port of the loopback address."""

import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from deploy.local.accounts import can_execute, give_to, unprivileged_account
from deploy.local.binaries import postgres_folder
from deploy.local.processes import LocalError, Process, start_on_free_port

_USER = "ddo"
# no unix socket: its path may be at most 107 bytes long, and nobody needs it
_SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200")
_THROW_AWAY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class PostgresServer:
    """A cluster of its own with one superuser ``ddo`` and a random password.

    Run by root, it becomes the account ``postgres`` or ``nobody``.
    """

    def __init__(self, folder: Path | None = None, *, log: Path | None = None) -> None:
        """Create the cluster, or open the one that ``folder`` already holds. Start it with ``start`` or ``with``.

        Args:
            folder: Where it keeps its data, written durably; None: a new folder in the system's temporary one, not
                synced to disk and removed by ``close``.
            log: Its log file; None: inside its folder.

        Raises:
            LocalError: No binaries, or the account cannot enter ``folder``.
        """
        self._account = unprivileged_account()
        self._throw_away = folder is None
        self.folder = Path(mkdtemp(prefix="ddo-pg-")) if folder is None else folder
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        give_to(self.folder, self._account)
        self.log = log or self.folder / "postgres.log"
        self._process: Process | None = None
        self.port = 0
        try:
            if not can_execute(self.folder, self._account):
                assert self._account
                who = self._account.name
                raise LocalError(f"Postgres runs as '{who}', which cannot enter {self.folder}: choose another folder")
            self._programs = postgres_folder(self._account, self.folder)
            password_file = self.folder / "password"
            if not (self.folder / "data" / "PG_VERSION").exists():
                password_file.touch(mode=0o600)
                password_file.write_text(secrets.token_urlsafe(24))
                give_to(password_file, self._account)
                self._initialise(password_file)
            self.password = password_file.read_text()
        except BaseException:
            self.close()
            raise

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}

    def _initialise(self, password_file: Path) -> None:
        command = [self._programs / "initdb", "--pgdata", self.folder / "data", "--username", _USER]
        command += ["--auth", "scram-sha-256", "--pwfile", password_file]
        command += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
        account = self._account
        as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        done = subprocess.run(  # type: ignore[call-overload] # noqa: S603
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False, **as_account
        )
        if done.returncode != 0:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            raise LocalError(f"initdb ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of ``database``, password included."""
        return f"postgresql+psycopg://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return an autocommit connection, for administration."""
        return psycopg.connect(self.url(database).replace("+psycopg", ""), connect_timeout=5, autocommit=True)

    def has_database(self, name: str) -> bool:
        """Say whether there is a database of that name."""
        with self.connect() as connection:
            return bool(connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone())

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database as a copy of ``template``, which nobody may be using; return its URL."""
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template))))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, whoever is using it."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process, "not started"
        return self._process

    def start(self) -> None:
        """Start the server, on its old port if it had one.

        Raises:
            LocalError: It does not come up.
        """
        self.stop()
        if self.port:
            self._process = self._spawn(self.port)
            self._process.wait_until(lambda: self._answers(self.port))
        else:
            self._process, self.port = start_on_free_port(self._spawn, self._answers)

    def _spawn(self, port: int) -> Process:
        settings = [*_SETTINGS, *(_THROW_AWAY if self._throw_away else ()), f"port={port}"]
        command: list[str | Path] = [self._programs / "postgres", "-D", self.folder / "data"]
        command += [part for setting in settings for part in ("-c", setting)]
        return Process(
            "postgres",
            command,
            log=self.log,
            env=self._environment,
            cwd=self.folder,
            account=self._account,
            stop_signal=signal.SIGINT,  # its "fast shutdown"
        )

    def _answers(self, port: int) -> bool:
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user=_USER, password=self.password, dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop the server; its data stay."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def close(self) -> None:
        """Stop the server and, unless a folder was given, remove its data."""
        self.stop()
        if self._throw_away:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
