"""Parse HTTP/1.1 requests, and write the heads of responses. No I/O, no routing.

h11 parses request heads and chunked bodies. A body of known length is counted here, because its bytes
need no parser. Response heads are written here, because the gateway makes every value in them: h11 would
check each value again, which takes as long as parsing the request.

Client bytes raise only Problem, with status 400, 417 or 431. After a Problem the connection must be
closed.

This module is stricter than h11, because a proxy may read the same bytes differently. Lines must end with
CR LF. A header must take one line. A body must give its length once, in one way. The target must be a
path or an http(s) URL, without a fragment.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final

import attrs
import h11

from ._errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

FREE_FRAMING_BYTES: Final = 16 * 1024
"""Bytes of chunk sizes, extensions and trailers that any chunked body may have."""

FRAMING_RATE: Final = 8
"""Such bytes that a chunked body may have in addition, for each byte of data. A one-byte chunk has at
least 5. Go's net/http has a limit of the same kind, since CVE-2023-39326."""

MAX_HEAD_LINES: Final = 256
"""Maximum number of lines of a head. A head of 32 KiB could have 6,000, for which h11 takes 30 ms."""

MOST_SKIPPED: Final = 64
"""Maximum number of parts of an unread body that are skipped: no other client is served meanwhile."""

_CHUNKED: Final = -1

_HEAD_END: Final = re.compile(rb"\n\r?\n")
_TARGET: Final = re.compile(
    rb"(/|(?i:https?)://(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]*)?(?=[/?]|$))[^#]*"
)
_SERVER: Final = (b"OPTIONS", b"*")  # a request about the server, not a path
_LENGTHS: Final = re.compile(rb"\ncontent-length:[ \t]*([^\r]*?)[ \t]*\r", re.IGNORECASE)
_UNSAFE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
_WHAT: Final = {  # by the last byte of the match
    0x0A: "a line ends with LF alone: end it with CR LF",
    0x0D: "there is a CR without LF",
}
_FOLDED: Final = "a header is folded over several lines: send each header on one line"

_TWO_LENGTHS: Final = (
    "Transfer-Encoding cannot be combined with Content-Length or with HTTP/1.0: remove it"
)

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    499: b"Client Closed Request"  # nginx's name
}
_STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in _REASONS.items()
}


def _malformed(what: str) -> Problem:
    return Problem(400, "BadRequest", f"the request is not valid HTTP/1.1: {what}")


def _too_large(most: str) -> Problem:
    message = f"request line and headers are too large: the limit is {most}"
    return Problem(431, "HeadTooLarge", message)


@final
@attrs.frozen
class RequestHead:
    """The head of a request.

    Attributes:
        method: the method, as the client wrote it.
        target: the path with the query, or a URL.
        headers: (name in lower case, value), in the order in which they came.
        is_http_1_0: whether the client speaks HTTP/1.0 and not 1.1.
        length: bytes of the body; -1 if it comes in chunks.
        closes: whether the connection is to be closed after the response.
        upgrades: whether the client asks for a WebSocket.
    """

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    is_http_1_0: bool
    length: int
    closes: bool
    upgrades: bool


