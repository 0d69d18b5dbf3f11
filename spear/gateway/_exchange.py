"""Headers, arguments and results of a call: conversion from requests, and to responses.

Headers give the deadline, key, session and trace ids; body and query give the arguments. Results are
written as JSON, CBOR, text or bytes.
"""

from __future__ import annotations

import json
import re
from os import urandom
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qsl, unquote

from spear._json import dump_json, load_json, read_float
from spear._retry_policy import MAX_RETRIES, RetryPolicy
from spear._stalls import STALLED
from spear.wire import TooManyItems, decode_result, encode_alone

from ._errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spear.channels import Metadata
    from spear.wire import HeadValue

    from ._request import Headers, MoreHeaders, Request

T = TypeVar("T")

JSON: Final = b"application/json"
CBOR: Final = b"application/cbor"
MESSAGES: Final = b"application/vnd.spear.messages+cbor-seq"
BYTES: Final = b"application/octet-stream"
TEXT: Final = b"text/plain; charset=utf-8"

TRACE_HEADERS: Final = (b"traceparent", b"tracestate", b"baggage")
MAX_TRACE_BYTES: Final = 8192

RESERVED: Final = frozenset(
    {
        "caller",
        "client_context",
        STALLED,
        "x-request-id",
        *(each.decode() for each in TRACE_HEADERS),
    }
)
"""Keys of metadata that Spear itself sets, and functions may trust."""

MAX_ITEMS: Final = 1_048_576
"""Maximum number of items in a JSON body or message. Commas and brackets in strings count, too."""

MANY_BYTES: Final = 1 << 20
"""JSON up to this size is not checked for too many items, because it cannot have them."""

_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_PRINTABLE: Final = re.compile(rb"[ -~]{1,256}")
_EXECUTION_ID: Final = re.compile(rb"[0-9a-f]{24,64}")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


def bad(message: str) -> Problem:
    """Return the Problem for a request that cannot be understood."""
    return Problem(400, "BadRequest", message)


# -- headers --------------------------------------------------------------------------------------


def single(request: Request, name: bytes) -> bytes | None:
    """Return a header that may occur only once. Raises Problem if it is repeated."""
    if name in request.repeated:
        raise bad(f"there is more than one {name.decode().title()} header: send one")
    return request.headers.get(name)


def identify(request: Request) -> str:
    """Return the request's id, its own or a new one; add it and the trace ids to the response."""
    headers = request.headers
    given = headers.get(b"x-request-id")
    if given is None or not _REQUEST_ID.fullmatch(given):
        given = urandom(8).hex().encode()
    request.extra.append((b"x-request-id", given))
    for name in TRACE_HEADERS:
        if name in headers:
            request.extra.append((name, headers[name]))
    return given.decode()


def metadata_of(request: Request) -> Metadata:
    """Return the metadata that the function gets with the call. Raises Problem."""
    metadata = _own_metadata_of(request)
    metadata["x-request-id"] = request.id
    size = 0
    for name in TRACE_HEADERS:
        value = request.headers.get(name)
        if value is not None:
            size += len(value)
            metadata[name.decode()] = value.decode("latin-1")
    if size > MAX_TRACE_BYTES:
        raise bad(
            f"traceparent, tracestate and baggage have {size} bytes together; at most {MAX_TRACE_BYTES} "
            "are allowed"
        )
    return metadata


def _own_metadata_of(request: Request) -> dict[str, HeadValue]:
    """Return the metadata that the caller names itself. Raises Problem."""
    text = single(request, b"spear-metadata")
    if text is None:
        return {}
    value = parse_json(text, "Spear-Metadata")
    if len(text) > MAX_TRACE_BYTES or not isinstance(value, dict):
        raise bad(f"Spear-Metadata must be a JSON object of at most {MAX_TRACE_BYTES} bytes")
    if reserved := value.keys() & RESERVED:
        raise bad(f"Spear-Metadata must not have {min(reserved)!r}, which Spear itself sets")
    return value


def execution_id_of(request: Request) -> str | None:
    """Return the id for a submitted call, if the request chooses one. Raises Problem."""
    value = single(request, b"spear-execution-id")
    if value is None:
        return None
    if not _EXECUTION_ID.fullmatch(value):
        raise bad(
            "Spear-Execution-Id must have 24 to 64 of the characters 0-9 and a-f: use random ones"
        )
    return value.decode()


def timeout_of(request: Request) -> float | None:
    """Return the call's timeout in seconds, if the request sets one. Raises Problem."""
    return _seconds_of(request, "Spear-Timeout")


def queue_timeout_of(request: Request) -> float | None:
    """Return the seconds for the wait for an instance, if the request sets them. Raises Problem."""
    return _seconds_of(request, "Spear-Queue-Timeout", may_be_zero=True)


