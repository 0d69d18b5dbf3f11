"""What a request says besides what it asks for, and how results go back: headers, arguments, JSON, CBOR.

All of it is for one call: deadline, key, session, ids of traces; the arguments in body and query.
"""

from __future__ import annotations

import json
import re
from os import urandom
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from spear._json import dump_json, load_json, read_float
from spear.wire import TooManyItems, decode_result, encode_value

from ._errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._request import Headers, MoreHeaders, Request

JSON: Final = b"application/json"
CBOR: Final = b"application/cbor"
BYTES: Final = b"application/octet-stream"
TEXT: Final = b"text/plain; charset=utf-8"

TRACE_HEADERS: Final = (b"traceparent", b"tracestate", b"baggage")
MAX_TRACE_BYTES: Final = 8192

MAX_ITEMS: Final = 1_048_576
"""Of a body or a message that is JSON. As in CBOR; commas and brackets in its texts count, too."""

MANY_BYTES: Final = 1 << 20
"""Fewer cannot have too many items."""

_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_PRINTABLE: Final = re.compile(rb"[ -~]{1,256}")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


def bad(message: str) -> Problem:
    """A request that cannot be understood."""
    return Problem(400, "BadRequest", message)


# -- headers --------------------------------------------------------------------------------------


def single(request: Request, name: bytes) -> bytes | None:
    """A header that may stand there once. Raises Problem."""
    if name in request.repeated:
        raise bad(f"there is more than one {name.decode().title()} header: send one")
    return request.headers.get(name)


def identify(request: Request) -> str:
    """The id of a request: its own, or a new one. The response gets it, and the ids of traces."""
    headers = request.headers
    given = headers.get(b"x-request-id")
    if given is None or not _REQUEST_ID.fullmatch(given):
        given = urandom(8).hex().encode()
    request.extra.append((b"x-request-id", given))
    for name in TRACE_HEADERS:
        if name in headers:
            request.extra.append((name, headers[name]))
    return given.decode()


def metadata_of(request: Request) -> dict[str, str]:
    """What the function is told of the request. Raises Problem."""
    metadata = {"x-request-id": request.id}
    size = 0
    for name in TRACE_HEADERS:
        value = request.headers.get(name)
        if value is not None:
            size += len(value)
            metadata[name.decode()] = value.decode("latin-1")
    if size > MAX_TRACE_BYTES:
        raise bad(
            f"traceparent, tracestate and baggage have more than {MAX_TRACE_BYTES} bytes together"
        )
    return metadata


def timeout_of(request: Request) -> float | None:
    """Seconds for the call, if the request says. Raises Problem."""
    text = single(request, b"spear-timeout")
    if text is None:
        return None
    try:
        seconds = read_float(text.decode("latin-1"), may_be_infinite=True)
    except ValueError:
        seconds = -1.0
    if seconds <= 0:
        shown = text.decode("latin-1")[:50]
        raise bad(f"Spear-Timeout is a number of seconds above 0, or inf, not {shown!r}")
    return seconds


def printable(request: Request, name: bytes) -> str | None:
    """A header that becomes an option of the call. Raises Problem."""
    value = single(request, name)
    if value is None:
        return None
    if not _PRINTABLE.fullmatch(value):
        raise bad(f"{name.decode().title()} has 1 to 256 printable characters")
    return value.decode()


# -- arguments ------------------------------------------------------------------------------------


def query_of(request: Request) -> dict[str, str]:
    """The parameters of the query. Raises Problem."""
    if not request.query:
        return {}
    try:
        pairs = parse_qsl(
            request.query, keep_blank_values=True, errors="strict", max_num_fields=100
        )
    except ValueError as error:
        raise bad(f"the query cannot be read: {error}") from error
    query = dict(pairs)
    if len(query) < len(pairs):
        twice = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise bad(f"the parameter {twice[:100]!r} of the query stands there twice: send it once")
    return query