@final
class RequestParser:
    """A parser for the requests of one connection, one after the other.

    Pass received bytes to :meth:`receive`, then call :meth:`next_head_untrusted` until it returns a head.
    The whole body must be taken or skipped before the next head. Neither method waits.

    Args:
        max_head_bytes: Most bytes of a request line with its headers.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer known to contain no end of a head
        self._has_skipped = False  # whether an empty line before the head was skipped
        self._remaining = 0  # missing bytes of the body; -1 if it is chunked
        self._chunks: h11.Connection | None = None
        self._framing_bytes = 0  # bytes received for a chunked body, less those its data allows
        self._fed = b""  # the last bytes passed to h11

    def receive(self, data: bytes) -> None:
        """Append bytes received from the client."""
        self._buffer += data

    def take_rest(self) -> bytes:
        """Remove and return all buffered bytes, which belong to another protocol than HTTP."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    @property
    def is_body_complete(self) -> bool:
        """Whether the whole body of the current request has been taken."""
        return not self._remaining

    @property
    def has_body(self) -> bool:
        """Whether the current body has a known length, and all its missing bytes are buffered."""
        return 0 < self._remaining <= len(self._buffer)

    @property
    def is_body_begun(self) -> bool:
        """Whether bytes of the current body, or of the next request, are buffered."""
        return bool(self._buffer)

    # -- heads ------------------------------------------------------------------------------------

    def next_head_untrusted(self) -> RequestHead | None:
        """Return the head of the next request; None if it is not complete yet. Raises Problem."""
        assert not self._remaining  # the caller has taken or skipped the body
        buffer = self._buffer
        if buffer.startswith(b"\r\n") and not self._has_skipped:  # RFC 9112, 2.2: ignore one
            del buffer[:2]
            self._has_skipped = True
        end = _HEAD_END.search(buffer, self._searched)
        size = len(buffer) if end is None else end.end()
        if size > self._max_head_bytes:
            raise _too_large(f"{self._max_head_bytes} bytes (max_head_bytes)")
        if buffer.count(b"\n", 0, size) > MAX_HEAD_LINES + 1:  # one more for the empty line
            raise _too_large(f"{MAX_HEAD_LINES} lines")
        if end is None and (not buffer or buffer[0] > 0x20 or buffer == b"\r"):
            self._searched = max(0, size - 2)
            return None
        # Input that begins with a control character is no request: h11 rejects it without the rest.
        self._searched, self._has_skipped = 0, False
        data = bytes(buffer[:size])
        del buffer[:size]
        return self._parse_untrusted(data)

    def _parse_untrusted(self, data: bytes) -> RequestHead:
        connection = h11.Connection(h11.SERVER, self._max_head_bytes)
        connection.receive_data(data)
        try:
            request = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(str(error)[:200]) from error
        if unsafe := _UNSAFE.search(data):
            raise _malformed(_WHAT.get(unsafe[0][-1], _FOLDED))
        assert isinstance(request, h11.Request)  # the head is complete
        if not _TARGET.fullmatch(request.target) and (request.method, request.target) != _SERVER:
            raise _malformed(
                "the target must be a path that begins with /, or a URL, without a fragment"
            )
        headers = list(request.headers)
        names = dict(headers)
        if names.get(b"expect", b"100-continue").lower() != b"100-continue":
            message = "Expect supports only 100-continue: remove the header"
            raise Problem(417, "ExpectationFailed", message)
        options = [
            option.strip()
            for name, value in headers
            if name == b"connection"  # may occur more than once
            for option in value.lower().split(b",")
        ]
        head = RequestHead(
            request.method.decode(),
            request.target.decode(),
            headers,
            is_http_1_0=request.http_version == b"1.0",
            length=_length_untrusted(request, names, data),
            closes=request.http_version == b"1.0"
            or b"close" in options
            or request.method == b"CONNECT",  # the bytes that follow may not be HTTP
            upgrades=b"upgrade" in options
            and names.get(b"upgrade", b"").lower() == b"websocket"
            and request.method == b"GET",
        )
        self._remaining = head.length
        if head.length == _CHUNKED:
            self._chunks, self._framing_bytes, self._fed = connection, 0, b""
        return head

    # -- bodies -----------------------------------------------------------------------------------

    def next_data_untrusted(self) -> bytes:
        """Return more of the current body. Raises Problem.

        Empty if the body is complete, or if more bytes must be received.
        """
        if self._chunks is not None:
            return self._next_of_chunks_untrusted(self._chunks)
        data = bytes(self._buffer[: self._remaining])
        del self._buffer[: self._remaining]
        self._remaining -= len(data)
        return data

    def skip_body_untrusted(self) -> bool:
        """Drop the buffered rest of the current body, if it has few parts; return whether it is complete.

        False also if the rest is malformed: the connection must then be closed.
        """
        try:
            for _ in range(MOST_SKIPPED):
                if not self.next_data_untrusted():
                    break
        except Problem:
            return False
        return self.is_body_complete

    def _next_of_chunks_untrusted(self, chunks: h11.Connection) -> bytes:
        if self._buffer:  # h11 would take empty data for the end of the connection
            data = self.take_rest()
            self._framing_bytes += len(data)
            self._fed = self._fed[-3:] + data
            chunks.receive_data(data)
        try:
            event = chunks.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(str(error)[:200]) from error
        if isinstance(event, h11.Data):
            self._framing_bytes -= (FRAMING_RATE + 1) * len(event.data)
            return bytes(event.data)
        rest = chunks.trailing_data[0] if isinstance(event, h11.EndOfMessage) else None
        if self._framing_bytes - len(rest or b"") > FREE_FRAMING_BYTES:
            raise _malformed("the chunks have too little data for their sizes and extensions")
        if rest is not None:  # the gateway ignores trailers
            if not self._fed.endswith(b"\r\n\r\n" + rest):  # h11 also accepts LF alone
                raise _malformed(_WHAT[0x0A])
            self._buffer += rest
            self._chunks, self._remaining = None, 0
        return b""


def _length_untrusted(request: h11.Request, headers: dict[bytes, bytes], data: bytes) -> int:
    """Return the length of a request's body; -1 if it comes in chunks. Raises Problem.

    Args:
        request: the head as parsed by h11, which merges equal lengths.
        headers: the headers by name.
        data: the head as received.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        raise Problem(400, "BadRequest", "the HTTP version must be 1.0 or 1.1")
    length = headers.get(b"content-length")
    if b"transfer-encoding" in headers:  # h11 has checked that it is "chunked"
        if length is not None or request.http_version == b"1.0":
            # Readers that disagree about which one counts could take a part of a body for a request.
            raise Problem(400, "BadRequest", _TWO_LENGTHS)
        return _CHUNKED
    if length is None:
        return 0
    if _LENGTHS.findall(data) != [length]:
        raise _malformed("Content-Length must be one number")
    return int(length)


# -- responses ----------------------------------------------------------------------------------------


def response_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the status line, a Date header, these headers, and the empty line that ends the head.

    Raises:
        ValueError: a name or value has a line break, which would split the response.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, _date_line()]
    parts += [b"%b: %b\r\n" % header for header in headers]
    parts.append(b"\r\n")
    head = b"".join(parts)
    if head.count(b"\n") != len(parts) or head.count(b"\r") != len(parts):
        raise ValueError(f"a header of this response has a line break: {head[:1000]!r}")
    return head


_date: tuple[int, bytes] = (0, b"")  # (second, line)


def _date_line() -> bytes:
    """Return the Date header, which is made once a second."""
    global _date  # a cache
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
    return _date[1]


def chunk(data: bytes) -> bytes:
    """Return data as one chunk of a body. Data must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
