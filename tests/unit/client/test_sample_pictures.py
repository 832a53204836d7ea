"""Which pictures are shown side by side, and what the one that is made of them looks like."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from ddo_client.errors import DdoError
from ddo_client.models import Checkpoint, Measured, Round, Winner
from ddo_client.sample_pictures import compose, to_show

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def measured(name: str, protocol: str, *, picture: bool = True) -> Measured:
    samples_id = f"art_{name}_{protocol}" if picture else None
    return Measured("eval", name, 1.0, 2.5, None, None, 10, protocol, samples_id=samples_id)


def checkpoint(name: str, round_index: int, trial_index: int | None, *evaluations: Measured) -> Checkpoint:
    settings = (None, None) if trial_index is None else (2.0, 0.05)
    numbers = (1.0, 1, 2.5, evaluations, (), "0" * 64, 1, NOW)
    return Checkpoint(name, "job", round_index, trial_index, *settings, *numbers)


def round_(index: int, reference: str | None, winner: str | None) -> Round:
    won = None if winner is None else Winner(winner, 0, 2.0, 0.05, 1.0, None)
    return Round(index, "succeeded", reference, None, None, won, (), NOW, None)


BASE = checkpoint("base", 0, None, measured("base", "search"), measured("base", "confirm"))
FIRST = checkpoint("first", 1, 0, measured("first", "search"), measured("first", "confirm"))
SECOND = checkpoint("second", 2, 0, measured("second", "search"), measured("second", "confirm"))
CHECKPOINTS = [SECOND, FIRST, BASE]
ROUNDS = [round_(0, None, "base"), round_(1, "base", "first"), round_(2, "first", "second"), round_(3, "second", None)]


def pictures(*, checkpoints=CHECKPOINTS, **of_which: int) -> list[tuple[str, str]]:
    return [(each.who, each.samples_id) for each in to_show(ROUNDS, checkpoints, **of_which)]


def test_base_previous_and_candidate_are_shown_by_the_protocol_that_decided() -> None:
    assert pictures() == [
        ("base", "art_base_confirm"),
        ("round 1, alpha 2, beta 0.05", "art_first_confirm"),
        ("round 2, alpha 2, beta 0.05", "art_second_confirm"),
    ]


def test_checkpoint_that_is_two_of_them_is_shown_once() -> None:
    assert [samples for _, samples in pictures(round_index=1)] == ["art_base_confirm", "art_first_confirm"]
    assert [samples for _, samples in pictures(round_index=0)] == ["art_base_confirm"]


def test_only_pictures_of_the_same_samples_stand_side_by_side() -> None:
    searched = replace(SECOND, evaluations=(measured("second", "search"), measured("second", "confirm", picture=False)))
    found = pictures(checkpoints=[searched, FIRST, BASE])
    assert [samples for _, samples in found] == ["art_base_search", "art_first_search", "art_second_search"]
    with pytest.raises(DdoError, match="no pictures of the same samples"):
        pictures(checkpoints=[replace(SECOND, evaluations=(measured("second", "other"),)), FIRST, BASE])


@pytest.mark.parametrize("of_which", [{"round_index": 3}, {"round_index": 9}, {"round_index": 2, "trial_index": 5}])
def test_candidate_that_does_not_exist_is_refused_by_name(of_which) -> None:
    with pytest.raises(DdoError, match=f"round {of_which['round_index']}.* has kept no checkpoint"):
        pictures(**of_which)


def test_picture_of_all_holds_each_as_it_is(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("L", (64, 64), 80 * index).save(tmp_path / f"{index}.png")
    shown = to_show(ROUNDS, CHECKPOINTS)
    compose([(each, tmp_path / f"{index}.png") for index, each in enumerate(shown)], tmp_path / "new" / "all.png")
    with Image.open(tmp_path / "new" / "all.png") as whole:
        assert whole.size == (3 * 64 + 2 * 8, 64 + 45)
        for index in range(3):
            grey = whole.crop((72 * index, 45, 72 * index + 64, 109)).getcolors()
            assert grey == [(64 * 64, (80 * index,) * 3)]
        assert len(whole.crop((0, 0, 64, 45)).getcolors()) > 1  # a caption
