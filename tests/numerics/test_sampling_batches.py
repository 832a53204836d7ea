"""Image i depends on seed i alone, to the bit, in every family, whatever else is drawn beside it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ddo_engine
from ddo_engine.families import get_family
from ddo_engine.sampling import ROWS_OF_A_CALL, generate_images, labels_for_seeds
from ddo_engine.spec import (
    AutoregressiveSettings,
    DPMSolverSettings,
    HeunSettings,
    LabelDistribution,
    SamplerSettings,
)
from tests.diffusers_folders import UNET, library_unet
from tests.numerics.golden import golden_model
from tests.numerics.var_models import tiny_var
from tests.tiny_families import random_discriminator

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "assets" / "base.safetensors"
SEEDS = range(40, 104)


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module]
    sampler: SamplerSettings
    guide: Callable[[], nn.Module] | None = None
    is_corrected: bool = False

    def companions(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return what is handed to the sampler beside the model."""
        found = {} if self.guide is None else {"guide": self.guide()}
        if self.is_corrected:
            shape = {name: getattr(model, name) for name in ("label_dim", "img_resolution", "img_channels")}
            found["discriminator"] = random_discriminator(**shape)
        return found


def diffusers_unet():
    network = {
        "class_name": "UNet2DModel",
        "unet": UNET | {"num_class_embeds": 3},
        "prediction": "epsilon",
        "timesteps": {"kind": "discrete"},
    }
    model = get_family("diffusers").build(network)
    model.load_state_dict(library_unet(num_class_embeds=3).state_dict())
    return model


CASES = {
    "edm": Case(lambda: golden_model("02_edm_ddpmpp_cond"), HeunSettings(num_steps=3)),
    "edm-churn": Case(lambda: golden_model("03_edm_ncsnpp_cond"), HeunSettings(num_steps=3, S_churn=3)),
    "edm-corrected": Case(
        lambda: golden_model("02_edm_ddpmpp_cond"), HeunSettings(num_steps=3, discriminator_weight=1), None, True
    ),
    "edm-adm": Case(lambda: golden_model("04_edm_adm_cond"), HeunSettings(num_steps=3)),
    "edm-mlp": Case(lambda: ddo_engine.load_model(DIGITS), HeunSettings()),
    "edm2-guided": Case(
        lambda: golden_model("08_edm2_cond", "edm2"),
        HeunSettings(num_steps=3, state_dtype="float32", guidance_scale=1.7),
        lambda: golden_model("09_edm2_guide", "edm2"),
    ),
    "edm2-guided-and-corrected": Case(
        lambda: golden_model("08_edm2_cond", "edm2"),
        DPMSolverSettings(num_steps=4, guidance_scale=1.7, discriminator_weight=2),
        lambda: golden_model("09_edm2_guide", "edm2"),
        True,
    ),
    "edm2-dpm": Case(lambda: golden_model("08_edm2_cond", "edm2"), DPMSolverSettings(num_steps=4)),
    "var": Case(tiny_var, AutoregressiveSettings(guidance_scale=1.5, top_k=20, top_p=0.95)),
    "diffusers": Case(diffusers_unet, HeunSettings(num_steps=3, sigma_max=80)),
}
DIFFUSION = [name for name in CASES if name != "var"]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def draw(case, model, seeds, **changes):
    return ddo_engine.sample(model, seeds, sampler=case.sampler.model_copy(update=changes), **case.companions(model))


def test_images_are_the_same_to_the_bit_for_batches_of_1_7_and_64_and_for_chunks_of_seeds(case):
    model = case.model()
    together = draw(case, model, SEEDS, batch_size=64)
    assert len(together.unique(dim=0)) == len(SEEDS)
    for batch_size in (1, 7):
        assert torch.equal(draw(case, model, SEEDS, batch_size=batch_size), together)
    for chunk in (slice(5, 6), slice(0, 7), slice(20, 41)):
        assert torch.equal(draw(case, model, SEEDS[chunk], batch_size=64), together[chunk])
    assert torch.equal(draw(case, model, [SEEDS[9], SEEDS[3]]), together[[9, 3]])


@pytest.mark.parametrize("name", DIFFUSION)
def test_model_space_is_the_same_to_the_bit_in_any_multiple_of_the_rows_of_a_call(name):
    case = CASES[name]
    model = case.model()
    companions = case.companions(model)
    sample = get_family(str(model.family)).sample_in_model_space
    together = sample(model, SEEDS, None, case.sampler, **companions)
    assert together.is_floating_point()
    # One seed, and others beside it that are not those of ``together``.
    for place, others in ((0, 15), (3, 31)):
        seeds = [SEEDS[place], *range(1000, 1000 + others)]
        assert torch.equal(sample(model, seeds, None, case.sampler, **companions)[0], together[place])


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_networks_are_called_with_multiples_of_the_rows_of_a_call(case, batch_size):
    model, rows = case.model(), set()
    for module in model.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, nn.Embedding):
            module.register_forward_hook(lambda _, inputs, __: rows.add(len(inputs[0])))
    draw(case, model, SEEDS[:21], batch_size=batch_size)
    assert rows
    assert all(count % ROWS_OF_A_CALL == 0 for count in rows)


@pytest.mark.parametrize("first_seed", [0, 13])
def test_balanced_labels_differ_by_at_most_one_image_in_every_family_and_are_those_of_the_images(case, first_seed):
    model, seeds = case.model(), range(first_seed, first_seed + 23)
    sampler = case.sampler.model_copy(update={"labels": LabelDistribution.BALANCED})
    companions = case.companions(model)
    drawn = generate_images(model, get_family(str(model.family)), seeds, sampler, **companions)
    counts = Counter(drawn.labels_B.tolist())
    assert len(counts) == model.label_dim
    assert max(counts.values()) - min(counts.values()) <= 1
    assert torch.equal(ddo_engine.sample(model, seeds, sampler=sampler, **companions), drawn.images_BCHW)
    given_labels = ddo_engine.sample(model, seeds, labels=drawn.labels_B, sampler=case.sampler, **companions)
    assert torch.equal(given_labels, drawn.images_BCHW)


@given(first_seed=st.integers(0, 2**32 - 2000), num_seeds=st.integers(1, 1500), label_dim=st.integers(1, 1000))
def test_balanced_labels_of_any_stretch_of_seeds_differ_by_at_most_one(first_seed, num_seeds, label_dim):
    seeds = range(first_seed, first_seed + num_seeds)
    labels = labels_for_seeds(seeds, label_dim, LabelDistribution.BALANCED, ())
    counts = torch.bincount(labels, minlength=label_dim)
    assert len(counts) == label_dim
    assert counts.max() - counts.min() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", DIFFUSION)
def test_images_on_cuda_are_the_same_but_for_single_grey_levels_whatever_the_batch_size(name):
    case = CASES[name]
    model = case.model().cuda()
    companions = {name: network.cuda() for name, network in case.companions(model).items()}
    drawn = [
        ddo_engine.sample(
            model, SEEDS, sampler=case.sampler.model_copy(update={"batch_size": size}), **companions
        ).int()
        for size in (64, 7)
    ]
    assert (drawn[0] - drawn[1]).abs().max() <= 1
    assert ((drawn[0] - drawn[1]) != 0).float().mean() < 0.01
