"""How the engine is called."""

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import ServiceSettings
from service.statuses import UnitKind
from worker.command import COMMANDS, engine_command, engine_environment


def _settings(**changes) -> ServiceSettings:
    required = {"database_url": SecretStr("x"), "broker_url": SecretStr("x"), "storage_url": "file:///store"}
    return ServiceSettings(**required, **changes)


@pytest.mark.parametrize("kind", UnitKind)
def test_engine_command_parses_for_every_kind(kind):
    from ddo_engine.command_line import _parser

    settings = _settings(engine_device="cuda:3", engine_threads=2)
    command = engine_command(settings, kind, Path("/a/spec.json"), Path("/a/work"), Path("/cache"))

    assert command[:3] == [sys.executable, "-m", "ddo_engine"]
    options = _parser().parse_args(command[3:])
    assert (options.workdir, options.cache, options.device, options.threads) == (
        Path("/a/work"),
        Path("/cache"),
        "cuda",
        2,
    )


@pytest.mark.parametrize("kind", UnitKind)
def test_engine_command_of_several_processes_is_torchrun_where_the_engine_knows_it(kind):
    settings = _settings(engine_device="cuda:0,2", processes_per_unit=2, engine_python="/other/python")
    command = engine_command(settings, kind, Path("/a/spec.json"), Path("/a/work"), Path("/cache"))
    alone = engine_command(_settings(engine_device="cuda"), kind, Path("/a/spec.json"), Path("/a/work"), Path("/cache"))

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    by_one = kind in (UnitKind.VALIDATE, UnitKind.BASELINE_DISCRIMINATOR)
    assert command == ["/other/python", *([] if by_one else torchrun), *alone[1:]]
    assert engine_environment(settings, Path("/a/tmp"))["CUDA_VISIBLE_DEVICES"] == "0,2"


@pytest.mark.parametrize("kind", UnitKind)
def test_weights_are_sharded_in_trials_alone(kind):
    from ddo_engine.command_line import _parser

    settings = _settings(processes_per_unit=2, shard_weights=True)
    command = engine_command(settings, kind, Path("/a/spec.json"), Path("/a/work"), Path("/cache"))
    options = _parser().parse_args(command[command.index("ddo_engine") + 1 :])
    assert getattr(options, "shard_weights", False) is (COMMANDS[kind] == "train")


def test_worker_of_one_process_cannot_shard():
    with pytest.raises(ValidationError, match="DDO_SHARD_WEIGHTS is set and DDO_PROCESSES_PER_UNIT is 1"):
        _settings(shard_weights=True)


def test_torchrun_waits_for_a_state_as_long_as_the_worker_does():
    environment = engine_environment(_settings(grace_seconds=89.5), Path("/a/tmp"))
    assert environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "90"


@pytest.mark.parametrize(
    ("device", "processes", "refused"),
    [
        ("cuda:0,1", 2, False),
        ("cuda", 2, False),
        ("cpu", 2, False),
        ("cuda:0", 2, True),
        ("cuda:0,1", 1, True),
        ("cuda:0,", 2, True),
        ("cuda:", 1, True),
        ("tpu", 1, True),
    ],
)
def test_gpus_and_processes_of_a_worker_must_fit(device, processes, refused):
    if not refused:
        assert _settings(engine_device=device, processes_per_unit=processes).processes_per_unit == processes
        return
    with pytest.raises(ValidationError, match=r"DDO_PROCESSES_PER_UNIT|engine_device"):
        _settings(engine_device=device, processes_per_unit=processes)


def test_engine_environment_holds_no_secrets_and_one_gpu(monkeypatch):
    monkeypatch.setenv("DDO_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    environment = engine_environment(_settings(engine_device="cuda:3"), Path("/a/tmp"))

    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["TMPDIR"] == "/a/tmp"
    assert "secret" not in environment.values()


def test_engine_is_told_which_feature_networks_are_trusted(monkeypatch):
    monkeypatch.setenv("DDO_TRUSTED_FEATURE_NETWORKS", "aa:bb")
    for name in ("DATABASE_URL", "BROKER_URL", "STORAGE_URL"):
        monkeypatch.setenv(f"DDO_{name}", "x")
    assert ServiceSettings().trusted_feature_networks == ("aa", "bb")
    assert engine_environment(ServiceSettings(), Path("/a/tmp"))["DDO_TRUSTED_FEATURE_NETWORKS"] == "aa:bb"


def test_engine_environment_of_another_python_is_left_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/theirs")

    temporary = Path("/a/tmp")
    assert engine_environment(_settings(engine_python="/other/python"), temporary)["PYTHONPATH"] == "/theirs"
    assert engine_environment(_settings(), temporary)["PYTHONPATH"].endswith(":/theirs")
