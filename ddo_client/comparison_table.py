"""What people see of checkpoints beside one another. Text from the service is never read as markup."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ddo_client.models import Compared, Comparison
from ddo_client.output import number


def comparison_table(found: Comparison) -> RenderableType:
    """Return a line for each checkpoint, best first, and what the numbers are of."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(found.metric.replace("_", " "), justify="right", no_wrap=True)
    for name in ("checkpoint", "job", "what"):
        table.add_column(name, no_wrap=name != "what")
    for item in found.data:
        table.add_row(
            str(item.rank), number(item.value), Text(item.checkpoint_id), Text(item.job_id), Text(_origin(item))
        )
    samples = found.protocol.get("num_samples")
    return Group(table, Text(f"\n{samples:,} samples each, protocol {found.fingerprint[:12]}"))


def _origin(item: Compared) -> str:
    if item.baseline_index is not None:
        return f"baseline {item.baseline_index} at {item.kimg:g} kimg"
    if item.trial_index is None:
        return "base"
    grid = f"α {number(item.alpha)}, β {number(item.beta)}"
    return f"round {item.round_index} trial {item.trial_index} ({grid}) at {item.kimg:g} kimg"
