"""Pydantic's findings in the API's words."""

import pytest

from ddo_engine.spec import JobSpec
from service.api.validation import converted, field_names, param_of, unprocessable, unstorable


@pytest.mark.parametrize(
    ("location", "param"),
    [
        ((), None),
        (("rounds",), "rounds"),
        (("grid", "alpha", 1), "grid.alpha[1]"),
        (("metadata", "key", "[key]"), "metadata.key"),
        (("a" * 500,), "a" * 200),
        ((0, "x"), "[0].x"),
    ],
)
def test_param_of_location(location, param) -> None:
    assert param_of(location) == param


@pytest.mark.parametrize(
    ("given", "accepted", "params"),
    [
        ({"a": 1, "b": 2.0}, {"a": 1.0, "b": 2, "c": "default"}, []),
        ({"a": "1"}, {"a": 1}, ["a"]),
        ({"a": True}, {"a": 1}, ["a"]),
        ({"a": [1, "2", 3]}, {"a": [1, 2, 3]}, ["a[1]"]),
        ({"a": {"b": [{"c": False}]}}, {"a": {"b": [{"c": 0}]}}, ["a.b[0].c"]),
        ({"a": None}, {"a": None}, []),
    ],
)
def test_converted_finds_values_of_another_json_type(given, accepted, params) -> None:
    assert [error.param for error in converted(given, accepted)] == params


@pytest.mark.parametrize(
    ("value", "param"),
    [({"a": ["x", "y\0"]}, "a[1]"), ({"a": {"b\0": 1}}, "a"), ("\0", None)],
)
def test_unstorable_finds_nul_characters(value, param) -> None:
    found = unstorable(value)
    assert found is not None
    assert found.param == param


def test_unstorable_passes_all_else() -> None:
    assert unstorable({"a": ["\x01", 1, None, {"b": "\U0001f600"}]}) is None


def test_field_names_reach_into_optional_and_nested_settings() -> None:
    assert {"rounds", "alpha", "grey_levels", "finalists", "S_churn", "warmup_kimg"} <= field_names(JobSpec)


def test_unprocessable_keeps_the_answer_small() -> None:
    findings = [{"type": "extra_forbidden", "loc": (f"f{index}",), "msg": "", "input": 1} for index in range(1000)]
    error = unprocessable(findings)
    assert error.errors is not None
    assert len(error.errors) == 50
