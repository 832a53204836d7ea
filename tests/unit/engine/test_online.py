"""Which fakes stand beside which real rows: functions of run seed, step and row, however the batch is cut."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ddo_engine.batches import BatchSource, DataOrder
from ddo_engine.data import InMemoryDataset
from ddo_engine.families.protocol import BatchPart, LabelledImages
from ddo_engine.online import MismatchedLabels, OnlineFakes, StoredFakes
from ddo_engine.spec import OnlineReferenceSet, TrainingSettings

CPU = torch.device("cpu")
B = 20
TRAINING = TrainingSettings(kimg=1, batch_size=B, learning_rate=0.01, ema_half_life_kimg=1, evaluate_every_kimg=1)
PARTS = (range(3), range(3, 17), range(17, 20))


class SeedFamily:
    """Draws its seeds modulo 251 and its labels, as pixels or as tokens, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Tensor | None]] = []

    def draw_fakes(self, model, seeds, labels_B, online, training) -> Tensor:
        self.calls.append((list(seeds), labels_B))
        drawn = torch.tensor([[seed % 251, 7] for seed in seeds])
        if labels_B is not None:
            drawn[:, 1] = labels_B
        return drawn.to(torch.uint8).reshape(-1, 1, 1, 2) if online.decode else drawn


def source(stream: str = "real", seed: int = 3) -> BatchSource:
    images_NCHW = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    return BatchSource(InMemoryDataset(images_NCHW, torch.arange(50) % 10), DataOrder(50, seed, stream), B, CPU)


def fakes_of(family: SeedFamily, *, seed: int = 1, grey_levels: int = 256, **settings) -> OnlineFakes:
    return OnlineFakes(
        family,  # type: ignore[arg-type]
        nn.Identity(),
        OnlineReferenceSet(**settings),
        TRAINING,
        grey_levels,
        seed,
    )


def real_rows(step: int = 0, rows: range = range(B), dropped: list[int] | None = None) -> LabelledImages:
    real = source().batch(step, rows)
    if dropped is None:
        return real
    mask_B = torch.zeros(B, dtype=torch.bool)
    mask_B[dropped] = True
    return replace(real, dropped_B=mask_B[rows.start : rows.stop])


def test_online_fakes_of_a_step_have_the_labels_of_the_real_rows_and_a_seed_each() -> None:
    family = SeedFamily()
    real = real_rows()
    fake = fakes_of(family).beside(real, 0)
    assert torch.equal(fake.labels_B, real.labels_B)
    assert torch.equal(fake.images_BCHW[:, 0, 0, 1].long(), real.labels_B)
    seeds = family.calls[0][0][:B]
    assert seeds == list(range(seeds[0], seeds[0] + B))


def test_online_seeds_of_another_step_or_run_are_others() -> None:
    seeds: set[int] = set()
    for seed in (1, 2):
        for step in range(5):
            family = SeedFamily()
            fakes_of(family, seed=seed).beside(real_rows(step), step)
            seeds |= set(family.calls[0][0])
    assert len(seeds) == 2 * 5 * B


@pytest.mark.parametrize("dropped", [None, [0, 4, 5, 18]])
@pytest.mark.parametrize("decode", [True, False])
def test_online_fakes_of_the_parts_are_those_of_the_whole_batch(dropped: list[int] | None, decode: bool) -> None:
    whole = fakes_of(SeedFamily(), decode=decode).beside(real_rows(2, dropped=dropped), 2)
    parts = [fakes_of(SeedFamily(), decode=decode).beside(real_rows(2, rows, dropped), 2) for rows in PARTS]
    assert torch.equal(torch.cat([part.images_BCHW for part in parts]), whole.images_BCHW)
    assert [part.rows for part in parts] == [BatchPart(rows.start, len(rows), B) for rows in PARTS]
    assert whole.images_BCHW.dtype == (torch.uint8 if decode else torch.int64)


def test_online_fakes_of_rows_without_label_are_not_drawn() -> None:
    family = SeedFamily()
    dropped = [0, 4, 5, 18]
    fakes_of(family).beside(real_rows(dropped=dropped), 0)
    ((seeds, _),) = family.calls
    first = seeds[0] - 1
    assert [seed - first for seed in seeds] == [row for row in range(B) if row not in dropped]


def test_online_batch_without_any_label_draws_nothing() -> None:
    family = SeedFamily()
    fake = fakes_of(family).beside(real_rows(dropped=list(range(B))), 0)
    assert family.calls == []
    assert len(fake.images_BCHW) == B


@pytest.mark.parametrize(("batch_size", "calls"), [(1, [16] * 20), (8, [16] * 3), (16, [16, 16]), (64, [32])])
def test_online_network_calls_have_a_multiple_of_16_rows(batch_size: int, calls: list[int]) -> None:
    family = SeedFamily()
    fake = fakes_of(family, batch_size=batch_size).beside(real_rows(), 0)
    assert [len(seeds) for seeds, _ in family.calls] == calls
    assert torch.equal(fake.images_BCHW, fakes_of(SeedFamily()).beside(real_rows(), 0).images_BCHW)


def test_online_fakes_of_an_unconditional_model_have_no_labels() -> None:
    family = SeedFamily()
    fake = fakes_of(family).beside(replace(real_rows(), labels_B=None), 0)
    assert fake.labels_B is None
    assert family.calls[0][1] is None


def test_online_pixels_are_rounded_to_the_datasets_grey_levels_and_tokens_are_not() -> None:
    pixels = fakes_of(SeedFamily(), grey_levels=2).beside(real_rows(), 0).images_BCHW
    tokens = fakes_of(SeedFamily(), grey_levels=2, decode=False).beside(real_rows(), 0).images_BCHW
    assert set(pixels.unique().tolist()) <= {0, 255}
    assert len(tokens.unique()) > 10


def test_stored_fakes_are_the_same_rows_of_their_own_order() -> None:
    fakes = source("fake")
    for rows in (range(B), *PARTS):
        beside = StoredFakes(fakes).beside(real_rows(1, rows), 1)
        assert torch.equal(beside.images_BCHW, fakes.batch(1, rows).images_BCHW)
        assert beside.rows == BatchPart(rows.start, len(rows), B)


def test_mismatched_labels_are_those_of_the_next_row_however_the_batch_is_cut() -> None:
    real = real_rows(1)
    whole = MismatchedLabels(source()).beside(real, 1)
    assert torch.equal(whole.images_BCHW, real.images_BCHW)
    assert torch.equal(whole.labels_B, real.labels_B.roll(-1))
    parts = [MismatchedLabels(source()).beside(real_rows(1, rows), 1) for rows in PARTS]
    assert torch.equal(torch.cat([part.labels_B for part in parts]), whole.labels_B)
