"""Settings that change by round: what the rounds are told, what is refused, and what is stored."""

import json

import pytest
from pydantic import ValidationError

from ddo_engine.spec import EDM2Schedule, JobSpec
from tests.job_rows import job_spec

LATE = {
    "from_round": 17,
    "training": {"P_std": 3.0, "learning_rate": 2e-5},
    "grid": {"alpha": [1.0], "beta": [0.01, 0.1]},
}


def _messages(error: ValidationError) -> str:
    return "\n".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())


def test_settings_of_a_round_are_the_jobs_with_all_overrides_so_far() -> None:
    later = {"from_round": 20, "training": {"learning_rate": 1e-5}}
    spec = job_spec(round_overrides=[LATE, later])

    seen = [spec.settings_of(index) for index in (1, 16, 17, 19, 20, 100)]

    assert [item.training.P_std for item in seen] == [1.2, 1.2, 3.0, 3.0, 3.0, 3.0]
    assert [item.training.learning_rate for item in seen] == [1e-3, 1e-3, 2e-5, 2e-5, 1e-5, 1e-5]
    assert [len(item.grid.cells) for item in seen] == [2, 2, 2, 2, 2, 2]
    assert seen[2].grid.beta == (0.01, 0.1)
    assert seen[0].training == spec.training
    assert seen[2].training == spec.training.model_copy(update={"P_std": 3.0, "learning_rate": 2e-5})


def test_override_may_turn_a_setting_off_and_choose_another_kind() -> None:
    changes = {
        "ema_half_life_kimg": None,
        "ema_std": 0.05,
        "schedule": {"kind": "edm2", "decay_reference_batches": 2000},
    }
    spec = job_spec(round_overrides=[{"from_round": 2, "training": changes}])

    training = spec.settings_of(2).training

    assert (training.ema_half_life_kimg, training.ema_std) == (None, 0.05)
    assert training.schedule == EDM2Schedule(decay_reference_batches=2000)


def test_override_is_stored_as_it_was_given() -> None:
    spec = job_spec(
        round_overrides=[{"from_round": 2, "training": {"ema_half_life_kimg": 0.5, "micro_batch_size": None}}]
    )

    stored = json.loads(spec.model_dump_json())

    assert stored["round_overrides"][0]["training"] == {"ema_half_life_kimg": 0.5, "micro_batch_size": None}
    assert JobSpec.model_validate(stored) == spec


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ({"training": {"P_std": -1.0}}, "round_overrides.0.training.P_std: Input should be greater than 0"),
        ({"training": {"lr": 1.0}}, "round_overrides.0.training.lr: Extra inputs are not permitted"),
        ({"training": {"batch_size": None}}, "round_overrides.0.training.batch_size: Input should be a valid integer"),
        ({"sampler": {"num_steps": 9}}, "round_overrides.0.sampler: Extra inputs are not permitted"),
        ({"training": {}}, "round_overrides.0: Value error, changes nothing"),
        ({"training": {"P_std": 1.0}, "from_round": 1}, "round_overrides.0.from_round: Input should be greater than"),
        (
            {"training": {"warmup_kimg": 3.0}},
            "round_overrides[0].training: from round 2 on, warmup_kimg must not exceed",
        ),
        (
            {"training": {"adam_betas": [1.0, 0.9]}},
            "round_overrides[0].training.adam_betas: from round 2 on, both betas",
        ),
        ({"training": {"ema_std": 0.05}}, "round_overrides[0].training: from round 2 on, give exactly one of"),
        ({"grid": {"alpha": [1.0]}}, "round_overrides.0.grid.beta: Field required"),
    ],
)
def test_override_that_gives_no_valid_round_is_refused_by_name(override: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as error:
        job_spec(round_overrides=[{"from_round": 2} | override])

    assert told in _messages(error.value)


@pytest.mark.parametrize("firsts", [(3, 2), (2, 2)])
def test_overrides_out_of_order_are_refused(firsts: tuple[int, int]) -> None:
    with pytest.raises(ValidationError, match="rising order"):
        job_spec(round_overrides=[{"from_round": first, "training": {"P_std": 1.0}} for first in firsts])


def test_overrides_that_are_only_valid_together_are_accepted() -> None:
    """kimg rises in one override, the warm-up that needs it in a later one."""
    longer = {"from_round": 2, "training": {"kimg": 4.0}}
    spec = job_spec(round_overrides=[longer, {"from_round": 3, "training": {"warmup_kimg": 3.0}}])
    assert (spec.settings_of(3).training.kimg, spec.settings_of(3).training.warmup_kimg) == (4.0, 3.0)


@pytest.mark.parametrize("round_index", [0, 3, 16, 17, 30])
def test_job_after_a_round_has_the_settings_of_the_rounds_that_followed(round_index: int) -> None:
    spec = job_spec(rounds=24, round_overrides=[{"from_round": 4, "training": {"kimg": 3.0}}, LATE])

    rest = spec.after_round(round_index)

    assert rest.rounds == max(24 - round_index, 1)
    assert all(rest.settings_of(index) == spec.settings_of(round_index + index) for index in range(1, 26))
    assert JobSpec.model_validate(rest.model_dump(mode="json")) == rest


def test_stop_takes_its_noise_from_one_source() -> None:
    with pytest.raises(ValidationError, match="given or measured"):
        job_spec(stop={"evaluation_noise": 0.1, "noise_seeds": 3})


def test_job_after_the_last_round_that_finds_beta_has_no_length_of_a_probe() -> None:
    numbers = {"alpha": [1.0], "beta": [0.5]}
    overrides = [{"from_round": 2, "grid": numbers}, {"from_round": 3, "training": {"P_std": 2.0, "probe_kimg": 0.4}}]
    training = job_spec().training.model_dump(mode="json") | {"probe_kimg": 0.5}
    spec = job_spec(rounds=4, grid=numbers | {"beta": ["auto"]}, training=training, round_overrides=overrides)

    rest = JobSpec.model_validate(spec.after_round(1).model_dump(mode="json"))

    assert rest.training.probe_kimg is rest.settings_of(2).training.probe_kimg is None
    assert rest.settings_of(2).training.P_std == 2.0
    assert spec.after_round(0) == spec


def test_override_with_the_length_of_a_probe_that_never_runs_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        job_spec(round_overrides=[{"from_round": 2, "training": {"probe_kimg": 0.5}}])
    assert "round_overrides[0].training.probe_kimg: it is the probe's" in _messages(error.value)
