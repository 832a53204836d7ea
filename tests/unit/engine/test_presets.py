"""Presets: how they are laid under a job, and that each is a whole one once its inputs are named."""

from ddo_engine.presets import merge


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
