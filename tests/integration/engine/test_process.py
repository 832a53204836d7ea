"""``python -m ddo_engine`` as a process: exit statuses, signals, kills, and what stands on its standard output."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.engine_inputs import REPOSITORY, finish, merged, results, run_engine, start_engine

LONG = {"training": {"kimg": 9.6, "evaluate_every_kimg": 2.4, "save_state_every_kimg": 0.08}}


def read_until(process, matches, timeout=60.0):
    """Read events up to the first that matches."""
    deadline, events = time.monotonic() + timeout, []
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        events.append(json.loads(line))
        if matches(events[-1]):
            return events
    raise AssertionError("the event did not come")


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    run = run_engine("train", inputs.train_spec(**LONG), tmp_path_factory.mktemp("undisturbed"))
    assert run.exit_status == 0, run.stderr
    assert [event["type"] for event in (run.events[0], run.events[-1])] == ["started", "finished"]
    return run


@pytest.mark.slow
def test_trial_killed_at_random_moments_and_run_again_equals_undisturbed(inputs, tmp_path, undisturbed):
    dice = random.Random(20250303)
    events, kills = [], 0
    for _ in range(5):
        process = start_engine("train", inputs.train_spec(**LONG), tmp_path)
        events += read_until(process, lambda event: event["type"] == "progress")
        time.sleep(dice.uniform(0.0, 0.2))
        process.kill()
        run = finish(process)
        events += run.events
        kills += run.exit_status == -signal.SIGKILL
    last = run_engine("train", inputs.train_spec(**LONG), tmp_path)
    assert last.exit_status == 0, last.stderr
    assert kills >= 3
    assert last.events[0]["resumed_from_kimg"] is not None
    assert results(events + last.events) == results(undisturbed.events)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_trial_told_to_stop_exits_75_with_its_state_and_run_again_equals_undisturbed(
    inputs, tmp_path, undisturbed, number
):
    process = start_engine("train", inputs.train_spec(**LONG), tmp_path)
    events = read_until(process, lambda event: event["type"] == "metric" and event["step"] >= 30)
    process.send_signal(number)
    stopped = finish(process)
    assert stopped.exit_status == 75
    assert stopped.events[-1]["type"] == "error"
    assert stopped.events[-1]["code"] == "interrupted"
    assert stopped.events[-2]["role"] == "state"
    assert stopped.stderr == ""
    resumed = run_engine("train", inputs.train_spec(**LONG), tmp_path)
    assert resumed.exit_status == 0
    assert resumed.events[0]["resumed_from_kimg"] == stopped.events[-2]["kimg"]
    assert results(events + stopped.events[:-1] + resumed.events) == results(undisturbed.events)


@pytest.mark.parametrize("command", ["train", "generate", "evaluate"])
def test_command_told_to_stop_while_it_samples_stops_promptly(inputs, tmp_path, command):
    sampler = {"num_steps": 1000, "batch_size": 5000}
    if command == "train":
        spec = inputs.train_spec(sampler=sampler, evaluation={"num_samples": 5000})
    else:
        spec = {"checkpoint": str(inputs.checkpoint), "dataset": str(inputs.dataset), "sampler": sampler}
        spec |= (
            {"num_samples": 5000}
            if command == "generate"
            else {
                "feature_network": str(inputs.feature_network),
                "evaluations": [{"num_samples": 5000}],
            }
        )
    process = start_engine(command, spec, tmp_path)
    read_until(process, lambda event: event["type"] == "progress" and event["phase"] in ("evaluation", "sampling"))
    time.sleep(0.3)
    process.terminate()
    asked = time.monotonic()
    run = finish(process)
    assert run.exit_status == 75
    assert time.monotonic() - asked < 5
    assert [event["role"] for event in run.of_type("file")] == (["state"] if command == "train" else [])


@pytest.mark.parametrize(
    ("command", "overrides", "status", "code", "param"),
    [
        ("train", {"training": {"learning_rate": -1}}, 64, "invalid_spec", "training.learning_rate"),
        ("train", {"checkpoint": "/nowhere.safetensors"}, 64, "invalid_spec", "checkpoint"),
        ("validate", {}, 64, "invalid_spec", "kind"),
    ],
)
def test_bad_spec_is_refused_with_64_before_torch_is_loaded(inputs, tmp_path, command, overrides, status, code, param):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(inputs.train_spec(**overrides)))
    arguments = [sys.executable, "-X", "importtime", "-m", "ddo_engine", command, path, "--workdir", tmp_path]
    run = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == status
    event = json.loads(run.stdout)
    assert (event["type"], event["code"], event["param"]) == ("error", code, param)
    assert "pydantic" in run.stderr
    assert "torch" not in run.stderr


def test_damaged_input_is_refused_with_65(inputs, tmp_path):
    (tmp_path / "cut.zip").write_bytes(inputs.dataset.read_bytes()[:-100])
    run = run_engine("train", inputs.train_spec(dataset=str(tmp_path / "cut.zip")), tmp_path / "run")
    assert run.exit_status == 65
    assert [event["type"] for event in run.events] == ["started", "error"]
    assert (run.events[-1]["code"], run.events[-1]["param"]) == ("invalid_dataset", "dataset.uri")
    assert run.stderr == ""


def test_batch_that_no_memory_can_hold_is_refused_with_71(inputs, tmp_path):
    spec = inputs.train_spec(training={"batch_size": 65536, "kimg": 100, "evaluate_every_kimg": 100})
    code = (
        "import resource, sys; from ddo_engine.command_line import main; import torch, ddo_engine.train;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27)); sys.exit(main(sys.argv[1:]))"
    )
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    arguments = [sys.executable, "-c", code, "train", path, "--workdir", tmp_path, "--threads", "1"]
    run = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 71, run.stderr
    event = json.loads(run.stdout.splitlines()[-1])
    assert (event["code"], event["param"]) == ("out_of_memory", "training.batch_size")
    assert "lower training.batch_size" in event["message"]


def run_with(code, spec, tmp_path, **options):
    """Run the command line in a process whose ``validate`` command is replaced by ``code``."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    program = f"import sys, os, ddo_engine.validate\n{code}\nfrom ddo_engine.command_line import main\nsys.exit(main())"
    arguments = [sys.executable, "-c", program, "validate", path, "--workdir", tmp_path / "run"]
    return subprocess.run(arguments, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False, **options)


