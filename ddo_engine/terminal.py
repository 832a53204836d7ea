"""Events for people at a terminal: a progress bar and one line per result, on standard error."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ddo_engine import spec


class TerminalView:
    """Shows events as they come; one bar per phase, which goes when the phase is done."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: spec.EngineEvent) -> None:
        """Show one event."""
        if isinstance(event, spec.Progress):
            self._show_progress(event)
        elif isinstance(event, spec.Metric):
            self._say(f"{event.kimg:9.1f} kimg  " + _numbers(event.values))
        elif isinstance(event, spec.Evaluated):
            scale = {"guidance_scale": event.protocol["sampler"]["guidance_scale"]}
            self._say(f"{event.kimg:9.1f} kimg  {_numbers(scale | event.metrics)}", style="bold")
        elif isinstance(event, spec.BetaFound):
            self._say(f"beta {event.beta:.4g} found in {event.num_steps} steps")
        elif isinstance(event, spec.TrainingWarning):
            self._say(f"{event.kimg:9.1f} kimg  {event.code}: {event.message}", style="yellow")
        elif isinstance(event, spec.FileWritten):
            self._say(f"wrote {event.path}")
        elif isinstance(event, spec.Failed):
            self._progress.stop()
            self._say(f"{event.code}: {event.message}", style="red")
        elif isinstance(event, spec.Finished):
            self._progress.stop()

    def _show_progress(self, event: spec.Progress) -> None:
        if event.phase not in self._bars:
            self._bars[event.phase] = self._progress.add_task(event.phase, total=event.total)
        self._progress.start()
        self._progress.update(self._bars[event.phase], completed=event.done, total=event.total)
        if event.done >= event.total:
            self._progress.remove_task(self._bars.pop(event.phase))

    def _say(self, line: str, style: str | None = None) -> None:
        # Markup off: paths and messages of others may hold square brackets.
        self._progress.console.print(line, style=style, highlight=False, markup=False)


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
