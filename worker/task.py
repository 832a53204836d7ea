"""Slow calls (transfers, mostly) in a thread that can be left behind."""

import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class AbandonedError(Exception):
    """Nobody waits for this task any more."""


class Task(Generic[T]):
    """A call in a thread of its own.

    A thread cannot be ended from outside, but a task can be abandoned: it stops at its next check.
    """

    def __init__(self, call: Callable[["Task[T]"], T]) -> None:
        """Start ``call``, which is given this task to ask whether to go on."""
        self._call = call
        self._abandoned = threading.Event()
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        # the log context (unit_id …) belongs to the caller's thread alone unless it is handed on
        run = partial(contextvars.copy_context().run, self._run)
        threading.Thread(target=run, name="task", daemon=True).start()

    def abandon(self) -> None:
        """Wait no longer for it; what it raises from now on is nobody's concern."""
        self._abandoned.set()

    def is_abandoned(self) -> bool:
        """Say whether its result is still wanted."""
        return self._abandoned.is_set()

    def check(self) -> None:
        """Raise AbandonedError if the result is not wanted any more."""
        if self._abandoned.is_set():
            raise AbandonedError

    def wait(self, timeout_seconds: float) -> bool:
        """Wait a while; say whether it is done."""
        return self._done.wait(timeout_seconds)

    @property
    def error(self) -> BaseException | None:
        """What it raised. Once done."""
        return self._error

    def result(self) -> T:
        """Return its value or raise its error. Once done."""
        assert self._done.is_set()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _run(self) -> None:
        try:
            self._value = self._call(self)
        except BaseException as error:  # noqa: BLE001  (raised again by ``result``)
            self._error = error
        finally:
            self._done.set()
