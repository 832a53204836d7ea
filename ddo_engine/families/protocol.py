"""What a model family must offer, and nothing more.

The trial loop, the generator and the evaluator know models only through this protocol, so that a new
family is a new folder and one line in the registry. It is small because the DDO loss needs only
log-likelihood ratios (``ddo_engine.objective``), and evaluation needs only samples.

Shapes: B batch, C channels, H height, W width. Images are uint8 outside a family and whatever the family
likes inside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ddo_engine.spec import OnlineReferenceSet, SamplerSettings, TrainingSettings

ObjectiveKind = Literal["ddo", "cca", "mle"]


@dataclass(frozen=True)
class BatchPart:
    """Which rows of a step's batch somebody has: all of them, or those of one micro-batch or process.

    Random numbers are drawn for the whole batch and then picked, so that row i has the same ones however the batch is
    cut.

    Attributes:
        first: Index of the first row.
        num_rows: So many from there on.
        batch_size: Rows of the whole.
    """

    first: int
    num_rows: int
    batch_size: int

    def rows_of(self, drawn: Tensor, dim: int = 0) -> Tensor:
        """Return the rows of what was drawn for the whole batch along ``dim``."""
        return drawn.narrow(dim, self.first, self.num_rows)


@dataclass(frozen=True)
class LabelledImages:
    """A batch of images, or some rows of one.

    Attributes:
        images_BCHW: uint8 pixels; or float32 moments of latents, (B, 2C, H, W): means, then standard deviations; or,
            of fakes that were never decoded, int64 tokens, (B, L).
        labels_B: int64 class indices, or None for an unlabelled batch.
        part: Which rows they are; None: the whole batch.
        dropped_B: True where the label is dropped: the network sees none. None: nowhere.
    """

    images_BCHW: Tensor
    labels_B: Tensor | None
    part: BatchPart | None = None
    dropped_B: Tensor | None = None

    def to(self, device: torch.device) -> "LabelledImages":
        """Return the batch on ``device``."""
        labels_B, dropped_B = (each if each is None else each.to(device) for each in (self.labels_B, self.dropped_B))
        return replace(self, images_BCHW=self.images_BCHW.to(device), labels_B=labels_B, dropped_B=dropped_B)

    @property
    def rows(self) -> BatchPart:
        """Which rows of the step's batch these are."""
        num_rows = len(self.images_BCHW)
        return BatchPart(0, num_rows, num_rows) if self.part is None else self.part


class LikelihoodRatios(NamedTuple):
    """What a family finds on one batch of real and one of fake images, row by row. Each of shape (B,), float32.

    Attributes:
        real_B: log p_theta − log p_ref on dataset images, nats; carries the target's gradient.
        fake_B: The same on images of the reference model.
        reference_loss_B: What the reference loses on the dataset images: for diffusion its squared error, summed over
            C·H·W and weighed as the ratio's; else its negative log-likelihood, nats. Minus the ratio it is the
            target's. For the diagnostics; no gradient.
    """

    real_B: Tensor
    fake_B: Tensor
    reference_loss_B: Tensor


@dataclass(frozen=True)
class BlockPlan:
    """Where a network can be cut: when no process is to hold all of its weights, or parts of it are compiled.

    Attributes:
        root: A module of it; whatever calls a block has called this one before.
        blocks: Modules whose parameters are gathered for a call of the module and let go after it; one may lie inside
            a later one, whose own calls then do without its parameters. Parameters elsewhere stay whole.
        call: Method of ``root`` that calls the blocks.
        of_images: Whether what it is called with first is images, (B, C, H, W).
        rows_vary: Whether training calls it with other numbers of rows from step to step.
    """

    root: nn.Module
    blocks: Sequence[nn.Module]
    call: str = "forward"
    of_images: bool = True
    rows_vary: bool = False


class ImageModel(Protocol):
    """What every network of every family can say about itself."""

    works_on: Literal["pixels", "latents", "tokens"]
    img_resolution: int  # of the latents, where it works on latents
    img_channels: int
    label_dim: int  # number of classes; 0 for an unconditional model


