"""Messages are for people, whatever the files hold that they quote."""

import pytest

from ddo_engine.errors import CorruptCheckpoint, EngineError
from ddo_engine.spec import ENGINE_EVENT, Failed


def test_message_with_control_characters_and_lone_surrogates_is_escaped():
    error = CorruptCheckpoint("tensor a\0b\x1b[31m\ud800 of “é” … 模型\n\tis missing", param="network.\0")
    assert error.message == str(error) == "tensor a\\x00b\\x1b[31m\\ud800 of “é” … 模型\n\tis missing"
    assert error.param == "network.\\x00"


@pytest.mark.parametrize("name", ["x" * 2**22, "\0" * 2**22])
def test_message_that_quotes_a_huge_name_fits_into_a_line_of_events(name):
    error = EngineError(f"{name} is missing", param=name)
    line = Failed(code=error.code, message=error.message, param=error.param).model_dump_json()
    assert len(line) < 2**16
    assert ENGINE_EVENT.validate_json(line).message == error.message
