"""``/objects/{key}``: what signed URLs of the local store lead to. No key is asked for: the signature is the right."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from service.api.dependencies import Store
from service.api.error_handlers import problem_response
from service.api.problems import ApiError, Forbidden, NotFound, documented
from service.storage import ObjectNotFound
from service.storage.local import LocalStore
from service.storage.signing import SignatureExpired, SignatureInvalid, verify_query

router = APIRouter(tags=["objects"])

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class _InvalidRange(ApiError):
    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    default_code = "invalid_range"


class _ObjectResponse(FileResponse):
    """A file with range requests; what Starlette says of a bad range in plain text becomes a problem."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: list[Message] = []

        async def checked_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                refused.append(message)
            if not refused:
                await send(message)

        await super().__call__(scope, receive, checked_send)
        if refused:
            headers = {k.decode(): v.decode() for k, v in refused[0]["headers"] if k.lower() == b"content-range"}
            error = _InvalidRange(
                "The Range header does not fit the object: give 'bytes=first-last' inside it.", headers=headers
            )
            await problem_response(Request(scope), error)(scope, receive, send)


@router.api_route(
    "/objects/{key:path}",
    methods=_METHODS,
    response_class=FileResponse,
    responses=documented(Forbidden, NotFound),
    include_in_schema=False,
)
def serve_object(key: str, request: Request, store: Store) -> Response:
    """Serve an object to whoever holds a URL that was signed for exactly this method, key and time."""
    if not isinstance(store, LocalStore) or store.signing_key is None:
        raise NotFound("This service keeps its objects elsewhere: use the URL that the download call returned.")
    try:
        filename = verify_query(store.signing_key, request.query_params, method=request.method, key=key)
        path = store.path_of(key)
    except SignatureExpired as error:
        raise Forbidden("The signed URL has expired: ask for a new one.", code="url_expired") from error
    except SignatureInvalid as error:
        raise Forbidden("The signature does not fit this URL and method: use the URL unchanged.") from error
    except ObjectNotFound as error:
        raise NotFound("The object is gone.") from error
    # private: nobody on the way may keep what the signature admitted for minutes only
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return _ObjectResponse(path, filename=filename, media_type="application/octet-stream", headers=headers)
