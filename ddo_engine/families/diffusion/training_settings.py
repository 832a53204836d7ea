"""Settings of training that only models of tokens can honour."""

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import TrainingSettings


def refuse_settings_of_tokens(training: TrainingSettings) -> None:
    """Refuse what a diffusion model cannot be trained with.

    Raises:
        InvalidSpec: Half precision, which drowns a difference of two nearly equal sums (arXiv:2503.01103, appendix C);
            or dropped labels, which no published diffusion run has. Names the setting.
    """
    if training.precision != "float32":
        raise InvalidSpec(
            f"training.precision: in {training.precision} the log-likelihood ratio of a diffusion model, a difference "
            "of nearly equal sums, is rounding noise; set it to 'float32'",
            param="training.precision",
        )
    if training.label_dropout:
        raise InvalidSpec(
            "training.label_dropout: diffusion models are trained with all their labels; leave it out, or set it to 0",
            param="training.label_dropout",
        )
    if training.unconditional_rows != "data_term":
        raise InvalidSpec(
            "training.unconditional_rows: it is about rows that lose their label, and those of a diffusion model do "
            "not; leave it out",
            param="training.unconditional_rows",
        )


def refusal_of_online_fakes() -> InvalidSpec:
    """Return the error for fakes that a diffusion model shall draw beside every batch."""
    return InvalidSpec(
        "online_reference_set: a diffusion model draws a fake in dozens of network calls, too slow to do so beside "
        "every batch; generate a reference set and give it as reference_set",
        param="online_reference_set",
    )
