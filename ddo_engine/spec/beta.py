"""The scale of the log-likelihood ratio: a number, or left to a probe."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

# Names of the kinds where pydantic says which it tried; ``as_written`` leaves them out.
BETA_KINDS = ("beta-number", "beta-auto")


def _kind(value: Any) -> str:
    return "beta-auto" if isinstance(value, str) else "beta-number"


Beta = Annotated[
    Annotated[float, Field(gt=0, le=1e6), Tag("beta-number")] | Annotated[Literal["auto"], Tag("beta-auto")],
    Discriminator(_kind),
]
