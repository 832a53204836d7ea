"""One training run: DDO at one (alpha, beta), or plain MLE (``python -m ddo_engine train``).

What happens after a step happens in a fixed order: diagnostics, evaluation (checkpoint file, its event, the numbers),
then the training state. A state is therefore a point between the events before it and the events after it, and a run
that goes on from it repeats exactly the latter, with the same values.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ddo_engine.checkpoint import LoadedCheckpoint, write_checkpoint
from ddo_engine.device import out_of_memory_blames
from ddo_engine.ema import ema_decay_at, power_decay, update_ema
from ddo_engine.errors import DiscriminatorSaturated, Interrupted, NonFiniteLoss
from ddo_engine.evaluation import Evaluator
from ddo_engine.evaluation.parts import Measured
from ddo_engine.events import ProgressReporter
from ddo_engine.files import write_atomically
from ddo_engine.learning_rate import learning_rate_at
from ddo_engine.loss_scale import may_skip
from ddo_engine.optimization import replace_non_finite_, set_rates
from ddo_engine.parallel.fingerprint import fingerprint
from ddo_engine.parallel.rows import Rows, send_rows
from ddo_engine.performance import StepMeter
from ddo_engine.provenance import InputHashes, run_identity, trial_provenance
from ddo_engine.run_context import RunContext
from ddo_engine.schedule import Schedule
from ddo_engine.spec import EvaluationSettings, FileRole, Metric, TrainingSettings, TrainSpec
from ddo_engine.state import TrainingState
from ddo_engine.state_file import write_state
from ddo_engine.told_evaluation import tell_evaluation
from ddo_engine.training_loss import TrainingLoss

STATE_FILE = "state.safetensors"


def diagnostics_of(training: TrainingSettings, loss: TrainingLoss) -> tuple[str, ...]:
    """Return the names of what every step reports, in order."""
    replaced = ("replaced_gradients",) if training.non_finite_gradients == "replace" else ()
    skipped = ("skipped_steps",) if training.precision == "float16" else ()
    return ("loss", "gradient_norm", *replaced, *skipped, *loss.diagnostics)


@dataclass
class Trial:
    """A training run, ready to go.

    Attributes:
        spec: What to do.
        context: Where to do it, and whom to tell.
        base: The checkpoint that it started from.
        hashes: Of its inputs.
        loss: What a step minimises.
        state: What a step changes.
        evaluator: None: no evaluations, one checkpoint at the end.
        saved_step: That of the last state in a file; None before there is one.
    """

    spec: TrainSpec
    context: RunContext
    base: LoadedCheckpoint
    hashes: InputHashes
    loss: TrainingLoss
    state: TrainingState
    evaluator: Evaluator | None
    saved_step: int | None = None

    @cached_property
    def meter(self) -> StepMeter:
        """What times the steps."""
        return StepMeter(self.context.device)

    @cached_property
    def schedule(self) -> Schedule:
        """When what is due."""
        return Schedule(self.spec.training)

    @property
    def kimg(self) -> float:
        """Thousands of real images seen so far."""
        return self.schedule.kimg_at(self.state.step)

    def run(self) -> None:
        """Train to the end from wherever the state is.

        Raises:
            DiscriminatorSaturated: The discriminator tells nearly all images apart, and the settings end such a trial;
                the state is on disk.
            Interrupted: A stop was requested; the state is on disk.
            NonFiniteLoss: Loss, gradient or FID is NaN or infinite; nothing was overwritten.
            OutOfMemory: The device ran out of memory.
        """
        training = self.spec.training
        total_images = training.num_steps * training.batch_size
        progress = ProgressReporter(self.context.events, "training", total_images)
        try:
            while True:
                if self._evaluation_is_pending():
                    self._evaluate()
                    self._save_state()
                    if self.evaluator is not None:
                        self.evaluator.forget_parts()
                progress.update(self.state.step * training.batch_size)
                if self.state.step == training.num_steps:
                    return
                if self.state.alarms.ends(training):
                    self._save_state()
                    raise self._saturated()
                self.context.check_stop()
                self._step()
        except Interrupted:
            self._save_state()
            raise

    def _step(self) -> None:
        """Take one optimizer step and report what is due."""
        with self.meter.step_of(self.spec.training.batch_size):
            values_K = self.advance()
        self.state.window.add(values_K)
        if self.schedule.reports_at(self.state.step):
            values = self.state.window.take_means()
            values["learning_rate"] = learning_rate_at(self.state.step - 1, self.spec.training)
            self.context.events.emit(Metric(step=self.state.step, kimg=self.kimg, values=values))
            self.context.events.emit(self.meter.take(step=self.state.step, kimg=self.kimg))
            for warning in self.state.alarms.look_at(
                values, self.spec.training, beta=self.loss.beta, step=self.state.step, kimg=self.kimg
            ):
                self.context.events.emit(warning)
        if self.schedule.saves_state_at(self.state.step) and not self._evaluation_is_pending():
            self._save_state()

    def advance(self) -> torch.Tensor:
        """Take one optimizer step and do nothing else; return its diagnostics in the order of their names, float64.

        Raises:
            NonFiniteLoss: Loss or gradient is NaN or infinite; the weights were not touched.
            OutOfMemory: The device ran out of memory.
        """
        with out_of_memory_blames("training.batch_size"):
            values_K = self._optimize()
        self.state.step += 1
        return values_K

    def _optimize(self) -> torch.Tensor:
        """Change the weights; return the diagnostics of the step in the order of their names."""
        state, training, layout = self.state, self.spec.training, self.state.layout
        set_rates(state.optimizer, state.step, training)
        state.optimizer.zero_grad(set_to_none=True)
        values_BK = self._backward()
        state.loss_scaler.unscale_(state.optimizer)
        layout.agree_on_overflow_(state.loss_scaler, state.optimizer)
        weights = dict(state.target_model.named_parameters())
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        replaces = training.non_finite_gradients == "replace"
        replaced = [layout.sums(replace_non_finite_(gradients))] if replaces else []
        gradient_norm = layout.total_norm(gradients)
        loss = values_BK[:, 0].mean()
        overflows = may_skip(state.loss_scaler) and not bool(torch.isfinite(gradient_norm))
        skipped = [torch.full_like(loss, float(overflows))] if state.loss_scaler.is_enabled() else []
        if overflows:
            gradient_norm = torch.zeros_like(gradient_norm)
        numbers_K = torch.stack([loss, gradient_norm, *replaced, *skipped, *self.loss.summary(values_BK)])
        # Looked at before the weights are touched: the last good state stays the last good state.
        if not bool(torch.isfinite(numbers_K).all()):
            raise self._diverged("the gradient" if math.isfinite(loss.item()) else "the loss")
        if training.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(weights.values(), training.max_gradient_norm, gradient_norm)
        if not overflows:
            state.optimizer.step()
        state.loss_scaler.update()
        update_ema(state.ema_model, state.target_model, ema_decay_at(state.step, training))
        images = (state.step + 1) * training.batch_size
        for std, snapshot in state.snapshots.items():
            update_ema(snapshot, state.target_model, power_decay(images, training.batch_size, std))
        # After the average: it is taken of the weights that the optimizer left (arXiv:2312.02696, section 3.1).
        self.base.family.constrain_(state.target_model)
        return numbers_K.double()

    def _backward(self) -> torch.Tensor:
        """Leave the gradient of the batch's mean loss in the parameters; return what the loss gave, row by row.

        Every process does its rows; all have the gradient and the values of the whole batch in the end.
        """
        ranks, batch_size = self.context.ranks, self.spec.training.batch_size
        own_rows = ranks.rows_of(batch_size)
        rows_at_once = self.spec.training.micro_batch_size or batch_size
        values = []
        with self.state.layout.in_backward(), out_of_memory_blames("training.batch_size"):
            for first in range(own_rows.start, own_rows.stop, rows_at_once):
                rows = range(first, min(first + rows_at_once, own_rows.stop))
                values_BK = self.loss(self.state.network, self.state.step, rows)
                loss = values_BK[:, 0].sum() / batch_size
                self.state.loss_scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                values.append(values_BK.detach())
        self.state.layout.sum_gradients_(self.state.target_model, self.state.network)
        return ranks.gather_rows(torch.cat(values), batch_size)

    def _evaluation_is_pending(self) -> bool:
        step = self.state.step
        if step in (0, self.state.evaluated_step):
            return False
        if self.evaluator is None:
            return step == self.spec.training.num_steps
        return self.schedule.evaluates_at(step)

    def _evaluate(self) -> None:
        """Measure the EMA weights, and keep them if they are the best so far."""
        if self.evaluator is None or self.spec.evaluation is None:
            self._save_checkpoint()
        else:
            if self.saved_step != self.state.step:
                self._save_state()  # samples take their time: whoever is killed meanwhile does not train again
            self._measure(self.evaluator, self.spec.evaluation)
        self._save_snapshots()
        self.state.evaluated_step, self.state.evaluated_scales = self.state.step, 0

    def _measure(self, evaluator: Evaluator, settings: EvaluationSettings) -> None:
        """Measure at every guidance scale, from the first that the state does not know to be done."""
        scales, ranking = settings.scales(self.spec.sampler), settings.ranking_scales(self.spec.sampler)
        progress = ProgressReporter(self.context.events, "evaluation", settings.generated_images())
        first = self.state.evaluated_scales
        for index, scale in enumerate(scales[first:], first):
            measured = self._measured(evaluator, settings, scale, progress.after(index * settings.num_samples))
            if not all(math.isfinite(value) for value in measured.metrics.values()):
                raise self._diverged("the evaluation of the EMA weights")
            if scale in ranking:
                self._keep_if_best(measured.metrics["fid"])
            tell_evaluation(self.context, evaluator, settings, scale, kimg=self.kimg, measured=measured)
            self.state.evaluated_scales = index + 1

    def _measured(
        self,
        evaluator: Evaluator,
        settings: EvaluationSettings,
        guidance_scale: float,
        on_progress: Callable[[int], None],
    ) -> Measured:
        """Return what the EMA weights' samples are worth."""
        family, layout = self.base.family, self.state.layout
        with self.context.stop.before_network_calls(), out_of_memory_blames("sampler.batch_size"):
            try:
                with layout.whole(self.state.ema_model) as ema_network:
                    return evaluator.evaluate(ema_network, family, settings, on_progress, guidance_scale)
            except NonFiniteLoss as error:
                raise self._diverged("the evaluation of the EMA weights") from error

    def _keep_if_best(self, fid: float) -> None:
        """Write the checkpoint, unless another scale made it the best already."""
        if self.state.best_fid is not None and fid >= self.state.best_fid:
            return
        if self.state.best_step != self.state.step:
            self._save_checkpoint()
        self.state.best_fid, self.state.best_step = fid, self.state.step

    def _save_snapshots(self) -> None:
        """Write the averages that others can be put together from."""
        for std, snapshot in self.state.snapshots.items():
            images = self.state.step * self.spec.training.batch_size
            path = self.context.workdir / f"snapshot-{std:g}-{self.kimg:.3f}.safetensors"
            self._write(FileRole.SNAPSHOT, path, snapshot, {"ema_std": std, "images": images})

    def _save_checkpoint(self) -> None:
        """Write the EMA weights."""
        path = self.context.workdir / f"checkpoint-{self.kimg:.3f}.safetensors"
        self._write(FileRole.CHECKPOINT, path, self.state.ema_model, {})

    def _write(self, role: FileRole, path: Path, model: nn.Module, about: Mapping[str, float]) -> None:
        """Write weights, with where they come from and what is said about them."""
        layout = self.state.layout
        tensors = {
            name: Rows(tensor, shape, self.context.ranks) if (shape := layout.whole_shape(name)) else tensor
            for name, tensor in model.state_dict().items()
        }
        if not self.context.ranks.leads:
            send_rows(tensors)
            return
        provenance = trial_provenance(
            self.spec,
            self.hashes,
            self.base.manifest.provenance,
            step=self.state.step,
            kimg=self.kimg,
            found_beta=self.state.beta,
        )
        manifest = self.base.manifest.model_copy(update={"provenance": {**provenance, **about}})
        write_atomically(path, lambda temporary: write_checkpoint(temporary, tensors, manifest))
        self.context.announce_file(role, path, kimg=self.kimg, info=manifest.model_dump(mode="json"))

    def _save_state(self) -> None:
        """Write the state that the same command goes on from.

        Raises:
            EngineError: The processes of the run have come to hold different weights; the last state stays.
        """
        ranks = self.context.ranks
        saved = self.state.save(run_identity(self.spec, self.hashes), self.kimg)
        if ranks.size > 1:
            ranks.check_same(f"after {self.state.step} steps the weights", fingerprint(saved.tensors_of_all))
        path = self.context.workdir / STATE_FILE
        write_state(path, saved, ranks)
        self.saved_step = self.state.step
        if ranks.leads:
            self.context.announce_file(FileRole.STATE, path, kimg=self.kimg)
        ranks.wait()  # nobody ends before the file is whole: the end of one is the end of all

    def _saturated(self) -> DiscriminatorSaturated:
        return DiscriminatorSaturated(
            f"the discriminator tells nearly all images apart after {self.state.step} steps ({self.kimg:g} kimg), so "
            "that hardly any has a gradient: train shorter (training.kimg), or lower training.learning_rate or beta; "
            "training.stop_when_saturated = false goes on",
            param="training.stop_when_saturated",
        )

    def _diverged(self, what: str) -> NonFiniteLoss:
        advice = "lower training.learning_rate or set training.max_gradient_norm"
        if self.spec.objective.kind != "mle":
            advice += " or alpha, or raise beta"
        return NonFiniteLoss(
            f"{what} is not finite after {self.state.step} steps ({self.kimg:g} kimg): training diverged; {advice}",
            param="training.learning_rate",
        )
