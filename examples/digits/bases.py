"""The base models of the examples, one for each family, and how they are pretrained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The pixels' standard deviation in [-1, 1] is 0.75, so EDM's P_mean of -1.2 for 0.5 moves by log(0.75 / 0.5).
P_MEAN, P_STD = -0.8, 1.2
SHAPE = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "sigma_data": 0.75}


@dataclass(frozen=True)
class Base:
    """A network, randomly initialised at first, and the settings of its pretraining.

    Attributes:
        family: In the registry of the engine.
        network: Constructor arguments.
        kimg: Thousands of images until the held-out loss stops falling.
        training: Other settings of the trial than its length.
        loss_name: What the family's own training loss is.
        loss_draws: Noise draws an image behind each loss that is shown.
        common: Settings of the trial that the diffusion models share.
    """

    family: str
    network: Mapping[str, Any]
    kimg: float
    training: Mapping[str, Any]
    loss_name: str = "denoising loss"
    loss_draws: int = 16
    common: Mapping[str, Any] = field(
        default_factory=lambda: {"batch_size": 256, "P_mean": P_MEAN, "P_std": P_STD, "final_learning_rate_factor": 0.1}
    )


BASES: Mapping[str, Base] = {
    "mlp": Base(
        family="edm",
        network={"class_name": "MLPPrecond", **SHAPE, "width": 96, "num_blocks": 2},
        kimg=4608,
        training={"learning_rate": 2e-3, "ema_half_life_kimg": 100},
    ),
    "edm": Base(
        family="edm",
        network={
            "class_name": "EDMPrecond",
            **SHAPE,
            "model_type": "SongUNet",
            "model_channels": 4,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "augment_dim": 9,
            "dropout": 0.0,
        },
        kimg=1536,
        training={"learning_rate": 2e-3, "warmup_kimg": 10, "ema_half_life_kimg": 20},
    ),
    "edm2": Base(
        family="edm2",
        network={
            "class_name": "Precond",
            **SHAPE,
            "use_fp16": False,
            "logvar_channels": 16,
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "channels_per_head": 16,
        },
        kimg=1024,
        training={"learning_rate": 1e-2, "adam_betas": (0.9, 0.99), "warmup_kimg": 10, "ema_half_life_kimg": 20},
        loss_name="denoising loss weighed by its predicted uncertainty",
    ),
    "var": Base(
        family="var",
        network={
            "class_name": "VAR",
            "num_classes": 10,
            "depth": 3,
            "embed_dim": 64,
            "num_heads": 4,
            "patch_nums": [1, 2, 3, 4],
            "vocab_size": 64,
            "z_channels": 8,
            "cond_drop_rate": 0.1,
        },
        kimg=56,
        training={
            "batch_size": 128,
            "learning_rate": 2e-3,
            "adam_betas": (0.9, 0.95),
            "warmup_kimg": 3,
            "ema_half_life_kimg": 4,
        },
        loss_name="nats an image",
        loss_draws=1,  # nothing in it is random but which labels are dropped
    ),
}
