"""Trials whose real images are cut out at random places, as VAR's training does."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.edm.family import EDMFamily
from ddo_engine.inputs import check_random_crop
from ddo_engine.spec import CheckpointInfo, JobSpec, TrainingSettings, TrainSpec, ValidateSpec
from ddo_engine.state_file import read_state
from tests.disturbed_trials import stopped_after_step
from tests.engine_inputs import results, run_in_process

READING = {"resolution": 4, "transform": "var"}


@pytest.fixture
def spec(inputs, tmp_path):
    """A trial on images of 4×9, of which 4×4 are kept."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 4, 9, 1), dtype=np.uint8)
    np.savez(tmp_path / "wide.npz", pixels, np.arange(90) % 3)
    training = {"kimg": 0.064, "evaluate_every_kimg": 0.064, "micro_batch_size": 5, "random_crop": True}
    return inputs.train_spec(dataset=str(tmp_path / "wide.npz"), dataset_reading=READING, training=training)


def test_trial_with_random_crops_stopped_and_run_again_equals_undisturbed_to_the_bit(spec, tmp_path):
    undisturbed = run_in_process("train", spec, tmp_path / "undisturbed")
    events = stopped_after_step(spec, tmp_path / "stopped", 2)
    assert results(events + run_in_process("train", spec, tmp_path / "stopped")) == results(undisturbed)
    one, other = (read_state(tmp_path / run / "state.safetensors") for run in ("undisturbed", "stopped"))
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_random_crops_are_of_real_images_alone_and_evaluation_takes_the_centre(spec, tmp_path, monkeypatch):
    seen, original = {True: [], False: []}, EDMFamily.log_likelihood_ratios

    def watched(self, target, reference, real, fake, training, generator):
        seen[training.random_crop].append((real.images_BCHW, fake.images_BCHW))
        return original(self, target, reference, real, fake, training, generator)

    monkeypatch.setattr(EDMFamily, "log_likelihood_ratios", watched)
    events = {}
    for random_crop in seen:
        spec["training"]["random_crop"] = random_crop
        events[random_crop] = run_in_process("train", spec, tmp_path / str(random_crop))
    (real, fake), (real_in_centre, same_fake) = (
        (torch.cat(part) for part in zip(*batches, strict=True)) for batches in seen.values()
    )
    assert torch.equal(fake, same_fake)
    moved = (real != real_in_centre).flatten(1).any(1).float().mean()
    assert 0.7 < moved < 0.95  # at five of the six places
    protocols = [event["fingerprint"] for run in events.values() for event in run if event["type"] == "evaluation"]
    assert len(protocols) == 2
    assert len(set(protocols)) == 1


@pytest.mark.parametrize("reading", [{}, {"resolution": 4, "transform": "center-crop"}])
def test_random_crop_of_what_leaves_no_room_is_refused_by_name(spec, reading):
    with pytest.raises(ValidationError, match=r"training\.random_crop: dataset\.transform is .* set it to 'var'"):
        TrainSpec.model_validate(spec | {"dataset_reading": reading})
    validate = {name: spec[name] for name in ("checkpoint", "dataset", "feature_network", "training")}
    with pytest.raises(ValidationError, match=r"training\.random_crop"):
        ValidateSpec.model_validate(validate | {"dataset_reading": reading})


def test_random_crop_of_a_later_round_is_refused_by_its_name():
    job = {
        "preset": "var-d16",
        "base_checkpoint": "s3://models/var.pth",
        "feature_network": "s3://models/inception.safetensors",
        "dataset": {"uri": "s3://data/imagenet.zip"},
    }
    assert JobSpec.model_validate(job).training.random_crop
    job |= {"dataset": job["dataset"] | {"transform": "none"}}
    with pytest.raises(ValidationError, match=r"training\.random_crop: dataset\.transform is 'none'"):
        JobSpec.model_validate(job)
    job |= {"training": {"random_crop": False}}
    assert not JobSpec.model_validate(job).training.random_crop
    job |= {"round_overrides": [{"from_round": 2, "training": {"random_crop": True}}]}
    with pytest.raises(ValidationError, match=r"round_overrides\[0\]\.training\.random_crop"):
        JobSpec.model_validate(job)


def test_random_crop_for_a_model_of_latents_is_refused(spec):
    training = TrainingSettings.model_validate(spec["training"])
    info = CheckpointInfo.model_construct(space="latents")
    with pytest.raises(InvalidSpec, match=r"training\.random_crop: the checkpoint works on latents"):
        check_random_crop(info, training)
    check_random_crop(info, training.model_copy(update={"random_crop": False}))
