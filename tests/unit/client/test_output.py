"""What people see."""

from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from ddo_client.models import Event, Measured, Round, RunningUnit, Trial, TrialWarning, Winner
from ddo_client.output import evaluation_line, event_line, rounds_table, running_unit

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _event(type_: str, **data: object) -> Event:
    return Event(1, type_, None, data, _NOW)


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


def test_evaluation_line_of_a_trial_with_auto_says_so() -> None:
    where = {"position": 2, "alpha": 2.0, "beta": "auto", "kimg": 6.4, "round_index": 1}
    assert "(α 2, β auto)" in str(evaluation_line(_event("trial.evaluated", metrics={"fid": 1.0}, **where)))


def test_evaluation_line_orders_metrics_and_names_the_trial() -> None:
    metrics = {"recall": 0.25, "inception_score": 3.0, "precision": 0.5, "fid": 1.23456}
    where = {"round_index": 1, "position": 2, "alpha": 2.0, "beta": 0.5, "kimg": 6.4, "num_samples": 1000}
    line = evaluation_line(_event("trial.evaluated", metrics=metrics, **where))
    assert line is not None
    assert line.plain == (
        "round 1 trial 2 (α 2, β 0.5) at 6.4 kimg: FID 1.235, precision 0.5, recall 0.25, IS 3 on 1,000 samples"
    )


def test_evaluation_line_of_a_baseline_says_what_was_done_to_the_base() -> None:
    def line(**where: object) -> str:
        return str(evaluation_line(_event("baseline.evaluated", metrics={"fid": 2.0}, round_index=0, **where)))

    assert line(baseline_index=0, objective="mle", kimg=1.5) == "baseline 0 (mle) at 1.5 kimg: FID 2"
    assert line(baseline_index=1, guidance_scale=1.5) == "baseline 1 (guidance 1.5): FID 2"
    assert line(baseline_index=2, discriminator_weight=1.0) == "baseline 2 (discriminator 1): FID 2"
    assert line(baseline_index=0) == "baseline 0 (confirmed): FID 2"


def test_running_unit_of_a_baseline_names_it() -> None:
    unit = RunningUnit("unit_1", "baseline_trial", 0, 0, "training", 10, 20, "images", None, baseline_index=2)
    assert running_unit(unit) == "baseline 2 trial: training 10/20 images"


def test_evaluation_line_of_other_events_is_none() -> None:
    assert evaluation_line(_event("unit.running", kind="trial")) is None
    assert evaluation_line(_event("round.completed", round_index=0)) is None


def test_event_line_shows_text_from_the_service_as_text() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(event_line(_event("unit.failed", message="[bold]no markup[/bold]", numbers={"a": 1.23456})))
    assert "message=[bold]no markup[/bold] numbers={a 1.235}" in captured.get()
