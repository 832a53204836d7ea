"""What every command is given beside its spec."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ddo_engine.device import describe_device
from ddo_engine.events import EventWriter, ProgressReporter
from ddo_engine.files import sha256_of
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.ranks import ALONE, Ranks
from ddo_engine.spec import FileRole, FileWritten, Started


@dataclass(frozen=True)
class RunContext:
    """Where a command runs and whom it tells.

    Attributes:
        workdir: Existing folder for everything that the command writes.
        device: Where networks run.
        events: The event stream.
        stop: Whether the run was asked to stop.
        cache: Folder for what later runs can use again, or None.
        ranks: The processes of the run; every one has a context of its own.
        shard_weights: Whether a trial's weights lie in rows over them.
    """

    workdir: Path
    device: torch.device
    events: EventWriter
    stop: StopRequest
    cache: Path | None = None
    ranks: Ranks = ALONE
    shard_weights: bool = False

    @property
    def parts_folder(self) -> Path:
        """Where evaluations keep what they have drawn: what outlives the folder of one attempt, if there is any."""
        return self.cache or self.workdir

    def announce(self, command: str, resumed_from_kimg: float | None = None) -> None:
        """Emit the first event."""
        each = "" if self.ranks.size == 1 else f"{self.ranks.size} × "
        self.events.emit(
            Started(
                command=command,
                device=each + describe_device(self.device),
                torch_version=torch.__version__,
                resumed_from_kimg=resumed_from_kimg,
            )
        )

    def check_stop(self) -> None:
        """Stop here if asked to: all processes at the same point, whichever was asked.

        Raises:
            Interrupted: A stop was requested.
        """
        # A request that comes while the processes meet is kept for the next meeting, where all hear of it.
        if self.ranks.any(self.stop.requested):
            self.stop.requested = True
            self.stop.check()

    def progress(self, phase: str, num_images: int) -> Callable[[int], None]:
        """Return what reports how many images of a phase are done, and stops between them if asked to."""
        reporter = ProgressReporter(self.events, phase, num_images)

        def report(done: int) -> None:
            reporter.update(done)
            self.stop.check()

        return report

    def announce_file(
        self, role: FileRole, path: Path, *, kimg: float | None = None, info: Mapping[str, object] | None = None
    ) -> None:
        """Emit that ``path`` is complete and synced to disk."""
        self.events.emit(
            FileWritten(
                role=role,
                path=str(path.resolve()),
                sha256=sha256_of(path),
                size_bytes=path.stat().st_size,
                kimg=kimg,
                info=dict(info or {}),
            )
        )
