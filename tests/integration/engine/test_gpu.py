"""Bit-identical resume on CUDA, with the network of the paper's CIFAR-10 models in small."""

import signal

import pytest
import torch

from ddo_engine.data import write_dataset
from ddo_engine.evaluation import FeatureManifest, load_features, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.evaluation.reference import begin_outputs, extract_outputs
from tests.engine_inputs import EngineInputs, finish, results, run_engine, start_engine, write_checkpoint
from tests.integration.engine.test_process import read_until
from tests.numerics.golden import description
from tests.var_inputs import make_var_inputs, train_spec

pytestmark = pytest.mark.gpu
SETTINGS = {
    "training": {
        "kimg": 1.28,
        "learning_rate": 1e-4,
        "warmup_kimg": 0.64,
        "evaluate_every_kimg": 0.32,
        "save_state_every_kimg": 0.08,
    },
    "evaluation": {"num_samples": 64},
}


@pytest.fixture(scope="module")
def song_inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("song")
    names = ("base.safetensors", "data.zip", "fakes.zip", "features.safetensors")
    inputs = EngineInputs(folder, *(folder / name for name in names))
    write_checkpoint(inputs.checkpoint, description("02_edm_ddpmpp_cond")["constructor"])
    generator = torch.Generator().manual_seed(0)
    for path in (inputs.dataset, inputs.reference_set):
        images = torch.randint(256, (100, 3, 16, 16), generator=generator, dtype=torch.uint8)
        write_dataset(path, images, torch.arange(100) % 10)
    config = {"img_resolution": 16, "img_channels": 3, "num_classes": 10, "model_channels": 4, "feature_dim": 8}
    module = ImageClassifier(ImageClassifierConfig(**config)).eval()
    save_features(inputs.feature_network, module, FeatureManifest(architecture="image_classifier", config=config))
    return inputs


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trial_on_cuda_stopped_and_killed_and_run_again_equals_undisturbed(song_inputs, tmp_path):
    spec = song_inputs.train_spec(**SETTINGS)
    undisturbed = run_engine("train", spec, tmp_path / "undisturbed", device="cuda")
    assert undisturbed.exit_status == 0, undisturbed.stderr
    assert undisturbed.events[0]["device"].startswith("cuda")
    events = []
    for number, step, status in ((signal.SIGTERM, 8, 75), (signal.SIGKILL, 36, -9), (signal.SIGTERM, 60, 75)):
        process = start_engine("train", spec, tmp_path / "disturbed", device="cuda")
        events += read_until(process, lambda event, step=step: event.get("step", 0) >= step)
        process.send_signal(number)
        run = finish(process)
        assert run.exit_status == status, run.stderr
        events += [event for event in run.events if event["type"] != "error"]
    last = run_engine("train", spec, tmp_path / "disturbed", device="cuda")
    assert last.exit_status == 0, last.stderr
    assert results(events + last.events) == results(undisturbed.events)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_online_trial_of_a_var_on_cuda_stopped_and_run_again_equals_undisturbed(tmp_path, precision):
    training = {"precision": precision, "micro_batch_size": 5, "max_gradient_norm": 2.0, "weight_decay": 0.05}
    spec = train_spec(
        make_var_inputs(tmp_path / "inputs"),
        reference_set=...,
        online_reference_set={"kind": "online"},
        objective={"kind": "ddo", "alpha": 20.0, "beta": 0.02},
        training=training | {"kimg": 0.48, "evaluate_every_kimg": 0.16},
    )
    undisturbed = run_engine("train", spec, tmp_path / "undisturbed", device="cuda")
    assert undisturbed.exit_status == 0, undisturbed.stderr
    process = start_engine("train", spec, tmp_path / "stopped", device="cuda")
    events = read_until(process, lambda event: event.get("step", 0) >= 7)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process)
    assert stopped.exit_status == 75, stopped.stderr
    resumed = run_engine("train", spec, tmp_path / "stopped", device="cuda")
    assert resumed.exit_status == 0, resumed.stderr
    kept = [event for event in events + stopped.events if event["type"] != "error"]
    assert results(kept + resumed.events) == results(undisturbed.events)


def test_features_on_cuda_are_queued_without_waiting_and_are_what_waiting_finds(song_inputs):
    network = load_features(song_inputs.feature_network, "cuda")
    images = torch.randint(256, (600, 3, 16, 16), dtype=torch.uint8)
    expected = extract_outputs(network, images, ("features", "logits"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        waits = [begin_outputs(network, part, ("features", "logits")) for part in images.chunk(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [torch.cat(parts) for parts in zip(*(wait() for wait in waits), strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_evaluation_on_cuda_one_batch_ahead_repeats_itself(song_inputs, tmp_path):
    names = ("checkpoint", "dataset", "feature_network")
    spec = {name: str(getattr(song_inputs, name)) for name in names} | {"kind": "evaluate"}
    spec |= {"sampler": {"num_steps": 3, "batch_size": 16}, "evaluations": [{"num_samples": 100}]}
    runs = [run_engine("evaluate", spec, tmp_path / name, device="cuda") for name in "ab"]
    assert results(runs[0].events) == results(runs[1].events)
    assert runs[0].of_type("evaluation")
