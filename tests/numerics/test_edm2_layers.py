"""Layers that preserve magnitudes do: unit variance in, unit variance out."""

import math

import pytest
import torch

from ddo_engine.families.edm2.layers import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalise
from ddo_engine.families.edm2.unet import Block, BlockOptions, resample


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def rms(x):
    return x.double().square().mean().sqrt().item()


def test_normalise_gives_unit_root_mean_square_over_the_named_axes_alone():
    x = torch.randn(4, 8, 5, 5) * torch.logspace(-1, 3, 4)[:, None, None, None]
    pixels = normalise(x, dim=1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(pixels, torch.ones_like(pixels), rtol=5e-3, atol=0)
    rows = normalise(x, dim=(1, 2, 3)).flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rows, torch.ones(4), rtol=2e-3, atol=0)


def test_normalise_of_zeros_is_zero_with_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    normalise(x, dim=1).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_layer_is_normalised_row_by_row_wherever_its_rows_are():
    """A process may have some rows of a weight, or none."""
    layer = MPConv(3, 5, 3)
    parts = [layer.weight.detach()[start:end].clone() for start, end in ((0, 3), (3, 5), (5, 5))]
    layer.normalise_()
    for part in parts:
        own = MPConv(3, len(part), 3)
        own.weight.data = part
        own.normalise_()
    assert torch.equal(torch.cat(parts), layer.weight)


def test_normalise_of_half_precision_takes_the_norm_in_float32():
    x = torch.full((1, 1024), 3000.0, dtype=torch.float16)  # whose sum of squares float16 cannot hold
    assert torch.equal(normalise(x, dim=1), torch.ones_like(x))


@pytest.mark.parametrize("kernel", [None, 1, 3])
@pytest.mark.parametrize("magnitude", [0.01, 1.0, 100.0])
def test_mp_conv_keeps_unit_variance_whatever_the_magnitude_of_its_weights(kernel, magnitude):
    layer = MPConv(64, 128, kernel).eval()
    with torch.no_grad():
        layer.weight.mul_(magnitude)
        x = torch.randn(4096, 64) if kernel is None else torch.randn(16, 64, 18, 18)
        out = layer(x)
        # without the border, where padding takes some of the magnitude
        out = out if kernel is None else out[:, :, 1:-1, 1:-1]
        assert rms(out) == pytest.approx(1, rel=0.02)
        assert rms(layer(x, gain=0.0)) == 0
        torch.testing.assert_close(layer(x, gain=2.5), 2.5 * layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [None, 3])
def test_mp_conv_computes_in_the_dtype_of_its_input(kernel):
    layer = MPConv(8, 4, kernel).eval()
    x = torch.randn(2, 8) if kernel is None else torch.randn(2, 8, 4, 4)
    assert layer(x).dtype == torch.float32
    assert layer(x.half()).dtype == torch.float16
    torch.testing.assert_close(layer(x.half()).float(), layer(x), rtol=1e-2, atol=1e-2)


def test_mp_silu_keeps_unit_variance():
    assert rms(mp_silu(torch.randn(1_000_000))) == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_mp_sum_keeps_unit_variance_and_blends_in_the_stated_shares(t):
    a, b = torch.randn(2, 1_000_000)
    total = mp_sum(a, b, t)
    assert rms(total) == pytest.approx(1, rel=5e-3)
    scale = math.hypot(1 - t, t)
    assert (total * a).mean().item() == pytest.approx((1 - t) / scale, abs=5e-3)
    assert (total * b).mean().item() == pytest.approx(t / scale, abs=5e-3)


@pytest.mark.parametrize("t", [0.2, 0.5])
@pytest.mark.parametrize(("num_a", "num_b"), [(32, 32), (64, 16), (8, 56)])
def test_mp_cat_keeps_unit_variance_and_weighs_its_parts_whatever_their_widths(t, num_a, num_b):
    a, b = torch.randn(64, num_a, 16, 16), torch.randn(64, num_b, 16, 16)
    joined = mp_cat(a, b, t)
    assert joined.shape[1] == num_a + num_b
    assert rms(joined) == pytest.approx(1, rel=0.02)
    energy_a, energy_b = joined[:, :num_a].square().sum().item(), joined[:, num_a:].square().sum().item()
    assert math.sqrt(energy_b / energy_a) == pytest.approx(t / (1 - t), rel=0.02)


def test_mp_fourier_has_unit_variance_over_noise_levels():
    embedding = MPFourier(256)(torch.randn(512))
    assert embedding.shape == (512, 256)
    assert rms(embedding) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resample_keeps_flat_images_and_halves_or_doubles_the_resolution(taps):
    x = torch.full((1, 2, 8, 8), 3.0)
    down, up = resample(x, taps, "down"), resample(x, taps, "up")
    assert (down.shape, up.shape) == ((1, 2, 4, 4), (1, 2, 16, 16))
    inner = slice(1, -1)
    torch.testing.assert_close(down[..., inner, inner], torch.full((1, 2, 2, 2), 3.0))
    torch.testing.assert_close(up[..., inner, inner], torch.full((1, 2, 14, 14), 3.0))


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@torch.no_grad()
def test_block_at_initialisation_keeps_unit_variance(part, attention):
    options = BlockOptions(channels_per_head=32)
    block = Block(64, 128, 32, part, options, attention=attention).eval()
    out = block(torch.randn(8, 64, 16, 16), torch.randn(8, 32))
    assert out.shape == (8, 128, 16, 16)
    # attention averages values, and borders see zeros, both of which cost some
    assert rms(out) == pytest.approx(1, rel=0.1)
