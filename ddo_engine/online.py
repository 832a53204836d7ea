"""The second half of a DDO batch: fakes from a stored set, or drawn beside each batch, or the data under other labels.

Shapes: B rows, of a step's batch or of a part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ddo_engine.batches import BatchSource
from ddo_engine.data import round_to_grey_levels
from ddo_engine.families.protocol import Family, LabelledImages
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.randomness import derived_seed
from ddo_engine.sampling import ROWS_OF_A_CALL
from ddo_engine.spec import OnlineReferenceSet, TrainingSettings


class FakeSource(Protocol):
    """Where the negatives of a step come from."""

    def beside(self, real: LabelledImages, step: int) -> LabelledImages:
        """Return as many negatives as there are real rows, for the same rows of the batch of ``step`` (0-based).

        Rows whose label is dropped (``real.dropped_B``) may hold anything: nobody looks at them.
        """


@dataclass(frozen=True)
class StoredFakes:
    """Images of a reference set, loaded as the dataset's are.

    Attributes:
        source: The set, in an order of its own.
    """

    source: BatchSource

    def beside(self, real: LabelledImages, step: int) -> LabelledImages:
        """See :meth:`FakeSource.beside`."""
        return self.source.batch(step, range(real.rows.first, real.rows.first + real.rows.num_rows))


@dataclass(frozen=True)
class OnlineFakes:
    """Samples that the reference draws on the labels of the real rows: a function of (seed, step, row) and the label.

    Rows whose label is dropped get none: their fake term has alpha 0.

    Attributes:
        family: Of the reference.
        reference_model: Frozen, in eval mode; what this process holds of it.
        settings: How.
        training: What the network computes in.
        grey_levels: Values that a pixel takes, as those of the dataset.
        seed: The run's seed.
        layout: Of the reference's weights. All of them are gathered to draw with: every scale of every chunk of images
            would gather them anew, and processes do not have equally many chunks.

    Source: arXiv:2503.01103, section 5.3.
    """

    family: Family
    reference_model: nn.Module
    settings: OnlineReferenceSet
    training: TrainingSettings
    grey_levels: int
    seed: int
    layout: Layout = field(default_factory=Replicated)

    def beside(self, real: LabelledImages, step: int) -> LabelledImages:
        """See :meth:`FakeSource.beside`.

        Raises:
            NonFiniteLoss: The reference draws NaN.
        """
        device, part = real.images_BCHW.device, real.rows
        wanted = torch.ones(part.num_rows, dtype=torch.bool) if real.dropped_B is None else ~real.dropped_B.cpu()
        rows = wanted.nonzero().flatten().tolist()
        first_seed = derived_seed(self.seed, "online fakes") + step * part.batch_size + part.first
        with self.layout.whole(self.reference_model) as reference:
            chunks = [
                self._drawn(reference, [first_seed + row for row in chunk], _labels_at(real.labels_B, chunk))
                for chunk in _chunks(rows, self.settings.batch_size)
            ]
        if not chunks:
            return real
        drawn = torch.cat(chunks).to(device)
        images = drawn.new_zeros(part.num_rows, *drawn.shape[1:])
        images[torch.tensor(rows, device=device)] = drawn
        return replace(real, images_BCHW=images)

    def _drawn(self, reference: nn.Module, seeds: list[int], labels_B: Tensor | None) -> Tensor:
        missing = -len(seeds) % ROWS_OF_A_CALL
        padded_labels_B = None if labels_B is None else torch.cat([labels_B, labels_B[-1:].expand(missing)])
        drawn = self.family.draw_fakes(
            reference,
            [*seeds, *seeds[-1:] * missing],
            padded_labels_B,
            self.settings,
            self.training,
        )[: len(seeds)]
        return round_to_grey_levels(drawn, self.grey_levels) if self.settings.decode else drawn


@dataclass(frozen=True)
class MismatchedLabels:
    """The real images themselves, each under the label of the next row of the batch (the last under the first's).

    In condition contrastive alignment a negative is an image whose label is drawn independently of it, which may happen
    to be its own class; batches are in random order, so the next row's is such a label.

    Attributes:
        real: Where the real rows come from.

    Source: arXiv:2410.09347, eq. 11 (negative conditions by shuffling those of the batch).
    """

    real: BatchSource

    def beside(self, real: LabelledImages, step: int) -> LabelledImages:
        """See :meth:`FakeSource.beside`."""
        labels_N = self.real.dataset.labels_N
        assert labels_N is not None, "the trial refuses unlabelled data"
        indices = self.real.order.indices(step, self.real.batch_size).roll(-1)
        return replace(real, labels_B=real.rows.rows_of(labels_N[indices]).to(real.images_BCHW.device))


def _labels_at(labels_B: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return None if labels_B is None else labels_B[torch.tensor(rows, device=labels_B.device)]


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
