"""What becomes of a unit, by how its engine ended."""

import errno

import pytest

from ddo_engine.errors import EngineError
from ddo_engine.spec import Failed
from service.failures import FINAL_CODES
from service.storage import ObjectDiffers, ObjectNotFound, StorageError
from service.transitions import LeaseLostError
from worker.cache import DamagedFileError
from worker.ending import engine_ending, task_ending
from worker.inputs import InputRefusedError
from worker.sink import ProtocolError
from worker.task import AbandonedError


def _ending(status, *, finished=False, failed=None, asked_to_stop=False, stalled=False):
    flags = {"finished": finished, "failed": failed, "asked_to_stop": asked_to_stop, "stalled": stalled}
    return engine_ending(status, **flags, log_tail="tail")


def _failed(code, param=None):
    return Failed(code=code, message="said so", param=param)


@pytest.mark.parametrize(
    ("status", "said", "how", "code"),
    [
        (0, {"finished": True}, "finished", None),
        (0, {}, "crashed", "engine_error"),
        (1, {"finished": True}, "crashed", "engine_error"),
        (70, {"failed": _failed("diverged")}, "failed", "diverged"),
        (71, {"failed": _failed("out_of_memory")}, "failed", "out_of_memory"),
        (71, {}, "failed", "out_of_memory"),
        (64, {}, "failed", "invalid_spec"),
        (65, {"failed": _failed("invalid_dataset")}, "failed", "invalid_dataset"),
        (65, {"failed": _failed("invalid_checkpoint", "state")}, "crashed", "invalid_checkpoint"),
        (65, {}, "crashed", "engine_error"),
        (70, {"failed": _failed("engine_error")}, "crashed", "engine_error"),
        (75, {"failed": _failed("interrupted"), "asked_to_stop": True}, "released", None),
        (75, {"failed": _failed("interrupted")}, "crashed", "engine_error"),
        (-15, {"asked_to_stop": True}, "released", None),
        (-9, {"asked_to_stop": True}, "released", None),
        (-9, {}, "crashed", "engine_killed"),
        (-9, {"stalled": True}, "crashed", "engine_stalled"),
        (0, {"finished": True, "asked_to_stop": True}, "finished", None),
        (70, {"failed": _failed("diverged"), "asked_to_stop": True}, "failed", "diverged"),
    ],
)
def test_engine_ending_is_judged_by_status_and_last_event(status, said, how, code):
    ending = _ending(status, **said)

    assert ending.how == how
    assert (ending.error or {}).get("code") == code
    assert ending.drop_state == (code == "invalid_checkpoint")


def test_engine_ending_keeps_what_the_engine_said_last():
    assert _ending(-9).error == {
        "code": "engine_killed",
        "message": "the engine was ended by SIGKILL",
        "param": None,
        "log_tail": "tail",
    }


def test_ending_can_be_stored_whatever_the_engine_says():
    said = Failed(code="invalid_dataset", message="name\0", param="dataset\0")
    error = engine_ending(65, finished=False, failed=said, asked_to_stop=False, stalled=False, log_tail="log\0").error
    assert (error["message"], error["param"], error["log_tail"]) == ("name\\0", "dataset\\0", "log\\0")
    assert task_ending(RuntimeError("\0")).error["message"] == "RuntimeError: \\0"


def test_final_codes_are_all_of_the_engine_but_those_that_may_pass():
    # those of ddo_engine.errors: an error that one process tells another has that one's code
    codes = {error.code for error in EngineError.__subclasses__() if error.__module__ == EngineError.__module__}

    assert set(FINAL_CODES) == codes - {"interrupted", "process_lost"}


def test_unit_of_which_one_process_died_is_tried_again():
    said = Failed(code="process_lost", message="another process of this run has ended", param=None)
    ending = engine_ending(70, finished=False, failed=said, asked_to_stop=False, stalled=False, log_tail="")
    assert ending.how == "crashed"


@pytest.mark.parametrize(
    ("error", "how", "code"),
    [
        (LeaseLostError(), "gone", None),
        (AbandonedError(), "gone", None),
        (InputRefusedError("invalid_dataset", "no such file", "dataset"), "failed", "invalid_dataset"),
        (ProtocolError("nonsense"), "crashed", "engine_error"),
        (ObjectDiffers("other bytes"), "crashed", "engine_error"),
        (StorageError("503"), "lost", "storage_unavailable"),
        (ObjectNotFound("gone"), "lost", "storage_unavailable"),
        (DamagedFileError("cut"), "lost", "storage_unavailable"),
        (OSError(errno.ENOSPC, "full"), "lost", "disk_full"),
        (ZeroDivisionError("defect"), "crashed", "worker_error"),
    ],
)
def test_task_ending_blames_the_unit_only_where_it_is_to_blame(error, how, code):
    ending = task_ending(error)

    assert ending.how == how
    assert (ending.error or {}).get("code") == code
