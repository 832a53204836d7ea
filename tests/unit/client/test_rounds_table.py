"""What people see of rounds."""

from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from ddo_client.models import Measured, Round, Trial, TrialWarning, Winner
from ddo_client.rounds_table import rounds_table

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _measured(fid: float, samples: int) -> Measured:
    return Measured("eval_1", None, 1.0, fid, 0.9, 0.8, samples, f"protocol of {samples}")


def _trial(index: int, fid: float, confirmed: float | None) -> Trial:
    final = None if confirmed is None else _measured(confirmed, 5000)
    best = _measured(fid, 1000)
    return Trial(index, 2.0, 0.5, "succeeded", f"unit_{index}", 1, fid, 1.0, best, final, None, None)


def _round(index: int, trials: tuple[Trial, ...], winner: Winner) -> Round:
    return Round(index, "completed", None, None, None, winner, trials, _NOW, None)


def _lines(rounds: list[Round]) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(rounds_table(rounds))
    return [line.split() for line in captured.get().splitlines()]


def test_rounds_table_keeps_protocols_in_different_columns() -> None:
    base = Winner("ckpt_0", None, None, None, 0.0, _measured(9.0, 5000))
    winner = Winner("ckpt_1", 1, 2.0, 0.5, 1.0, _measured(6.0, 5000))
    trials = (_trial(0, 5.5, None), _trial(1, 5.75, 6.0))
    header, first, second, third = _lines([_round(0, (), base), _round(1, trials, winner)])
    assert header[5:9] == ["FID", "confirmed", "precision", "recall"]
    assert first == ["0", "completed", "base", "–", "9", "0.9", "0.8"]
    assert second == ["1", "succeeded", "0", "2", "0.5", "5.5", "–", "0.9", "0.8", "1"]
    assert third == ["succeeded", "1", "2", "0.5", "5.75", "6", "0.9", "0.8", "1", "★", "winner"]


def test_rounds_table_shows_what_auto_came_to_and_warnings() -> None:
    looking = replace(_trial(0, 5.5, None), beta="auto")
    found = replace(_trial(1, 5.0, None), beta="auto", found_beta=0.25)
    warned = replace(_trial(2, 6.0, None), warnings=(TrialWarning("discriminator_idle", "raise beta", 3, 0.3),))
    winner = Winner("ckpt_1", 1, 2.0, 0.25, 1.0, _measured(5.0, 1000))
    _, first, second, third = _lines([_round(1, (looking, found, warned), winner)])
    assert first[2:5] == ["0", "2", "auto"]
    assert second[1:5] == ["1", "2", "auto", "0.25"]
    assert third[-1] == "discriminator_idle"


def test_rounds_table_without_confirmation_has_one_column_of_fids() -> None:
    base = Winner("ckpt_0", None, None, None, 0.0, _measured(9.0, 1000))
    winner = Winner("ckpt_1", 0, 2.0, 0.5, 1.0, _measured(5.5, 1000))
    header, first, _ = _lines([_round(0, (), base), _round(1, (_trial(0, 5.5, None),), winner)])
    assert "confirmed" not in header
    assert first == ["0", "completed", "base", "9", "0.9", "0.8"]


def test_rounds_table_says_the_scale_where_each_fid_is_the_lowest_of_its_curve() -> None:
    base, best = (replace(_measured(fid, 1000), guidance_scale=scale) for fid, scale in ((5.0, 1.5), (3.0, 2.0)))
    trial = replace(_trial(0, 3.0, None), best=best)
    rounds = [
        _round(0, (), Winner("ckpt_0", None, None, None, 0.0, base)),
        _round(1, (trial,), Winner("ckpt_1", 0, 2.0, 0.5, 1.0, best)),
    ]
    header, of_base, of_trial = _lines(rounds)
    assert header[5:8] == ["FID", "scale", "precision"]
    assert of_base[3:5] == ["5", "1.5"]
    assert of_trial[5:7] == ["3", "2"]
    same = replace(trial, best=replace(best, guidance_scale=1.5))
    assert "scale" not in _lines([rounds[0], replace(rounds[1], trials=(same,), winner=None)])[0]
