"""One engine process: started, listened to, stopped. It dies with this process, whatever kills that."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_LAUNCHER = Path(__file__).with_name("launcher.py")
_MAX_LINE_BYTES = 2**20
_MAX_LOG_BYTES = 16 * 2**20
_LAST_OUTPUT_SECONDS = 10.0  # only something that left the process group could keep the pipes open longer
_TAIL_LINES = 40
_MAX_TAIL_LINE_BYTES = 500


class EngineProcess:
    """A running engine, in a process group of its own.

    The thread that makes this object must outlive the engine: the kernel takes its end for the parent's death.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
        on_line: Callable[[bytes], None],
    ) -> None:
        """Start it.

        Args:
            command: Program and arguments; the program is an absolute path.
            folder: Its working folder.
            environment: All of its environment.
            log: Receives its standard error; begins anew whenever it has grown to 16 MiB.
            on_line: Called with every line of its standard output, in a thread. Lines above 1 MiB arrive in pieces.
        """
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._heard_at = time.monotonic()
        self._readers = [
            threading.Thread(target=self._read_lines, args=(self._process.stdout, on_line), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr, log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def silent_seconds(self) -> float:
        """Time since its last line on standard output."""
        return time.monotonic() - self._heard_at

    @property
    def log_tail(self) -> str:
        """The last lines of its standard error."""
        return b"".join(self._tail).decode(errors="replace")

    def terminate(self) -> None:
        """Ask it to save its state and end. Children of its own are its business."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._signal(signal.SIGKILL)

    def has_ended(self) -> bool:
        """Say whether the engine has ended; its process group is cleared then."""
        if self._process.returncode is not None:
            return True
        # looked at without reaping: as long as the zombie is there, nobody else can get its group's id
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self._signal(signal.SIGKILL)
        self._process.wait()
        return True

    def close(self) -> int:
        """Kill it if it still runs, read the rest of its output, and return its exit status (negative: a signal)."""
        while not self.has_ended():
            self.kill()
            time.sleep(0.01)
        for reader in self._readers:
            reader.join(_LAST_OUTPUT_SECONDS)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return self._process.returncode

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            os.killpg(self.pid, number)

    def _read_lines(self, stream: BinaryIO, on_line: Callable[[bytes], None]) -> None:
        while line := stream.readline(_MAX_LINE_BYTES):
            self._heard_at = time.monotonic()
            on_line(line)

    def _read_log(self, stream: BinaryIO, path: Path) -> None:
        with path.open("wb") as log:
            while line := stream.readline(_MAX_LINE_BYTES):
                self._tail.append(line[:_MAX_TAIL_LINE_BYTES])
                if log.tell() > _MAX_LOG_BYTES:
                    log.seek(0)
                    log.truncate()
                log.write(line)
                log.flush()
