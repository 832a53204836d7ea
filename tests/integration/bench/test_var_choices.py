"""The arms of the comparison are whole trials, and its rows say what was found."""

import pytest

from bench.var_choices import ARMS, row
from ddo_engine.spec import TrainSpec
from examples.digits.family_jobs import EXAMPLES


@pytest.mark.parametrize("arm", ARMS)
def test_arm_is_a_trial(arm):
    own = ARMS[arm] | {"training": EXAMPLES["var"].settings["training"] | ARMS[arm]["training"]}
    files = {"checkpoint": "base.safetensors", "dataset": "data.zip"}
    if "reference_set" in own:
        own["reference_set"] = ["fakes.zip"]
    spec = TrainSpec.model_validate(files | own)
    assert spec.training.model_dump(include=set(ARMS[arm]["training"])) == ARMS[arm]["training"]


def test_row_has_mean_and_spread_over_run_seeds():
    assert row("arm", [[1.0, 2.0, 3.0], [3.0, 2.0, 5.0]]) == "| arm | 2.00 ± 1.41 | 2.00 ± 0.00 | 4.00 ± 1.41 |"
    assert row("base", [[1.0, 2.0, 3.0]]) == "| base | 1.00 | 2.00 | 3.00 |"
