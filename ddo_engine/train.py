"""``python -m ddo_engine train``: read what the spec names, check that it fits together, and run the trial."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from ddo_engine.accelerated import accelerated, check_kernels, setting_of_kernels
from ddo_engine.batches import BatchSource, DataOrder, RandomCrops
from ddo_engine.checkpoint import LoadedCheckpoint
from ddo_engine.data import ImageDataset
from ddo_engine.device import out_of_memory_blames
from ddo_engine.errors import CorruptCheckpoint, InvalidSpec
from ddo_engine.evaluation import Evaluator
from ddo_engine.inputs import (
    check_features_fit_dataset,
    check_grey_levels,
    check_guidance_scales,
    check_labels_can_be_contrasted,
    check_labels_can_be_drawn,
    check_model_fits_dataset,
    check_random_crop,
    check_sampler,
    local_path,
    open_dataset,
    open_feature_network,
    open_reference_statistics,
    open_to_be_cut,
    verified_sha256,
)
from ddo_engine.models import UnitModels, open_models
from ddo_engine.online import FakeSource, MismatchedLabels, OnlineFakes, StoredFakes
from ddo_engine.parallel.fingerprint import fingerprint
from ddo_engine.parallel.layout import Layout, Replicated
from ddo_engine.probe import find_beta, probe_spec
from ddo_engine.provenance import InputHashes, run_identity
from ddo_engine.run_context import RunContext
from ddo_engine.spec import Progress, TrainingSettings, TrainSpec
from ddo_engine.state import TrainingState
from ddo_engine.state_file import SavedState, read_state
from ddo_engine.state_identity import check_belongs_to, numerics_of, warn_of_other_numerics
from ddo_engine.training_loss import DDOTrainingLoss, MLETrainingLoss, TrainingLoss
from ddo_engine.trial import STATE_FILE, Trial, diagnostics_of
from ddo_engine.unit_data import as_pixels, as_trained_on, open_reference_set


def run(spec: TrainSpec, context: RunContext) -> None:
    """Run a trial, from its state where there is one, else from the base checkpoint.

    Raises:
        EngineError: See :class:`ddo_engine.trial.Trial` and the loaders of the inputs.
    """
    state_path = _state_path(spec, context)
    saved = None if state_path is None else read_state(state_path)
    context.ranks.check_same(
        "spec and training state", spec.model_dump_json() + ("" if saved is None else saved.header.model_dump_json())
    )
    context.announce("train", None if saved is None else saved.header.kimg)
    with out_of_memory_blames("training.batch_size"):
        trial = _prepare(spec, context, saved)
    if context.ranks.size > 1:
        context.ranks.check_same("the weights", fingerprint(trial.state.save({}, trial.kimg).tensors_of_all))
    context.check_stop()
    trial.run()


def _state_path(spec: TrainSpec, context: RunContext) -> Path | None:
    if spec.state is not None:
        verified_sha256(spec.state, "state")
        return local_path(spec.state, "state")
    in_workdir = context.workdir / STATE_FILE
    return in_workdir if in_workdir.exists() else None


def _prepare(spec: TrainSpec, context: RunContext, saved: SavedState | None) -> Trial:
    _require_rows_for_all(spec, context)
    models = open_models(spec, context.device)
    base = models.checkpoint
    base.family.check_training(base.model, spec.training)
    check_random_crop(base.info, spec.training)
    check_kernels(base.family, base.model, spec.training)
    base.family.constrain_(base.model)
    layout = _layout(spec.training, context, base)
    dataset = open_dataset(spec.dataset, reading=spec.dataset_reading)
    check_model_fits_dataset(base.info, dataset.info)
    check_grey_levels(dataset, spec.grey_levels)
    hashes = _hash_inputs(spec, models)
    if saved is not None:
        check_belongs_to(saved, run_identity(spec, hashes))
        warn_of_other_numerics(saved, numerics_of(context.device, layout))
    evaluator = _evaluator(spec, context, models, as_pixels(dataset, base), hashes)
    loss = _training_loss(
        spec, context, base, layout, as_trained_on(dataset, spec.dataset, spec.dataset_reading, models, context)
    )
    found_beta = None
    if isinstance(loss, DDOTrainingLoss) and loss.beta is None:
        found_beta = _found_beta(spec, context, base, layout, hashes, loss, saved)
        loss = replace(loss, objective=loss.objective.model_copy(update={"beta": found_beta}))
    state = TrainingState.fresh(base.family, base.model, spec.training, diagnostics_of(spec.training, loss), layout)
    state.beta = found_beta
    if saved is not None:
        state.restore(saved)
    return Trial(spec, context, base, hashes, loss, state, evaluator, None if saved is None else saved.header.step)


def _require_rows_for_all(spec: TrainSpec, context: RunContext) -> None:
    batch_size, num_processes = spec.training.batch_size, context.ranks.size
    if batch_size < num_processes:
        raise InvalidSpec(
            f"training.batch_size: {batch_size} rows are too few for {num_processes} processes: raise it, or start "
            "fewer",
            param="training.batch_size",
        )
    if context.shard_weights and batch_size % num_processes:
        raise InvalidSpec(
            f"training.batch_size: {batch_size} rows do not divide evenly among {num_processes} processes, which meet "
            "in every block of a network whose weights are sharded: choose a multiple, or train without "
            "--shard-weights (DDO_SHARD_WEIGHTS of a worker)",
            param="training.batch_size",
        )


def _layout(training: TrainingSettings, context: RunContext, base: LoadedCheckpoint) -> Layout:
    """Return where weights are and what computes with them; sharded, the base holds its rows from here on."""
    setting = setting_of_kernels(training)
    if not context.shard_weights:
        return Replicated(context.ranks) if setting is None else _accelerated(training, context, base)
    if setting is not None:
        raise InvalidSpec(
            f"{setting}: not with weights in rows, whose blocks are gathered and let go around every call: leave it "
            "out, or train without --shard-weights (DDO_SHARD_WEIGHTS of a worker)",
            param=setting,
        )
    if context.ranks.size == 1:
        raise InvalidSpec(
            "--shard-weights: there is one process, which has all weights in any case: start several with torchrun, or "
            "leave the option out",
            param="shard_weights",
        )
    from ddo_engine.parallel.sharded_weights import Sharded  # noqa: PLC0415  (a second, for few)

    return Sharded.of(base.model, base.family, context.ranks)


def _accelerated(training: TrainingSettings, context: RunContext, base: LoadedCheckpoint) -> Layout:
    def tell(done: int, total: int) -> None:
        context.events.emit(Progress(phase="compiling", done=done, total=total, unit="blocks"))

    return accelerated(base.family, context.device, training, context.ranks, context.cache, tell)


def _found_beta(
    spec: TrainSpec,
    context: RunContext,
    base: LoadedCheckpoint,
    layout: Layout,
    hashes: InputHashes,
    loss: DDOTrainingLoss,
    saved: SavedState | None,
) -> float:
    """Return the beta of a trial that has 'auto': its state's, else what the probe finds."""
    if saved is not None:
        if saved.header.beta is None:
            raise CorruptCheckpoint(
                "the training state does not say the beta that its trial found: start the trial again", param="state"
            )
        return saved.header.beta
    probe = probe_spec(spec)
    assert probe.objective.kind == "ddo"
    loss = replace(loss, objective=probe.objective)
    state = TrainingState.fresh(base.family, base.model, probe.training, diagnostics_of(probe.training, loss), layout)
    found = find_beta(Trial(probe, context, base, hashes, loss, state, None))
    context.events.emit(found)
    return found.beta


