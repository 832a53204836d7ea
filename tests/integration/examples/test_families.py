"""The examples of the model families: their committed networks, the tokenizer's training, and their jobs."""

import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # examples are run from the repository's root, not installed

from ddo_client import DdoError  # noqa: E402
from ddo_engine import load_model  # noqa: E402
from ddo_engine.checkpoint import load_checkpoint  # noqa: E402
from ddo_engine.conversion import export  # noqa: E402
from ddo_engine.data import load_dataset  # noqa: E402
from ddo_engine.evaluate import denoising_loss  # noqa: E402
from ddo_engine.families.var import VARFamily  # noqa: E402
from ddo_engine.families.var.vqvae import VQVAE  # noqa: E402
from ddo_engine.spec import JobSpec  # noqa: E402
from examples.digits import bases, families, family_jobs, make_dataset, train_tokenizer  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_dataset.make_dataset(folder)
    return folder


@pytest.fixture
def var_base(tmp_path: Path) -> Path:
    copied = tmp_path / "var.safetensors"
    copied.write_bytes((family_jobs.ASSETS / "var.safetensors").read_bytes())
    return copied


def held_out_loss(data_dir: Path, family: str, autoencoder: Path | None = None) -> float:
    checkpoint = load_checkpoint(family_jobs.ASSETS / f"{family}.safetensors")
    if autoencoder is not None:
        checkpoint.family.attach_autoencoder(checkpoint.model, load_model(autoencoder))
    dataset = load_dataset(data_dir / "digits-heldout.zip")
    draws = bases.BASES[family].loss_draws
    return denoising_loss(checkpoint, dataset, bases.P_MEAN, bases.P_STD, CPU, draws)


def test_held_out_losses_of_the_bases_are_the_readmes(data_dir: Path) -> None:
    assert held_out_loss(data_dir, "edm") == pytest.approx(21.32, abs=0.02)
    assert held_out_loss(data_dir, "edm2") == pytest.approx(-9.40, abs=0.02)
    assert held_out_loss(data_dir, "var", family_jobs.TOKENIZER) == pytest.approx(68.66, abs=0.02)


def test_tokenizer_keeps_digits_to_the_readmes_error(data_dir: Path) -> None:
    tokenizer = load_model(family_jobs.TOKENIZER)
    assert isinstance(tokenizer, VQVAE)
    splits = {
        name: load_dataset(data_dir / f"digits-{name}.zip").batch(range(500)).images_BCHW
        for name in ("train", "heldout")
    }
    words = train_tokenizer.report(tokenizer, splits).split()
    assert float(words[1]) == pytest.approx(15.76, abs=0.5)  # 500 of the 1,297 images
    assert float(words[3]) == pytest.approx(17.01, abs=0.02)


def test_shifted_moves_each_image_by_at_most_a_pixel() -> None:
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 1, 8, 8)
    moved = train_tokenizer.shifted(image.expand(300, 1, 8, 8), torch.Generator().manual_seed(1))
    assert moved.dtype == torch.uint8
    assert (moved[:, :, 1:-1, 1:-1] > 0).all()
    # what lies in the corner says where the image went; black where nothing came in
    corners = moved[:, 0, 1, 1]
    assert set(corners.tolist()) == {1, 2, 3, 9, 10, 11, 17, 18, 19}
    for corner, content in zip(corners.tolist(), moved[:, 0], strict=True):
        down, right = 1 - (corner - 1) // 8, 1 - (corner - 1) % 8
        assert ((content == 0).sum(1) == 8).sum() == abs(down)
        assert ((content == 0).sum(0) == 8).sum() == abs(right)
        assert torch.equal(content[2:6, 2:6], image[0, 0, 2 - down : 6 - down, 2 - right : 6 - right])


@pytest.mark.slow
def test_train_tokenizer_twice_gives_the_same_weights_and_learns(data_dir: Path) -> None:
    splits = {"train": load_dataset(data_dir / "digits-train.zip").batch(range(300)).images_BCHW}
    first, again = (train_tokenizer.train(splits, steps=30, seed=0) for _ in range(2))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    untrained = train_tokenizer.train(splits, steps=0, seed=0)
    before, after = (float(train_tokenizer.report(each, splits).split()[1]) for each in (untrained, first))
    assert after < 0.7 * before


@pytest.mark.parametrize("name", family_jobs.EXAMPLES)
def test_bodies_of_the_jobs_are_jobs(name: str, tmp_path: Path) -> None:
    job = JobSpec.model_validate(family_jobs.job_body(name, tmp_path / "digits-train.zip", seed=5))
    assert job.seed == 5
    assert (job.autoencoder is not None) == (family_jobs.EXAMPLES[name].family == "var")
    assert job.training.num_steps * job.training.batch_size == job.training.kimg * 1000


def test_round_trip_of_the_var_base_draws_the_same_images(var_base: Path) -> None:
    console = Console(record=True, width=200)
    families.round_trip(var_base, console)
    assert var_base.with_suffix(".pth").exists()
    assert "draws the same images" in console.export_text()


def test_round_trip_notices_other_weights(var_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_another(_source: Path, destination: Path) -> None:
        other = VARFamily().build(dict(bases.BASES["var"].network))
        torch.save(other.state_dict(), destination)

    monkeypatch.setattr(families, "export", export_another)
    with pytest.raises(DdoError, match="draws other images"):
        families.round_trip(var_base, Console(quiet=True))
    monkeypatch.setattr(families, "export", export)
    families.round_trip(var_base, Console(quiet=True))
