"""Request bodies, read strictly: declared as JSON, bounded, standard JSON only, storable in Postgres."""

from typing import Any

import pydantic_core
from fastapi import Request

from service.api.problems import BodyTooLarge, MalformedBody, Unprocessable, UnsupportedMediaType
from service.api.validation import unstorable


async def json_body(request: Request) -> Any:
    """Return the parsed body; an empty one is an empty object.

    Raises:
        UnsupportedMediaType: Another content type than JSON is declared.
        BodyTooLarge: More than ``DDO_MAX_BODY_BYTES`` are declared or sent.
        MalformedBody: Not JSON. NaN, Infinity, lone surrogates and nesting beyond 200 levels are not JSON here.
        Unprocessable: A string holds a NUL character.
    """
    raw = await _read(request)
    if not raw:
        return {}
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
    try:
        body = pydantic_core.from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}. NaN and Infinity are not JSON.") from error
    if (found := unstorable(body)) is not None:
        where = f"{found.param}: " if found.param else ""
        raise Unprocessable(f"{where}{found.message}", param=found.param, errors=[found])
    return body


async def _read(request: Request) -> bytes:
    limit = request.app.state.settings.max_body_bytes
    too_large = BodyTooLarge(f"The body is larger than {limit} bytes: shorten it.", headers={"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limit:
            raise too_large
    return bytes(raw)
