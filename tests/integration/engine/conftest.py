"""Inputs that fit together, made once."""

import pytest

from tests.engine_inputs import EngineInputs, make_inputs


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EngineInputs:
    """A tiny model, images, fakes and a feature network."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))
