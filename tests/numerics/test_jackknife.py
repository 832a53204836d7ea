"""The deviation of FID over samples, told from one set of them, against the spread between many sets."""

import math

import pytest
import torch
from torch import Tensor

from ddo_engine.evaluation import Moments, frechet_distance
from ddo_engine.evaluation.jackknife import NUM_GROUPS, jackknife_std


def test_moments_without_a_part_are_those_of_the_rest() -> None:
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    rest = Moments.of(features).without(Moments.of(features[40:]))
    expected = Moments.of(features[:40])
    assert rest.count == 40
    torch.testing.assert_close(rest.mu_D, expected.mu_D, rtol=1e-14, atol=0)
    torch.testing.assert_close(rest.cov_DD, expected.cov_DD, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="none are left"):
        rest.without(expected)


def test_deviation_of_a_mean_is_the_deviation_over_the_root_of_the_count() -> None:
    features = torch.randn(40_000, 1, generator=torch.Generator().manual_seed(0)) * 3
    found = jackknife_std(features, Moments.of(features), lambda moments: float(moments.mu_D))
    assert found == pytest.approx(3 / math.sqrt(40_000), rel=0.5)  # of twenty groups: 16 %
    means = torch.stack([part.double().mean() for part in features.tensor_split(NUM_GROUPS)])
    assert found == pytest.approx(float(means.std()) / math.sqrt(NUM_GROUPS), rel=1e-9)


def test_runs_keep_the_shares_of_classes_and_shuffled_groups_do_not_mind_their_order() -> None:
    """Two classes far apart: over seeds with fixed shares their means barely move, sorted they are all that does."""
    features = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    features[1::2] += 100
    ordered = torch.cat([features[::2], features[1::2]])

    def told(features: Tensor, *, shuffled: bool) -> float:
        moments = Moments.of(features)
        return jackknife_std(features, moments, lambda moments: float(moments.mu_D), shuffled=shuffled)

    assert told(features, shuffled=False) == pytest.approx(1 / math.sqrt(4000), rel=0.5)
    for each in (features, ordered):
        assert told(each, shuffled=True) == pytest.approx(50 / math.sqrt(4000), rel=0.5)
    assert told(ordered, shuffled=False) > 5


@pytest.mark.parametrize(
    ("dim", "count", "shift", "scale", "num_seeds", "most"),
    [
        pytest.param(8, 500, 0.3, 0.9, 200, 1.3, id="other distribution"),
        pytest.param(8, 500, 0.0, 1.0, 200, 2.0, id="the same: FID is all bias"),
        pytest.param(24, 20 * 2, 0.3, 0.9, 60, 1.8, id="hardly more samples than dimensions"),
        pytest.param(48, 20 * 2, 0.3, 0.9, 60, 1.8, id="fewer samples than dimensions"),
    ],
)
def test_deviation_of_fid_is_not_less_than_the_spread_between_seeds_and_not_much_more(
    dim: int, count: int, shift: float, scale: float, num_seeds: int, most: float
) -> None:
    """Efron and Stein: it is never too small on average. Two of it hold at least nine in ten seeds."""
    generator = torch.Generator().manual_seed(0)
    deviations_D = torch.logspace(0, -1, dim, dtype=torch.float64)
    mu_D, cov_DD = torch.zeros(dim, dtype=torch.float64), torch.diag(deviations_D**2)

    def fid(moments: Moments) -> float:
        return frechet_distance(moments.mu_D, moments.cov_DD, mu_D, cov_DD)

    fids, told = torch.zeros(2, num_seeds, dtype=torch.float64)
    for seed in range(num_seeds):
        features_MD = torch.randn(count, dim, generator=generator, dtype=torch.float64) * deviations_D * scale
        features_MD[:, 0] += shift
        moments = Moments.of(features_MD)
        fids[seed], told[seed] = fid(moments), jackknife_std(features_MD, moments, fid)
    ratio = float(told.square().mean().sqrt() / fids.std())
    assert 0.9 < ratio < most  # 0.9: the spread between the seeds is known to 5 or 9 %
    assert float(((fids - fids.mean()).abs() < 2 * told).double().mean()) > 0.9


def test_too_few_samples_are_refused() -> None:
    features = torch.zeros(39, 2)
    with pytest.raises(ValueError, match="at least 40 samples"):
        jackknife_std(features, Moments.of(features), lambda moments: 0.0)
