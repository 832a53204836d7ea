"""The toy's figure: densities before and after, and the paths of trials between the two divergences."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ddo_engine.spec import DDOObjective
from examples.toy.density import GRID_N
from examples.toy.report import LONG, SHOWN, Case

DATA, MLE, DISPERSED, DDO = "0.75", "tab:blue", "tab:orange", "tab:red"


def draw(cases: Sequence[Case], out: Path) -> None:
    """Write the figure, a row for each family."""
    figure = Figure(figsize=(11, 3.6 * len(cases)), layout="constrained")
    for row, case in zip(figure.subplots(len(cases), 2, squeeze=False), cases, strict=True):
        _densities(row[0], case)
        _paths(row[1], case)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80, metadata={"Software": None})


def _densities(axis: Axes, case: Case) -> None:
    spacing = float(GRID_N[1] - GRID_N[0])
    axis.fill_between(GRID_N.numpy(), case.toy.log_p_data_N.exp().numpy() / spacing, color=DATA, label="data")
    models = {
        "over-dispersed reference": (case.dispersed, DISPERSED, "-"),
        "optimum of maximum likelihood": (case.mle, MLE, "--"),
        "after DDO": (case.best, DDO, "-"),
    }
    for name, (theta_K, colour, style) in models.items():
        density_N = case.toy.family.log_density(theta_K).exp() / spacing
        axis.plot(GRID_N.numpy(), density_N.numpy(), color=colour, linestyle=style, label=name)
    axis.set_title(f"{case.name} family", fontsize=11)
    axis.set_xlim(-6, 6)
    axis.set_yticks([])
    axis.legend(fontsize=8, frameon=False)


def _paths(axis: Axes, case: Case) -> None:
    start = case.toy.measures(case.dispersed)
    for alpha, beta in SHOWN:
        objective = DDOObjective(alpha=alpha, beta=beta)
        path = [case.toy.measures(theta_K) for _, theta_K in case.toy.trial(case.dispersed, objective, num_steps=LONG)]
        points = [(measures.kl, measures.reverse_kl) for measures in (start, *path)]
        axis.plot(*zip(*points, strict=True), marker=".", markersize=3, label=f"DDO, α = {alpha:g}, β = {beta:g}")
    for theta_K, colour, marker in ((case.dispersed, DISPERSED, "o"), (case.mle, MLE, "s"), (case.best, DDO, "*")):
        measures = case.toy.measures(theta_K)
        axis.plot(measures.kl, measures.reverse_kl, color=colour, marker=marker, markersize=9, zorder=3)
    if start.reverse_kl > 10 * case.toy.measures(case.mle).reverse_kl:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("KL(data ‖ model): what is not covered", fontsize=9)
    axis.set_ylabel("KL(model ‖ data): what is wrongly drawn", fontsize=9)
    axis.set_title("long trials from ● the reference; ■ maximum likelihood, ★ after DDO", fontsize=10)
    axis.legend(fontsize=8, frameon=False)
