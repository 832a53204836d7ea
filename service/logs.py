"""Structured logs of API and worker: one JSON object a line on standard error, secrets taken out."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from service.settings import ServiceSettings

_SECRETS = (
    (re.compile(r"\bddo_[A-Za-z0-9_-]{20,}"), "ddo_[redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), r"\1 [redacted]"),
    (re.compile(r"(?i)((?:x-amz-)?(?:signature|security-token|credential)=)[^&\s\"']+"), r"\1[redacted]"),
    (re.compile(r"(\w://[^:/\s@]*:)[^@/\s]+@"), r"\1[redacted]@"),
)
# loggers that say per request, or at INFO, what nobody reads; the API writes its own line per request
_QUIET = {"uvicorn.access": logging.CRITICAL, "botocore": logging.WARNING, "urllib3": logging.WARNING}


def redacted(text: str) -> str:
    """Return ``text`` without API keys, bearer tokens, signatures and passwords in URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        event[name] = _redacted_value(value)
    return event


def _redacted_value(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: _redacted_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted_value(item) for item in value]
    return value


def configure_logging(settings: ServiceSettings) -> None:
    """Send the logs of this process, the libraries' included, through structlog.

    Bound context (``structlog.contextvars``) goes into every line: ``request_id`` here, ``unit_id`` in the worker.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
