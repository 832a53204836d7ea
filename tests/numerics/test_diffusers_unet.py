"""A ``UNet2DModel`` behind our scalings denoises as the library's own schedulers do with it."""

import copy
import socket

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
)

import ddo_engine
from ddo_engine.errors import CorruptCheckpoint, InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.families.diffusers import import_folder
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import DPMSolverSettings, HeunSettings, TrainingSettings
from tests.diffusers_folders import UNET, library_unet, write_pipeline

FEW_STEPS = HeunSettings(num_steps=3, batch_size=4)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCHEDULES = {
    "linear": {},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "trained": {"trained_betas": [0.01, 0.02, 0.04, 0.08, 0.16] * 4, "num_train_timesteps": 20},
    "zero_snr": {"rescale_betas_zero_snr": True},
}


def config(timesteps=None, prediction="epsilon", **changes):
    return {
        "class_name": "UNet2DModel",
        "unet": UNET | changes,
        "prediction": prediction,
        "timesteps": timesteps or {"kind": "discrete"},
    }


def adapted(unet, *args, **changes):
    model = get_family("diffusers").build(config(*args, **changes))
    model.load_state_dict(unet.state_dict())
    return model


def test_state_dict_has_the_names_of_the_library_in_its_order():
    unet = library_unet(num_class_embeds=3)
    assert list(adapted(unet, num_class_embeds=3).state_dict()) == list(unet.state_dict())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_denoise_equals_the_prediction_of_the_library_s_scheduler(tmp_path, schedule, prediction):
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False, **SCHEDULES[schedule])
    unet = library_unet()
    folder = write_pipeline(tmp_path / "pipeline", unet, scheduler)
    model = ddo_engine.load_model(folder)
    last = scheduler.config.num_train_timesteps - (2 if schedule == "zero_snr" else 1)
    for timestep in sorted({0, 1, 7, last // 2, last}):
        product = scheduler.alphas_cumprod[timestep].double()
        sigma = float(((1 - product) / product).sqrt())
        x_vp = torch.randn(2, 3, 8, 8)
        output = unet(x_vp, timestep).sample
        expected = scheduler.step(output, timestep, x_vp, torch.Generator()).pred_original_sample
        actual = model.denoise(x_vp * (1 + sigma**2) ** 0.5, sigma)
        assert float((actual - expected).abs().max()) <= 1e-5 * max(1.0, sigma)


@pytest.mark.parametrize("scheduler_class", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sigma_data", [0.5, 0.9])
@torch.no_grad()
def test_denoise_with_edm_schedulers_equals_their_preconditioning(tmp_path, scheduler_class, prediction, sigma_data):
    scheduler = scheduler_class(sigma_data=sigma_data, prediction_type=prediction)
    unet = library_unet()
    model = ddo_engine.load_model(write_pipeline(tmp_path / "pipeline", unet, scheduler))
    assert model.sigma_data == sigma_data
    for sigma in torch.tensor([0.002, 0.3, 2.0, 80.0]):
        x = torch.randn(2, 3, 8, 8) * sigma
        output = unet(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
        expected = scheduler.precondition_outputs(x, output, sigma)
        torch.testing.assert_close(model.denoise(x, sigma), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("timesteps", "prediction"),
    [({"kind": "discrete"}, prediction) for prediction in PREDICTIONS]
    + [({"kind": "edm", "sigma_data": 0.6}, prediction) for prediction in ("epsilon", "v_prediction")],
)
def test_free_form_target_is_what_makes_the_denoiser_return_the_image(timesteps, prediction):
    model = get_family("diffusers").build(config(timesteps, prediction))
    x0, eps = torch.randn(5, 3, 8, 8).double(), torch.randn(5, 3, 8, 8).double()
    t = torch.tensor([0.01, 0.3, 1.0, 5.0, 70.0]).double()
    x_t = x0 + t[:, None, None, None] * eps
    scalings = model.scalings(t)
    c_skip, c_out = (factor[:, None, None, None] for factor in (scalings.c_skip_B, scalings.c_out_B))
    torch.testing.assert_close(model.free_form_target(x0, t, eps), (x0 - c_skip * x_t) / c_out)
    torch.testing.assert_close(c_skip * x_t + c_out * model.free_form_target(x0, t, eps), x0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_network_input_of_unit_variance_data_has_unit_variance(prediction):
    model = get_family("diffusers").build(config(None, prediction))
    x = torch.randn(2000, 3, 2, 2) * (1 + 3.0**2) ** 0.5
    assert float((x * model.scalings(torch.tensor([3.0])).c_in_B).std()) == pytest.approx(1, abs=0.03)


def test_timestep_is_that_of_the_nearest_noise_level():
    model = get_family("diffusers").build(config())
    products = DDPMScheduler().alphas_cumprod.double()
    levels = ((1 - products) / products).sqrt()
    sigma = torch.cat([torch.tensor([1e-4, 200.0]), torch.rand(500) * 100]).float()
    expected = (sigma[:, None].double() - levels[None]).abs().argmin(1)
    actual = model.scalings(sigma).c_noise_B
    assert actual.dtype == torch.float32
    assert actual[:2].tolist() == [0, 999]
    assert float((actual - expected).abs().max()) == 0


@torch.no_grad()
def test_learned_time_embedding_takes_the_steps_as_integers():
    learned = {"time_embedding_type": "learned", "num_train_timesteps": 1000}
    unet = library_unet(**learned)
    model = adapted(unet, **learned)
    sigma, x = 3.442967, torch.randn(1, 3, 8, 8)
    expected = x - sigma * unet(x / (1 + sigma**2) ** 0.5, 500).sample
    torch.testing.assert_close(model.denoise(x, sigma), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_class_labels_reach_the_library_s_table():
    unet = library_unet(num_class_embeds=3)
    model = adapted(unet, num_class_embeds=3)
    assert model.label_dim == 3
    x, labels = torch.randn(3, 3, 8, 8), torch.tensor([2, 0, 1])
    sigma = float(DDPMScheduler().alphas_cumprod[200].rsqrt().square().sub(1).sqrt())
    expected = x - sigma * unet(x / (1 + sigma**2) ** 0.5, 200, class_labels=labels).sample
    torch.testing.assert_close(model.denoise(x, sigma, labels), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.denoise(x, sigma, labels), model.denoise(x, sigma, labels.flip(0)))


def test_conditional_model_without_labels_is_refused():
    model = get_family("diffusers").build(config(num_class_embeds=3))
    with pytest.raises(ValueError, match="null label"):
        model.denoise(torch.zeros(1, 3, 8, 8), 1.0, None)
    with pytest.raises(ValueError, match="null label"):
        model.denoise(torch.zeros(1, 3, 8, 8), 1.0, torch.full((1, 3), 1 / 3))
    with pytest.raises(InvalidSpec, match=r"sampler\.guide_sees_labels") as caught:
        ddo_engine.sample(model, [0], sampler=HeunSettings(num_steps=2, guidance_scale=2.0, guide_sees_labels=False))
    assert caught.value.param == "sampler.guide_sees_labels"


def test_augmentation_labels_are_refused():
    model = get_family("diffusers").build(config())
    with pytest.raises(ValueError, match="augmentation"):
        model.denoise(torch.zeros(1, 3, 8, 8), 1.0, None, torch.zeros(1, 9))


def test_sampler_that_starts_beyond_the_schedule_is_told_where_to_start():
    model = get_family("diffusers").build(config({"kind": "discrete", **SCHEDULES["scaled"]}))
    with pytest.raises(InvalidSpec, match=r"sampler\.sigma_max to 14\.61") as caught:
        ddo_engine.sample(model, [0], sampler=FEW_STEPS)
    assert caught.value.param == "sampler.sigma_max"
    for settings in (HeunSettings, DPMSolverSettings):
        sampler = settings(num_steps=3, sigma_max=14.61)
        assert ddo_engine.sample(model, [0], sampler=sampler).shape == (1, 3, 8, 8)


def test_sampler_meets_the_noise_level_of_the_guide_too():
    model, guide = (
        get_family("diffusers").build(config({"kind": "discrete", **SCHEDULES[name]})) for name in ("linear", "scaled")
    )
    with pytest.raises(InvalidSpec, match=r"sampler\.sigma_max"):
        ddo_engine.sample(model, [0], sampler=HeunSettings(num_steps=2, guidance_scale=2.0), guide=guide)


def test_edm_model_has_no_highest_noise_level():
    model = get_family("diffusers").build(config({"kind": "edm"}))
    sampler = HeunSettings(num_steps=2, sigma_max=500.0)
    assert ddo_engine.sample(model, [0], sampler=sampler).shape == (1, 3, 8, 8)


def test_samples_do_not_depend_on_the_batch():
    model = get_family("diffusers").build(config(num_class_embeds=3))
    together = ddo_engine.sample(model, range(5), sampler=FEW_STEPS)
    alone = [ddo_engine.sample(model, [seed], sampler=FEW_STEPS) for seed in range(5)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ratio_of_equal_models_is_zero_and_gradients_reach_every_weight_of_the_target_alone(prediction):
    family = get_family("diffusers")
    torch.manual_seed(1)
    target = family.build(config(None, prediction, num_class_embeds=3, dropout=0.5)).train()
    reference = copy.deepcopy(target)
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    real, fake = (LabelledImages(images.flip(dims), torch.tensor([0, 1, 2, 1])) for dims in ((), (3,)))
    training = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_half_life_kimg=1, evaluate_every_kimg=1)
    real_B, fake_B, _ = family.log_likelihood_ratios(
        target, reference, real, fake, training, torch.Generator().manual_seed(0)
    )
    assert real_B.tolist() == fake_B.tolist() == [0.0] * 4
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    real_B, fake_B, _ = family.log_likelihood_ratios(
        target, reference, real, fake, training, torch.Generator().manual_seed(0)
    )
    assert bool((real_B != 0).all())
    (real_B.sum() + fake_B.sum()).backward()
    assert [name for name, parameter in target.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_copy_of_a_model_has_weights_of_its_own():
    model = get_family("diffusers").build(config())
    twin = copy.deepcopy(model)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = model.denoise(x, 1.0)
        for parameter in twin.parameters():
            parameter.mul_(1.5)
        assert torch.equal(model.denoise(x, 1.0), before)
        assert not torch.equal(twin.denoise(x, 1.0), before)


@torch.no_grad()
def test_weights_in_half_precision_compute_in_float32():
    unet = library_unet().half()
    model = adapted(unet)
    model.half()
    widened = adapted(unet.float())
    x = torch.randn(2, 3, 8, 8)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model.denoise(x, 2.0).dtype == torch.float32
    torch.testing.assert_close(model.denoise(x, 2.0), widened.denoise(x, 2.0), rtol=0, atol=0)


@torch.no_grad()
def test_under_autocast_stays_in_float32():
    model = get_family("diffusers").build(config())
    x = torch.randn(1, 3, 8, 8)
    expected = model.denoise(x, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.denoise(x, 2.0), expected)


def test_no_connection_is_opened(tmp_path, monkeypatch):
    folder = write_pipeline(tmp_path / "pipeline", library_unet())

    def refuse(*args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert ddo_engine.sample(ddo_engine.load_model(folder), [0], sampler=FEW_STEPS).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_schedulers_that_differ_in_sampling_alone_give_the_same_model(tmp_path, scheduler):
    unet = library_unet()
    imported = import_folder(write_pipeline(tmp_path / "a", unet, scheduler()))
    assert imported.config == import_folder(write_pipeline(tmp_path / "b", unet, DDPMScheduler())).config
    assert imported.provenance["scheduler"] == scheduler.__name__


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"out_channels": 6}, "learned its variances"),
        ({"out_channels": 4}, "out_channels"),
        ({"sample_size": 9}, "sample_size"),
        ({"sample_size": [8, 16]}, "sample_size"),
        ({"block_out_channels": (8, 10**9)}, "block_out_channels"),
        ({"block_out_channels": (8, 16, 16)}, "network"),
        ({"block_out_channels": (8, 18)}, "network"),
        ({"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}, "down_block_types"),
        ({"down_block_types": ("KDownBlock2D", "AttnDownBlock2D")}, "down_block_types"),
        ({"down_block_types": ("DownBlock2D",) * 3}, "network"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"time_embedding_type": "learned"}, "learned time embedding"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"num_class_embeds": 10**9}, "num_class_embeds"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"in_channels": 1, "out_channels": 1, "down_block_types": ("SkipDownBlock2D", "DownBlock2D")}, "3 channels"),
    ],
)
def test_configuration_that_is_not_supported_is_refused_by_name(changes, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("diffusers").build(config(**changes))


@pytest.mark.parametrize(
    ("timesteps", "where"),
    [
        ({"kind": "continuous"}, "timesteps"),
        ({"kind": "discrete", "num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"kind": "discrete", "beta_schedule": "laplace"}, "beta_schedule"),
        ({"kind": "discrete", "beta_end": 2.0}, "beta_end"),
        ({"kind": "discrete", "beta_start": 0.0, "beta_end": 0.0}, "grow"),
        ({"kind": "discrete", "trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"kind": "edm", "sigma_data": 0}, "sigma_data"),
    ],
)
def test_timesteps_that_are_not_supported_are_refused_by_name(timesteps, where):
    with pytest.raises(CorruptCheckpoint, match=where):
        get_family("diffusers").build(config(timesteps))


def test_edm_model_that_predicts_samples_is_refused():
    with pytest.raises(CorruptCheckpoint, match="EDM schedulers"):
        get_family("diffusers").build(config({"kind": "edm"}, "sample"))
