"""SIGTERM and SIGINT as a flag that a run looks at where it can stop: between steps and network calls."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ddo_engine.errors import Interrupted


class StopRequest:
    """Whether the run was asked to stop. Nothing is ever raised inside a signal handler."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take over SIGTERM and SIGINT of this process (main thread only)."""
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Interrupted: A stop was requested.
        """
        if self.requested:
            raise Interrupted("stopped on request: run the same command again to go on")

    @contextmanager
    def before_network_calls(self) -> Iterator[None]:
        """Within the block every call of any network checks first, however deep in a sampler it happens."""
        from torch.nn.modules.module import register_module_forward_pre_hook  # noqa: PLC0415  (not needed to refuse a spec)

        handle = register_module_forward_pre_hook(self._check_before_call)
        try:
            yield
        finally:
            handle.remove()

    def _check_before_call(self, *_: Any) -> None:
        self.check()

    def _request(self, *_: Any) -> None:
        self.requested = True
