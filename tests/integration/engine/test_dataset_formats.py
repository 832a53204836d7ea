"""The engine's commands on datasets of other formats than EDM's zip: the same numbers come out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddo_engine.data import load_dataset, write_dataset
from ddo_engine.errors import Interrupted, InvalidDataset
from ddo_engine.evaluation import Evaluator, load_features
from ddo_engine.spec import DatasetReading, HeunSettings
from tests.engine_inputs import results, run_in_process

READING = {"resolution": 4, "transform": "center-crop", "convert": "grey"}


@pytest.fixture
def photographs(tmp_path):
    """Three classes of JPEGs of differing sizes."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    for index in range(90):
        path = folder / "abc"[index % 3] / f"{index:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (int(generator.integers(8, 20)), int(generator.integers(8, 20)), 3)
        pixels = generator.integers(0, 100, shape) + 60 * (index % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def train_spec(inputs, **changes):
    return inputs.train_spec(training={"kimg": 0.064}, **changes)


def test_training_on_photographs_equals_training_on_the_zip_made_of_them(inputs, photographs, tmp_path):
    dataset = load_dataset(photographs, DatasetReading.model_validate(READING))
    batch = dataset.batch(range(len(dataset)))
    write_dataset(tmp_path / "data.zip", batch.images_BCHW, batch.labels_B)
    from_zip = run_in_process("train", train_spec(inputs, dataset=str(tmp_path / "data.zip")), tmp_path / "zip")
    spec = train_spec(inputs, dataset=str(photographs), dataset_reading=READING)
    from_folder = run_in_process("train", spec, tmp_path / "folder")
    numbers = [
        [event[key] for event in results(events) for key in ("values", "metrics") if key in event]
        for events in (from_folder, from_zip)
    ]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) > 1


def test_protocol_names_what_was_done_to_the_images(inputs, photographs, tmp_path):
    spec = train_spec(inputs, dataset=str(photographs), dataset_reading=READING)
    [evaluation] = [event for event in run_in_process("train", spec, tmp_path / "a") if event["type"] == "evaluation"]
    assert evaluation["protocol"]["dataset_reading"] == READING
    spec["dataset_reading"] = READING | {"transform": "var"}
    [other] = [event for event in run_in_process("train", spec, tmp_path / "b") if event["type"] == "evaluation"]
    assert other["fingerprint"] != evaluation["fingerprint"]
    assert other["metrics"] != evaluation["metrics"]


def test_cached_statistics_are_of_one_reading(inputs, photographs, tmp_path):
    """A cache that knew only the file would give the second protocol the statistics of the first."""
    features = load_features(inputs.feature_network)
    means = []
    for transform in ("center-crop", "var"):
        reading = DatasetReading.model_validate(READING | {"transform": transform})
        dataset = load_dataset(photographs, reading)
        evaluator = Evaluator(features, dataset, "0" * 64, HeunSettings(), 256, tmp_path / "cache", reading)
        means.append(evaluator.judge.reference.moments.mu_D)
        uncached = Evaluator(features, dataset, "0" * 64, HeunSettings(), 256, None)
        assert torch.equal(means[-1], uncached.judge.reference.moments.mu_D)
    assert not torch.equal(means[0], means[1])


def spec_of(command, inputs):
    spec = inputs.train_spec()
    if command == "train":
        return spec
    shared = {name: spec[name] for name in ("checkpoint", "dataset", "feature_network", "sampler")}
    return shared | {"evaluations": [{"num_samples": 8}]}


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_reading_a_dataset_for_its_statistics_is_heard_of_and_done_once(inputs, tmp_path, command):
    """A supervisor ends an engine that is silent for long, and millions of images take long."""
    spec = spec_of(command, inputs)

    def read(folder):
        events = run_in_process(command, spec, tmp_path / folder, cache=tmp_path / "cache")
        return [event["done"] for event in events if event["type"] == "progress" and event["phase"] == "reading"]

    assert read("first") == [90]
    assert read("second") == []


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_unit_stopped_while_it_reads_a_dataset_stops_there(inputs, tmp_path, command):
    spec = spec_of(command, inputs)
    events = []

    def stop_while_reading(event, stop):
        events.append(event)
        stop.requested = stop.requested or event.get("phase") == "reading"

    with pytest.raises(Interrupted):
        run_in_process(command, spec, tmp_path, stop_while_reading)
    assert not [event for event in events if event["type"] == "evaluation"]


def test_validate_finds_the_damaged_image_and_says_so(inputs, photographs, tmp_path):
    spec = {
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(photographs),
        "feature_network": str(inputs.feature_network),
        "dataset_reading": READING,
    }
    [report] = [event for event in run_in_process("validate", spec, tmp_path / "a") if event["type"] == "report"]
    assert report["dataset"]["class_counts"] == [30, 30, 30]
    damaged = photographs / "b" / "40.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(InvalidDataset, match=r"b/40\.jpg") as caught:
        run_in_process("validate", spec, tmp_path / "b")
    assert caught.value.param == "dataset.uri"


def test_validate_photographs_as_stored_says_to_set_a_transform(inputs, photographs, tmp_path):
    spec = {
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(photographs),
        "feature_network": str(inputs.feature_network),
    }
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="JPEG")
    (photographs / "a" / "00.jpg").write_bytes(buffer.getvalue())
    with pytest.raises(InvalidDataset, match=r"dataset\.transform"):
        run_in_process("validate", spec, tmp_path)
