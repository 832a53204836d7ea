"""Some of a model's fields: what changes, validated field by field as in the model, and nothing else."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from ddo_engine.spec.base import Settings

# Both are special forms, which type checkers let nobody call with what is known at run time only.
_annotated: Any = Annotated
_typed_dict: Any = TypedDict


def partial(model: type[Settings]) -> Any:
    """Return a type of dictionaries that hold any of the model's fields, each checked as the model checks it.

    Only the keys that were given are there, also when it is dumped: null is a value, not "not given". What the model's
    own validators say of a field or of several together can be said of a whole model alone.
    """
    fields = {name: _without_default(info) for name, info in model.model_fields.items()}
    changes = _typed_dict(f"{model.__name__}Changes", fields, total=False)
    changes.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return changes


def _without_default(info: FieldInfo) -> Any:
    described = Field(description=info.description, discriminator=info.discriminator)
    return _annotated[(info.annotation, *info.metadata, described)]
