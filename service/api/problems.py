"""Errors as clients see them: RFC 9457 problem+json with a stable ``code`` and, where one field is to blame, ``param``.

ApiError                    status  code
├── Unauthorized            401     unauthorized
├── Forbidden               403     (signature_invalid, url_expired)
├── NotFound                404     not_found
├── Conflict                409     (job_already_ended, …)
├── BodyTooLarge            413     body_too_large
├── UnsupportedMediaType    415     unsupported_media_type
├── MalformedBody           400     malformed_json
├── Unprocessable           422     (validation_failed, idempotency_mismatch, uri_not_allowed, …)
└── Unavailable             503     (storage_unavailable, not_ready, …)
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One wrong field."""

    param: str | None = Field(description="Path of the field: `grid.alpha[1]`; null for the body as a whole.")
    code: str = Field(description="Kind of mistake.", examples=["greater_than_equal"])
    message: str = Field(description="What is wrong and what to do.")


class Problem(BaseModel):
    """An error, as RFC 9457 shapes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="URI reference of the kind of error; relative to the service.", examples=["/problems/not_found"]
    )
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str = Field(description="A sentence that says what to do.")
    code: str = Field(description="Stable name of the error, for programs.", examples=["not_found"])
    param: str | None = Field(description="The field to blame: `grid.alpha[1]`; the first one if several are wrong.")
    request_id: str = Field(description="Quote it when you ask for help; also in `X-Request-ID`.")
    errors: list[FieldError] = Field(default=[], description="Every wrong field, when the request did not validate.")


class ApiError(Exception):
    """Base of the errors that the API answers with.

    Args:
        detail: A sentence for the client.
        code: Stable name; each class has a default.
        param: The field to blame.
        errors: All wrong fields.
        headers: Further response headers.
        members: Further members of the problem object.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        param: str | None = None,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.param = param
        self.errors = errors
        self.headers = dict(headers or {})
        self.members = dict(members or {})


class Unauthorized(ApiError):
    """No key, or not a valid one."""

    status = HTTPStatus.UNAUTHORIZED
    default_code = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "Send a valid API key: 'Authorization: Bearer ddo_…'.", headers={"WWW-Authenticate": 'Bearer realm="ddo"'}
        )


class Forbidden(ApiError):
    """A signed URL that does not admit this request."""

    status = HTTPStatus.FORBIDDEN
    default_code = "signature_invalid"


class NotFound(ApiError):
    """Nothing there, or nothing that this tenant may know of."""

    status = HTTPStatus.NOT_FOUND
    default_code = "not_found"


class Conflict(ApiError):
    """The resource's state does not allow the request."""

    status = HTTPStatus.CONFLICT
    default_code = "conflict"


class MalformedBody(ApiError):
    """The body is not JSON."""

    status = HTTPStatus.BAD_REQUEST
    default_code = "malformed_json"


class BodyTooLarge(ApiError):
    """The body exceeds ``DDO_MAX_BODY_BYTES``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"


class UnsupportedMediaType(ApiError):
    """The body is not declared as JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    default_code = "unsupported_media_type"


class Unprocessable(ApiError):
    """The request is well-formed and wrong."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    default_code = "validation_failed"


class Unavailable(ApiError):
    """Something that we depend on does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    default_code = "unavailable"


def documented(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of an endpoint that answers with these errors, for OpenAPI."""
    return {
        int(error.status): {
            "description": (error.__doc__ or "").strip(),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for error in errors
    }
