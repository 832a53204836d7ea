"""What the toy shows, as tables of Markdown, and the runs behind its figure."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ddo_engine.spec import DDOObjective, Grid
from examples.toy.bounds import check_bounds, with_background
from examples.toy.density import ExponentialFamily, Measures, blurred, data_density
from examples.toy.training import Toy, Winner, play_round

FAMILIES = {"Gaussian": 2, "quartic": 4}  # degrees of log p
BLUR = 1.5  # standard deviation of the noise on the data that the over-dispersed reference was fitted to
GRID = Grid(alpha=(0.5, 1, 2, 4), beta=(0.1, 0.5, 1, 2))
SHOWN = ((0.5, 0.5), (1, 1), (4, 2), (4, 0.5))  # (alpha, beta) of long trials
NUM_STEPS, LONG, NUM_ROUNDS = 60, 300, 4  # steps of a trial, of a long one; rounds


@dataclass(frozen=True)
class Case:
    """A family with both of its references.

    Attributes:
        name: Of the family.
        toy: The family and the data.
        mle: Where maximum likelihood ends.
        dispersed: The maximum of the likelihood of blurred data.
        winners: The best point of each round from ``dispersed``, the last of which is not better than its reference.
    """

    name: str
    toy: Toy
    mle: Tensor
    dispersed: Tensor
    winners: list[Winner]

    @classmethod
    def of(cls, name: str) -> "Case":
        """Train the references and play the rounds."""
        log_p_data_N = data_density()
        family = ExponentialFamily.of_polynomials(FAMILIES[name], log_p_data_N)
        toy = Toy(family, log_p_data_N)
        dispersed = family.closest_to(blurred(log_p_data_N, BLUR))
        return cls(name, toy, toy.mle_optimum, dispersed, list(self_play(toy, dispersed)))

    @property
    def best(self) -> Tensor:
        """Parameters of the best point of all rounds."""
        return self.winners[-1].theta_K


def self_play(toy: Toy, reference_K: Tensor) -> Iterator[Winner]:
    """Play rounds, each from the winner of the one before, until one brings nothing."""
    for _ in range(NUM_ROUNDS):
        winner = play_round(toy, reference_K, GRID, num_steps=NUM_STEPS)
        yield winner
        if winner.objective is None:
            return
        reference_K = winner.theta_K


def at_the_optimum(case: Case) -> Iterator[str]:
    """Tell what a trial from the exact optimum of maximum likelihood would do."""
    yield "| alpha | beta | largest gradient | at the over-dispersed reference | lowest curvature |"
    yield "|---|---|---|---|---|"
    for objective in GRID.cells:
        at_mle, elsewhere = (
            float(case.toy.gradient_at_reference(reference_K, objective).abs().max())
            for reference_K in (case.mle, case.dispersed)
        )
        curvature = case.toy.least_curvature(case.mle, objective)
        yield f"| {objective.alpha:g} | {objective.beta:g} | {at_mle:.0e} | {elsewhere:.3f} | {curvature:+.3f} |"


def rounds(case: Case) -> Iterator[str]:
    """Tell what DDO makes of the over-dispersed reference, round by round."""
    yield "| model | alpha, beta, steps | KL(data ‖ model) | KL(model ‖ data) | where data are rare | side mode |"
    yield "|---|---|---|---|---|---|"
    yield _row("data", "", Measures.of(case.toy.log_p_data_N, case.toy.log_p_data_N))
    yield _row("optimum of maximum likelihood", "", case.toy.measures(case.mle))
    yield _row("over-dispersed reference", "", case.toy.measures(case.dispersed))
    for index, winner in enumerate(case.winners, start=1):
        how = "nothing better"
        if winner.objective is not None:
            how = f"{winner.objective.alpha:g}, {winner.objective.beta:g}, {winner.step}"
        yield _row(f"DDO, round {index}", how, winner.measures)


def _row(name: str, how: str, measures: Measures) -> str:
    return (
        f"| {name} | {how} | {measures.kl:.3f} | {measures.reverse_kl:.3f} | {measures.where_rare:.3f} | "
        f"{measures.side_mode:.3f} |"
    )


def without_choice(case: Case) -> Iterator[str]:
    """Tell where rounds lead at one (alpha, beta), where all trials are long and nobody chooses."""
    yield f"| alpha, beta | {' | '.join(f'round {index + 1}' for index in range(NUM_ROUNDS))} |"
    yield f"|{'---|' * (NUM_ROUNDS + 1)}"
    for alpha, beta in SHOWN:
        objective, theta_K, cells = DDOObjective(alpha=alpha, beta=beta), case.dispersed, []
        for _ in range(NUM_ROUNDS):
            *_, (_, theta_K) = case.toy.trial(theta_K, objective, num_steps=LONG)
            measures = case.toy.measures(theta_K)
            cells.append(f"{measures.kl:.3f}, {measures.reverse_kl:.3f}")
        yield f"| {alpha:g}, {beta:g} | {' | '.join(cells)} |"


def bounds(case: Case) -> Iterator[str]:
    """Tell how theorem 3.2 holds."""
    reference_N = case.toy.family.log_density(case.dispersed)
    densities = {
        "with 1 % of background in both": (with_background(case.toy.log_p_data_N), with_background(reference_N)),
        "as they are": (case.toy.log_p_data_N, reference_N),
    }
    yield "| data and reference | densities | KL / (C1 √(L − L*)) | reverse KL / (C2 √(L − L*)) | (L − L*) / KL |"
    yield "|---|---|---|---|---|"
    for name, (log_p_data_N, log_p_ref_N) in densities.items():
        found = check_bounds(log_p_data_N, log_p_ref_N, num=2000)
        yield f"| {name} | {found.num} | {found.kl:.3f} | {found.reverse_kl:.1e} | {found.excess:.3f} |"
