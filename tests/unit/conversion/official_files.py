"""Official files of every kind around the tiny networks of the golden vectors."""

import io
from functools import cache
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tests.numerics import golden
from tests.official_pickles import edm2_file, edm_file
from tests.unit.conversion.hostile_pickles import good

EDM = ("01_edm_ddpmpp_uncond", "02_edm_ddpmpp_cond", "03_edm_ncsnpp_cond", "04_edm_adm_cond")
EDM2 = ("08_edm2_cond", "09_edm2_guide", "10_edm2_uncond")


def arguments_of(name: str) -> dict[str, Any]:
    arguments = dict(golden.description(name)["constructor"])
    del arguments["class_name"]
    return arguments


@cache
def pickle_of(name: str, generation: int = 2) -> bytes:
    write = edm_file if name in EDM else edm2_file
    return write(arguments_of(name), golden.state_dict(name), generation=generation)


def stored_weights(name: str) -> dict[str, Tensor]:
    """What the pickle of a network holds: EDM2's in float16, buffers included."""
    weights = golden.state_dict(name)
    return {key: weight.half() for key, weight in weights.items()} if name in EDM2 else weights


def saved(value: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


@cache
def small_official_files() -> dict[str, bytes]:
    """One small file of each format, to be damaged."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "pos_start": (1, 1, 4), "pos_1LC": (1, 5, 4), "word_embed.weight": (4, 2), "word_embed.bias": (4,),
        "class_emb.weight": (3, 4), "lvl_embed.weight": (2, 4), "blocks.0.attn.scale_mul_1H11": (1, 1, 1, 1),
        "blocks.0.attn.q_bias": (4,), "blocks.0.attn.v_bias": (4,), "blocks.0.attn.zero_k_bias": (4,),
        "blocks.0.attn.mat_qkv.weight": (12, 4), "blocks.0.attn.proj.weight": (4, 4), "blocks.0.attn.proj.bias": (4,),
        "blocks.0.ffn.fc1.weight": (16, 4), "blocks.0.ffn.fc1.bias": (16,), "blocks.0.ffn.fc2.weight": (4, 16),
        "blocks.0.ffn.fc2.bias": (4,), "blocks.0.ada_lin.1.weight": (24, 4), "blocks.0.ada_lin.1.bias": (24,),
        "head_nm.ada_lin.1.weight": (8, 4), "head_nm.ada_lin.1.bias": (8,), "head.weight": (6, 4), "head.bias": (6,),
    }  # fmt: skip
    var = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    mask = torch.zeros(1, 1, 5, 5)
    mask[..., 0, 1:] = float("-inf")
    zeros = torch.zeros_like(var["blocks.0.attn.zero_k_bias"])
    var |= {
        "lvl_1L": torch.tensor([[0, 1, 1, 1, 1]]),
        "attn_bias_for_masking": mask,
        "blocks.0.attn.zero_k_bias": zeros,
    }
    return {
        "nvlabs-pickle": good(),
        "torch-zip": saved(var),
        "torch-legacy": saved(var, legacy=True),
        "safetensors": save(var),
    }