def validate_spec(inputs):
    return merged(
        {"checkpoint": str(inputs.checkpoint), "dataset": str(inputs.dataset)},
        {"feature_network": str(inputs.feature_network)},
    )


def test_what_libraries_print_does_not_reach_the_events(inputs, tmp_path):
    code = "ddo_engine.validate.run = lambda *_: (print('from Python'), os.system('echo from C'), os.write(1, b'raw'))"
    run = run_with(code, validate_spec(inputs), tmp_path, stdout=subprocess.PIPE)
    assert run.returncode == 0
    assert json.loads(run.stdout) == {"type": "finished"}
    for noise in ("from Python", "from C", "raw"):
        assert noise in run.stderr


def test_unexpected_exception_is_one_event_with_70_and_a_traceback_on_stderr(inputs, tmp_path):
    code = "def fail(*_): raise KeyError('two\\nlines')\nddo_engine.validate.run = fail"
    run = run_with(code, validate_spec(inputs), tmp_path, stdout=subprocess.PIPE)
    assert run.returncode == 70
    event = json.loads(run.stdout)
    assert (event["type"], event["code"]) == ("error", "engine_error")
    assert "KeyError" in event["message"]
    assert "Traceback" in run.stderr


def test_nobody_reading_the_events_ends_the_run_with_74(inputs, tmp_path):
    process = start_engine("train", inputs.train_spec(**merged(LONG, {"training": {"kimg": 4800}})), tmp_path)
    read_until(process, lambda event: event["type"] == "metric" or event["type"] == "progress")
    process.stdout.close()
    assert process.wait(timeout=60) == 74
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_workdir_that_cannot_be_made_is_refused(inputs, tmp_path):
    (tmp_path / "run").write_text("in the way")
    run = run_with("", validate_spec(inputs), tmp_path, stdout=subprocess.PIPE)
    assert run.returncode == 64
    assert json.loads(run.stdout)["param"] == "workdir"


def test_version_is_that_of_the_package():
    run = subprocess.run(
        [sys.executable, "-m", "ddo_engine", "--version"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert f'version = "{run.stdout.strip()}"' in (REPOSITORY / "pyproject.toml").read_text()
