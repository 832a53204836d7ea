"""What network a bare state dict belongs to, as far as names and shapes tell."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddo_engine.conversion.options import FAMILY_OF_CLASS, ConversionOptions
from ddo_engine.conversion.refusal import damaged
from ddo_engine.errors import CorruptCheckpoint, EngineError, InvalidSpec
from ddo_engine.stored_tensor import StoredTensor

OFFICIAL_PATCH_NUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
_OFFICIAL_NORM_EPS = 1e-6
_OFFICIAL_CHANNELS_PER_HEAD = 64
_OFFICIAL_COND_DROP_RATE = 0.1
_OFFICIAL_QUANT_RESI = 0.5
_MOST_TOKENS = 1 << 20

Tensors = Mapping[str, StoredTensor]


def network_of_state_dict(tensors: Tensors, options: ConversionOptions, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the family's name and the network's configuration.

    Raises:
        CorruptCheckpoint: Neither names and shapes nor the options say what the network is.
        InvalidSpec: The options do not fit the file.
    """
    if options.network is not None:
        class_name = options.network.get("class_name")
        if class_name not in FAMILY_OF_CLASS:
            raise InvalidSpec(
                f"--config: class_name is {class_name!r}; known are {', '.join(FAMILY_OF_CLASS)}", param="config"
            )
        return FAMILY_OF_CLASS[class_name], options.network
    try:
        if {"pos_1LC", "lvl_embed.weight", "head.weight"} <= tensors.keys():
            return "var", _var(tensors, options, path)
        if {"encoder.conv_in.weight", "quantize.embedding.weight"} <= tensors.keys():
            return "var", _vqvae(tensors, options)
    except EngineError:
        raise
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise damaged(path.name, f"a tensor of its network is missing or has another shape ({error})") from error
    if any(name.startswith(("model.", "unet.")) for name in tensors):
        raise CorruptCheckpoint(
            f"{path.name} is a bare state dict, as of an EDM or EDM2 network, whose shapes do not say which: give its "
            "constructor's arguments with --config FILE.json, or convert the original .pkl"
        )
    first = ", ".join(name[:80] for name in list(tensors)[:3])
    raise CorruptCheckpoint(
        f"{path.name} is a state dict of no network that the engine knows (its first tensors: {first}): EDM, EDM2, VAR "
        "and VQVAE networks are; names must be those of the official code, without prefixes"
    )


def _var(tensors: Tensors, options: ConversionOptions, path: Path) -> dict[str, Any]:
    depth = _count(tensors, r"blocks\.(\d+)\.attn\.mat_qkv\.weight")
    embed_dim = tensors["pos_start"].shape[-1]
    scales = tensors.get("blocks.0.attn.scale_mul_1H11")
    return {
        "class_name": "VAR",
        "num_classes": tensors["class_emb.weight"].shape[0] - 1,
        "depth": depth,
        "embed_dim": embed_dim,
        "num_heads": max(1, embed_dim // _OFFICIAL_CHANNELS_PER_HEAD) if scales is None else scales.shape[1],
        "mlp_ratio": tensors["blocks.0.ffn.fc1.weight"].shape[0] / embed_dim,
        "norm_eps": _OFFICIAL_NORM_EPS,
        "shared_aln": "shared_ada_lin.1.weight" in tensors,
        "cond_drop_rate": _OFFICIAL_COND_DROP_RATE,
        "drop_path_rate": 0.1 * depth / 24,
        "attn_l2_norm": scales is not None,
        "patch_nums": list(_patch_nums_of_var(tensors, options, path)),
        "vocab_size": tensors["head.weight"].shape[0],
        "z_channels": tensors["word_embed.weight"].shape[1],
    }


def _patch_nums_of_var(tensors: Tensors, options: ConversionOptions, path: Path) -> tuple[int, ...]:
    num_tokens, num_scales = tensors["pos_1LC"].shape[1], tensors["lvl_embed.weight"].shape[0]
    levels = tensors.get("lvl_1L")
    if options.patch_nums is None and levels is not None and levels.shape == (1, min(num_tokens, _MOST_TOKENS)):
        # The buffer names the scale of every token.
        counts = levels.read().flatten().long().clamp(0, num_scales).bincount(minlength=num_scales).tolist()
        patch_nums = tuple(round(count**0.5) for count in counts)
        if len(counts) != num_scales or [side * side for side in patch_nums] != counts:
            raise damaged(path.name, "lvl_1L does not name the scales of its tokens")
        return patch_nums
    patch_nums = options.patch_nums or OFFICIAL_PATCH_NUMS
    if len(patch_nums) != num_scales or sum(side * side for side in patch_nums) != num_tokens:
        raise _other_scales(num_scales, f" and {num_tokens} tokens")
    return patch_nums


def _vqvae(tensors: Tensors, options: ConversionOptions) -> dict[str, Any]:
    channels, in_channels = tensors["encoder.conv_in.weight"].shape[:2]
    vocab_size, z_channels = tensors["quantize.embedding.weight"].shape
    num_levels = _count(tensors, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    widths = [tensors[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(num_levels)]
    hits = tensors.get("quantize.ema_vocab_hit_SV")
    patch_nums = options.patch_nums or OFFICIAL_PATCH_NUMS
    if hits is not None and hits.shape[0] != len(patch_nums):
        raise _other_scales(hits.shape[0], "")
    return {
        "class_name": "VQVAE",
        "vocab_size": vocab_size,
        "z_channels": z_channels,
        "ch": channels,
        "ch_mult": [width // channels for width in widths],
        "num_res_blocks": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight"),
        "in_channels": in_channels,
        "using_sa": f"encoder.down.{num_levels - 1}.attn.0.qkv.weight" in tensors,
        "using_mid_sa": "encoder.mid.attn_1.qkv.weight" in tensors,
        "share_quant_resi": _shared_convolutions(tensors),
        "quant_resi": _OFFICIAL_QUANT_RESI,
        "v_patch_nums": list(patch_nums),
    }


def _shared_convolutions(tensors: Tensors) -> int:
    """Return the official ``share_quant_resi``: how many convolutions share the scales; 0 if each has its own."""
    if "quantize.quant_resi.qresi.weight" in tensors:
        return 1
    return _count(tensors, r"quantize\.quant_resi\.qresi_ls\.(\d+)\.weight")


def _count(tensors: Tensors, pattern: str) -> int:
    """Return how many numbers a numbered part of a name takes."""
    return len({found[1] for name in tensors if (found := re.fullmatch(pattern, name))})


def _other_scales(num_scales: int, tokens: str) -> InvalidSpec:
    return InvalidSpec(
        f"--patch-nums: the network has {num_scales} scales{tokens}; give the tokens along the side of each, as in "
        f"--patch-nums {','.join(map(str, OFFICIAL_PATCH_NUMS))}",
        param="patch_nums",
    )
