"""Evaluations that are killed and asked again: the same numbers, and no sample drawn twice or trusted unseen."""

import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from ddo_engine.data import InMemoryDataset
from ddo_engine.errors import Interrupted
from ddo_engine.evaluation import Evaluator, FeatureNetwork, drawing
from ddo_engine.evaluation.parts import LEFT_BEHIND_SECONDS
from ddo_engine.families import get_family
from ddo_engine.spec import EvaluationSettings, HeunSettings
from tests.engine_inputs import Killed

SETTINGS = EvaluationSettings(num_samples=70, seed=5, neighbours=3, inception_score_splits=2)
TOLD = [0, 16, 32, 48, 64, 70]


@pytest.fixture
def make(feature_network: FeatureNetwork, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluator]:
    """Return what makes an evaluator, as every process does for itself; every batch is a part."""
    monkeypatch.setattr(drawing, "PART_SECONDS", 0.0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8, generator=generator)
    dataset = InMemoryDataset(images, torch.arange(100) % 10)

    def made(folder: Path | None, **sampler: float) -> Evaluator:
        settings = HeunSettings(num_steps=2, batch_size=16).model_copy(update=sampler)
        return Evaluator(feature_network, dataset, "0" * 64, settings, 17, None, parts_folder=folder)

    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where parts are kept, and nothing else."""
    (tmp_path / "parts").mkdir()
    return tmp_path / "parts"


def numbers(evaluator: Evaluator, model: torch.nn.Module, seen: list[int] | None = None):
    """Return the numbers and the picture, to the bit, noting what is told on the way."""
    measured = evaluator.evaluate(model, get_family("edm"), SETTINGS, None if seen is None else seen.append)
    return measured.metrics, measured.first_images_NCHW.tolist()


def kill(evaluator: Evaluator, model: torch.nn.Module, after: int, error: BaseException | None = None) -> None:
    """Evaluate, and die once so many samples are told."""

    def die(done: int) -> None:
        if done == after:
            raise error or Killed

    with pytest.raises((Killed, Interrupted)):
        evaluator.evaluate(model, get_family("edm"), SETTINGS, die)


def test_evaluation_killed_after_every_batch_goes_on_behind_it_to_the_same_numbers(make, model, folder) -> None:
    expected = numbers(make(None), model)
    for after in TOLD[1:-1]:
        kill(make(folder), model, after)
        seen: list[int] = []
        assert numbers(make(folder), model, seen) == expected
        assert seen == TOLD[TOLD.index(after) :]
        evaluator = make(folder)
        assert numbers(evaluator, model, seen) == expected  # measured, and nobody has said that it is known
        assert seen[-2:] == [70, 70]
        assert [path.name for path in folder.rglob("*.safetensors")] == ["measured.safetensors"]
        evaluator.forget_parts()
        assert list(folder.iterdir()) == []


def test_evaluation_that_is_stopped_keeps_what_is_in_no_part_yet(make, model, folder, monkeypatch) -> None:
    monkeypatch.setattr(drawing, "PART_SECONDS", 1e9)
    kill(make(folder), model, 32)
    assert list(folder.iterdir()) == []
    kill(make(folder), model, 32, Interrupted("stopped"))
    seen: list[int] = []
    assert numbers(make(folder), model, seen) == numbers(make(None), model)
    assert seen == TOLD[2:]


def flip_a_bit(folder: Path) -> None:
    path = next(folder.rglob("0000016-*"))
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def cut_short(folder: Path) -> None:
    path = next(folder.rglob("0000016-*"))
    path.write_bytes(path.read_bytes()[:-8])


def take_another_place(folder: Path) -> None:
    path = next(folder.rglob("0000000-*"))
    shutil.copy(path, next(folder.rglob("0000016-*")))


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, take_another_place])
def test_part_that_is_not_what_was_written_is_drawn_again(make, model, folder, damage) -> None:
    kill(make(folder), model, 48)
    damage(folder)
    seen: list[int] = []
    assert numbers(make(folder), model, seen) == numbers(make(None), model)
    assert seen == TOLD[1:]


def test_parts_of_another_evaluation_are_not_taken(make, model, folder) -> None:
    """Neither found under another name, nor believed under this one."""
    other = deepcopy(model)
    next(other.parameters()).data.flatten()[0] += 1e-6
    kill(make(folder), model, 32)
    for evaluator, changed in ((make(folder), other), (make(folder, rho=6.0), model)):
        seen: list[int] = []
        numbers(evaluator, changed, seen)
        assert seen == TOLD
        evaluator.forget_parts()
    kill(make(folder), other, 16)
    ours, theirs = sorted(folder.iterdir(), key=lambda folder: -len(list(folder.iterdir())))
    shutil.copy(ours / "0000016-0000032.safetensors", theirs)
    seen = []
    assert numbers(make(folder), other, seen) == numbers(make(None), other)
    assert seen == TOLD[1:]


def test_parts_that_nobody_came_back_for_are_removed(make, model, folder) -> None:
    kill(make(folder), model, 16)
    left_behind = next(folder.iterdir())
    kill(make(folder, rho=6.0), model, 16)
    assert left_behind.exists()
    long_ago = left_behind.stat().st_mtime - LEFT_BEHIND_SECONDS - 1
    os.utime(left_behind, (long_ago, long_ago))
    kill(make(folder, rho=6.0), model, 32)
    assert not left_behind.exists()
    assert len(list(folder.iterdir())) == 1