def _seconds_of(request: Request, name: str, *, may_be_zero: bool = False) -> float | None:
    text = single(request, name.lower().encode())
    if text is None:
        return None
    try:
        seconds = read_float(text.decode("latin-1"), may_be_infinite=True)
    except ValueError:
        seconds = -1.0
    if not (seconds >= 0 if may_be_zero else seconds > 0):
        shown = text.decode("latin-1")[:50]
        least = "from 0" if may_be_zero else "above 0"
        raise bad(f"{name} must be a number of seconds {least}, or inf, not {shown!r}")
    return seconds


def retry_of(request: Request) -> RetryPolicy | None:
    """Return the retry policy of the call, if the request sets one. Raises Problem.

    Without a way to declare a function idempotent, such a policy repeats only calls that were certainly
    not executed.
    """
    text = single(request, b"spear-max-attempts")
    if text is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_RETRIES:
        shown = text.decode("latin-1")[:50]
        raise bad(
            f"Spear-Max-Attempts must be a whole number from 1 to {MAX_RETRIES}, not {shown!r}"
        )
    return RetryPolicy(max_attempts=int(text))


def printable(request: Request, name: bytes) -> str | None:
    """Return a header for an option of the call: short, printable text. Raises Problem."""
    value = single(request, name)
    if value is None:
        return None
    if not _PRINTABLE.fullmatch(value):
        raise bad(f"{name.decode().title()} must have 1 to 256 printable ASCII characters")
    return value.decode()


# -- arguments ------------------------------------------------------------------------------------