class Family(Protocol):
    """One model family, such as ``edm``, ``edm2`` or ``var``.

    Attributes:
        name: In the registry and in manifests.
        default_sampler: What :func:`ddo_engine.sample` uses when it is told nothing.
    """

    name: str
    default_sampler: SamplerSettings

    def build(self, config: dict[str, Any]) -> nn.Module:
        """Return a randomly initialised network in eval mode.

        Args:
            config: The constructor arguments stored in a checkpoint's manifest.

        Raises:
            CorruptCheckpoint: The arguments are not those of a network of this family.
        """

    def draw_labels(self, model: nn.Module, seeds: Sequence[int]) -> Tensor | None:
        """Return the labels that :meth:`sample` draws from these seeds when it is given none.

        Returns:
            int64 class indices of shape (B,) on the CPU; None for an unconditional model.
        """

    def sample(
        self,
        model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        sampler: SamplerSettings,
        *,
        guide: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Draw one image per seed; image i depends on seed i (and its label) alone.

        Args:
            model: In eval mode, on the device to sample on.
            seeds: One per image.
            labels_B: int64 class indices; None draws the labels of a conditional model from the seeds.
            sampler: Sampler settings; ``batch_size`` is the caller's business.
            guide: The network that guides, if the settings ask for guidance by another network.
            discriminator: In eval mode; the network that corrects, if the settings ask for it.
            on_step: Called with the number of finished network calls.

        Returns:
            uint8 images of shape (B, C, H, W) on the CPU.

        Raises:
            InvalidSpec: The sampler is not one for this family, or guidance has no guide or no discriminator.
            IncompatibleInputs: The model draws latents or tokens and has no autoencoder.
            NonFiniteLoss: A pixel is NaN or infinite before it is rounded.
        """

    def attach_autoencoder(self, model: nn.Module, autoencoder: nn.Module) -> None:
        """Give a model of latents or tokens what maps these to pixels; copies of the model share it.

        Raises:
            IncompatibleInputs: The model needs none, or not this one.
        """

    def check_sampler(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        sampler: SamplerSettings,
        discriminator: nn.Module | None = None,
    ) -> None:
        """Refuse what :meth:`sample` would refuse.

        Raises:
            InvalidSpec: The sampler is not one for this model, or guidance has no guide or no discriminator; names
                the setting.
        """

    def check_training(self, model: nn.Module, training: TrainingSettings) -> None:
        """Refuse settings that :meth:`log_likelihood_ratios` and :meth:`pretraining_loss` would refuse.

        Raises:
            InvalidSpec: The model cannot be trained so; names the setting.
        """

    def with_defaults(self, model: nn.Module, training: TrainingSettings, objective: ObjectiveKind) -> TrainingSettings:
        """Return the settings with those filled in that they leave to the family: label_dropout, normalise_by_alpha."""

    def check_online_reference_set(self, model: nn.Module) -> None:
        """Refuse to draw fakes beside every batch.

        Raises:
            InvalidSpec: :meth:`draw_fakes` is not for models of this family.
        """

    def draw_fakes(
        self,
        reference_model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        online: OnlineReferenceSet,
        training: TrainingSettings,
    ) -> Tensor:
        """Draw one sample of p_ref per seed, without guidance; sample i depends on seed i and label i alone.

        Args:
            reference_model: In eval mode, on the device that trains.
            seeds: One per row, below 2^64; the streams run on that device.
            labels_B: int64 class indices; None for an unconditional model.
            online: Whether to decode.
            training: What the network computes in.

        Returns:
            uint8 images of shape (B, C, H, W), rounded as :meth:`sample` does; or, not decoded, int64 tokens (B, L),
            which :meth:`log_likelihood_ratios` takes as images.

        Raises:
            InvalidSpec: See :meth:`check_online_reference_set`.
            NonFiniteLoss: The reference gives NaN.
        """

    def constrain_(self, model: nn.Module) -> None:
        """Project the weights, in place, onto the family's constraint set.

        Called once before training and after every optimizer step. EDM2 normalises its weights (arXiv:2312.02696,
        section 2.3); most families do nothing.
        """

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Tell whether weight decay acts on a parameter.

        Args:
            name: In the model.
            parameter: Of that name.
        """

    def block_plan(self, model: nn.Module) -> BlockPlan:
        """Return where to cut the network.

        Raises:
            InvalidSpec: It has no blocks.
        """

    def log_likelihood_ratios(
        self,
        target_model: nn.Module,
        reference_model: nn.Module,
        real: LabelledImages,
        fake: LabelledImages,
        training: TrainingSettings,
        generator: torch.Generator,
    ) -> LikelihoodRatios:
        """Return log p_theta − log p_ref in nats (for diffusion a one-sample ELBO estimate), real and fake.

        Target and reference see the same noise, and row i of ``fake`` reuses the noise of row i of ``real``. Both
        hold the same rows of their batches (:class:`BatchPart`), and the same labels are dropped; fakes whose label is
        dropped are not looked at (their term has alpha 0), and their ratio is 0.

        Returns:
            float32; gradients flow into ``target_model`` only.

        Source: arXiv:2503.01103, eqs. 14–16 and 43 (diffusion), eq. 1 (autoregressive).
        """

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        """Return the family's own training loss per image: summed over C·H·W or tokens. Shape (B,), float32."""
