"""What fakes that are drawn beside each batch add to a DDO step of VAR-d16, in floating-point operations.

    python -m bench.online_fakes

Each part is done once, for one image, with random weights, and torch counts the operations of its products and
convolutions: the same on every machine, so no clock is read. A step of B rows is then put together from the parts: B
real rows are encoded and go through target and reference; fakes are drawn, decoded and encoded, and go through both as
well: B of them, or only those of rows that keep their label.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.full_size import var_d16
from ddo_engine.families.var.noise import RowNoise
from ddo_engine.families.var.sampling import sample_tokens
from ddo_engine.families.var.tokens import decoded, encoded
from ddo_engine.families.var.transformer import VAR
from ddo_engine.spec import AutoregressiveSettings

PARTS = ("encode", "decode", "draw", "reference", "target")


def counted(work: Callable[[], object]) -> float:
    """Return the floating-point operations of ``work``, in units of 10^9."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def parts_of(model: VAR) -> dict[str, float]:
    """Return the cost of each part for one image, in GFLOP.

    Args:
        model: With a tokenizer, on the CPU.
    """
    tokenizer, label_B = model.tokenizer, torch.zeros(1, dtype=torch.int64)
    shape = (1, tokenizer.img_channels, tokenizer.img_resolution, tokenizer.img_resolution)
    pixels = torch.zeros(shape, dtype=torch.uint8)
    tokens = torch.zeros(1, model.num_tokens, dtype=torch.int64)

    def draw() -> Tensor:
        return sample_tokens(model, label_B, RowNoise([0], label_B.device), 1, AutoregressiveSettings())

    def reference() -> Tensor:
        with torch.no_grad():
            return model.log_likelihood(tokens, label_B)

    def target() -> None:
        model.requires_grad_(requires_grad=True)
        model.log_likelihood(tokens, label_B).sum().backward()
        model.requires_grad_(requires_grad=False).zero_grad(set_to_none=True)

    with torch.no_grad():
        parts = {
            "encode": counted(lambda: encoded(tokenizer, pixels)),
            "decode": counted(lambda: decoded(tokenizer, tokens)),
            "draw": counted(draw),
        }
    return parts | {"reference": counted(reference), "target": counted(target)}


def row_of_a_step(parts: dict[str, float], fakes_per_row: float, *, decode: bool = True) -> float:
    """Return the cost of a step, per row of its batch."""
    trained = parts["reference"] + parts["target"]
    through_pixels = parts["decode"] + parts["encode"] if decode else 0.0
    return parts["encode"] + trained + fakes_per_row * (parts["draw"] + through_pixels + trained)


def main() -> None:
    """Count and print."""
    model = var_d16()
    parts = parts_of(model)
    print("VAR-d16, one image: GFLOP")
    for name in PARTS:
        print(f"  {name:10} {parts[name]:8.1f}")
    every = row_of_a_step(parts, 1.0)
    print("a step per real row, fakes through pixels: GFLOP, and share of a step with a fake for every row")
    for words, cost in (
        ("a fake for every row", every),
        ("a fake where the label is kept (half)", row_of_a_step(parts, 0.5)),
        ("the same, tokens as they were drawn", row_of_a_step(parts, 0.5, decode=False)),
    ):
        print(f"  {words:40} {cost:8.1f}  {cost / every:6.1%}")


if __name__ == "__main__":
    main()
