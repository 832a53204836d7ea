"""The preconditioned MLP, and what EDM's preconditioning says about it in closed form."""

import pytest
import torch

from ddo_engine.families import get_family

DIGITS = {"class_name": "MLPPrecond", "img_resolution": 8, "img_channels": 1, "label_dim": 10}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return get_family("edm").build(DIGITS | changes)


def randomised(**changes):
    model = build(**changes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_mlp_of_default_size_on_digits_has_85088_parameters():
    assert sum(p.numel() for p in build().parameters()) == 85_088


def test_mlp_at_initialisation_is_the_denoiser_of_gaussian_data():
    # For data N(0, sigma_data^2) the posterior mean is x sigma_data^2 / (sigma_data^2 + sigma^2).
    model = build(sigma_data=0.7)
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.01, 0.3, 2.0, 70.0])
    shrunk = x * (0.49 / (0.49 + sigma**2))[:, None, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model.denoise(x, sigma, torch.arange(4)), shrunk)


def test_mlp_output_depends_on_image_noise_level_label_and_nothing_else():
    model = randomised()
    x, sigma, labels = torch.randn(1, 1, 8, 8).repeat(5, 1, 1, 1), torch.ones(5), torch.ones(5, dtype=torch.int64)
    x[1] += 0.1
    sigma[2] = 2.0
    labels[3] = 2
    with torch.no_grad():
        F = model.free_form(x, sigma, labels)
    assert [bool(torch.isclose(F[0], row).all()) for row in F] == [True, False, False, False, True]


def test_mlp_takes_vectors_as_one_pixel_images():
    model = randomised(img_resolution=1, img_channels=5, label_dim=0)
    with torch.no_grad():
        assert model.denoise(torch.randn(3, 5, 1, 1), torch.ones(3), None).shape == (3, 5, 1, 1)


def test_mlp_with_augmentation_labels_refuses_them():
    with pytest.raises(ValueError, match="augmentation"):
        build().denoise(torch.zeros(1, 1, 8, 8), torch.ones(1), None, torch.zeros(1, 9))


def test_mlp_every_parameter_gets_a_gradient():
    model = randomised()
    model.denoise(torch.randn(4, 1, 8, 8), torch.ones(4), torch.arange(4)).square().sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_mlp_with_weights_stored_in_half_precision_computes_in_float32():
    model = randomised().half()
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.tensor([0.01, 0.3, 2.0, 70.0]), torch.arange(4)
    F = model.free_form(x, sigma, labels)
    torch.testing.assert_close(F, model.float().free_form(x, sigma, labels))
