"""Processes that cannot outlive whoever started them.

    LocalError
    ├── ProcessEnded       a process ended by itself
    └── StartTimeout       a process runs but does not answer

Messages name the process and show the end of its log.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from deploy.local import guard
from deploy.local.accounts import Account

# Servers start within seconds; a starved machine is slow, not broken.
START_TIMEOUT_SECONDS = 120.0


class LocalError(Exception):
    """Something on this machine is not as it should be."""


class ProcessEnded(LocalError):
    """A process ended though nobody asked it to."""


class StartTimeout(LocalError):
    """A process runs, but is not ready in time."""


class Process:
    """A running program under a guard (see ``deploy.local.guard``)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        account: Account | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10.0,
    ) -> None:
        """Start ``command``.

        Args:
            name: What people call it.
            command: Program and arguments.
            log: File to which its output is appended.
            env: Its environment; None: ours.
            cwd: Its working folder; None: ours.
            account: Run as this user (only as root); None: as ourselves.
            stop_signal: What asks it to end.
            grace_seconds: After so long it is killed.
        """
        self.name = name
        self.log = log
        self._grace_seconds = grace_seconds
        self._code: int | None = None
        self._unread = b""
        order = {
            "command": [str(part) for part in command],
            "log": str(log),
            "cwd": str(cwd) if cwd else None,
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "stop_signal": int(stop_signal),
            "grace_seconds": grace_seconds,
        }
        with log.open("ab") as errors:
            self._guard = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", guard.__file__, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # a line read ahead here would be missed by poll, which reads the descriptor
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        assert self._guard.stdin
        assert self._guard.stdout
        self._input, self._output = self._guard.stdin, self._guard.stdout
        first = self._output.readline()
        os.set_blocking(self._output.fileno(), False)
        if not first:
            self.stop()
            raise ProcessEnded(f"{name} could not be started: {' '.join(order['command'])}{self.log_tail()}")  # type: ignore[arg-type]
        self.pid: int = json.loads(first)["pid"]

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that ended it), or None while it runs."""
        if self._code is None and not self._output.closed:
            with suppress(BlockingIOError):
                while received := os.read(self._output.fileno(), 4096):
                    self._unread += received
            *lines, self._unread = self._unread.split(b"\n")
            for line in lines:
                self._code = json.loads(line)["code"]
            if self._code is None and self._guard.poll() is not None:
                self._code = -signal.SIGKILL  # the guard was killed, and its program with it
        return self._code

    def wait(self, timeout_seconds: float) -> int:
        """Return the exit code once it has ended by itself.

        Raises:
            StartTimeout: It still runs after ``timeout_seconds``.
        """
        deadline = time.monotonic() + timeout_seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise StartTimeout(f"{self.name} still runs after {timeout_seconds:g} s{self.log_tail()}")
            time.sleep(0.02)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself; nothing happens if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the program itself with SIGKILL, not its children: what an accident would do."""
        self.send_signal(signal.SIGKILL)

    def begin_stop(self) -> None:
        """Ask it to end, and do not wait: several processes can end at the same time."""
        self._input.close()

    def stop(self) -> int | None:
        """Ask it to end, kill what is left of it and its descendants after the grace; return its exit code."""
        if not self._output.closed:
            self.begin_stop()
            try:
                self._guard.wait(self._grace_seconds + 10)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
            self.poll()
            self._output.close()
        return self._code

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the log, ready to stand behind a message; empty if it wrote nothing."""
        with suppress(OSError):
            tail = self.log.read_bytes()[-65536:].decode(errors="replace").splitlines()[-lines:]
            if tail:
                return f"\nthe end of {self.log}:\n" + "\n".join(f"    {line}" for line in tail)
        return f"\n({self.log} is empty)"

    def ensure_running(self) -> None:
        """Raise ProcessEnded if it has ended."""
        if (code := self.poll()) is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise ProcessEnded(f"{self.name} {how}{self.log_tail()}")

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Wait until ``ready()``.

        Raises:
            ProcessEnded: It ended before it was ready.
            StartTimeout: It was not ready in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            self.ensure_running()
            if time.monotonic() > deadline:
                raise StartTimeout(f"{self.name} was not ready after {timeout_seconds:g} s{self.log_tail()}")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """Return a TCP port of the loopback address that is free now; another process may still be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_on_free_port(
    start: Callable[[int], Process], ready: Callable[[int], bool], timeout_seconds: float = START_TIMEOUT_SECONDS
) -> tuple[Process, int]:
    """Start a server on a free port and wait for it; try other ports if somebody else was faster.

    Args:
        start: Starts the server on a port.
        ready: Says whether the server on that port answers.
        timeout_seconds: For each try.

    Raises:
        ProcessEnded: The server ended for another reason, or lost five races.
        StartTimeout: The server did not answer in time.
    """
    for attempt in range(5):
        port = free_port()
        process = start(port)
        try:
            process.wait_until(lambda port=port: ready(port), timeout_seconds)  # type: ignore[misc]
        except ProcessEnded as ended:
            process.stop()
            if attempt < 4 and "address already in use" in str(ended).lower():
                continue
            raise
        except BaseException:
            process.stop()
            raise
        return process, port
    raise AssertionError("unreachable")


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the main thread as Ctrl-C does, so that ``with`` blocks clean up.

    The first of these signals counts. Later ones, as from a second Ctrl-C, are ignored: they would break the cleanup.

    Raises:
        KeyboardInterrupt: For SIGINT, unless whoever started us had it ignored.
        SystemExit: With 128 + the signal's number, for the others.
    """
    numbers = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)

    def unwind(number: int, _: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, _ignore)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    previous = {number: signal.signal(number, unwind) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let what is inside finish: SIGINT, SIGTERM and SIGHUP that come meanwhile act afterwards, on the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, lambda came, _: received.append(came)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(signal.Signals(received[0]))


def _ignore(_: int, __: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, programs that are started do not inherit it."""