def texts_of(request: Request) -> dict[str, list[str]]:
    """Return the parameters of the query, each with its texts in their order. Raises Problem."""
    if not request.query:
        return {}
    try:
        pairs = parse_qsl(
            request.query, keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as error:
        raise bad(f"the query cannot be read: {error}") from error
    texts: dict[str, list[str]] = {}
    for name, text in pairs:
        texts.setdefault(name, []).append(text)
    return texts


def query_of(request: Request) -> dict[str, str]:
    """Return the parameters of the query, none of which may be repeated. Raises Problem."""
    return {name: alone(name, texts) for name, texts in texts_of(request).items()}


def alone(name: str, values: Sequence[T]) -> T:
    """Return the only value of a parameter of the query. Raises Problem if there are several."""
    if len(values) > 1:
        raise bad(f"the query has the parameter {name[:100]!r} twice: send it once")
    return values[0]


def number_in(
    query: Mapping[str, str], name: str, default: float, *, least: float, most: float
) -> float:
    """Return a number from a query. Raises Problem."""
    text = query.get(name)
    if text is None:
        return default
    try:
        number = read_float(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise bad(f"{name} must be a number from {least:g} to {most:g}, not {text[:50]!r}")
    return number


def whole_in(query: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """Return a whole number from a query. Raises Problem."""
    number = number_in(query, name, default, least=least, most=most)
    if number != int(number):
        raise bad(f"{name} must be a whole number from {least} to {most}, not {number:g}")
    return int(number)


def flag_in(query: Mapping[str, str], name: str) -> bool:
    """Return whether a flag is set in a query. Raises Problem."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise bad(f"{name} must be true or false, not {text[:50]!r}")
    return text in ("true", "1")


def path_part(text: str) -> str:
    """Return a percent-decoded part of a path. Raises Problem."""
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise bad("the percent-encoded path is not UTF-8: encode the path as UTF-8") from error


def parse_json(text: bytes, what: str) -> object:
    """Return the value of a JSON body or message. Raises Problem."""
    if len(text) > MANY_BYTES and sum(map(text.count, (b",", b"[", b"{"))) > MAX_ITEMS:
        # One byte can be an empty list: so many of them take far more memory, and seconds.
        raise bad(f"{what} has more than {MAX_ITEMS} items: send bytes instead")
    try:
        return load_json(text.decode())
    except json.JSONDecodeError as error:
        raise bad(f"{what} is not JSON: {error}") from error
    except ValueError as error:
        raise bad(f"{what} cannot be used: {error}") from error
    except RecursionError:
        raise bad(f"{what} is nested too deeply") from None


def parse_cbor(body: bytes) -> object:
    """Return the value of a CBOR body. Raises Problem."""
    try:
        return decode_result(body, is_cbor=True, passes_on=True)
    except TooManyItems:
        raise bad(f"the body has more than {MAX_ITEMS} items: send bytes instead") from None
    except ValueError as error:
        raise bad(f"the body cannot be decoded as CBOR: {error}") from error


def arguments_of(request: Request, body: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return the arguments in the body of a request: (positional, keywords). Raises Problem."""
    kind = (single(request, b"content-type") or JSON).decode("latin-1")
    kind = kind.partition(";")[0].strip().lower()
    positional: tuple[object, ...] = ()
    keywords: dict[str, object] = {}
    if kind == "application/json" or kind.endswith("+json"):
        if body:
            positional, keywords = split_arguments(parse_json(body, "the body"))
    elif kind == "application/cbor" or kind.endswith("+cbor"):
        if body:
            positional, keywords = split_arguments(parse_cbor(body))
    elif kind in _FORMS:
        message = "HTML forms are not supported: send JSON, with Content-Type: application/json"
        raise Problem(415, "UnsupportedMediaType", message)
    elif kind == "text/plain":
        try:
            positional = (body.decode(),)
        except UnicodeDecodeError as error:
            raise bad("the body is not UTF-8: send it as application/octet-stream") from error
    else:
        positional = (body,)
    return positional, keywords


def split_arguments(value: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return (positional, keywords) from the value of a body. Raises Problem."""
    if isinstance(value, dict):
        keywords = dict(value)
        if not all(isinstance(each, str) for each in keywords):  # in CBOR, a key may be bytes
            raise bad(
                "the names of keyword arguments must be text; pass an object as an argument in an "
                "array: [{...}]"
            )
        positional = keywords.pop("$args", [])
        if not isinstance(positional, list):
            raise bad("$args must be an array of positional arguments")
        return tuple(positional), keywords
    return (tuple(value) if isinstance(value, list) else (value,)), {}


def add_keywords(keywords: dict[str, object], query: Mapping[str, object]) -> None:
    """Add the arguments of a query to those of a body. Raises Problem."""
    for name in query:
        if name in keywords:
            raise bad(f"the argument {name!r} is both in the query and in the body: send it once")
    keywords |= query


def value_of(name: str, text: str) -> object:
    """Return the value of a text in the query as JSON, or else the text. Raises Problem."""
    try:
        return load_json(text)
    except json.JSONDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise bad(f"the parameter {name!r} of the query cannot be used: {error}") from error


# -- results --------------------------------------------------------------------------------------


def accepts(request: Request) -> frozenset[str]:
    """Return the media types that the client accepts; weights other than 0 are ignored."""
    accept = request.headers.get(b"accept")
    if accept is None or accept == b"*/*":
        return _ANYTHING
    types = accept.decode("latin-1").lower().split(",")
    return frozenset(each.partition(";")[0].strip() for each in types if not _UNWANTED.search(each))


_ANYTHING: Final = frozenset({"*/*"})
_UNWANTED: Final = re.compile(r";\s*q=0(\.0*)?\s*(;|$)", re.ASCII)
"""A weight of 0, with any number of zeros."""


def show(value: object) -> bytes:
    """Return a value as JSON. Raises Problem.

    A value that cannot be JSON is a function's result, so the Problem's ``delivered`` is "yes".
    """
    try:
        return dump_json(value).encode()
    except (TypeError, ValueError) as error:
        message = f"the result cannot be represented as JSON: {error}"
        raise Problem(502, "RemoteProtocolError", message, delivered="yes") from error


def show_cbor(value: object) -> bytes:
    """Return a value as CBOR."""
    if isinstance(value, memoryview):  # a SharedBuffer arrives as a memoryview
        value = bytes(value)
    return encode_alone(value)


def choose_form(request: Request, value: object) -> tuple[bytes, bytes]:
    """Return (body, content type) of a result in the form that the client accepts. Raises Problem."""
    wanted = accepts(request)
    if "application/cbor" in wanted:
        return show_cbor(value), CBOR
    if isinstance(value, memoryview):  # a SharedBuffer arrives as a memoryview
        value = bytes(value)
    if isinstance(value, bytes):
        if wanted is _ANYTHING or not wanted & {"application/json"} or wanted & _RAW:
            return value, BYTES
    elif (
        isinstance(value, str)
        and "text/plain" in wanted
        and not wanted & {"application/json", "*/*"}
    ):
        return value.encode(), TEXT
    return show(value), JSON


_RAW: Final = frozenset({"*/*", "application/octet-stream", "application/*"})
_CBOR: Final = frozenset({"application/cbor", "application/cbor-seq", MESSAGES.decode()})


def show_document(request: Request, value: object) -> tuple[bytes, bytes]:
    """Return (body, content type) of a document: JSON, or CBOR if the client accepts only CBOR."""
    wanted = accepts(request)
    if wanted and wanted <= _CBOR:
        return show_cbor(value), CBOR
    return show(value), JSON


async def respond_json(
    request: Request, value: object, status: int = 200, headers: MoreHeaders = ()
) -> None:
    """Respond with JSON, or with CBOR if the client accepts only CBOR."""
    body, kind = show_document(request, value)
    await request.respond(status, body, kind, headers)


def milliseconds(seconds: float) -> Headers:
    """Return the header with the duration of a function."""
    return [(b"spear-duration-ms", b"%.3f" % (seconds * 1e3))]
