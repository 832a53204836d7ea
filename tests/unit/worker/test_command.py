"""How the engine is called."""

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from service.statuses import UnitKind
from worker.command import engine_command, engine_environment


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


def test_engine_environment_holds_no_secrets_and_one_gpu(monkeypatch):
    monkeypatch.setenv("DDO_DATABASE_URL", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    environment = engine_environment(_settings(engine_device="cuda:3"), Path("/a/tmp"))

    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["TMPDIR"] == "/a/tmp"
    assert "secret" not in environment.values()


def test_engine_environment_of_another_python_is_left_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/theirs")

    temporary = Path("/a/tmp")
    assert engine_environment(_settings(engine_python="/other/python"), temporary)["PYTHONPATH"] == "/theirs"
    assert engine_environment(_settings(), temporary)["PYTHONPATH"].endswith(":/theirs")