def number_in(
    query: Mapping[str, str], name: str, default: float, *, least: float, most: float
) -> float:
    """A number in a query. Raises Problem."""
    text = query.get(name)
    if text is None:
        return default
    try:
        number = read_float(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise bad(f"{name} is a number from {least:g} to {most:g}")
    return number


def whole_in(query: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """A whole number in a query. Raises Problem."""
    number = number_in(query, name, default, least=least, most=most)
    if number != int(number):
        raise bad(f"{name} must be a whole number from {least} to {most}")
    return int(number)


def flag_in(query: Mapping[str, str], name: str) -> bool:
    """Whether a query says so. Raises Problem."""
    text = query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise bad(f"{name} is true or false")
    return text in ("true", "1")


def path_part(text: str) -> str:
    """A part of a path, as it is meant. Raises Problem."""
    if "%" not in text:
        return text
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise bad("the path is not UTF-8 behind its percent signs: encode it so") from error


def parse_json(text: bytes, what: str) -> object:
    """What a body or a message says. Raises Problem."""
    if len(text) > MANY_BYTES and sum(map(text.count, (b",", b"[", b"{"))) > MAX_ITEMS:
        # A byte can be an empty list: these take many times the memory, and seconds.
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
    """The value in a body that is CBOR. Raises Problem."""
    try:
        return decode_result(body, is_cbor=True)
    except TooManyItems:
        raise bad(f"the body has more than {MAX_ITEMS} items: send bytes instead") from None
    except ValueError as error:
        raise bad(f"the body, as CBOR, is {error}") from error


def arguments_of(request: Request, body: bytes) -> tuple[tuple[object, ...], Mapping[str, object]]:
    """(positional, keywords) of a call. Raises Problem."""
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
        message = "forms are not taken: send JSON, with Content-Type: application/json"
        raise Problem(415, "UnsupportedMediaType", message)
    elif kind == "text/plain":
        try:
            positional = (body.decode(),)
        except UnicodeDecodeError as error:
            raise bad("the body is not UTF-8: send it as application/octet-stream") from error
    else:
        positional = (body,)
    if request.query:
        add_keywords(keywords, query_of(request))
    return positional, keywords


def split_arguments(value: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """(positional, keywords) of the value of a body. Raises Problem."""
    if isinstance(value, dict):
        keywords = dict(value)
        if not all(isinstance(each, str) for each in keywords):  # in CBOR, a key may be bytes
            raise bad("a keyword argument is named by text: an object as an argument is [{...}]")
        positional = keywords.pop("$args", [])
        if not isinstance(positional, list):
            raise bad("$args is an array of positional arguments")
        return tuple(positional), keywords
    return (tuple(value) if isinstance(value, list) else (value,)), {}


def add_keywords(keywords: dict[str, object], query: Mapping[str, str]) -> None:
    """Add the parameters of a query, each JSON if it is JSON, and otherwise text. Raises Problem."""
    for name, text in query.items():
        if name in keywords:
            raise bad(f"{name!r} stands in the query and in the body")
        try:
            keywords[name] = load_json(text)
        except json.JSONDecodeError:
            keywords[name] = text
        except (ValueError, RecursionError) as error:
            raise bad(f"the parameter {name!r} of the query cannot be used: {error}") from error


# -- results --------------------------------------------------------------------------------------


def accepts(request: Request) -> frozenset[str]:
    """The media types that the client names; preferences do not matter here."""
    accept = request.headers.get(b"accept")
    if accept is None or accept == b"*/*":
        return _ANYTHING
    types = accept.decode("latin-1").lower().split(",")
    return frozenset(each.partition(";")[0].strip() for each in types if not _UNWANTED.search(each))


_ANYTHING: Final = frozenset({"*/*"})
_UNWANTED: Final = re.compile(r";\s*q=0(\.0*)?\s*(;|$)", re.ASCII)
"""The weight 0, however many zeros it has."""


def show(value: object) -> bytes:
    """A value as JSON. Raises Problem.

    What has none has come out of a function, so that has run.
    """
    try:
        return dump_json(value).encode()
    except (TypeError, ValueError) as error:
        message = f"the result has no JSON: {error}"
        raise Problem(502, "RemoteProtocolError", message, delivered="yes") from error


def show_cbor(value: object) -> bytes:
    """A value as CBOR."""
    if isinstance(value, memoryview):  # of what was returned as a SharedBuffer
        value = bytes(value)
    return encode_value(value)


def choose_form(request: Request, value: object) -> tuple[bytes, bytes]:
    """(body, content type) of a result, as the client wants it. Raises Problem."""
    wanted = accepts(request)
    if "application/cbor" in wanted:
        return show_cbor(value), CBOR
    if isinstance(value, memoryview):  # of what was returned as a SharedBuffer
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
_CBOR: Final = frozenset({"application/cbor", "application/cbor-seq"})


def show_document(request: Request, value: object) -> tuple[bytes, bytes]:
    """(body, content type) of what is no result: JSON, but for a client that accepts CBOR alone."""
    wanted = accepts(request)
    if wanted and wanted <= _CBOR:
        return show_cbor(value), CBOR
    return show(value), JSON


async def respond_json(
    request: Request, value: object, status: int = 200, headers: MoreHeaders = ()
) -> None:
    """Answer with JSON, or with CBOR if the client accepts nothing else."""
    body, kind = show_document(request, value)
    await request.respond(status, body, kind, headers)


def milliseconds(seconds: float) -> Headers:
    """The header with how long a function took."""
    return [(b"spear-duration-ms", b"%.3f" % (seconds * 1e3))]
