"""A private Valkey (or Redis) on a free port of the loopback address."""

import secrets
import shutil
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

import redis

from deploy.local.binaries import valkey_program
from deploy.local.processes import Process, start_on_free_port


class ValkeyServer:
    """A server with a random password and no persistence: the queue is a doorbell, and losing it must not matter."""

    def __init__(self, *, log: Path | None = None) -> None:
        """Prepare it; start it with ``start`` or ``with``.

        Args:
            log: Its log file; None: inside a temporary folder.

        Raises:
            LocalError: There is no binary.
        """
        self._program = valkey_program()
        self._folder = Path(mkdtemp(prefix="ddo-valkey-"))
        self.log = log or self._folder / "valkey.log"
        self.password = secrets.token_urlsafe(24)
        self.port = 0
        self._process: Process | None = None

    def url(self, database: int = 0) -> str:
        """Return the URL of a numbered database, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: int = 0) -> redis.Redis:
        """Return a client, for administration."""
        return redis.Redis.from_url(self.url(database), socket_connect_timeout=2)

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process, "not started"
        return self._process

    def start(self) -> None:
        """Start the server, empty, on its old port if it had one.

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
        # the password stays off the command line, which every user of the machine can read
        configuration = self._folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f'port {port}\nbind 127.0.0.1\ndir "{self._folder}"\nrequirepass {self.password}\n'
            'save ""\nappendonly no\ndatabases 64\ndaemonize no\n'
        )
        return Process("valkey", [self._program, configuration], log=self.log, cwd=self._folder)

    def _answers(self, port: int) -> bool:
        try:
            with redis.Redis(host="127.0.0.1", port=port, password=self.password, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """Stop the server; what it held is lost."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

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
