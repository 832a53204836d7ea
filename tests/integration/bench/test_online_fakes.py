"""The bench counts what is done, on a tiny VAR."""

import pytest

from bench.online_fakes import PARTS, parts_of, row_of_a_step
from tests.numerics.var_models import tiny_var


def test_parts_of_a_var_are_counted_and_training_costs_three_passes():
    parts = parts_of(tiny_var())
    assert tuple(parts) == PARTS
    assert min(parts.values()) > 0
    assert 2.5 * parts["reference"] < parts["target"] <= 3.05 * parts["reference"]


def test_row_of_a_step_adds_up_its_parts():
    parts = {"encode": 1.0, "decode": 10.0, "draw": 100.0, "reference": 1000.0, "target": 3000.0}
    assert row_of_a_step(parts, 0.0) == 4001.0
    assert row_of_a_step(parts, 1.0) - 4001.0 == 4111.0
    assert row_of_a_step(parts, 0.5, decode=False) == pytest.approx(4001.0 + 0.5 * 4100.0)
