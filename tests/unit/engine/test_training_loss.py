"""What a step minimises is a function of run seed and step: other steps and other runs see other noise."""

import pytest
import torch
from torch import Tensor, nn

from ddo_engine.batches import BatchSource, DataOrder
from ddo_engine.data import InMemoryDataset
from ddo_engine.families.protocol import BatchPart, LabelledImages, LikelihoodRatios
from ddo_engine.online import StoredFakes
from ddo_engine.spec import DDOObjective, TrainingSettings
from ddo_engine.training_loss import DDOTrainingLoss, MLETrainingLoss, TrainingLoss

TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=0.01, ema_half_life_kimg=1, evaluate_every_kimg=1)
CPU = torch.device("cpu")
WHOLE = range(4)


class RecordingFamily:
    """Returns losses of zero and keeps what it was given."""

    def __init__(self) -> None:
        self.noise: list[Tensor] = []
        self.batches: list[tuple[LabelledImages, ...]] = []

    def log_likelihood_ratios(
        self,
        target_model: nn.Module,
        reference_model: nn.Module,
        real: LabelledImages,
        fake: LabelledImages,
        training: TrainingSettings,
        generator: torch.Generator,
    ) -> LikelihoodRatios:
        self.noise.append(torch.randn(6, generator=generator))
        self.batches.append((real, fake))
        return LikelihoodRatios(*torch.zeros(3, real.rows.num_rows))

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        self.noise.append(torch.randn(6, generator=generator))
        self.batches.append((real,))
        return torch.zeros(real.rows.num_rows)


def source(brightness: int, seed: int, stream: str) -> BatchSource:
    images_NCHW = (torch.arange(9) + brightness).to(torch.uint8).reshape(9, 1, 1, 1)
    return BatchSource(InMemoryDataset(images_NCHW, None), DataOrder(9, seed, stream), 4, CPU)


def loss_of(kind: str, family: RecordingFamily, seed: int) -> TrainingLoss:
    if kind == "mle":
        return MLETrainingLoss(family, source(0, seed, "real"), TRAINING, seed)  # type: ignore[arg-type]
    return DDOTrainingLoss(
        family,  # type: ignore[arg-type]
        nn.Identity(),
        source(0, seed, "real"),
        StoredFakes(source(100, seed, "fake")),
        DDOObjective(alpha=1, beta=1),
        TRAINING,
        seed,
    )


@pytest.mark.parametrize("kind", ["ddo", "mle"])
def test_noise_of_another_step_or_another_run_seed_is_other_noise(kind: str) -> None:
    family = RecordingFamily()
    for seed in (1, 2):
        for step in range(3):
            loss_of(kind, family, seed)(nn.Identity(), step, WHOLE)
    for index, one in enumerate(family.noise):
        assert not any(torch.equal(one, other) for other in family.noise[index + 1 :])


@pytest.mark.parametrize("kind", ["ddo", "mle"])
def test_step_taken_again_sees_the_same_noise_and_images(kind: str) -> None:
    family = RecordingFamily()
    used, fresh = loss_of(kind, family, 1), loss_of(kind, family, 1)
    used(nn.Identity(), 0, WHOLE)
    used(nn.Identity(), 5, WHOLE)
    fresh(nn.Identity(), 5, WHOLE)
    assert torch.equal(family.noise[1], family.noise[2])
    for one, other in zip(family.batches[1], family.batches[2], strict=True):
        assert torch.equal(one.images_BCHW, other.images_BCHW)


def test_ddo_step_takes_the_dataset_as_real_and_the_reference_set_as_fake() -> None:
    family = RecordingFamily()
    loss_of("ddo", family, 1)(nn.Identity(), 0, WHOLE)
    ((real, fake),) = family.batches
    assert real.images_BCHW.max() < 9
    assert fake.images_BCHW.min() >= 100


@pytest.mark.parametrize("kind", ["ddo", "mle"])
def test_parts_of_a_batch_hold_its_rows_and_know_which(kind: str) -> None:
    family = RecordingFamily()
    loss = loss_of(kind, family, 1)
    for rows in (WHOLE, range(1), range(1, 4)):
        assert loss(nn.Identity(), 3, rows).shape[0] == len(rows)
    whole, first, rest = family.batches
    for source_index, batch in enumerate(whole):
        parts = first[source_index], rest[source_index]
        assert torch.equal(torch.cat([part.images_BCHW for part in parts]), batch.images_BCHW)
        assert [part.rows for part in parts] == [BatchPart(0, 1, 4), BatchPart(1, 3, 4)]
    assert torch.equal(family.noise[1], family.noise[0])
    assert torch.equal(family.noise[2], family.noise[0])
