"""A beta is a number or 'auto', and errors name the field as it was written."""

import pytest
from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import DDOObjective, Grid, JobSpec, TrainingSettings, as_written
from ddo_engine.spec_file import read_spec
from tests.job_rows import job_spec

TRAINING = {"kimg": 2.0, "batch_size": 100, "learning_rate": 1e-3, "ema_half_life_kimg": 1.0, "evaluate_every_kimg": 1}


@pytest.mark.parametrize("value", ["auto", 0.5, 3])
def test_beta_takes_numbers_and_auto(value):
    objective = DDOObjective(alpha=1, beta=value)
    assert objective.beta == value
    assert DDOObjective.model_validate_json(objective.model_dump_json()) == objective


@pytest.mark.parametrize("value", [0, -1, 1e7, "automatic", None, [1]])
def test_other_beta_is_refused_once_naming_the_field(value):
    with pytest.raises(ValidationError) as caught:
        Grid.model_validate({"alpha": [1.0], "beta": [0.5, value]})
    assert [as_written(error["loc"]) for error in caught.value.errors()] == [("beta", 1)]


def test_other_beta_in_a_spec_file_is_refused_naming_the_field(tmp_path):
    path = tmp_path / "objective.json"
    path.write_text('{"alpha": 1, "beta": "automatic"}')
    with pytest.raises(InvalidSpec, match="beta: Input should be 'auto'") as caught:
        read_spec(path, DDOObjective)
    assert caught.value.param == "beta"


def test_auto_stands_beside_numbers_in_a_grid():
    grid = Grid(alpha=(1.0, 2.0), beta=("auto", 0.5))
    assert [(cell.alpha, cell.beta) for cell in grid.cells] == [(1, "auto"), (1, 0.5), (2, "auto"), (2, 0.5)]
    with pytest.raises(ValidationError, match="values repeat"):
        Grid(alpha=(1.0,), beta=("auto", "auto"))


def test_probe_of_a_job_without_auto_is_refused():
    training = TRAINING | {"probe_kimg": 1.0}
    with pytest.raises(ValidationError, match=r"training\.probe_kimg.*add 'auto' to grid\.beta"):
        job_spec(training=training)
    assert isinstance(job_spec(training=training, grid={"alpha": [1.0], "beta": ["auto", 1.0]}), JobSpec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe_kimg": 2.1}, "probe_kimg must not exceed kimg"),
        ({"ema_snapshot_stds": [0.05, 0.05]}, "lengths repeat"),
        ({"ema_snapshot_stds": [0.3]}, "less than or equal to 0.28"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings.model_validate(TRAINING | settings)
