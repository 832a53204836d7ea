"""A hash of tensors where they are: what is too large to be copied from a device only to be compared."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

_CHUNK = 2**22
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return 64 hexadecimal digits that depend on every bit, and its place, of every tensor.

    Sums of integers have no rounding: the order in which a device adds does not matter. It finds accidents,
    not forgery.

    Args:
        tensors: By name, on any device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_sum_of_bits(tensor)}\n".encode())
    return digest.hexdigest()


def _sum_of_bits(tensor: Tensor) -> int:
    """Return the sum over elements of (their bits as an integer) · (2 · place + 1), modulo 2^64."""
    bits_N = tensor.detach().reshape(-1).view(_BITS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(bits_N), _CHUNK):
        chunk = bits_N[start : start + _CHUNK].long()
        places = torch.arange(start, start + len(chunk), device=tensor.device)
        total += (chunk * (2 * places + 1)).sum()
    return int(total.item())
