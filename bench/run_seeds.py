"""What several run seeds of DDO and of its control show together: tables in Markdown, and what noise covers."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from examples.digits.verdict import Spread

LOWER_IS_BETTER = ("fid features/train", "fid features/heldout", "fid judge/train", "fid judge/heldout")
MUST_NOT_FALL = ("precision features", "recall features", "precision judge", "recall judge")
Verdicts = Sequence[Mapping[str, Spread]]


def means(verdicts: Verdicts, metric: str) -> list[float]:
    """Return the metric of each run."""
    return [verdict_[metric].mean for verdict_ in verdicts]


def print_runs(base: Mapping[str, Spread], control: Verdicts, ddo: Verdicts) -> None:
    """Print every metric: the base with its sampling noise, control and DDO with their spread between run seeds."""

    def told(values: Sequence[float]) -> str:
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        return f"{mean(values):.3f}{spread}"

    print("| metric | base (± sampling) | continued MLE (± run seeds) | DDO (± run seeds) | DDO against base |")
    print("|---|---|---|---|---|")
    for metric in base:
        change = 100 * (mean(means(ddo, metric)) / base[metric].mean - 1)
        cells = (metric, str(base[metric]), told(means(control, metric)), told(means(ddo, metric)), f"{change:+.1f} %")
        print(f"| {' | '.join(cells)} |")


def print_seeds(control: Verdicts, ddo: Verdicts) -> None:
    """Print the FIDs of each run seed."""
    print("\n| run seed | " + " | ".join(f"{metric}, DDO (MLE)" for metric in LOWER_IS_BETTER) + " |")
    print("|---" * (len(LOWER_IS_BETTER) + 1) + "|")
    for seed, (ours, theirs) in enumerate(zip(ddo, control, strict=True)):
        cells = [f"{ours[metric].mean:.3f} ({theirs[metric].mean:.3f})" for metric in LOWER_IS_BETTER]
        print(f"| {seed} | {' | '.join(cells)} |")


def failures(base: Mapping[str, Spread], control: Verdicts, ddo: Verdicts, *, least_gain: float = 0.0) -> list[str]:
    """Return where DDO is not better beyond noise.

    Noise is the largest of the ranges of control and DDO over run seeds and of two standard deviations of the base over
    sets of samples.

    Args:
        base: Verdict of the base.
        control: One verdict for each run of continued maximum likelihood.
        ddo: One for each run of DDO.
        least_gain: Share by which the FID that selection used must fall at least.
    """
    missed = []
    for metric in LOWER_IS_BETTER:
        ours, theirs = means(ddo, metric), means(control, metric)
        spread = max(max(ours) - min(ours), max(theirs) - min(theirs), 2 * base[metric].std)
        if metric == "fid features/train" and mean(ours) > (1 - least_gain) * base[metric].mean:
            missed.append(f"{metric}: less than {least_gain:.0%} below the base")
        if base[metric].mean - mean(ours) <= spread:
            missed.append(f"{metric}: below the base by no more than the spread {spread:.3f}")
        if mean(theirs) - mean(ours) <= spread:
            missed.append(f"{metric}: below the control by no more than the spread {spread:.3f}")
    for metric in MUST_NOT_FALL:
        ours = means(ddo, metric)
        spread = max(max(ours) - min(ours), 2 * base[metric].std)
        if base[metric].mean - mean(ours) > spread:
            missed.append(f"{metric}: fell by more than the spread {spread:.4f}")
    return missed
