"""Where pydantic found an error, in the words of whoever wrote the settings."""

from collections.abc import Sequence

from ddo_engine.spec.learning_rate import SCHEDULE_KINDS
from ddo_engine.spec.sampler import SAMPLER_KINDS

_KINDS_OF = {"sampler": SAMPLER_KINDS, "schedule": SCHEDULE_KINDS}


def as_written(location: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return where pydantic found an error without the kind of sampler or schedule that it tried there."""
    return tuple(
        part
        for index, part in enumerate(location)
        if index == 0 or part not in _KINDS_OF.get(str(location[index - 1]), ())
    )
