"""Presets: how they are laid under a job, and that each is a whole one once its inputs are named."""

import pytest

from ddo_engine.presets import PRESETS, merge, overlaid
from ddo_engine.spec import CosineSchedule, DPMSolverSettings, JobSpec

INPUTS = {
    "base_checkpoint": "file:///inputs/base.safetensors",
    "dataset": {"uri": "file:///inputs/data.zip"},
    "feature_network": "file:///inputs/features.safetensors",
}


def job_of(name: str, **changes: object) -> JobSpec:
    return JobSpec.model_validate({"preset": name} | INPUTS | changes)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_completes_a_job_that_names_its_inputs(name: str) -> None:
    spec = job_of(name)

    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert PRESETS[name].description.endswith(".")
    # an override for a round that is never played would say something that is not so
    assert all(override.from_round <= spec.rounds for override in spec.round_overrides)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_gives_way_to_what_the_job_says(name: str) -> None:
    other = job_of(name, rounds=1, training={"learning_rate": 1e-9}, grid={"alpha": [3.0]})

    assert (other.rounds, other.training.learning_rate, other.grid.alpha) == (1, 1e-9, (3.0,))
    assert other.training.kimg == job_of(name).training.kimg


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_with_another_kind_of_schedule_has_nothing_of_its_own(name: str) -> None:
    training = job_of(name, training={"schedule": {"kind": "cosine"}, "final_learning_rate_factor": 1.0}).training

    assert training.schedule == CosineSchedule()


def test_preset_with_another_sampler_has_nothing_of_its_own() -> None:
    spec = job_of("edm2-s-img64", sampler={"kind": "dpm_solver_v3"})

    assert spec.sampler == DPMSolverSettings()


@pytest.mark.parametrize(
    ("name", "rounds", "nfe", "kimg", "images_between"),
    [
        ("edm-cifar10-uncond", 12, 35, 1500, 50_000),
        ("edm-cifar10-cond", 16, 35, 1500, 50_000),
        ("edm2-s-img64", 24, 63, 6400, 2**17),
        ("edm2-l-img512", 28, 63, 6400, 2**17),
    ],
)
def test_preset_of_a_diffusion_model_has_the_papers_settings(
    name: str, rounds: int, nfe: int, kimg: float, images_between: int
) -> None:
    spec = job_of(name)

    assert (spec.rounds, spec.sampler.nfe) == (rounds, nfe)
    assert (spec.training.kimg, spec.training.batch_size) == (kimg, 512)
    assert spec.training.evaluate_every_kimg * 1000 == images_between
    assert spec.reference_set.kind == "offline"
    assert spec.reference_set.num_samples == spec.evaluation.num_samples == 50_000
    assert (min(spec.grid.alpha), max(spec.grid.alpha)) == (0.5, 6)
    assert (min(spec.grid.beta), max(spec.grid.beta)) == (0.01, 0.1)
    assert len(spec.grid.cells) == 20


def test_preset_of_edm2_s_widens_the_noise_and_slows_down_from_round_17() -> None:
    spec = job_of("edm2-s-img64")

    seen = {index: spec.settings_of(index).training for index in range(1, 25)}

    assert {index: (item.P_std, item.learning_rate) for index, item in seen.items()} == {
        index: (1.6, 5e-5) if index <= 16 else (3.0, 2e-5) for index in range(1, 25)
    }
    assert {item.P_mean for item in seen.values()} == {-0.8}


def test_merge_fields_that_are_given_win_mapping_by_mapping() -> None:
    below = {"rounds": 2, "grid": {"alpha": [1.0], "beta": [0.5]}}
    assert merge(below, {"rounds": 3, "grid": {"alpha": [4.0]}}) == {
        "rounds": 3,
        "grid": {"alpha": [4.0], "beta": [0.5]},
    }
    assert below == {"rounds": 2, "grid": {"alpha": [1.0], "beta": [0.5]}}


def test_merge_another_kind_replaces_the_settings_of_the_first() -> None:
    below = {"training": {"kimg": 1.0, "schedule": {"kind": "edm2", "decay_reference_batches": 2000}}}
    above = {"training": {"schedule": {"kind": "cosine"}}}
    assert merge(below, above) == {"training": {"kimg": 1.0, "schedule": {"kind": "cosine"}}}


def test_merge_the_same_kind_or_none_keeps_what_is_not_given() -> None:
    below = {"sampler": {"kind": "heun", "num_steps": 18}}
    assert merge(below, {"sampler": {"kind": "heun", "rho": 5.0}}) == {
        "sampler": {"kind": "heun", "num_steps": 18, "rho": 5.0}
    }
    assert merge(below, {"sampler": {"num_steps": 9}}) == {"sampler": {"kind": "heun", "num_steps": 9}}


def test_preset_gives_way_in_later_rounds_too() -> None:
    spec = job_of("edm2-s-img64", training={"learning_rate": 1e-6})
    early, late = (spec.settings_of(index).training for index in (1, 17))
    assert early.learning_rate == late.learning_rate == 1e-6
    assert (early.P_std, late.P_std) == (1.6, 3.0)


def test_overlaid_fields_and_grid_of_the_body_hold_in_every_round() -> None:
    below = {
        "training": {"kimg": 2, "P_std": 1.0},
        "grid": {"beta": [1]},
        "round_overrides": [
            {"from_round": 2, "training": {"P_std": 2.0}},
            {"from_round": 3, "training": {"P_std": 3.0, "kimg": 4}, "grid": {"beta": [2]}},
            {"from_round": 4, "grid": {"beta": [3]}},
        ],
    }
    body = {"training": {"P_std": 1.5}, "grid": {"beta": [9]}}
    laid = overlaid(below, body)
    assert laid["round_overrides"] == [{"from_round": 3, "training": {"kimg": 4}, "grid": None}]
    assert overlaid(below, body | {"round_overrides": []})["round_overrides"] == []
    assert overlaid(below, {"rounds": 3})["round_overrides"][0] == {
        "from_round": 2,
        "training": {"P_std": 2.0},
        "grid": None,
    }
