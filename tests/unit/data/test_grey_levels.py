import pytest
import torch

from ddo_engine.data import grey_values, has_grey_levels, round_to_grey_levels

EVERY_VALUE = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 128, 255, 256])
def test_round_every_value_goes_to_a_nearest_level(levels: int) -> None:
    rounded = round_to_grey_levels(EVERY_VALUE, levels)
    allowed = grey_values(levels).int()
    assert allowed[0] == 0
    assert allowed[-1] == 255
    nearest = (EVERY_VALUE.int()[:, None] - allowed[None, :]).abs().min(dim=1).values
    assert torch.equal((rounded.int() - EVERY_VALUE.int()).abs(), nearest)
    assert torch.equal(round_to_grey_levels(rounded, levels), rounded)
    assert rounded.unique().numel() == levels


def test_round_256_levels_changes_nothing() -> None:
    assert torch.equal(round_to_grey_levels(EVERY_VALUE, 256), EVERY_VALUE)


@pytest.mark.parametrize("levels", [0, 1, 257])
def test_grey_values_out_of_range_is_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="levels"):
        grey_values(levels)


def test_has_grey_levels_tells_data_from_other_data() -> None:
    assert has_grey_levels(grey_values(17).reshape(1, 1, 17), 17)
    assert not has_grey_levels(EVERY_VALUE, 17)
    assert has_grey_levels(EVERY_VALUE, 256)
