"""The one place where exceptions become problem+json answers."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from service.api.problems import MEDIA_TYPE, ApiError, Problem, Unavailable
from service.api.validation import unprocessable
from service.storage import StorageError

_log = structlog.get_logger(__name__)

_DETAILS = {
    HTTPStatus.NOT_FOUND: "There is nothing under this path; see /docs for the paths that exist.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path does not take this method; the Allow header names those that it takes.",
}


class ProblemResponse(JSONResponse):
    """An answer in ``application/problem+json``."""

    media_type = MEDIA_TYPE


def problem_response(request: Request, error: ApiError) -> ProblemResponse:
    """Return the answer for ``error``."""
    problem = Problem(
        type=f"/problems/{error.code}",
        title=error.status.phrase,
        status=int(error.status),
        detail=error.detail,
        code=error.code,
        param=error.param,
        request_id=request.scope["state"]["request_id"],
        errors=error.errors or [],
        **error.members,
    )
    content = problem.model_dump(mode="json", exclude=None if error.errors else {"errors"})
    return ProblemResponse(content, status_code=int(error.status), headers=error.headers)


def internal_error() -> ApiError:
    """Return what a client learns of an unexpected exception: nothing but the request's id."""
    return ApiError("The service made a mistake; it was logged under this request_id.")


def install(app: FastAPI) -> None:
    """Register the handlers."""

    def on_api_error(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, ApiError)
        return problem_response(request, error)

    def on_validation_error(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, RequestValidationError)
        return problem_response(request, unprocessable(error.errors(), skip=1))

    def on_http_exception(request: Request, error: Exception) -> ProblemResponse:
        assert isinstance(error, HTTPException)
        return problem_response(request, _from_http(error))

    def on_database_error(request: Request, error: Exception) -> ProblemResponse:
        _log.error("database_unavailable", exc_info=error)
        return _retry_later(request, "database_unavailable", "The database does not answer; try again in a moment.")

    def on_storage_error(request: Request, error: Exception) -> ProblemResponse:
        _log.error("storage_unavailable", exc_info=error)
        return _retry_later(request, "storage_unavailable", "The object store does not answer; try again in a moment.")

    handlers: dict[Any, Any] = {
        ApiError: on_api_error,
        RequestValidationError: on_validation_error,
        HTTPException: on_http_exception,
        OperationalError: on_database_error,
        PoolTimeoutError: on_database_error,
        StorageError: on_storage_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _retry_later(request: Request, code: str, detail: str) -> ProblemResponse:
    return problem_response(request, Unavailable(detail, code=code, headers={"Retry-After": "5"}))


def _from_http(error: HTTPException) -> ApiError:
    status = HTTPStatus(error.status_code)
    translated = ApiError(
        _DETAILS.get(status, str(error.detail)), code=status.name.lower(), headers=dict(error.headers or {})
    )
    translated.status = status  # type: ignore[misc]
    return translated
