"""Inputs in their authors' formats: what is stored for the job is what they were converted to."""

import hashlib
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.checkpoint import load_checkpoint, read_manifest
from service.job_view import JobInputs
from service.keys import key_of
from tests.diffusers_folders import library_unet, write_pipeline
from tests.engine_inputs import CLASSIFIER, make_inputs
from tests.official_pickles import edm2_file, edm_file, write
from tests.tiny_families import EDM2, VAR, VQVAE, randomised

REAL_ENGINE = {"DDO_ENGINE_PYTHON": sys.executable, "DDO_ENGINE_DEVICE": "cpu", "DDO_ENGINE_THREADS": "1"}
# of these, nothing but the validation is looked at
SETTINGS = {
    "grid": {"alpha": [2.0], "beta": [0.5]},
    "training": {
        "kimg": 0.032,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "ema_half_life_kimg": 1.0,
        "evaluate_every_kimg": 0.032,
    },
    "sampler": {"num_steps": 3, "batch_size": 64},
    "reference_set": {"num_samples": 16},
    "evaluation": {"num_samples": 16},
}


@pytest.fixture
def inputs(workplace) -> Path:
    return make_inputs(workplace.folder / "inputs").folder


def edm2_pickle(path: Path, seed: int = 1) -> Path:
    arguments = {name: value for name, value in EDM2.items() if name != "class_name"}
    return write(path, edm2_file(arguments, randomised("edm2", EDM2, seed=seed).state_dict()))


def validated(workplace, **changes) -> JobInputs:
    """Submit a job and return its inputs as soon as they are checked."""
    workplace.start_worker(**REAL_ENGINE, DDO_LEASE_SECONDS="30")
    job_id = workplace.submit(workplace.spec(**SETTINGS | changes))
    workplace.wait_until(lambda: workplace.job(job_id).inputs or workplace.job(job_id).error, 60)
    job = workplace.job(job_id)
    assert job.error is None, job.error
    return JobInputs.model_validate(job.inputs)


def stored(workplace, file) -> Path:
    """The object's file, once it is known to be what its key says."""
    path = workplace.folder / "store" / key_of(file)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256 == path.stem
    assert path.stat().st_size == file.size_bytes
    return path


