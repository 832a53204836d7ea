"""What a window of diagnostics tells about a trial that will come to nothing, and when to end it.

Every rule looks at the means over one window, some twentieth of the trial, and at what was said before; both are in the
training state, so that a resumed trial says the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ddo_engine.spec import TrainingSettings, TrainingWarning

# Together. Rows beyond the sigmoid's bend alone are no sign: with alpha = 100, whose balance lies at ratios of
# −ln(100) / beta, all may be there and learn. Nor is accuracy alone: ratios of 1e-3 / beta tell apart, and train.
SATURATED_ACCURACY = 0.95
SATURATED_SHARE = 0.5
# At this spread of logits the sigmoid differs from its tangent by less than one part in a thousand: nothing brakes.
IDLE_LOGIT_STD = 0.05
# WavTTS's experience with DDO: the loss on real data rises, and beyond about twice its start the model is coming apart.
LARGEST_LOSS_FACTOR = 2.0
WINDOWS_BEFORE_STOP = 2


@dataclass
class Alarms:
    """What was said of a trial so far.

    Attributes:
        raised: Codes of the warnings that were given, in order; each is given once.
        saturated_windows: So many windows on end, up to now, had a saturated discriminator.
    """

    raised: tuple[str, ...] = ()
    saturated_windows: int = 0

    def look_at(
        self, values: Mapping[str, float], training: TrainingSettings, *, beta: float | None, step: int, kimg: float
    ) -> list[TrainingWarning]:
        """Take one window's means into account.

        Args:
            values: By name; those of a run without ratios give no warning.
            training: Says what is still warm-up.
            beta: Scale of the ratio, 1/nats; None without ratios.
            step: At the window's end.
            kimg: The same in thousands of real images.

        Returns:
            What is to be said for the first time.
        """
        if beta is None or "saturated_share" not in values:
            return []
        self.saturated_windows = self.saturated_windows + 1 if _is_saturated(values) else 0
        applies: list[tuple[bool, Callable[[], TrainingWarning]]] = [
            (self.saturated_windows > 0, lambda: _saturated(values, step=step, kimg=kimg)),
            (_is_idle(values, training, beta, kimg), lambda: _idle(values, beta, step=step, kimg=kimg)),
            (_is_doubled(values), lambda: _doubled(values, step=step, kimg=kimg)),
        ]
        warnings = [warning() for is_so, warning in applies if is_so]
        new = [warning for warning in warnings if warning.code not in self.raised]
        self.raised += tuple(warning.code for warning in new)
        return new

    def ends(self, training: TrainingSettings) -> bool:
        """Tell whether the trial is to end here."""
        return training.stop_when_saturated and self.saturated_windows >= WINDOWS_BEFORE_STOP


def _is_saturated(values: Mapping[str, float]) -> bool:
    return values["discriminator_accuracy"] >= SATURATED_ACCURACY and values["saturated_share"] >= SATURATED_SHARE


def _is_idle(values: Mapping[str, float], training: TrainingSettings, beta: float, kimg: float) -> bool:
    # A warm-up may last the whole trial. By half of it the ratio has moved if it ever will, and not before a quarter.
    warm = max(min(training.warmup_kimg, training.kimg / 2), training.kimg / 4)
    return kimg >= warm and beta * max(values["ratio_real_std"], values["ratio_fake_std"]) < IDLE_LOGIT_STD


def _is_doubled(values: Mapping[str, float]) -> bool:
    return values["target_loss"] > LARGEST_LOSS_FACTOR * values["reference_loss"] > 0


def _saturated(values: Mapping[str, float], *, step: int, kimg: float) -> TrainingWarning:
    return TrainingWarning(
        code="discriminator_saturated",
        message=f"the discriminator tells {values['discriminator_accuracy']:.1%} of the images apart, and "
        f"{values['saturated_share']:.0%} lie where its sigmoid is flat: little is left to learn at this beta; train "
        "shorter, or lower training.learning_rate or beta",
        step=step,
        kimg=kimg,
    )


def _idle(values: Mapping[str, float], beta: float, *, step: int, kimg: float) -> TrainingWarning:
    spread = beta * max(values["ratio_real_std"], values["ratio_fake_std"])
    return TrainingWarning(
        code="discriminator_idle",
        message=f"beta times the ratio spreads by only {spread:.2g}: the sigmoid brakes nothing, and the model may "
        "unlearn the fakes without limit once it moves; raise beta (or set it to 'auto') or training.learning_rate",
        step=step,
        kimg=kimg,
    )


def _doubled(values: Mapping[str, float], *, step: int, kimg: float) -> TrainingWarning:
    factor = values["target_loss"] / values["reference_loss"]
    return TrainingWarning(
        code="loss_on_data_doubled",
        message=f"the model's own loss on the data is {factor:.1f} times the reference's: a rise is normal, twice is "
        "not; lower alpha or training.learning_rate, or raise beta",
        step=step,
        kimg=kimg,
    )
