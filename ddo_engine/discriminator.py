"""``python -m ddo_engine discriminator``: train what tells a checkpoint's samples from the data at any noise level."""

from pathlib import Path

from torch import nn

from ddo_engine.batches import BatchSource, DataOrder
from ddo_engine.data import ImageDataset
from ddo_engine.device import out_of_memory_blames
from ddo_engine.discriminator_loss import DiscriminatorLoss
from ddo_engine.discriminator_training import STATE_FILE, DiscriminatorState, DiscriminatorTrial
from ddo_engine.errors import CorruptCheckpoint, InvalidSpec
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.discriminator.network import Discriminator, build_network
from ddo_engine.inputs import (
    check_grey_levels,
    check_model_fits_dataset,
    local_path,
    open_dataset,
    verified_sha256,
)
from ddo_engine.models import UnitModels, open_models
from ddo_engine.provenance import InputHashes
from ddo_engine.randomness import seeded_initialisation
from ddo_engine.run_context import RunContext
from ddo_engine.spec import DiscriminatorNetwork, DiscriminatorSpec
from ddo_engine.state_file import read_state
from ddo_engine.state_identity import check_belongs_to, numerics_of, warn_of_other_numerics
from ddo_engine.unit_data import as_trained_on, open_reference_set


def run(spec: DiscriminatorSpec, context: RunContext) -> None:
    """Train a discriminator, from its state where there is one, else from the start, and write it.

    Raises:
        EngineError: See :class:`ddo_engine.discriminator_training.DiscriminatorTrial` and the loaders of the inputs.
    """
    state_path = _state_path(spec, context)
    saved = None if state_path is None else read_state(state_path)
    context.announce("discriminator", None if saved is None else saved.header.kimg)
    with out_of_memory_blames("training.batch_size"):
        trial = _prepare(spec, context)
        if saved is not None:
            check_belongs_to(saved, trial.identity)
            warn_of_other_numerics(saved, numerics_of(context.device))
            trial.state.restore(saved)
    context.check_stop()
    trial.run()


def _state_path(spec: DiscriminatorSpec, context: RunContext) -> Path | None:
    if spec.state is not None:
        verified_sha256(spec.state, "state")
        return local_path(spec.state, "state")
    in_workdir = context.workdir / STATE_FILE
    return in_workdir if in_workdir.exists() else None


def _prepare(spec: DiscriminatorSpec, context: RunContext) -> DiscriminatorTrial:
    models = open_models(spec, context.device)
    model = denoiser_of(models.checkpoint.model)
    dataset = open_dataset(spec.dataset, reading=spec.dataset_reading)
    check_model_fits_dataset(models.checkpoint.info, dataset.info)
    check_grey_levels(dataset, spec.grey_levels)
    fakes = open_reference_set(spec.reference_set, models.checkpoint, spec.grey_levels)

    def batches(source: ImageDataset, stream: str) -> BatchSource:
        order = DataOrder(len(source), spec.seed, stream)
        return BatchSource(source, order, spec.training.batch_size, context.device)

    loss = DiscriminatorLoss(
        space=model.space,
        is_conditional=model.label_dim > 0,
        real=batches(as_trained_on(dataset, spec.dataset, spec.dataset_reading, models, context), "real"),
        fake=batches(fakes, "fake"),
        training=spec.training,
        seed=spec.seed,
    )
    network, config = network_for(model, spec.network, spec.seed)
    state = DiscriminatorState.fresh(network.to(context.device), spec.training, loss.diagnostics)
    return DiscriminatorTrial(spec, context, config, _hash_inputs(spec, models), loss, state)


def denoiser_of(model: nn.Module) -> Denoiser:
    """Return the model as what a discriminator corrects.

    Raises:
        InvalidSpec: It is no diffusion model.
    """
    if not isinstance(model, Denoiser):
        raise InvalidSpec(
            "checkpoint: a discriminator corrects the score of a diffusion model, and a VAR has none: choose another "
            "baseline",
            param="base_checkpoint",
        )
    return model


def network_for(model: Denoiser, settings: DiscriminatorNetwork, seed: int) -> tuple[Discriminator, dict[str, object]]:
    """Return a fresh discriminator for what a model denoises, and its constructor arguments.

    Raises:
        InvalidSpec: There is none of this size.
    """
    config: dict[str, object] = {
        "class_name": "Discriminator",
        "img_resolution": model.img_resolution,
        "img_channels": model.img_channels,
        "label_dim": model.label_dim,
        "sigma_data": model.sigma_data,
        "works_on": model.works_on,
        **settings.model_dump(mode="json"),
    }
    try:
        with seeded_initialisation(seed, "discriminator"):
            return build_network(config), config
    except CorruptCheckpoint as error:
        raise InvalidSpec(f"network: {error.message}", param="network") from error


def _hash_inputs(spec: DiscriminatorSpec, models: UnitModels) -> InputHashes:
    return InputHashes(
        base=verified_sha256(spec.checkpoint, "checkpoint"),
        dataset=verified_sha256(spec.dataset, "dataset"),
        reference_set=tuple(
            verified_sha256(shard, f"reference_set.{index}") for index, shard in enumerate(spec.reference_set)
        ),
        companions=models.companions.sha256s,
    )
