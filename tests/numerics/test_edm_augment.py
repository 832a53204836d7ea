"""EDM's augmentation: official numbers, what each part does, and that models and batches share one draw."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.likelihood import denoising_loss, draw_noise, log_likelihood_ratio_estimate
from ddo_engine.families.diffusion.space import normalise
from ddo_engine.families.edm.augment import AugmentationDraw, augment, draw_augmentation
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import HeunSettings, TrainingSettings
from tests.numerics.golden import arrays, assert_golden, description, golden_model, tensor
from tests.numerics.var_models import tiny_var

GOLDEN = "06_edm_loss_augment"
MODEL = "02_edm_ddpmpp_cond"
FAMILY = get_family("edm")
PLAIN = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
AUGMENTED = PLAIN.model_copy(update={"augment_probability": 0.5})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def recorded_draw(case):
    """The draws of the official pipe, in the order in which it made them."""
    names = sorted(name for name in arrays(GOLDEN) if name.startswith(f"{case}_draw"))
    draws = [tensor(GOLDEN, name) for name in names]
    assert len(draws) == len(fields(AugmentationDraw))
    return AugmentationDraw(*(draw if draw.shape == (2, 8) else draw.flatten() for draw in draws))


@pytest.mark.parametrize("case", ["aug_p012", "aug_p1"])
def test_augment_with_recorded_draws_equals_official(case):
    probability = description(GOLDEN)[f"{case}_args"]["p"]
    images, labels = augment(tensor(GOLDEN, f"{case}_in"), recorded_draw(case), probability)
    assert_golden(images, arrays(GOLDEN)[f"{case}_out"])
    assert torch.equal(labels, tensor(GOLDEN, f"{case}_labels"))


def test_draw_augmentation_takes_the_numbers_of_its_generator_in_the_official_order():
    draw, same = draw_augmentation(5, generator(3)), generator(3)
    for entry, recorded in zip(fields(draw), sorted(n for n in arrays(GOLDEN) if "p1_draw" in n), strict=True):
        kind = recorded.split("_")[4]
        shape = (2, 5) if entry.name == "shift_2B" else (5,)
        numbers = {
            "randint": lambda: torch.randint(2, shape, generator=same),  # noqa: B023
            "rand": lambda: torch.rand(shape, generator=same),  # noqa: B023
            "randn": lambda: torch.randn(shape, generator=same),  # noqa: B023
        }
        assert torch.equal(getattr(draw, entry.name), numbers[kind]()), entry.name


# What each part does


def draw_of(num_images=1, **parts):
    """A draw in which only the named parts are done. The gate of left and right cannot be closed."""
    still = {entry.name: torch.ones(num_images) for entry in fields(AugmentationDraw)}
    still |= {"flip_x_B": torch.zeros(num_images), "shift_2B": torch.ones(2, num_images)}
    return AugmentationDraw(**(still | {name: torch.as_tensor(value) for name, value in parts.items()}))


def smooth_images(size=32):
    """Waves of at least eight pixels: what a warp of the pixels can be compared with a warp of the formula."""
    return waves(*centred_grid(size))


def centred_grid(size):
    axis = torch.arange(size) - (size - 1) / 2
    return torch.meshgrid(axis, axis, indexing="xy")


def waves(x, y):
    return torch.stack([(x / 3 + y / 7).sin(), (x / 5 - y / 4).cos(), (y / 2.5).sin()])[None] * 0.8


OPEN = torch.zeros(1)
PARTS = {
    "nothing": ({}, lambda x, y: (x, y)),
    "right": ({"shift_2B": [[0.75], [0.0]], "shift_gate_B": OPEN}, lambda x, y: (x - 3, y)),
    "down": ({"shift_2B": [[0.0], [1.0]], "shift_gate_B": OPEN}, lambda x, y: (x, y - 4)),
    "zoom": ({"scale_B": [5.0], "scale_gate_B": OPEN}, lambda x, y: (x / 2, y / 2)),
    "quarter_turn": ({"turn_B": [0.75], "turn_gate_B": OPEN}, lambda x, y: (-y, x)),
    "stretch_along_x": ({"stretch_B": [2.5], "stretch_gate_B": OPEN}, lambda x, y: (x / 2**0.5, y * 2**0.5)),
    "stretch_along_y": (
        {"stretch_B": [2.5], "stretch_gate_B": OPEN, "axis_B": [0.75], "axis_gate_B": OPEN},
        lambda x, y: (x * 2**0.5, y / 2**0.5),
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_augment_one_part_moves_every_pixel_where_it_says(part):
    changes, came_from = PARTS[part]
    images, _ = augment(smooth_images(), draw_of(**changes), 0.5)
    expected = waves(*came_from(*centred_grid(32)))
    inner = slice(8, -8)  # further out the mirrored margin shows
    torch.testing.assert_close(images[..., inner, inner], expected[..., inner, inner], rtol=0, atol=4e-2)


def test_augment_with_all_gates_closed_leaves_every_pixel_and_says_so():
    noise = torch.rand(2, 3, 16, 16, generator=generator()) * 2 - 1
    images, labels = augment(noise, draw_of(2), 0.5)
    torch.testing.assert_close(images, noise, rtol=0, atol=2e-5)
    assert torch.equal(labels, torch.zeros(2, 9))


def test_augment_flips_are_exact_but_for_the_warp_and_left_right_is_always_drawn():
    noise = torch.rand(2, 3, 16, 16, generator=generator()) * 2 - 1
    draw = draw_of(2, flip_x_B=[1, 0], flip_x_gate_B=[0.99, 0.99], flip_y_B=[1, 1], flip_y_gate_B=[0.4, 0.6])
    images, labels = augment(noise, draw, 0.5)
    torch.testing.assert_close(images[0], noise[0].flip(1, 2), rtol=0, atol=2e-5)
    torch.testing.assert_close(images[1], noise[1], rtol=0, atol=2e-5)
    assert labels[:, :2].tolist() == [[1, 1], [0, 0]]


def test_augment_of_an_image_depends_on_its_own_draw_alone():
    noise = torch.rand(8, 3, 16, 16, generator=generator()) * 2 - 1
    draw = draw_augmentation(8, generator(1))
    together, labels = augment(noise, draw, 0.9)
    for row in range(8):
        own = AugmentationDraw(*(getattr(draw, entry.name)[..., row : row + 1] for entry in fields(draw)))
        alone, own_labels = augment(noise[row : row + 1], own, 0.9)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)
        torch.testing.assert_close(own_labels[0], labels[row], rtol=0, atol=1e-6)


def test_augment_of_images_of_any_sides_keeps_their_shape():
    for shape in ((2, 1, 1, 1), (2, 4, 6, 9), (1, 3, 17, 5)):
        draw = draw_augmentation(shape[0], generator())
        images, labels = augment(torch.zeros(shape), draw, 1.0)
        assert images.shape == shape
        assert labels.shape == (shape[0], 9)


def test_augment_does_each_part_as_often_as_it_says():
    augmented = augment(torch.zeros(20_000, 1, 1, 1), draw_augmentation(20_000, generator()), 0.12)[1] != 0
    flip_x, flip_y, scale, cosine, sine, along_x, along_y, right, down = augmented.double().mean(0).tolist()
    assert flip_x == pytest.approx(0.5, abs=0.015)
    assert flip_y == pytest.approx(0.06, abs=0.008)
    assert (scale, cosine, sine, along_x, right, down) == pytest.approx((0.12,) * 6, abs=0.01)
    assert along_y == pytest.approx(0.06, abs=0.008)


# In the losses


def images(seed, labels=(0, 3, 9)):
    uint8 = torch.randint(256, (len(labels), 3, 16, 16), generator=generator(seed), dtype=torch.uint8)
    return LabelledImages(uint8, torch.tensor(labels))


REAL, FAKE = images(1), images(2, (5, 5, 1))


def moved(model, factor=1.03):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(factor)
    return other


def test_pretraining_loss_augments_first_and_draws_the_noise_then():
    model, same = golden_model(MODEL), generator(7)
    x0, labels = augment(normalise(REAL.images_BCHW), draw_augmentation(3, same), 0.5)
    noise = replace(draw_noise(x0, PLAIN.P_mean, PLAIN.P_std, same), augment_labels_BA=labels)
    expected = denoising_loss(model, x0, REAL.labels_B, noise)
    assert torch.equal(FAMILY.pretraining_loss(model, REAL, AUGMENTED, generator(7)), expected)
    untold = replace(noise, augment_labels_BA=None)
    assert not torch.allclose(denoising_loss(model, x0, REAL.labels_B, untold), expected)


@torch.no_grad()
def test_ratios_are_of_augmented_images_both_batches_and_both_models_alike():
    reference, same = golden_model(MODEL), generator(7)
    target = moved(reference)
    draw = draw_augmentation(3, same)
    ours = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, AUGMENTED, generator(7))
    noise = draw_noise(REAL.images_BCHW, PLAIN.P_mean, PLAIN.P_std, same)
    for ratios, batch in zip(ours[:2], (REAL, FAKE), strict=True):
        x0, labels = augment(normalise(batch.images_BCHW), draw, 0.5)
        told = replace(noise, augment_labels_BA=labels)
        expected = log_likelihood_ratio_estimate(target, reference, x0, batch.labels_B, told)
        torch.testing.assert_close(ratios, expected, rtol=1e-5, atol=1e-3)


def test_ratios_of_equal_models_with_augmentation_are_exactly_zero():
    config = description(MODEL)["constructor"] | {"dropout": 0.5}
    target = FAMILY.build(config)
    target.load_state_dict(golden_model(MODEL).state_dict())
    reference = copy.deepcopy(target)
    always = AUGMENTED.model_copy(update={"augment_probability": 1.0})
    real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target.train(), reference, REAL, FAKE, always, generator())
    assert real_B.tolist() == fake_B.tolist() == [0, 0, 0]


def test_ratios_with_augmentation_train_the_layer_that_hears_of_it():
    reference = golden_model(MODEL)
    target = moved(reference)
    real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, AUGMENTED, generator())
    (real_B.sum() - 2 * fake_B.sum()).backward()
    assert target.model.map_augment.weight.grad.abs().max() > 0


def test_probability_zero_draws_nothing_and_augments_nothing():
    x0, unused = normalise(REAL.images_BCHW), generator(7)
    same, labels = FAMILY.augment(x0, PLAIN, unused, REAL.rows)
    assert same is x0
    assert labels is None
    assert torch.equal(unused.get_state(), generator(7).get_state())


def test_samples_take_no_notice_of_the_augmentation_layer():
    model = golden_model(MODEL)
    expected = FAMILY.sample_in_model_space(model, [0, 1], None, HeunSettings(num_steps=3))
    x, sigma = torch.randn(2, 3, 16, 16, generator=generator()), torch.tensor([0.3, 5.0])
    plain = model.free_form(x, sigma, torch.tensor([1, 2]))
    assert torch.equal(model.free_form(x, sigma, torch.tensor([1, 2]), torch.zeros(2, 9)), plain)
    with torch.no_grad():
        model.model.map_augment.weight.mul_(-3)
    assert torch.equal(FAMILY.sample_in_model_space(model, [0, 1], None, HeunSettings(num_steps=3)), expected)
    assert not torch.allclose(model.free_form(x, sigma, torch.tensor([1, 2]), torch.ones(2, 9)), plain)


def edm(**changes):
    return FAMILY.build(description(MODEL)["constructor"] | changes)


UNTOLD = {
    "without augment_dim": lambda: ("edm", edm(augment_dim=0)),
    "of another augment_dim": lambda: ("edm", edm(augment_dim=8)),
    "mlp": lambda: ("edm", FAMILY.build({"class_name": "MLPPrecond", "img_resolution": 16, "img_channels": 3})),
    "edm2": lambda: ("edm2", golden_model("08_edm2_cond", "edm2")),
}


@pytest.mark.parametrize("network", UNTOLD)
def test_augmentation_without_a_network_that_hears_of_it_is_refused(network):
    name, model = UNTOLD[network]()
    family = get_family(name)
    size = (model.img_channels, model.img_resolution, model.img_resolution)
    batch = LabelledImages(torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    calls = [
        lambda: family.check_training(model, AUGMENTED),
        lambda: family.pretraining_loss(model, batch, AUGMENTED, generator()),
        lambda: family.log_likelihood_ratios(model, model, batch, batch, AUGMENTED, generator()),
    ]
    for call in calls:
        with pytest.raises(InvalidSpec, match="draw augmented") as error:
            call()
        assert error.value.param == "training.augment_probability"
    family.check_training(model, PLAIN)


def test_augmentation_of_a_var_is_refused():
    with pytest.raises(InvalidSpec, match="set it to 0") as error:
        get_family("var").check_training(tiny_var(), AUGMENTED)
    assert error.value.param == "training.augment_probability"
    get_family("var").check_training(tiny_var(), PLAIN)
