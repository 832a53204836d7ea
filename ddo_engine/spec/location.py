"""Where pydantic found an error, in the words of whoever wrote the settings."""

from collections.abc import Sequence

from ddo_engine.spec.baseline import BASELINE_KINDS
from ddo_engine.spec.beta import BETA_KINDS
from ddo_engine.spec.learning_rate import SCHEDULE_KINDS
from ddo_engine.spec.reference_set import REFERENCE_SET_KINDS
from ddo_engine.spec.sampler import SAMPLER_KINDS

_KINDS_OF = {"sampler": SAMPLER_KINDS, "schedule": SCHEDULE_KINDS, "reference_set": REFERENCE_SET_KINDS}


def as_written(location: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return where pydantic found an error, without the kind of sampler, schedule, … that it tried there."""
    return tuple(
        part
        for index, part in enumerate(location)
        if index == 0
        or not (
            part in _KINDS_OF.get(str(location[index - 1]), ())
            or _is_kind_of_beta(location, index)
            or _is_kind_of_baseline(location, index)
        )
    )


def _is_kind_of_beta(location: Sequence[int | str], index: int) -> bool:
    """Tell it from a name that somebody gave: it stands behind ``beta``, or behind an index in ``beta``."""
    return location[index] in BETA_KINDS and "beta" in location[max(index - 2, 0) : index]


def _is_kind_of_baseline(location: Sequence[int | str], index: int) -> bool:
    """Tell it from a name that somebody gave: it stands behind an index in ``baselines``."""
    return location[index] in BASELINE_KINDS and index > 1 and location[index - 2] == "baselines"
