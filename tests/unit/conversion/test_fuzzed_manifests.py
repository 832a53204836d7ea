"""Good tensors under a manifest that somebody has edited: read, or refused in a sentence, and nothing else."""

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddo_engine.checkpoint import MANIFEST_KEY, check_checkpoint
from ddo_engine.conversion import convert
from ddo_engine.errors import EngineError
from ddo_engine.tensor_file import write_tensor_file
from tests.tiny_families import DISCRIMINATOR, EDM2, VAR, VQVAE, randomised

NETWORKS = {
    "edm2": EDM2,
    "var": VAR,
    "vqvae": VQVAE,
    "discriminator": DISCRIMINATOR,
    "edm": {"class_name": "MLPPrecond", "img_resolution": 4, "img_channels": 1, "width": 8},
    "diffusers": {
        "class_name": "UNet2DModel",
        "unet": {
            "sample_size": 8,
            "block_out_channels": [8, 8],
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
        "timesteps": {"kind": "discrete"},
    },
}
VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 3, 64, 4096, 2**31, 2**64, 10**400, 0.5, 1e-300, 1e300, float("nan"), float("-inf")),
    *("", "a", "\0", "x" * 5000, "edm", [], {}, [1], [64] * 12, [[]], {"a": 1}, ["1"], [2.5]),
]
SECONDS_PER_FILE = 10  # measured: 0.3 for the slowest


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON value but the whole."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(*above, key), *places(value[key], (*above, key))]]


def refusal(read: Callable[[Path], object], source: Path) -> str | None:
    """The message of the only error that may come, or None."""
    try:
        read(source)
    except EngineError as error:
        return error.message
    return None


def edited(manifest: dict[str, Any], draw: random.Random) -> str:
    manifest = copy.deepcopy(manifest)
    for _ in range(draw.choice((1, 1, 2, 3))):
        *above, key = draw.choice(places(manifest) or [("family",)])
        target: Any = manifest
        for name in above:
            target = target[name]
        if draw.random() < 0.1 and isinstance(target, dict):
            target.pop(key, None)
        else:
            target[key] = copy.deepcopy(draw.choice(VALUES))
    text = json.dumps(manifest)
    if draw.random() < 0.1:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(("{", '"', "[" * 500, "\\ud800", "1e999", "\\u0000")) + text[at:]
    return text


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # the library, of networks that do not fit
@pytest.mark.parametrize("name", NETWORKS)
def test_edited_manifests_are_read_or_refused(tmp_path, name):
    family, network, draw = {"vqvae": "var"}.get(name, name), NETWORKS[name], random.Random(name)
    tensors = dict(randomised(family, network, seed=1).state_dict())
    manifest = {"family": family, "network": network, "provenance": {"kimg": 1.0, "lineage": []}}
    source, outcomes = tmp_path / "source", set()
    for _ in range(150):
        text = edited(manifest, draw)
        write_tensor_file(source, tensors, {MANIFEST_KEY: text})
        started = time.process_time()
        for read in (check_checkpoint, lambda path: convert(path, tmp_path / "out")):
            message = refusal(read, source)
            outcomes.add("read" if message is None else "refused")
            assert len(message or "") < 5000, text
        assert time.process_time() - started < SECONDS_PER_FILE, text
    assert outcomes == {"read", "refused"}
