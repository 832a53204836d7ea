"""Answers become dataclasses, or an error that names the field."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from ddo_client.decoding import decode
from ddo_client.errors import UnexpectedAnswer
from ddo_client.models import Job, Plan


@dataclass(frozen=True)
class Cell:
    """What is a number, or a word in the place of one."""

    beta: float | str


JOB: dict[str, Any] = {
    "id": "job_1",
    "name": None,
    "preset": None,
    "status": "running",
    "termination_reason": None,
    "error": None,
    "base_fid": 2,
    "best_fid": 1.5,
    "best_checkpoint_id": "ckpt_1",
    "improvement_percent": 25.0,
    "rounds_completed": 1,
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:06.5Z",
    "finished_at": None,
    "spec": {"rounds": 2, "grid": {"alpha": [1.0]}},
    "progress": {
        "fraction": 0.25,
        "units_done": 1,
        "units_planned": 4,
        "running": [
            {
                "unit_id": "unit_1",
                "kind": "trial",
                "round_index": 1,
                "position": 2,
                "phase": "training",
                "done": 10,
                "total": 40,
                "unit": "images",
                "images_per_second": None,
            }
        ],
    },
}


def _without(path: str) -> dict[str, Any]:
    return {name: value for name, value in JOB.items() if name != path}


def test_decode_job_reads_nested_values() -> None:
    job = decode(Job, JOB)
    assert job.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (job.base_fid, type(job.base_fid)) == (2.0, float)
    assert job.progress.running[0].phase == "training"
    assert job.spec["grid"] == {"alpha": [1.0]}
    assert not job.has_ended


def test_decode_unknown_fields_are_ignored() -> None:
    assert decode(Job, {**JOB, "new_in_a_later_version": 1}) == decode(Job, JOB)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (_without("status"), "Job.status"),
        ({**JOB, "status": 3}, "Job.status"),
        ({**JOB, "rounds_completed": True}, "Job.rounds_completed"),
        ({**JOB, "created_at": "yesterday"}, "Job.created_at"),
        ({**JOB, "progress": {**JOB["progress"], "running": [{}]}}, r"Job.progress.running\[0\].unit_id"),
        ({**JOB, "progress": []}, "Job.progress"),
        ([JOB], "Job"),
    ],
)
def test_decode_wrong_answer_names_the_field(answer: object, named: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=named):
        decode(Job, answer)


def test_decode_number_or_word_takes_both_and_nothing_else() -> None:
    assert [decode(Cell, {"beta": value}).beta for value in (1, 0.5, "auto")] == [1.0, 0.5, "auto"]
    for value in (None, True, [1]):
        with pytest.raises(UnexpectedAnswer, match=r"Cell\.beta"):
            decode(Cell, {"beta": value})


def test_decode_dict_of_numbers_checks_them() -> None:
    storage = dict.fromkeys(("checkpoints", "checkpoint_bytes", "state_bytes", "input_bytes", "total_bytes"), 1)
    numbers = dict.fromkeys(("trials", "trained_images", "generated_images", "network_evaluations"), 2)
    plan = {"spec": {}, "units": {"trial": 4}, "storage": storage, **numbers}
    assert asdict(decode(Plan, plan)) == plan | {"phases": (), "baselines": ()}  # which older services do not tell
    with pytest.raises(UnexpectedAnswer, match=r"Plan\.units\.trial"):
        decode(Plan, {**plan, "units": {"trial": "four"}})
