"""What people see."""

from datetime import UTC, datetime

from rich.console import Console

from ddo_client.models import Event, RunningUnit
from ddo_client.output import evaluation_line, event_line, running_unit

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _event(type_: str, **data: object) -> Event:
    return Event(1, type_, None, data, _NOW)


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


def test_evaluation_line_says_by_how_much_samples_were_guided() -> None:
    trial = _event("trial.evaluated", metrics={"fid": 1.0}, round_index=1, position=0, kimg=2.0, guidance_scale=1.5)
    assert str(evaluation_line(trial)) == "round 1 trial 0 at 2 kimg, guidance 1.5: FID 1"
    of_mle = {"baseline_index": 0, "objective": "mle", "kimg": 2.0, "guidance_scale": 1.5}
    line = evaluation_line(_event("baseline.evaluated", metrics={"fid": 1.0}, **of_mle))
    assert str(line) == "baseline 0 (mle) at 2 kimg, guidance 1.5: FID 1"


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
