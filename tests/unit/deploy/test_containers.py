"""The containers run what the local stack and the tests run, with no secrets of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.commands import MIGRATE, WORKER, api_command
from service.settings import ServiceSettings

_ROOT = Path(__file__).parents[3]
_COMPOSE = (_ROOT / "docker-compose.yml").read_text()
_SECRETS = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"}


def _dockerfile() -> dict[str, list[str]]:
    """Return the instructions of every stage, those of the stages it builds on first."""
    stages: dict[str, list[str]] = {}
    current: list[str] = []
    text = (_ROOT / "deploy" / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if started := re.match(r"FROM (\S+) AS (\S+)", line):
            current = stages[started[2]] = list(stages.get(started[1], []))
        elif line and not line.startswith("#"):
            current.append(line)
    return stages


def _last(instructions: list[str], name: str) -> str:
    return [line.removeprefix(f"{name} ") for line in instructions if line.startswith(f"{name} ")][-1]


def _services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(_COMPOSE)["services"]
    return services


def _example_environment() -> dict[str, str]:
    lines = (_ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize(
    ("target", "arguments"), [("api", api_command("0.0.0.0", 8000)), ("worker", WORKER), ("migrate", MIGRATE)]
)
def test_image_runs_the_command_of_the_local_stack(target: str, arguments: tuple[str, ...]) -> None:
    assert json.loads(_last(_dockerfile()[target], "CMD")) == ["python", *arguments]


@pytest.mark.parametrize("target", ["api", "worker", "migrate"])
def test_image_is_not_run_by_root(target: str) -> None:
    assert _last(_dockerfile()[target], "USER") == "ddo"


def test_image_gets_only_files_that_exist_and_are_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for instructions in _dockerfile().values():
        for line in instructions:
            if line.startswith("COPY "):
                for source in line.split()[1:-1]:
                    assert (_ROOT / source).exists(), source
                    assert source.split("/")[0] in sent, source


def test_image_requirements_are_those_of_the_extras() -> None:
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    script = _ROOT / "deploy" / "docker" / "requirements.py"
    command = [sys.executable, str(script), "service", "engine"]
    printed = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert set(extras["service"]) | set(extras["engine"]) < set(lines)
    assert any(line.startswith("pydantic") for line in lines)
    assert not set(extras["check"]) & set(lines)


def test_worker_image_has_what_models_and_datasets_of_all_kinds_need() -> None:
    installed = {word for line in _dockerfile()["worker"] if "requirements.py" in line for word in line.split()}
    assert {"service", "engine", "diffusers", "webdataset"} <= installed


def test_compose_has_every_part_and_runs_images_as_they_are() -> None:
    services = _services()
    workers = {name for name in services if name.startswith("worker-")}
    assert services.keys() - workers == {"postgres", "valkey", "s3", "migrate", "buckets", "api"}
    for name in {"api", "migrate", *workers}:
        assert services[name]["build"]["target"] == name.split("-")[0]
        assert "command" not in services[name]
        assert "entrypoint" not in services[name]
    assert services["buckets"]["command"] == ["python", "-m", "deploy.buckets"]


def test_compose_our_processes_run_under_a_reaping_init() -> None:
    for name, service in _services().items():
        assert service.get("init") or name == "postgres", name


def test_compose_servers_are_waited_for_until_healthy() -> None:
    services = _services()
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"]
            else:
                assert wanted == {"condition": "service_completed_successfully"}
                assert services[name]["restart"] == "on-failure"


def test_compose_each_worker_has_a_gpu_of_its_own() -> None:
    services = _services()
    workers = {name: service for name, service in services.items() if name.startswith("worker-")}
    for name, service in workers.items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": [name.removeprefix("worker-")], "capabilities": ["gpu"]}
    for profile, count in {None: 1, "gpus-2": 2, "gpus-4": 4, "gpus-8": 8}.items():
        started = [name for name, service in workers.items() if profile in service.get("profiles", [profile])]
        assert sorted(started) == [f"worker-{index}" for index in range(count)]


def test_compose_settings_are_settings_of_the_service() -> None:
    known = {f"DDO_{name.upper()}" for name in ServiceSettings.model_fields}
    for name in ("api", "buckets", "migrate", "worker-0", "worker-7"):
        environment = _services()[name]["environment"]
        assert environment
        assert environment.keys() <= known


def test_compose_settings_are_complete_and_valid() -> None:
    filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: _example_environment()[found[1]] or "secret", _COMPOSE)
    environment = yaml.safe_load(filled)["services"]["api"]["environment"]
    settings = ServiceSettings(**{name.removeprefix("DDO_").lower(): value for name, value in environment.items()})
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://ddo:secret@postgres:5432/ddo"
    assert settings.s3_secret_access_key is not None


def test_compose_secrets_have_no_default_anywhere() -> None:
    example = _example_environment()
    used = dict(re.findall(r"(?<!\$)\$\{(\w+)(:[?-])", _COMPOSE))
    assert {name for name, operator in used.items() if operator == ":?"} == example.keys()
    assert used.keys() >= _SECRETS
    assert {name for name, value in example.items() if not value} == _SECRETS
    for line in _COMPOSE.splitlines():
        if found := re.match(r"\s*\w*(?:PASSWORD|SECRET|ACCESS_KEY)\w*: *(.*)", line):
            assert found[1].startswith("${"), line


def _has_compose() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _has_compose(), reason="docker compose is not installed here")
def test_compose_file_is_accepted_by_docker(tmp_path: Path) -> None:
    environment = tmp_path / "env"
    environment.write_text("\n".join(f"{name}={value or 'secret'}" for name, value in _example_environment().items()))
    command = ["docker", "compose", "--env-file", str(environment), "--profile", "gpus-8", "config", "--quiet"]
    checked = subprocess.run(command, cwd=_ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