@pytest.mark.slow
def test_official_pickles_are_stored_converted(workplace, inputs):
    base, guide = edm2_pickle(inputs / "base.pkl"), edm2_pickle(inputs / "guide.pkl", seed=2)
    sampler = {"num_steps": 3, "state_dtype": "float32", "guidance_scale": 1.5}
    dim = CLASSIFIER["feature_dim"]
    statistics = inputs / "statistics.pkl"
    statistics.write_bytes(pickle.dumps({"fid": {"mu": np.zeros(dim), "sigma": np.eye(dim)}}, protocol=4))
    files = {"base_checkpoint": base, "guide": guide, "reference_statistics": statistics}
    found = validated(workplace, sampler=sampler, **{name: path.as_uri() for name, path in files.items()})
    assert stored(workplace, found.reference_statistics).read_bytes() == statistics.read_bytes()
    assert found.checkpoint_info.family == "edm2"
    for file, source, seed in ((found.checkpoint, base, 1), (found.guide, guide, 2)):
        path = stored(workplace, file)
        assert path.suffix == ".safetensors"
        weights = randomised("edm2", EDM2, seed=seed).state_dict()
        model = load_checkpoint(path).model
        assert all(torch.equal(tensor, weights[name].half()) for name, tensor in model.state_dict().items())
        origin = read_manifest(path).provenance["converted_from"]
        assert origin["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    suffixes = {path.suffix for path in (workplace.folder / "store").rglob("inputs/*")}
    assert suffixes == {".safetensors", ".zip", ".pkl"}


@pytest.mark.slow
def test_official_vqvae_has_the_scales_of_its_var(workplace, inputs):
    files = {"base_checkpoint": inputs / "var.pth", "autoencoder": inputs / "vqvae.pth"}
    for path, network in zip(files.values(), (VAR, VQVAE), strict=True):
        torch.save(randomised("var", network, seed=1).state_dict(), path)
    uris = {name: path.as_uri() for name, path in files.items()}
    found = validated(workplace, **uris, sampler={"kind": "autoregressive", "num_scales": 2})
    assert found.checkpoint_info.space == "tokens"
    assert read_manifest(stored(workplace, found.checkpoint)).network["patch_nums"] == [1, 2]
    assert read_manifest(stored(workplace, found.autoencoder)).network["v_patch_nums"] == [1, 2]


@pytest.mark.slow
def test_packed_folder_of_a_diffusers_model_is_stored_converted(workplace, inputs):
    unet = library_unet(sample_size=4, in_channels=1, out_channels=1, num_class_embeds=3)
    folder = write_pipeline(workplace.folder / "pipeline", unet)
    with zipfile.ZipFile(inputs / "pipeline.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    found = validated(workplace, base_checkpoint=(inputs / "pipeline.zip").as_uri())
    assert (found.checkpoint_info.family, found.checkpoint_info.network) == ("diffusers", "UNet2DModel")
    model = load_checkpoint(stored(workplace, found.checkpoint)).model
    assert all(torch.equal(tensor, unet.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_checkpoint_of_ours_is_stored_as_it_is(workplace, inputs):
    found = validated(workplace)
    assert stored(workplace, found.checkpoint).read_bytes() == (inputs / "base.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("field", ["base_checkpoint", "guide"])
def test_hostile_pickle_fails_the_job_and_names_its_global(workplace, inputs, field):
    mark = workplace.folder / "was_here"
    good = {"img_resolution": 4, "img_channels": 1, "label_dim": 3, "model_type": "SongUNet"}
    content = edm_file(good, {}, dataset_kwargs=Touch(mark))
    changes = {field: write(inputs / "hostile.pkl", content).as_uri()}
    workplace.start_worker(**REAL_ENGINE, DDO_LEASE_SECONDS="30")
    job = workplace.wait_for_end(workplace.submit(workplace.spec(**SETTINGS | changes)), 60)
    assert (job.status, job.termination_reason, job.error["code"]) == (
        "failed",
        "invalid_checkpoint",
        "invalid_checkpoint",
    )
    assert job.error["param"] == field
    assert "posix.system" in job.error["message"]
    assert not mark.exists()
    assert not list((workplace.folder / "store").rglob("*.pkl"))
    (unit,) = workplace.units(kind="validate")
    assert unit.attempt == 1


class Touch:
    """Pickles as a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def requeued(workplace, job_id):
    from service.models import Event

    with workplace.sessions() as session:
        events = session.query(Event).filter_by(job_id=job_id, type="unit.queued").order_by(Event.id)
        return [event.data["message"] for event in events if "message" in event.data]


@pytest.mark.parametrize("path", ["/etc/hostname", "../../../../inputs/base.safetensors"])
def test_report_of_a_file_outside_the_work_folder_is_refused(workplace, path):
    workplace.script(validate={"converted": [["checkpoint", path]], "only_attempts": 1})
    workplace.start_worker()
    job_id = workplace.submit()
    job = workplace.wait_for_end(job_id)
    assert job.status == "succeeded"
    (unit,) = workplace.units(kind="validate")
    assert unit.attempt == 2
    assert "outside its folder" in requeued(workplace, job_id)[0]
    found = JobInputs.model_validate(job.inputs)
    assert stored(workplace, found.checkpoint).read_text() == "base.safetensors"


def test_report_of_a_relative_path_means_the_engine_s_folder(workplace):
    (workplace.folder / "guide.out").write_text("a file in the worker's own folder")
    workplace.script(validate={"converted": [["guide", "guide.out"], ["feature_network", "features.out"]]})
    workplace.start_worker()
    job = workplace.wait_for_end(workplace.submit())
    found = JobInputs.model_validate(job.inputs)
    assert stored(workplace, found.guide).read_text() == "converted guide"
    assert stored(workplace, found.feature_network).read_text() == "converted feature_network"
