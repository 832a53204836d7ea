"""The inception score: official numbers, closed forms, and what is refused."""

import math

import pytest
import torch

from ddo_engine.evaluation.inception_score import inception_score, inception_score_of_logits
from tests.numerics.golden import description, tensor

GOLDEN = "16_fid_is"
CASES = {case["split_size"]: case for case in description(GOLDEN)["inception_score"]}


def probabilities(num_images=60, num_classes=5):
    return torch.rand(num_images, num_classes, generator=torch.Generator().manual_seed(1)).softmax(1)


@pytest.mark.parametrize("split_size", CASES)
def test_inception_score_equals_official(split_size):
    case, golden = CASES[split_size], tensor(GOLDEN, "is_probs")
    assert inception_score(golden, split_size=split_size) == pytest.approx(case["mean"], rel=1e-9)
    scores = [inception_score(split) for split in torch.split(golden, split_size)]
    assert scores == pytest.approx(case["per_split"], rel=1e-9)


@pytest.mark.parametrize("num_splits", [1, 2, 10])
def test_inception_score_of_logits_equals_official(num_splits):
    golden = tensor(GOLDEN, "is_probs").double()
    case = next(case for case in CASES.values() if len(case["per_split"]) == num_splits)
    # Logits are known up to a constant a row; the golden probabilities sum to 1 up to float32.
    logits = golden.log() + torch.arange(230.0)[:, None]
    assert inception_score_of_logits(logits, num_splits) == pytest.approx(case["mean"], rel=1e-6)


def test_inception_score_is_the_definition():
    p = probabilities().double()
    divergence = (p * (p / p.mean(0)).log()).sum(1).mean()
    assert inception_score(p) == pytest.approx(float(divergence.exp()), rel=1e-12)


def test_inception_score_of_images_that_look_alike_is_one_and_of_sure_even_answers_the_number_of_classes():
    assert inception_score(probabilities(1).repeat(50, 1)) == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7, rel=1e-12)
    assert inception_score(torch.eye(7)[:1].repeat(3, 1)) == pytest.approx(1, rel=1e-12)


def test_inception_score_of_logits_that_overflow_as_exponentials_is_finite():
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert inception_score_of_logits(logits, 1) == pytest.approx(2)
    assert inception_score_of_logits(logits, 2) == pytest.approx(1)


@pytest.mark.parametrize(
    ("unfit", "named"),
    [
        (torch.zeros(0, 4), "shape"),
        (torch.ones(4), "shape"),
        (torch.full((3, 4), 0.5), "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), "negative"),
        (torch.full((3, 4), math.nan), "sum to 1"),
    ],
)
def test_inception_score_of_what_are_no_probabilities_is_refused(unfit, named):
    with pytest.raises(ValueError, match=named):
        inception_score(unfit)


def test_inception_score_of_splits_that_do_not_exist_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        inception_score(probabilities(), split_size=0)
    for num_splits in (0, 7, 61):
        with pytest.raises(ValueError, match=f"cut into {num_splits} splits"):
            inception_score_of_logits(probabilities().log(), num_splits)
