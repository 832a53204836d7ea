"""Around every request: an id, one log line, a count, and problem+json for what nobody expected."""

import re
import secrets
import time

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.error_handlers import internal_error, problem_response
from service.api.metrics import RequestMetrics

_log = structlog.get_logger("service.api.requests")
_CLIENT_GONE = 499  # what proxies log for a client that did not wait for its answer
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestContext:
    """ASGI middleware; see the module. Health checks that succeed are logged at debug level."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, answered, status = time.perf_counter(), 0.0, 0

        async def send_with_id(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)
            answered = time.perf_counter()  # what runs after the answer is not the client's time

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # in the middle of its body: nobody is left to answer, and nothing failed here
            status = status or _CLIENT_GONE
        except Exception:
            _log.exception("request_failed", method=scope["method"], path=scope["path"])
            if status:  # too late for another answer: let the server cut the connection
                raise
            response = problem_response(Request(scope), internal_error())
            await response(scope, receive, send_with_id)
        finally:
            self._report(scope, status, (answered or time.perf_counter()) - started)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        # the template of the path, not the path: ids would make a series each
        route = getattr(scope.get("route"), "path", "(none)")
        self._metrics.observe(method=scope["method"], route=route, status=status, seconds=seconds)
        log = _log.debug if route in ("/healthz", "/readyz", "/metrics") and status < 400 else _log.info
        log(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            client=scope["client"][0] if scope.get("client") else None,
            **({"tenant_id": scope["state"]["tenant_id"]} if "tenant_id" in scope["state"] else {}),
        )
