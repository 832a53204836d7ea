"""``evaluate`` without a spec: checkpoints and images at hand, as people and machines call it."""

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddo_engine.command_line import main
from ddo_engine.data import load_dataset, write_dataset, write_latents
from tests import official_pickles
from tests.engine_inputs import REPOSITORY, EngineInputs, make_features, run_in_process
from tests.integration.engine.test_documentation import EDM, random_weights

SAMPLER = {"num_steps": 3, "batch_size": 32}
SEED, NUM_SAMPLES = 5, 48


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run takes over the signals of its process, which is that of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def samples(inputs: EngineInputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same samples of the checkpoint in all forms that people have them in."""
    folder = tmp_path_factory.mktemp("samples")
    spec = {
        "kind": "reference",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "sampler": SAMPLER,
        "first_seed": SEED,
        "num_samples": NUM_SAMPLES,
    }
    (written,) = (event for event in run_in_process("generate", spec, folder / "work") if event["type"] == "file")
    images_NHWC = load_dataset(written["path"]).images_NCHW.permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]
    for index, image in enumerate(images_NHWC):
        path = folder / "folder" / f"{index // 20}" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    np.savez(folder / "mapped.npz", images_NHWC)
    np.savez_compressed(folder / "compressed.npz", images_NHWC)
    forms = ("folder", "mapped.npz", "compressed.npz")
    return {"zip": Path(written["path"]), **{form: folder / form for form in forms}}


@pytest.fixture
def by_hand(inputs: EngineInputs, capsys: pytest.CaptureFixture[str]):
    def by_hand(*options: object, status: int = 0, **named: object) -> dict[str, Any]:
        named = {"dataset": inputs.dataset, "features": inputs.feature_network} | named
        pairs = [str(word) for name, value in named.items() for word in (f"--{name}", value)]
        assert main(["evaluate", *map(str, options), *pairs, "--json"]) == status, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return by_hand


def of_checkpoint(inputs: EngineInputs) -> list[object]:
    sampler = [f"{name}={value}" for name, value in SAMPLER.items()]
    return ["--checkpoint", inputs.checkpoint, "--seed", SEED, "--num-samples", NUM_SAMPLES, "--sampler", *sampler]


def test_evaluate_finds_the_same_of_a_checkpoint_as_of_its_samples_in_any_form(by_hand, inputs, samples) -> None:
    expected = by_hand(*of_checkpoint(inputs))["metrics"]
    assert expected.keys() == {"fid", "precision", "recall"}
    found = {form: by_hand(images=path) for form, path in samples.items()}
    assert {form: each["metrics"] for form, each in found.items()} == dict.fromkeys(samples, expected)
    (fingerprint,) = {each["fingerprint"] for each in found.values()}
    assert fingerprint != by_hand(*of_checkpoint(inputs))["fingerprint"], "how images at hand were drawn nobody knows"


def test_evaluate_of_a_checkpoint_is_what_the_unit_tells(by_hand, inputs, tmp_path) -> None:
    numbers = {"inception_score_splits": 4, "density_neighbours": 5, "kid_subsets": 3, "kid_subset_size": 20}
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(6), sigma=np.eye(6))
    spec = {
        "kind": "evaluate",
        "checkpoint": str(inputs.checkpoint),
        "dataset": str(inputs.dataset),
        "feature_network": str(inputs.feature_network),
        "sampler": SAMPLER,
        "evaluations": [{"num_samples": NUM_SAMPLES, "seed": SEED, "neighbours": None} | numbers],
        "reference_statistics": str(tmp_path / "statistics.npz"),
    }
    events = run_in_process("evaluate", spec, tmp_path)
    (told,) = (event for event in events if event["type"] == "evaluation")
    options = {name.replace("_", "-"): value for name, value in numbers.items()}
    statistics = {"reference-statistics": tmp_path / "statistics.npz"}
    found = by_hand(*of_checkpoint(inputs), "--neighbours", 0, **options, **statistics)
    assert found["metrics"].keys() == {"fid", "density", "coverage", "kid", "kid_std", "inception_score"}
    assert {name: found[name] for name in ("metrics", "fingerprint", "protocol")} == {
        name: told[name] for name in ("metrics", "fingerprint", "protocol")
    }


def test_evaluate_of_the_first_images_against_a_dataset_that_is_a_folder_or_made_smaller(
    by_hand, inputs, samples, tmp_path
) -> None:
    whole = by_hand(images=samples["zip"], dataset=samples["folder"])
    assert whole["metrics"]["fid"] == pytest.approx(0, abs=1e-9)
    first = by_hand(images=samples["folder"], dataset=samples["folder"], **{"num-samples": 20})
    assert first["metrics"]["fid"] > 1e-5
    assert first["protocol"]["num_samples"] == 20
    write_dataset(tmp_path / "large.zip", torch.randint(256, (9, 3, 8, 8), dtype=torch.uint8), None)
    smaller = {"resolution": 4, "transform": "center-crop", "convert": "grey"}
    found = by_hand(images=samples["zip"], dataset=tmp_path / "large.zip", **smaller)
    assert found["protocol"]["dataset_reading"] == smaller


def test_evaluate_against_published_statistics_needs_no_dataset(inputs, samples, tmp_path, capsys, by_hand) -> None:
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(6), sigma=np.eye(6))
    both = by_hand(images=samples["zip"], **{"reference-statistics": tmp_path / "statistics.npz"})
    named = ["--features", str(inputs.feature_network), "--reference-statistics", str(tmp_path / "statistics.npz")]
    assert main(["evaluate", "--images", str(samples["zip"]), *named, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["metrics"] == {"fid": both["metrics"]["fid"]}
    assert "reference_sha256" not in alone["protocol"]
    for option in (["--neighbours", "3"], ["--kid-subsets", "2", "--kid-subset-size", "9"]):
        assert main(["evaluate", "--images", str(samples["zip"]), *named, *option]) == 64
        assert "give a dataset" in capsys.readouterr().err


def test_evaluate_tells_people_a_table_and_keeps_statistics_where_it_is_told_to(
    inputs, samples, tmp_path, capsys
) -> None:
    images, cache = str(samples["folder"]), tmp_path / "cache"
    named = ["--dataset", str(inputs.dataset), "--features", str(inputs.feature_network), "--cache", str(cache)]
    assert main(["evaluate", "--images", images, *named]) == 0
    table = capsys.readouterr().out
    assert re.search(r"metrics\.fid +\d+\.\d", table)
    for words in ("fingerprint", "protocol.num_samples", "48"):
        assert words in table
    assert [path.parent.name for path in cache.rglob("*") if path.is_file()] == ["reference_statistics"]


def test_evaluate_of_a_conditional_checkpoint_needs_labels_only_to_follow_them(by_hand, inputs, samples) -> None:
    refused = by_hand(*of_checkpoint(inputs), dataset=samples["mapped.npz"], status=65)
    assert "no labels" in refused["error"]["message"]
    found = by_hand(*of_checkpoint(inputs), "labels=balanced", dataset=samples["mapped.npz"])
    assert found["protocol"]["sampler"]["labels"] == "balanced"


def test_evaluate_that_is_stopped_says_so(by_hand, inputs, monkeypatch) -> None:
    monkeypatch.setattr("ddo_engine.interruption.StopRequest.install", lambda stop: setattr(stop, "requested", True))
    assert by_hand(*of_checkpoint(inputs), status=75)["error"]["code"] == "interrupted"


def pickled(folder: Path) -> Path:
    np.savez(folder / "pickled.npz", np.array([{"an": "object"}], dtype=object))
    return folder / "pickled.npz"


def large(folder: Path) -> Path:
    write_dataset(folder / "large.zip", torch.zeros(9, 1, 8, 8, dtype=torch.uint8), None)
    return folder / "large.zip"


def latents(folder: Path) -> Path:
    write_latents(folder / "latents.zip", torch.zeros(9, 2, 4, 4), None)
    return folder / "latents.zip"


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (pickled, {}, "pickled Python objects"),
        (large, {}, "the images are 8x8 with 1 channel(s), those of the dataset 4x4 .*transform, resolution"),
        (latents, {}, "--images: .* holds latents"),
        (None, {"num-samples": 49}, "there are 48 images, 49 shall be measured"),
        (None, {"num-samples": 3}, "3 neighbours need more than 3 samples"),
        (None, {"num-samples": 1}, "--num-samples: Input should be greater"),
        (None, {"transform": "var"}, "transform 'var' needs resolution"),
        (None, {"features": "absent.pt"}, "--features: there is no absent.pt"),
        (None, {"dataset": "absent.zip"}, "--dataset: there is no absent.zip"),
    ],
)
def test_evaluate_of_images_refuses_by_name(by_hand, samples, tmp_path, images, options, message) -> None:
    path = samples["zip"] if images is None else images(tmp_path)
    status = 65 if images is not None or "there are" in message else 64
    error = by_hand(images=path, status=status, **options)["error"]
    assert re.search(message.replace("(s)", r"\(s\)"), error["message"]), error


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["num_steps"], "'num_steps' is not NAME=VALUE"),
        (["num_steps=3", "num_steps=4"], "num_steps is given twice"),
        (["num_steps=1"], "--sampler: num_steps: Input should be greater"),
        (["kind=heun2"], "kind must be one of heun"),
        (["kind=autoregressive"], "sampler"),
    ],
)
def test_evaluate_refuses_sampler_settings_by_name(by_hand, inputs, pairs, message) -> None:
    found = by_hand("--checkpoint", inputs.checkpoint, "--sampler", *pairs, status=64)
    assert message in found["error"]["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give a spec, or --checkpoint or --images"),
        (["--images", "x"], "--dataset is missing"),
        (["--checkpoint", "x", "--reference-statistics", "y"], "--dataset is missing"),
        (["--images", "x", "--reference-statistics", "y", "--convert", "grey"], "--convert is done to the dataset's"),
        (["--images", "x", "--checkpoint", "y"], "not allowed with"),
        (["--images", "x", "--dataset", "d", "--seed", "1"], "--seed says how samples are drawn"),
        (["--images", "x", "--dataset", "d", "--workdir", "w"], "--workdir is for a spec"),
        (["spec.json"], "a spec needs --workdir"),
        (["spec.json", "--workdir", "w", "--num-samples", "4"], "--num-samples takes the place of a spec"),
    ],
)
def test_evaluate_wants_a_spec_or_what_takes_its_place(options, message, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_evaluate_without_a_spec_is_for_one_process(monkeypatch, caplog) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, {"RANK": "0"}.get(name, "2"))
    monkeypatch.setattr("ddo_engine.command_line.die_with_parent", lambda: None)
    assert main(["evaluate", "--images", "x", "--dataset", "d"]) == 64
    assert "evaluate without a spec runs in one process" in caplog.text


def test_snippets_of_the_page_on_evaluation_run(tmp_path, monkeypatch, capsys) -> None:
    """Files of the names there, of small networks: 20 images where the page has 50,000, and few steps."""
    page = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page.split("\n## By hand\n")[1].split("\n## ")[0]
    commands = re.findall(r"^\$ (.*)$", section, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddo_engine.evaluate_by_hand.DEFAULT_NUM_SAMPLES", 20)
    for name in ("weights.safetensors", "dinov2-large.safetensors"):
        make_features(Path(name), img_resolution=32, img_channels=3)
    weights = random_weights("edm", {"class_name": "EDMPrecond"} | EDM, 0)
    official_pickles.write(tmp_path / "edm-cifar10-32x32-cond-vp.pkl", official_pickles.edm_file(EDM, weights))
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_dataset("cifar10-train.zip", images, torch.arange(20) % 10)
    np.savez("cifar10-32x32.npz", mu=np.zeros(6), sigma=np.eye(6))
    np.savez("samples.npz", images.permute(0, 2, 3, 1).numpy())
    for folder, side in (("samples", 32), ("photographs", 40)):
        Path(folder).mkdir()
        for index in range(20):
            pixels = np.random.default_rng(index).integers(256, size=(side, side + 3 * (side > 32), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, f"{index}.png"))
    num_run = 0
    for command in commands:
        words = shlex.split(command.replace("50000", "20").replace("num_steps=18", "num_steps=2"))
        if words[0] == "export":
            monkeypatch.setenv("DDO_INCEPTION_WEIGHTS", "weights.safetensors")
            continue
        assert words[:4] == ["python", "-m", "ddo_engine", "evaluate"]
        assert main(words[3:]) == 0, (command, capsys.readouterr().err)
        num_run += 1
    assert num_run == 6
