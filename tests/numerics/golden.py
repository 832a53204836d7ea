"""Access to the golden vectors."""

import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddo_engine.families import get_family

GOLDEN = Path(__file__).parent.parent / "golden"


@cache
def description(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


@cache
def official_keys(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((GOLDEN / f"keys_{name}.json.gz").read_bytes()))


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def tensor(name: str, key: str) -> Tensor:
    return torch.from_numpy(arrays(name)[key].copy())


def state_dict(name: str, prefix: str = "sd/") -> dict[str, Tensor]:
    """The official state dict in its official order."""
    return {key[len(prefix) :]: tensor(name, key) for key in arrays(name) if key.startswith(prefix)}


def golden_model(name: str, family: str = "edm") -> nn.Module:
    model = get_family(family).build(description(name)["constructor"])
    model.load_state_dict(state_dict(name))
    return model


def class_indices(name: str, key: str) -> Tensor:
    """One-hot labels as indices."""
    one_hot = tensor(name, key)
    indices = one_hot.argmax(1)
    assert torch.equal(nn.functional.one_hot(indices, one_hot.shape[1]).to(one_hot), one_hot)
    return indices


def assert_golden(actual: Tensor, expected: np.ndarray) -> None:
    """The tolerance of float32 networks."""
    np.testing.assert_allclose(actual.detach().cpu().numpy(), expected, rtol=1e-4, atol=2e-5)


def hashed_uniform(key: str, n: int, salt: int = 0) -> np.ndarray:
    """The numbers behind golden 20 and later: float32 in [0, 1); the rule is stated in their json files."""
    with np.errstate(over="ignore"):
        stream = np.uint64(zlib.crc32(key.encode()) + (salt << 32)) * np.uint64(0xD1342543DE82EF95)
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + stream
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def hashed_tensor(key: str, shape: tuple[int, ...], salt: int) -> Tensor:
    """The synthetic weights of golden 20 and later."""
    centred = hashed_uniform(key, int(np.prod(shape)), salt) - np.float32(0.5)
    if len(shape) >= 2:
        values = centred * np.float32(np.sqrt(12 / np.prod(shape[1:])))
    elif len(shape) == 1:
        values = np.float32(0.5) * centred + np.float32(1 if key.endswith("weight") else 0)
    else:
        values = np.float32(0.75) + np.float32(0.5) * centred
    return torch.from_numpy(values.reshape(shape).astype(np.float32))
