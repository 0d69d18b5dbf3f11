"""Error responses of a host as exceptions, which a call in the same process would raise, too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from spear._error_objects import error_from_object
from spear._errors import (
    AuthenticationFailed,
    ConfigurationError,
    InvalidArguments,
    NoHost,
    Overloaded,
    Rejected,
    SpearError,
)
from spear.wire import decode_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear._errors import Delivered

    from ._connection import ResponseHead


def read_document_untrusted(kind: bytes, body: bytes) -> object:
    """Return the value of a body that is CBOR or JSON. Raises ValueError for any other."""
    if kind == b"application/cbor":
        return decode_result(body, is_cbor=True)
    if kind == b"application/json":
        return json.loads(body)
    raise ValueError(f"the type of the content is {kind!r}")


def failure_of_untrusted(head: ResponseHead, body: bytes, where: str) -> SpearError:
    """Return the exception for an error response.

    Args:
        head: the head of the response.
        body: its body.
        where: the host, for messages.
    """
    try:
        document = read_document_untrusted(head.kind, body)
    except (ValueError, RecursionError):
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return NoHost(
            f"{where} responded with status {head.status}, and not as a Spear host: check the address",
            delivered="maybe" if head.status >= 500 else "no",
        )
    return failure_from_untrusted(error, head.headers.get(b"retry-after"))


def failure_from_untrusted(
    error: Mapping[object, object], retry_after: bytes | None = None
) -> SpearError:
    """Return the exception for a host's error object, with the attributes that it had at the host.

    Args:
        error: the object.
        retry_after: the header of this name, if there is one.
    """
    kind, message = error.get("kind"), str(error.get("message"))
    code = str(error.get("code"))
    if kind == "Unauthorized":
        return AuthenticationFailed(f"{message}; pass the host's token as token=", code=code)
    if kind in ("Forbidden", "BadRequest", "UnsupportedMediaType", "ExpectationFailed"):
        return ConfigurationError(message, code=code)
    if kind == "HeadTooLarge":
        return InvalidArguments(f"{message}; shorten metadata, key and session", code=code)
    if kind == "TooLarge":
        return InvalidArguments(message, code=code)
    if kind == "NoSuchPath":
        advice = "; the host may have another version, or the address a path too many"
        return ConfigurationError(f"{message}{advice}", code=code)
    if kind == "Busy":
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        delivered: Delivered = "yes" if error.get("delivered") == "yes" else "no"
        return Overloaded(message, retry_after_seconds=seconds, code=code, delivered=delivered)
    if kind == "GoingAway":
        failure: SpearError = Rejected(message, code="draining")
        failure.delivered = error_from_object(error).delivered
        return failure
    return error_from_object(error)
