"""A unit of every kind runs on a model of the library, and what it trains drops back into the model's folder."""

import pytest
import torch
from diffusers import UNet2DModel

from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.conversion import convert, export
from ddo_engine.errors import InvalidSpec
from tests.diffusers_folders import library_unet, write_pipeline
from tests.engine_inputs import EngineInputs, make_inputs, run_in_process

SMALL = {"sample_size": 4, "in_channels": 1, "out_channels": 1, "num_class_embeds": 3}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def pipeline(tmp_path):
    return write_pipeline(tmp_path / "pipeline", library_unet(**SMALL))


@pytest.fixture
def inputs(tmp_path, pipeline) -> EngineInputs:
    made = make_inputs(tmp_path / "inputs")
    convert(pipeline, made.checkpoint)
    return made


def test_trial_trains_a_model_of_the_library_and_its_checkpoint_drops_back(tmp_path, pipeline, inputs):
    events = run_in_process("train", inputs.train_spec(), tmp_path / "trial")
    assert [event["type"] for event in events].count("metric") >= 2
    paths = [event["path"] for event in events if event["type"] == "file" and event["role"] == "checkpoint"]
    trained = load_checkpoint(paths[-1])
    base = load_checkpoint(inputs.checkpoint)
    changed = [
        not torch.equal(after, before)
        for after, before in zip(trained.model.parameters(), base.model.parameters(), strict=True)
    ]
    assert all(changed)
    export(paths[-1], pipeline / "unet" / WEIGHTS)
    library = UNet2DModel.from_pretrained(pipeline / "unet", local_files_only=True)
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(library.state_dict()[name], weight)


def test_reference_set_is_drawn_from_a_model_of_the_library(tmp_path, inputs):
    spec = {
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "first_seed": 0,
        "num_samples": 5,
        "sampler": {"num_steps": 3},
    }
    events = run_in_process("generate", spec, tmp_path / "reference")
    assert [event for event in events if event["type"] == "file"]


def test_trial_whose_sampler_starts_beyond_the_schedule_ends_before_it_trains(tmp_path, inputs):
    spec = inputs.train_spec(sampler={"sigma_max": 500.0})
    events = []
    with pytest.raises(InvalidSpec, match=r"sampler\.sigma_max"):
        run_in_process("train", spec, tmp_path / "trial", lambda event, stop: events.append(event))
    assert {event["type"] for event in events} <= {"started"}
