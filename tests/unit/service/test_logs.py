"""Log lines are JSON objects, carry their context, and hold no secrets."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from pydantic import SecretStr

from service.logs import configure_logging, redacted
from service.settings import ServiceSettings

KEY = "ddo_Zx81kQ0fUvLJ9s2yq7nB4wTtR5hE3cVbA6mDgK1iPoX"


@pytest.fixture
def settings() -> Iterator[ServiceSettings]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield ServiceSettings(
        database_url=SecretStr("postgresql://u:dbsecret@h/d"),
        broker_url=SecretStr("redis://:brokersecret@h/0"),
        storage_url="file:///tmp/x",
    )
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"key {KEY} used", KEY),
        (f"Authorization: Bearer {KEY}", KEY),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("GET /objects/a?expires=1&signature=0123abcd", "0123abcd"),
        ("https://b/k?X-Amz-Credential=AKIA/2026&X-Amz-Signature=feed", "feed"),
        ("https://b/k?X-Amz-Credential=AKIA/2026&X-Amz-Signature=feed", "AKIA"),
        ("https://b/k?X-Amz-Security-Token=tok3n", "tok3n"),
        ("redis://:hunter2@host:6379/0 refused", "hunter2"),
        ("postgresql+psycopg://user:pa55@host/db", "pa55"),
    ],
)
def test_redacted_takes_secrets_out(text, secret) -> None:
    assert secret not in redacted(text)
    assert "[redacted]" in redacted(text)


@pytest.mark.parametrize(
    "text",
    ["ddo_engine.families.edm", "http://127.0.0.1:8000/jobs", "a@b.example", "ddo_http_requests", "t/ten/jobs/1"],
)
def test_redacted_leaves_plain_text(text) -> None:
    assert redacted(text) == text


def test_log_lines_are_json_with_context_and_without_secrets(settings, capsys) -> None:
    configure_logging(settings)
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger("service.test").info("told", key=KEY, nested={"url": ["redis://:hunter2@h/0"]})
        logging.getLogger("a.dependency").warning("lost %s", settings.broker_url.get_secret_value())
        try:
            raise RuntimeError(f"failed with {KEY}")
        except RuntimeError:
            structlog.get_logger("service.test").exception("failed")
    text = capsys.readouterr().err
    told, lost, failed = (json.loads(line) for line in text.splitlines())
    assert (told["event"], told["level"], told["logger"]) == ("told", "info", "service.test")
    assert lost["event"] == "lost redis://:[redacted]@h/0"
    assert "RuntimeError" in failed["exception"]
    assert {line["request_id"] for line in (told, lost, failed)} == {"req_1"}
    for secret in (KEY, "hunter2", "brokersecret", "dbsecret"):
        assert secret not in text


def test_log_level_is_that_of_the_settings(settings, capsys) -> None:
    configure_logging(settings.model_copy(update={"log_level": "warning"}))
    logging.getLogger("a.dependency").info("hidden")
    logging.getLogger("a.dependency").warning("shown")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["shown"]
