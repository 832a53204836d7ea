"""EDM's loss and the log-likelihood ratio estimate: official numbers, identities, and what would silently ruin them."""

import copy

import numpy as np
import pytest
import torch

from ddo_engine.families import get_family
from ddo_engine.families.diffusion.likelihood import (
    NoiseDraw,
    denoising_loss,
    draw_noise,
    log_likelihood_ratio_estimate,
)
from ddo_engine.families.diffusion.space import normalise
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.objective import ddo_loss
from ddo_engine.spec import HeunSettings, TrainingSettings
from tests.numerics.golden import arrays, class_indices, description, golden_model, tensor

FAMILY = get_family("edm")
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
MODEL = "02_edm_ddpmpp_cond"
LOSS = "06_edm_loss_augment"
DDO = "17_ddo_loss"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(seed, labels=(0, 3, 9)):
    uint8 = torch.randint(256, (len(labels), 3, 16, 16), generator=generator(seed), dtype=torch.uint8)
    return LabelledImages(uint8, torch.tensor(labels))


REAL, FAKE = images(1), images(2, (5, 5, 1))


def moved(model, factor=1.03):
    """Another model near ``model``."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(factor)
    return other


# EDM's loss


@pytest.mark.parametrize("case", ["cifar", "alt"])
@torch.no_grad()
def test_denoising_loss_with_recorded_draws_equals_official(case):
    arguments = description(LOSS)[f"{case}_args"]
    golden = arrays(LOSS)
    normal_B = tensor(LOSS, f"{case}_rnd_normal").flatten()
    noise = NoiseDraw((normal_B * arguments["P_std"] + arguments["P_mean"]).exp(), tensor(LOSS, f"{case}_eps"))
    np.testing.assert_allclose(noise.t_B.numpy(), golden[f"{case}_sigma"], rtol=1e-6)
    loss_B = denoising_loss(
        golden_model(MODEL), normalise(tensor(LOSS, "images_uint8")), class_indices(LOSS, "labels"), noise
    )
    assert loss_B.shape == (6,)
    np.testing.assert_allclose(loss_B.numpy(), golden[f"{case}_loss_map"].sum((1, 2, 3), dtype=np.float64), rtol=1e-4)
    np.testing.assert_allclose(float(loss_B.double().mean()), golden[f"{case}_loss_sum_over_batch"], rtol=1e-5)
    np.testing.assert_allclose(float(loss_B.double().mean()) / (3 * 16 * 16), golden[f"{case}_loss_mean"], rtol=1e-5)
    # EDM's weight lambda(t), by which the error of D counts, is 1 / c_out².
    c_out_B = golden_model(MODEL).scalings(noise.t_B).c_out_B
    np.testing.assert_allclose(c_out_B.numpy() ** -2, golden[f"{case}_weight"], rtol=1e-5)


def test_pretraining_loss_is_the_denoising_loss_at_the_noise_of_its_generator():
    model = golden_model(MODEL)
    noise = draw_noise(REAL.images_BCHW, TRAINING.P_mean, TRAINING.P_std, generator(7))
    expected = denoising_loss(model, normalise(REAL.images_BCHW), REAL.labels_B, noise)
    assert torch.equal(FAMILY.pretraining_loss(model, REAL, TRAINING, generator(7)), expected)
    assert not torch.equal(FAMILY.pretraining_loss(model, REAL, TRAINING, generator(8)), expected)


def test_pretraining_loss_in_training_mode_repeats_itself():
    model = golden_model(MODEL).train()
    losses = [FAMILY.pretraining_loss(model, REAL, TRAINING, generator(7)) for _ in range(2)]
    assert torch.equal(*losses)
    assert all(module.training for module in model.modules())


def test_draw_noise_draws_levels_first_then_noise():
    noise = draw_noise(REAL.images_BCHW, -0.8, 1.6, generator(3))
    same = generator(3)
    assert torch.equal(noise.t_B, (torch.randn(3, generator=same) * 1.6 - 0.8).exp())
    assert torch.equal(noise.eps_BCHW, torch.randn(3, 3, 16, 16, generator=same))


def test_draw_noise_levels_are_log_normal():
    log_t = draw_noise(torch.empty(20_000, 1, 1, 1), -0.8, 1.6, generator()).t_B.log()
    assert float(log_t.mean()) == pytest.approx(-0.8, abs=0.05)
    assert float(log_t.std()) == pytest.approx(1.6, abs=0.05)


def test_free_form_target_is_the_paper_formula_and_exact_at_small_noise():
    x0 = normalise(REAL.images_BCHW)
    eps = torch.randn(3, 3, 16, 16, generator=generator())
    t_B = torch.tensor([1e-4, 0.5, 80.0])
    t, x0_wide, eps_wide = t_B.double()[:, None, None, None], x0.double(), eps.double()
    c_skip, c_out = 0.25 / (t**2 + 0.25), t * 0.5 / (t**2 + 0.25).sqrt()
    exact = (x0_wide - c_skip * (x0_wide + t * eps_wide)) / c_out
    torch.testing.assert_close(golden_model(MODEL).free_form_target(x0, t_B, eps).double(), exact, rtol=1e-5, atol=1e-6)
    # The twin that evaluates the paper's formula as it stands loses three digits at t = 1e-4.
    t, c_skip, c_out = t.float(), c_skip.float(), c_out.float()
    twin = (x0 - c_skip * (x0 + t * eps)) / c_out
    assert (twin - exact)[0].abs().max() > 1e-4


def test_denoising_loss_is_edms_weighted_distance_to_the_image():
    model = golden_model(MODEL)
    noise = draw_noise(REAL.images_BCHW, -1.2, 1.2, generator())
    x0, t = normalise(REAL.images_BCHW), noise.t_B[:, None, None, None]
    with torch.no_grad():
        denoised = model.denoise(x0 + t * noise.eps_BCHW, noise.t_B, REAL.labels_B)
        weight = (noise.t_B**2 + 0.25) / (noise.t_B * 0.5) ** 2
        expected = weight * (denoised - x0).square().flatten(1).sum(1)
        torch.testing.assert_close(denoising_loss(model, x0, REAL.labels_B, noise), expected, rtol=1e-4, atol=0)


# The log-likelihood ratio


def golden_noise(kind):
    return NoiseDraw(tensor(DDO, "e2e_sigma"), tensor(DDO, f"e2e_eps_{kind}"))


@torch.no_grad()
def test_ratio_end_to_end_equals_golden():
    reference = golden_model(MODEL)
    target, labels, ratios = moved(reference), class_indices(DDO, "e2e_labels"), []
    for kind in ("data", "ref"):
        x0, noise, golden = tensor(DDO, f"e2e_x0_{kind}"), golden_noise(kind), arrays(DDO)
        np.testing.assert_allclose(
            golden_model(MODEL).free_form_target(x0, noise.t_B, noise.eps_BCHW).numpy(),
            golden[f"e2e_F_target_{kind}"],
            rtol=1e-4,
            atol=2e-5,
        )
        theta, ref = golden[f"e2e_mse_theta_{kind}"], golden[f"e2e_mse_ref_{kind}"]
        np.testing.assert_allclose(denoising_loss(target, x0, labels, noise).numpy(), theta, rtol=1e-4)
        np.testing.assert_allclose(denoising_loss(reference, x0, labels, noise).numpy(), ref, rtol=1e-4)
        ratio = log_likelihood_ratio_estimate(target, reference, x0, labels, noise)
        np.testing.assert_allclose(ratio.numpy(), ref - theta, rtol=1e-4, atol=2e-3)
        ratios.append(ratio)
    for row in description(DDO)["e2e"]["rows"]:
        loss = ddo_loss(*ratios, alpha=row["alpha"], beta=row["beta"]).mean()
        assert float(loss) == pytest.approx(row["loss"], rel=1e-5)


def dropout_model():
    config = description(MODEL)["constructor"] | {"dropout": 0.5}
    model = FAMILY.build(config)
    model.load_state_dict(golden_model(MODEL).state_dict())
    return model.train()


def test_ratios_of_equal_models_in_training_mode_are_exactly_zero():
    target, reference = dropout_model(), dropout_model()
    real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
    assert real_B.tolist() == fake_B.tolist() == [0, 0, 0]
    loss = ddo_loss(real_B, fake_B, alpha=4, beta=0.1).mean()
    assert float(loss.detach()) == pytest.approx(5 * np.log(2))
    assert all(module.training for model in (target, reference) for module in model.modules())


def test_ratios_would_be_noise_if_dropout_were_on():
    x0 = normalise(REAL.images_BCHW)
    noise = draw_noise(x0, -1.2, 1.2, generator())
    ratio_B = log_likelihood_ratio_estimate(dropout_model(), dropout_model(), x0, REAL.labels_B, noise)
    assert ratio_B.abs().min() > 1


def test_ratios_give_the_target_a_gradient_and_the_reference_none():
    reference = golden_model(MODEL)
    target = moved(reference)
    real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
    assert real_B.shape == fake_B.shape == (3,)
    assert real_B.dtype == fake_B.dtype == torch.float32
    (real_B.sum() - 2 * fake_B.sum()).backward()
    without = {key for key, p in target.named_parameters() if p.grad is None}
    assert without == {"model.map_augment.weight"}
    assert [key for key, p in reference.named_parameters() if p.grad is not None] == []


def test_ratios_gradient_is_that_of_the_two_norms():
    reference = golden_model(MODEL)
    target = moved(reference)
    x0, labels_B = normalise(REAL.images_BCHW), REAL.labels_B
    noise = draw_noise(x0, -1.2, 1.2, generator())
    ratio_B = log_likelihood_ratio_estimate(target, reference, x0, labels_B, noise)
    parameters = [p for key, p in target.named_parameters() if "augment" not in key]
    ours = torch.autograd.grad(ratio_B.sum(), parameters)
    theirs = torch.autograd.grad(-denoising_loss(target, x0, labels_B, noise).sum(), parameters)
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


def test_ratios_of_fake_rows_reuse_the_noise_of_the_real_rows():
    reference = golden_model(MODEL)
    target = moved(reference)
    with torch.no_grad():
        real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, REAL, TRAINING, generator())
        torch.testing.assert_close(real_B, fake_B, rtol=1e-5, atol=1e-3)
        a, b, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
        d, c, _ = FAMILY.log_likelihood_ratios(target, reference, FAKE, REAL, TRAINING, generator())
    torch.testing.assert_close((a, b), (c, d), rtol=1e-5, atol=1e-3)
    assert (a - b).abs().min() > 0.1


def test_ratios_use_the_labels_of_each_row():
    reference = golden_model(MODEL)
    target = moved(reference)
    relabelled = LabelledImages(FAKE.images_BCHW, (FAKE.labels_B + 1) % 10)
    with torch.no_grad():
        real_B, fake_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
        same_B, other_B, _ = FAMILY.log_likelihood_ratios(target, reference, REAL, relabelled, TRAINING, generator())
    torch.testing.assert_close(real_B, same_B, rtol=1e-5, atol=1e-3)
    assert ((fake_B - other_B).abs() > 0.01).all()


def test_reference_loss_is_the_references_own_and_less_the_ratio_the_targets():
    reference = golden_model(MODEL)
    target = moved(reference)
    with torch.no_grad():
        real_B, _, loss_B = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
        of_reference_B = FAMILY.pretraining_loss(reference, REAL, TRAINING, generator())
        of_target_B = FAMILY.pretraining_loss(target, REAL, TRAINING, generator())
    torch.testing.assert_close(loss_B, of_reference_B)
    torch.testing.assert_close(loss_B - real_B, of_target_B)
    assert not loss_B.requires_grad


def test_ratios_under_autocast_stay_in_float32():
    reference = golden_model(MODEL)
    target = moved(reference)
    plain = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = FAMILY.log_likelihood_ratios(target, reference, REAL, FAKE, TRAINING, generator())
    assert all(torch.equal(a, b) for a, b in zip(plain, under_autocast, strict=True))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: FAMILY.log_likelihood_ratios(model, model, REAL, FAKE, TRAINING, generator()),
        lambda model: FAMILY.pretraining_loss(model, REAL, TRAINING, generator()),
        lambda model: FAMILY.sample(model, [0], None, HeunSettings(num_steps=2)),
    ],
    ids=["ratios", "pretraining", "sample"],
)
def test_family_switches_tf32_off_also_for_the_backward_pass_to_come(call):
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    call(golden_model(MODEL))
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


class Constant(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


def test_ratio_of_nearly_equal_models_keeps_its_digits():
    x0 = normalise(REAL.images_BCHW)
    noise = draw_noise(x0, -1.2, 1.2, generator())
    F = golden_model(MODEL).free_form_target(x0, noise.t_B, noise.eps_BCHW)
    reference = F + torch.randn(F.shape, generator=generator(1))
    target = reference + 1e-6 * torch.randn(F.shape, generator=generator(2))
    models = [
        PreconditionedDenoiser(Constant(output), img_resolution=16, img_channels=3, label_dim=0, sigma_data=0.5)
        for output in (target, reference)
    ]
    squares = [(output.double() - F).square().flatten(1).sum(1) for output in (target, reference)]
    exact_B = squares[1] - squares[0]
    ours_B = log_likelihood_ratio_estimate(*models, x0, None, noise)
    torch.testing.assert_close(ours_B.double(), exact_B, rtol=2e-2, atol=1e-6)
    # The twin that subtracts the two norms, each about 800.
    twin_B = denoising_loss(models[1], x0, None, noise) - denoising_loss(models[0], x0, None, noise)
    assert ((twin_B - exact_B).abs() > 0.1 * exact_B.abs()).any()


def test_ratios_with_batches_of_different_size_are_refused():
    with pytest.raises(ValueError, match="row i of fake"):
        FAMILY.log_likelihood_ratios(
            golden_model(MODEL), golden_model(MODEL), REAL, images(2, (1, 2)), TRAINING, generator()
        )


@pytest.mark.parametrize("unlabelled", ["real", "fake", "both"])
def test_ratios_of_a_conditional_model_without_labels_are_refused(unlabelled):
    model = golden_model(MODEL)
    real = LabelledImages(REAL.images_BCHW, None) if unlabelled != "fake" else REAL
    fake = LabelledImages(FAKE.images_BCHW, None) if unlabelled != "real" else FAKE
    with pytest.raises(ValueError, match="must have labels"):
        FAMILY.log_likelihood_ratios(model, model, real, fake, TRAINING, generator())


def test_ratios_of_an_unconditional_model_take_no_notice_of_labels():
    reference = golden_model("01_edm_ddpmpp_uncond")
    target = moved(reference)
    bare = LabelledImages(REAL.images_BCHW, None)
    with torch.no_grad():
        labelled = FAMILY.log_likelihood_ratios(target, reference, REAL, REAL, TRAINING, generator())
        unlabelled = FAMILY.log_likelihood_ratios(target, reference, bare, REAL, TRAINING, generator())
    assert all(torch.equal(a, b) for a, b in zip(labelled, unlabelled, strict=True))


def test_family_given_a_foreign_network_says_so():
    with pytest.raises(TypeError, match="Linear"):
        FAMILY.pretraining_loss(torch.nn.Linear(1, 1), REAL, TRAINING, generator())
