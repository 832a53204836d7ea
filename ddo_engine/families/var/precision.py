"""What VAR's networks compute in. Ratios of discrete tokens, unlike those of diffusion, bear half precision.

Source: arXiv:2503.01103, appendix C: mixed precision is off for diffusion and on for VAR.
"""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "float16"]


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Run the network calls of a block under autocast; float32 holds off an autocast around the block.

    Args:
        precision: Of products; norms, and whatever else autocast knows to be delicate, stay in float32.
        device: Of the network.
    """
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")
