"""``/presets``: named settings to start a job from."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ddo_engine.presets import PRESETS
from service.api.dependencies import CallerDep
from service.api.pages import Listed
from service.api.problems import Unauthorized, documented

router = APIRouter(tags=["presets"])


class Preset(BaseModel):
    """Settings that are known to work together; a job that names the preset takes what it does not say itself."""

    name: str = Field(examples=["digits"])
    description: str = Field(description="What it is for.")
    settings: dict[str, Any]


@router.get("/presets", responses=documented(Unauthorized))
def list_presets(_: CallerDep) -> Listed[Preset]:
    """List the presets by name."""
    return Listed(
        data=[
            Preset(name=name, description=preset.description, settings=dict(preset.settings))
            for name, preset in sorted(PRESETS.items())
        ]
    )
