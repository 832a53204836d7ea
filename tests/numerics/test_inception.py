"""Inception-v3 against the published port, at every level."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddo_engine.evaluation.networks import inception as inception_module
from ddo_engine.evaluation.networks.inception import Inception
from ddo_engine.evaluation.networks.tensorflow_resize import resize
from tests.numerics.golden import arrays, description, tensor
from tests.numerics.inception_weights import NAME, inception_weights

LEVELS = ["64", "192", "768", "2048", "logits_unbiased"]


@pytest.fixture(scope="module")
def network() -> Inception:
    with torch.device("meta"):
        module = Inception()
    module.load_state_dict(inception_weights(), strict=True, assign=True)
    return module.eval().requires_grad_(False)


def errors(outputs: dict[str, Tensor], index: int) -> list[float]:
    """Largest error of each level, in units of the tolerance that golden 19 states."""
    found = []
    for level in LEVELS:
        expected = arrays(NAME)[f"{level}_f64_{index}"][: len(outputs[level])]
        allowed = 1e-3 * np.abs(expected) + 1e-4 * np.abs(expected).mean()
        found.append(float((np.abs(outputs[level].numpy() - expected) / allowed).max()))
    return found


def test_inception_names_are_the_port_s(network: Inception):
    ours = [(name, list(value.shape)) for name, value in network.state_dict().items()]
    assert ours == list(description(NAME)["keys"].items())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_inception_every_level_equals_the_port(network: Inception, index: int):
    assert max(errors(network(tensor(NAME, f"x{index}")), index)) < 0.05


@pytest.mark.parametrize("index", [0, 1, 2])
def test_inception_every_level_in_float64_equals_the_port(network: Inception, index: int):
    outputs = network.double()(tensor(NAME, f"x{index}")[:1])
    network.float()
    assert outputs["2048"].dtype == torch.float64
    assert max(errors(outputs, index)) < 0.01


def half_pixel_resize(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear")


def padding_is_counted(*arguments, **options) -> Tensor:
    return average_pool(*arguments, **{**options, "count_include_pad": True})


average_pool, maximum_pool = F.avg_pool2d, F.max_pool2d


def average_in_the_last_block(x: Tensor, size: int, stride: int = 1, padding: int = 0) -> Tensor:
    if padding == 0:
        return maximum_pool(x, size, stride)
    return average_pool(x, size, 1, 1, count_include_pad=False)


@pytest.mark.parametrize(
    ("owner", "name", "twin"),
    [
        (inception_module, "resize", half_pixel_resize),
        (F, "avg_pool2d", padding_is_counted),
        (F, "max_pool2d", average_in_the_last_block),
    ],
)
def test_inception_as_trained_today_is_told_apart(
    network: Inception, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, twin: Callable[..., Tensor]
):
    """What libraries do by default gives other features than the released network's."""
    monkeypatch.setattr(owner, name, twin)
    assert max(errors(network(tensor(NAME, "x1")[:1]), 1)) > 2


def test_inception_spatial_features_are_channels_of_mixed_6_with_channels_innermost(network: Inception):
    seen = []
    hook = network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(lambda *call: seen.append(call[2]))
    spatial = network(tensor(NAME, "x1")[:1])["spatial"]
    hook.remove()
    assert torch.equal(spatial.view(1, 17, 17, 7), seen[0][:, :7].permute(0, 2, 3, 1))


def test_inception_rows_do_not_depend_on_the_batch_and_grey_is_equal_red_green_and_blue(network: Inception):
    images = tensor(NAME, "x0")
    together, alone = network(images), network(images[1:2])
    for name, output in alone.items():
        torch.testing.assert_close(output, together[name][1:2], rtol=1e-5, atol=1e-5 * float(output.abs().mean()))
    grey, colour = network(images[:1, :1]), network(images[:1, :1].repeat(1, 3, 1, 1))
    assert all(torch.equal(grey[name], colour[name]) for name in colour)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (8, 13), (400, 299)])
def test_resize_follows_its_definition(height: int, width: int):
    image = torch.rand(1, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    size, found = 7, resize(image, 7)
    for row in range(size):
        for column in range(size):
            y, x = row * height / size, column * width / size
            above, left = int(y), int(x)
            below, right = min(above + 1, height - 1), min(left + 1, width - 1)
            expected = (
                image[..., above, left] * (1 - y + above) * (1 - x + left)
                + image[..., above, right] * (1 - y + above) * (x - left)
                + image[..., below, left] * (y - above) * (1 - x + left)
                + image[..., below, right] * (y - above) * (x - left)
            )
            torch.testing.assert_close(found[..., row, column], expected, rtol=1e-12, atol=1e-12)


def test_resize_to_the_same_size_changes_nothing():
    image = torch.rand(1, 3, 5, 5)
    assert torch.equal(resize(image, 5), image)
