"""URLs that the API signs itself for the local store: HMAC-SHA256 over method, key, expiry and filename."""

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import quote, urlencode

_CONTEXT = "ddo-object-url-v1"


class SignatureInvalid(Exception):
    """The URL was not signed by us for this method, key, expiry and filename."""


class SignatureExpired(Exception):
    """The URL was ours, and its time is over."""


def sign_query(signing_key: bytes, *, method: str, key: str, expires: int, filename: str) -> str:
    """Return the query string that admits ``method`` on ``key`` until ``expires`` (seconds since 1970, UTC)."""
    signature = _signature(signing_key, method, key, str(expires), filename)
    return urlencode({"expires": expires, "filename": filename, "signature": signature}, quote_via=quote)


def verify_query(signing_key: bytes, query: Mapping[str, str], *, method: str, key: str) -> str:
    """Check a signed query and return the filename in it. A URL signed for GET also serves HEAD.

    Raises:
        SignatureInvalid: Any part is missing, changed, or signed for another method or key.
        SignatureExpired: The signature is right and too old.
    """
    expires, filename = query.get("expires", ""), query.get("filename", "")
    expected = _signature(signing_key, "GET" if method == "HEAD" else method, key, expires, filename)
    if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode("utf-8", "replace")):
        raise SignatureInvalid
    if time.time() >= int(expires):
        raise SignatureExpired
    return filename


def _signature(signing_key: bytes, *parts: str) -> str:
    message = "\n".join((_CONTEXT, *parts)).encode("utf-8", "replace")
    return hmac.new(signing_key, message, hashlib.sha256).hexdigest()