def _hash_inputs(spec: TrainSpec, models: UnitModels) -> InputHashes:
    shards = enumerate(spec.reference_set if spec.objective.kind == "ddo" else ())
    return InputHashes(
        base=verified_sha256(spec.checkpoint, "checkpoint"),
        dataset=verified_sha256(spec.dataset, "dataset"),
        reference_set=tuple(verified_sha256(shard, f"reference_set.{index}") for index, shard in shards),
        feature_network=None
        if spec.feature_network is None or spec.evaluation is None
        else verified_sha256(spec.feature_network, "feature_network"),
        companions=models.companions.sha256s,
        reference_statistics=None
        if spec.reference_statistics is None
        else verified_sha256(spec.reference_statistics, "reference_statistics"),
    )


def _evaluator(
    spec: TrainSpec, context: RunContext, models: UnitModels, dataset: ImageDataset, hashes: InputHashes
) -> Evaluator | None:
    if spec.evaluation is None or spec.feature_network is None:
        return None
    check_labels_can_be_drawn(models.checkpoint.info, spec.sampler, dataset.info)
    check_sampler(models.checkpoint, models.companions, spec.sampler)
    check_guidance_scales(models.checkpoint, models.companions, spec.sampler, spec.evaluation)
    features = open_feature_network(spec.feature_network, context.device)
    check_features_fit_dataset(features, dataset.info)
    return Evaluator(
        features,
        dataset,
        hashes.dataset,
        spec.sampler,
        spec.grey_levels,
        context.cache,
        spec.dataset_reading,
        models.companions,
        context.progress("reading", len(dataset)),
        context.ranks,
        context.parts_folder,
        open_reference_statistics(spec.reference_statistics),
        partial(context.progress, "comparing"),
    )


def _training_loss(
    spec: TrainSpec, context: RunContext, base: LoadedCheckpoint, layout: Layout, dataset: ImageDataset
) -> TrainingLoss:
    def batches(source: ImageDataset, stream: str) -> BatchSource:
        order = DataOrder(len(source), spec.seed, stream)
        return BatchSource(source, order, spec.training.batch_size, context.device)

    family, real = base.family, batches(dataset, "real")
    if spec.training.random_crop:
        images = open_to_be_cut(spec.dataset, spec.dataset_reading)
        real = RandomCrops(images, real.order, real.batch_size, real.device, spec.seed)
    training = family.with_defaults(base.model, spec.training, spec.objective.kind)
    if spec.objective.kind == "mle":
        return MLETrainingLoss(family, real, training, spec.seed)
    # The base itself: target and average are copies, and nothing else changes it.
    reference_model = base.model.requires_grad_(False)
    fake: FakeSource
    if spec.objective.kind == "cca":
        check_labels_can_be_contrasted(base.info)
        fake = MismatchedLabels(real)
    elif spec.online_reference_set is not None:
        family.check_online_reference_set(base.model)
        fake = OnlineFakes(
            family, reference_model, spec.online_reference_set, training, spec.grey_levels, spec.seed, layout
        )
    else:
        fake = StoredFakes(batches(open_reference_set(spec.reference_set, base, spec.grey_levels), "fake"))
    return DDOTrainingLoss(
        family, layout.frozen_network(reference_model), real, fake, spec.objective, training, spec.seed
    )
