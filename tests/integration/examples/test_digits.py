"""The digits example: its data, its committed networks, and every script of it run small."""

import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # examples are run from the repository's root, not installed

from ddo_engine.checkpoint import load_checkpoint, read_manifest  # noqa: E402
from ddo_engine.data import has_grey_levels, load_dataset  # noqa: E402
from ddo_engine.families.protocol import LabelledImages  # noqa: E402
from ddo_engine.files import sha256_of  # noqa: E402
from examples.digits import (  # noqa: E402
    bases,
    compare,
    make_dataset,
    pretrain_base,
    self_play,
    train_classifiers,
    train_tokenizer,
    verdict,
)

ASSETS = ROOT / "examples" / "digits" / "assets"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_dataset.make_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def bench(data_dir: Path) -> verdict.Bench:
    return verdict.Bench.load(data_dir, ASSETS)


def test_make_dataset_splits_are_disjoint_stratified_and_of_17_levels(data_dir: Path) -> None:
    train, held_out = (load_dataset(data_dir / f"digits-{split}.zip") for split in ("train", "heldout"))
    assert (len(train), len(held_out)) == (1297, 500)
    for dataset in (train, held_out):
        assert has_grey_levels(dataset.images_NCHW, 17)
        assert dataset.images_NCHW.unique().numel() == 17
        shares = torch.tensor(dataset.info.class_counts) / len(dataset)
        assert ((shares > 0.09) & (shares < 0.11)).all()
    known = {image.numpy().tobytes() for image in train.images_NCHW}
    assert not any(image.numpy().tobytes() in known for image in held_out.images_NCHW)


def test_make_dataset_twice_gives_the_same_bytes(data_dir: Path, tmp_path: Path) -> None:
    for path in make_dataset.make_dataset(tmp_path):
        assert sha256_of(path) == sha256_of(data_dir / path.name)


def test_assets_are_small_and_of_the_committed_recipe(data_dir: Path) -> None:
    of_the_demo = {f"{name}.safetensors" for name in ("base", "features", "judge")}
    for path in ASSETS.iterdir():
        assert path.stat().st_size < (400_000 if path.name in of_the_demo else 1_000_000)
    for family in ("edm2", "var"):
        assert read_manifest(ASSETS / f"{family}.safetensors").network == bases.BASES[family].network
    assert read_manifest(ASSETS / "tokenizer.safetensors").network == train_tokenizer.NETWORK
    manifest = read_manifest(ASSETS / "base.safetensors")
    assert manifest.network == bases.BASES["mlp"].network
    assert load_checkpoint(ASSETS / "base.safetensors").info.num_parameters == 85_088


@pytest.mark.parametrize(("network", "other", "floor"), [("features", "heldout", 0.99), ("judge", "train", 0.97)])
def test_asset_classifiers_know_digits_they_have_not_seen(
    data_dir: Path, network: str, other: str, floor: float
) -> None:
    dataset = load_dataset(data_dir / f"digits-{other}.zip")
    assert train_classifiers.accuracy(ASSETS / f"{network}.safetensors", dataset) > floor


def test_verdict_of_the_base_is_the_readmes(bench: verdict.Bench) -> None:
    found = verdict.verdict(ASSETS / "base.safetensors", bench, num_seeds=1, num_samples=1000)
    assert found["denoising loss train"].mean == pytest.approx(20.36, abs=0.05)
    assert found["denoising loss heldout"].mean == pytest.approx(23.54, abs=0.05)
    assert 12 < found["fid features/train"].mean < 22  # 1,000 samples: some 3 above the README's 5,000
    assert found["label accuracy"].mean > 0.95


def test_verdict_of_real_images_beats_the_base_and_of_noise_does_not(bench: verdict.Bench) -> None:
    real = verdict.measure(LabelledImages(bench.train.images_NCHW, bench.train.labels_N), bench)
    assert real["fid features/train"] == pytest.approx(0, abs=1e-6)
    assert real["precision features"] == real["recall judge"] == 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8, generator=generator)
    worst = verdict.measure(LabelledImages(noise, torch.arange(500) % 10), bench)
    assert worst["fid features/train"] > 100
    assert worst["fid judge/heldout"] > 100
    assert worst["precision features"] < 0.5
    assert worst["label accuracy"] < 0.3


def test_train_classifier_twice_gives_the_same_weights(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "digits-heldout.zip")
    first, again, other = (train_classifiers.train(dataset, seed=seed, num_steps=5) for seed in (0, 0, 1))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])


def test_compare_draws_both_checkpoints(tmp_path: Path) -> None:
    initial = tmp_path / "untrained.safetensors"
    pretrain_base.random_checkpoint(initial, bases.BASES["mlp"], seed=0)
    compare.compare(ASSETS / "base.safetensors", initial, tmp_path / "out" / "grid.png")
    with Image.open(tmp_path / "out" / "grid.png") as image:
        width, height = image.size
        left = image.convert("L").crop((0, 0, width // 2, height)).tobytes()
        right = image.convert("L").crop((width // 2, 0, width, height)).tobytes()
    assert width > 1000
    assert left != right


@pytest.mark.slow
def test_pretrain_base_small_writes_a_checkpoint_and_shows_losses(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "base.safetensors"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["pretrain_base", str(data_dir), str(out), "--kimg", "51.2"])
    pretrain_base.main()
    assert load_checkpoint(out).info.num_parameters == 85_088
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[\d. ]+", line)]
    assert len(rows) >= 2  # two states may be written while one is measured
    for column in (1, 2):
        losses = [float(row[column]) for row in rows]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.95 * losses[0]


@pytest.mark.slow
def test_self_play_one_small_round_improves_on_an_unfinished_base(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    job = self_play.job_spec(
        data_dir,
        ASSETS,
        rounds=1,
        grid={"alpha": [4.0], "beta": [0.3]},
        training={"kimg": 12.8, "evaluate_every_kimg": 12.8, "warmup_kimg": 2.56, "ema_half_life_kimg": 5},
        reference_set={"num_samples": 1000},
        evaluation={"num_samples": 500},
        confirm=None,
    )
    run = self_play.SelfPlay(job, data_dir / "digits-train.zip", ASSETS / "features.safetensors", tmp_path, workers=1)
    said: list[str] = []
    best = self_play.play(run, ASSETS / "base.safetensors", said.append)
    base_fid = float(said[0].split()[2])
    assert best.name == "alpha 4 beta 0.3 at 12.8 kimg"
    assert best.fid < 0.97 * base_fid
    assert load_checkpoint(best.path).info.num_parameters == 85_088
