"""Latents through an AutoencoderKL: EDM2's conventions, files, the cache, and a model of latents from end to end."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ddo_engine
from ddo_engine.checkpoint import CheckpointManifest, load_checkpoint, save_checkpoint
from ddo_engine.command_line import main
from ddo_engine.conversion import convert
from ddo_engine.data import InMemoryDataset, load_dataset, write_dataset
from ddo_engine.data.writer import write_latents_in_batches
from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs, InvalidSpec, NonFiniteLoss
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.space import Autoencoder, LatentScaling
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.files import sha256_of
from ddo_engine.latents import cached_latents, encode_dataset, encode_to_file
from ddo_engine.spec import HeunSettings, TrainingSettings
from tests.diffusers_folders import VAE, library_autoencoder

EDM2_LATENTS = {
    "class_name": "Precond",
    "img_resolution": 8,
    "img_channels": 4,
    "label_dim": 3,
    "use_fp16": True,
    "logvar_channels": 8,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 16,
}
SCALING = LatentScaling(raw_mean=(0.1, -0.2, 0.3, 0.0), raw_std=(0.5, 0.6, 0.7, 0.8))
IMAGES = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(9) % 3


@pytest.fixture
def library() -> nn.Module:
    return library_autoencoder()


@pytest.fixture
def vae_file(tmp_path, library) -> Path:
    library.save_pretrained(tmp_path / "vae")
    convert(tmp_path / "vae", tmp_path / "vae.safetensors")
    return tmp_path / "vae.safetensors"


@pytest.fixture
def vae(vae_file) -> nn.Module:
    return ddo_engine.load_model(vae_file)


@pytest.fixture
def dataset() -> InMemoryDataset:
    return InMemoryDataset(IMAGES, LABELS)


def test_autoencoder_says_what_it_is(vae):
    assert isinstance(vae, Autoencoder)
    assert vae.is_autoencoder
    assert (vae.img_resolution, vae.img_channels, vae.label_dim) == (16, 3, 0)
    assert (vae.latent_channels, vae.downsampling) == (4, 2)


@torch.no_grad()
def test_moments_are_those_of_the_library_on_pixels_from_0_to_1(vae, library):
    distribution = library.encode(IMAGES.float() / 255).latent_dist
    moments = vae.encode_moments(IMAGES)
    assert moments.dtype == torch.float32
    torch.testing.assert_close(moments[:, :4], distribution.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments[:, 4:], distribution.std, rtol=1e-5, atol=1e-5)
    other = library.encode(IMAGES.float() / 127.5 - 1).latent_dist
    assert float((moments[:, :4] - other.mean).abs().max()) > 1e-2


@torch.no_grad()
def test_decoded_pixels_are_clamped_scaled_and_truncated(vae, library):
    latents = 3 * torch.randn(4, 4, 8, 8)
    images = library.decode(latents).sample
    assert images.min() < 0 < images.max()
    expected = (images.clamp(0, 1) * 255).to(torch.uint8)
    decoded = vae.decode(latents)
    assert decoded.dtype == torch.uint8
    # Where 255 x is an integer but for rounding, it may fall to either side.
    assert int((decoded.int() - expected.int()).abs().max()) <= 1
    assert float((decoded != expected).float().mean()) < 1e-3
    assert float((decoded == (images.clamp(0, 1) * 255).round()).float().mean()) < 0.9


def test_images_and_latents_depend_on_nothing_beside_them(vae):
    moments = vae.encode_moments(IMAGES)
    for row in (0, 4, 8):
        assert torch.equal(vae.encode_moments(IMAGES[row : row + 1]), moments[row : row + 1])
    assert torch.equal(vae.encode_moments(IMAGES.flip(0)), moments.flip(0))
    many = IMAGES.repeat(5, 1, 1, 1)
    assert torch.equal(vae.encode_moments(many), moments.repeat(5, 1, 1, 1))
    latents = moments[:, :4]
    assert torch.equal(vae.decode(latents[5:7]), vae.decode(latents)[5:7])


def test_other_resolutions_are_encoded_too(vae):
    moments = vae.encode_moments(torch.zeros(1, 3, 32, 20, dtype=torch.uint8))
    assert moments.shape == (1, 8, 16, 10)
    assert vae.decode(moments[:, :4]).shape == (1, 3, 32, 20)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 16, 16),
        torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(1, 3, 15, 16, dtype=torch.uint8),
        torch.zeros(0, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
    ],
)
def test_images_that_cannot_be_encoded_are_refused(vae, images):
    with pytest.raises(ValueError, match=r"images must|divisible"):
        vae.encode_moments(images)


def test_latents_of_other_channels_are_refused(vae):
    with pytest.raises(ValueError, match="latents"):
        vae.decode(torch.zeros(1, 8, 8, 8))


def test_latents_that_decode_to_no_number_are_refused(vae):
    with pytest.raises(NonFiniteLoss) as caught:
        vae.decode(torch.full((1, 4, 8, 8), float("nan")))
    assert caught.value.param == "autoencoder"


@torch.no_grad()
def test_autoencoder_without_the_1x1_convolutions_is_the_library_s(tmp_path):
    library = library_autoencoder(use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)
    library.save_pretrained(tmp_path / "vae")
    vae = ddo_engine.load_model(tmp_path / "vae")
    moments = vae.encode_moments(IMAGES[:2])
    expected = library.encode(IMAGES[:2].float() / 255).latent_dist.mean
    torch.testing.assert_close(moments[:, :4], expected, rtol=1e-5, atol=1e-5)
    assert vae.decode(moments[:, :4]).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"latent_channels": 10**9}, "latent_channels"),
        ({"in_channels": 4}, "in_channels"),
        ({"in_channels": 1}, "out_channels"),
        ({"block_out_channels": [8, 16, 16]}, "one length"),
        ({"down_block_types": ["DownBlock2D", "DownEncoderBlock2D"]}, "down_block_types"),
        ({"norm_num_groups": 5}, "network"),
        ({"act_fn": "exec"}, "act_fn"),
        ({"custom": 1}, "custom"),
    ],
)
def test_autoencoder_that_is_not_supported_is_refused_by_name(changes, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("diffusers").build({"class_name": "AutoencoderKL", "vae": VAE | changes})


def test_images_are_not_drawn_from_an_autoencoder(vae):
    with pytest.raises(IncompatibleInputs, match="autoencoder"):
        ddo_engine.sample(vae, [0])


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_encoded_dataset_does_not_depend_on_the_batch_size(dataset, vae, batch_size):
    done: list[int] = []
    encoded = encode_dataset(dataset, vae, batch_size=batch_size, on_progress=done.append)
    assert torch.equal(encoded.images_NCHW, vae.encode_moments(IMAGES))
    assert torch.equal(encoded.labels_N, LABELS)
    assert done == sorted(done)
    assert done[-1] == 9
    assert (encoded.info.kind, encoded.info.img_resolution, encoded.info.img_channels) == ("latents", 8, 4)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_file_of_latents_is_what_was_encoded(tmp_path, vae, labels):
    dataset = InMemoryDataset(IMAGES, labels)
    encode_to_file(dataset, vae, tmp_path / "a.zip", batch_size=4)
    encode_to_file(dataset, vae, tmp_path / "b.zip", batch_size=9)
    assert sha256_of(tmp_path / "a.zip") == sha256_of(tmp_path / "b.zip")
    loaded = load_dataset(tmp_path / "a.zip").batch(range(9))
    assert torch.equal(loaded.images_BCHW, encode_dataset(dataset, vae).images_NCHW)
    assert (loaded.labels_B is None) == (labels is None)


@pytest.mark.parametrize("num_batches", [1, 3])
def test_more_or_fewer_latents_than_announced_leave_no_file(tmp_path, num_batches):
    batches = [torch.rand(2, 8, 4, 4)] * num_batches
    with pytest.raises(ValueError, match="announced"):
        write_latents_in_batches(tmp_path / "latents.zip", batches, 4, None)
    assert not list(tmp_path.iterdir())


def test_cache_is_used_and_written_again_when_it_is_damaged(tmp_path, dataset, vae):
    calls: list[int] = []

    def cached(**changes):
        names = {"dataset_name": "d" * 64, "autoencoder_sha256": "a" * 64} | changes
        return cached_latents(dataset, vae, cache_folder=tmp_path, on_progress=calls.append, **names)

    first = cached().batch(range(9)).images_BCHW
    assert torch.equal(first, vae.encode_moments(IMAGES))
    assert calls == [9]
    cached()
    assert calls == [9]
    (path,) = (tmp_path / "latents").iterdir()
    path.write_bytes(path.read_bytes()[:-50])
    assert torch.equal(cached().batch(range(9)).images_BCHW, first)
    assert calls == [9, 9]
    cached(dataset_name="e" * 64)
    cached(autoencoder_sha256="b" * 64)
    assert calls == [9] * 4


def test_dataset_that_the_autoencoder_does_not_take_is_refused_before_it_is_read(vae, dataset):
    latents = encode_dataset(dataset, vae)
    for unfit, match in (
        (latents, "latents"),
        (InMemoryDataset(IMAGES[:, :1], None), "channels"),
        (InMemoryDataset(IMAGES[:, :, :15, :15], None), "pixels a side"),
    ):
        with pytest.raises(IncompatibleInputs, match=match):
            encode_dataset(unfit, vae)


def test_moments_that_are_no_numbers_are_refused_and_leave_no_file(tmp_path, vae, dataset):
    with torch.no_grad():
        next(vae.parameters()).fill_(1e38)
    with pytest.raises(NonFiniteLoss, match="images 0"):
        encode_to_file(dataset, vae, tmp_path / "latents.zip")
    assert not (tmp_path / "latents.zip").exists()


def test_encode_command_writes_edm2_s_file(tmp_path, vae_file, vae, capsys):
    write_dataset(tmp_path / "data.zip", IMAGES, LABELS)
    command = ["encode", str(tmp_path / "data.zip"), str(tmp_path / "latents.zip"), "--device", "cpu", "--json"]
    assert main([*command, "--autoencoder", str(vae_file)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["num_images"], report["img_resolution"]) == ("latents", 9, 8)
    moments = load_dataset(tmp_path / "latents.zip").batch(range(9)).images_BCHW
    np.testing.assert_array_equal(moments.numpy(), vae.encode_moments(IMAGES).numpy())
    assert main([*command, "--autoencoder", str(vae_file), "--transform", "center-crop", "--resolution", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["img_resolution"] == 4


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--transform", "zoom"], "invalid_spec"),
        (["--transform", "var"], "invalid_spec"),
        (["--convert", "cmyk"], "invalid_spec"),
        (["--resolution", "32"], "invalid_dataset"),
        (["--convert", "grey"], "incompatible_inputs"),
    ],
)
def test_encode_command_with_unfit_options_says_so(tmp_path, vae_file, capsys, options, code):
    write_dataset(tmp_path / "data.zip", IMAGES, LABELS)
    command = ["encode", str(tmp_path / "data.zip"), str(tmp_path / "out.zip"), "--autoencoder", str(vae_file)]
    assert main([*command, "--json", *options]) > 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert not (tmp_path / "out.zip").exists()


def latent_checkpoint(path: Path) -> Path:
    torch.manual_seed(3)
    model = get_family("edm2").build(EDM2_LATENTS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    manifest = CheckpointManifest(family="edm2", network=EDM2_LATENTS, latent_scaling=SCALING)
    save_checkpoint(path, model, manifest)
    return path


def test_encode_command_with_a_model_for_an_autoencoder_is_refused(tmp_path, capsys):
    write_dataset(tmp_path / "data.zip", IMAGES, LABELS)
    checkpoint = latent_checkpoint(tmp_path / "model.safetensors")
    command = ["encode", str(tmp_path / "data.zip"), str(tmp_path / "out.zip"), "--autoencoder", str(checkpoint)]
    assert main([*command, "--json"]) > 0
    assert json.loads(capsys.readouterr().out)["error"]["param"] == "autoencoder"


def test_edm2_model_of_latents_draws_the_images_of_its_autoencoder(tmp_path, vae_file, vae):
    path = latent_checkpoint(tmp_path / "model.safetensors")
    sampler = HeunSettings(num_steps=3, state_dtype="float32")
    images = ddo_engine.sample(ddo_engine.load_model(path, autoencoder=vae_file), range(3), sampler=sampler)
    assert images.shape == (3, 3, 16, 16)
    checkpoint = load_checkpoint(path)
    x_BCHW = checkpoint.family.sample_in_model_space(checkpoint.model, [*range(3), *[2] * 13], None, sampler)[:3]
    mean, std = (torch.tensor(values)[:, None, None] for values in (SCALING.raw_mean, SCALING.raw_std))
    raw = x_BCHW / SCALING.final_std * std + mean
    assert int((images.int() - vae.decode(raw).int()).abs().max()) <= 1
    with pytest.raises(IncompatibleInputs, match="autoencoder"):
        ddo_engine.sample(ddo_engine.load_model(path), [0], sampler=sampler)


def test_edm2_model_of_latents_with_an_autoencoder_of_other_channels_is_refused(tmp_path):
    path = latent_checkpoint(tmp_path / "model.safetensors")
    library_autoencoder(latent_channels=8).save_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleInputs, match="channels"):
        ddo_engine.load_model(path, autoencoder=tmp_path / "other")


def test_ratio_on_latents_takes_data_and_decoded_fakes_through_the_same_encoder(tmp_path, vae, dataset):
    checkpoint = load_checkpoint(latent_checkpoint(tmp_path / "model.safetensors"))
    checkpoint.family.attach_autoencoder(checkpoint.model, vae)
    sampler = HeunSettings(num_steps=3, state_dtype="float32")
    fakes = InMemoryDataset(ddo_engine.sample(checkpoint.model, range(9), labels=LABELS, sampler=sampler), LABELS)
    write_dataset(tmp_path / "fakes.zip", fakes.images_NCHW, LABELS)
    real = encode_dataset(dataset, vae).batch(range(9))
    fake = encode_dataset(load_dataset(tmp_path / "fakes.zip"), vae).batch(range(9))
    assert torch.equal(fake.images_BCHW, vae.encode_moments(fakes.images_NCHW))
    training = TrainingSettings(kimg=1, batch_size=9, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
    other = load_checkpoint(tmp_path / "model.safetensors")
    for equal in (True, False):
        real_B, fake_B, _ = checkpoint.family.log_likelihood_ratios(
            checkpoint.model, other.model, real, fake, training, torch.Generator().manual_seed(1)
        )
        assert real_B.shape == fake_B.shape == (9,)
        assert bool((real_B == 0).all()) is equal
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.mul_(1.01)
    pixels = LabelledImages(IMAGES, LABELS)
    with pytest.raises(ValueError, match="pixels"):
        checkpoint.family.log_likelihood_ratios(
            checkpoint.model, other.model, pixels, pixels, training, torch.Generator()
        )


def test_without_the_library_the_extra_is_named(vae_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InvalidSpec, match=r"ddo-finetuning-service\[diffusers\]"):
        ddo_engine.load_model(vae_file)
