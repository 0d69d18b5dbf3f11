"""Formats of streamed responses: Server-Sent Events, JSON lines, CBOR sequence, raw bytes.

This module does not know where the items come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from ._exchange import BYTES, MESSAGES, accepts, show, show_cbor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._request import Request

EVENTS: Final = b"text/event-stream"
LINES: Final = b"application/x-ndjson"
SEQUENCE: Final = b"application/cbor-seq"


NOT_STORED: Final = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Headers that stop proxies and caches from buffering or storing a stream."""


class Form(Protocol):
    """A format for a stream of items."""

    @property
    def kind(self) -> bytes:
        """The ``Content-Type`` of the response."""

    @property
    def is_at_once(self) -> bool:
        """Whether the response begins before the first item, and failures are in it."""

    @property
    def is_cut(self) -> bool:
        """Whether a failed response is cut off, so that the client notices the failure."""

    def item(self, number: int, value: object) -> bytes:
        """Return an item, which is number ``number``. Raises Problem if it cannot be JSON."""

    def sign_of_life(self) -> bytes:
        """Return a keep-alive that readers ignore; empty if the format has none."""

    def end(self, count: int) -> bytes:
        """Return the end of a stream of ``count`` items; may be empty."""

    def failure(self, told: dict[str, object]) -> bytes:
        """Return the end of a failed stream; may be empty."""


@final
class Events:
    """A format that sends each item as a Server-Sent Event."""

    kind = EVENTS
    is_at_once = False
    is_cut = False

    def item(self, number: int, value: object) -> bytes:
        """Return the item as one ``data`` line, since JSON needs no line breaks."""
        return b"id: %d\ndata: %b\n\n" % (number, show(value))

    def sign_of_life(self) -> bytes:
        """Return a comment."""
        return b":\n\n"

    def end(self, count: int) -> bytes:
        """Return an event named ``end``."""
        return b"event: end\ndata: " + show({"items": count}) + b"\n\n"

    def failure(self, told: dict[str, object]) -> bytes:
        """Return an event named ``error``."""
        return b"event: error\ndata: " + show({"error": told}) + b"\n\n"


@final
class Lines:
    """A format that sends each item as a line of JSON."""

    kind = LINES
    is_at_once = False
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """Return the item as a line."""
        return show(value) + b"\n"

    def sign_of_life(self) -> bytes:
        """Return nothing, because readers may not accept empty lines."""
        return b""

    def end(self, count: int) -> bytes:
        """Return nothing: the end of the response is the end of the stream."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """Return a last line with the error."""
        return show({"$error": told}) + b"\n"


@final
class Sequence:
    """A format that sends each item as CBOR, without separators (RFC 8742)."""

    kind = SEQUENCE
    is_at_once = False
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """Return the item without a separator: CBOR items are self-delimiting."""
        return show_cbor(value)

    def sign_of_life(self) -> bytes:
        """Return nothing: a sequence contains only items."""
        return b""

    def end(self, count: int) -> bytes:
        """Return nothing: the end of the response is the end of the stream."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """Return a last item with the error, as :class:`Lines` does."""
        return show_cbor({"$error": told})


@final
class Raw:
    """A format that sends each item as bytes, without framing."""

    kind = BYTES
    is_at_once = False
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """Return bytes unchanged, a string as UTF-8, and any other item as a line of JSON."""
        if isinstance(value, bytes | memoryview):
            return bytes(value)
        return value.encode() if isinstance(value, str) else show(value) + b"\n"

    def sign_of_life(self) -> bytes:
        """Return nothing: the format has no keep-alive."""
        return b""

    def end(self, count: int) -> bytes:
        """Return nothing: the end of the response is the end of the stream."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """Return nothing: the failed response is cut off."""
        return b""


@final
class CallMessages:
    """A format that sends pairs of a kind and a content as CBOR (RFC 8742), for clients of Spear.

    The end and a failure are messages, so that a client can tell both from a lost connection.
    """

    kind = MESSAGES
    is_at_once = True
    is_cut = False

    def item(self, number: int, value: object) -> bytes:
        """Return the item as a message."""
        return b"\x82\x00" + show_cbor(value)

    def sign_of_life(self) -> bytes:
        """Return a message without content."""
        return b"\x82\x01\xf6"

    def end(self, count: int) -> bytes:
        """Return the message with the result of a stream, which is None."""
        return self.result(None)

    def result(self, value: object) -> bytes:
        """Return the message with the result."""
        return b"\x82\x02" + show_cbor(value)

    def failure(self, told: dict[str, object]) -> bytes:
        """Return the message with the error."""
        return b"\x82\x03" + show_cbor(told)

    def report(self, value: object) -> bytes:
        """Return the message with a report of progress."""
        return b"\x82\x04" + show_cbor(value)

    def details(self, told: Mapping[str, object]) -> bytes:
        """Return the message with details of a call, which comes before its result."""
        return b"\x82\x05" + show_cbor(told)


def takes_messages(request: Request) -> bool:
    """Return whether the client takes a response in messages: one that names their type in lower case."""
    # The first test, of bytes, is all that a plain call pays.
    return MESSAGES in request.headers.get(b"accept", b"") and MESSAGES.decode() in accepts(request)


def form_for(request: Request) -> Form:
    """Return the format that the client accepts; JSON lines by default."""
    wanted = accepts(request)
    if takes_messages(request):
        return CallMessages()
    if "text/event-stream" in wanted:
        return Events()
    if "application/cbor-seq" in wanted or "application/cbor" in wanted:
        return Sequence()
    if "application/octet-stream" in wanted:
        return Raw()
    return Lines()
