"""How items are written into a response that goes on: events, lines, CBOR, bytes.

Knows nothing of where they come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from ._exchange import BYTES, accepts, show, show_cbor

if TYPE_CHECKING:
    from ._request import Request

EVENTS: Final = b"text/event-stream"
LINES: Final = b"application/x-ndjson"
SEQUENCE: Final = b"application/cbor-seq"


class Form(Protocol):
    """A way to write items."""

    @property
    def kind(self) -> bytes:
        """Its ``Content-Type``."""

    @property
    def is_cut(self) -> bool:
        """Whether a response that failed is cut off, so that its client can tell."""

    def item(self, number: int, value: object) -> bytes:
        """One of them. Raises Problem if there is no JSON for it."""

    def sign_of_life(self) -> bytes:
        """What means nothing; may be empty."""

    def end(self, count: int) -> bytes:
        """After so many, there are no more."""

    def failure(self, told: dict[str, object]) -> bytes:
        """There are no more, because something went wrong."""


@final
class Events:
    """Server-Sent Events."""

    kind = EVENTS
    is_cut = False

    def item(self, number: int, value: object) -> bytes:
        """JSON has no line breaks, so it is one line of data."""
        return b"id: %d\ndata: %b\n\n" % (number, show(value))

    def sign_of_life(self) -> bytes:
        """A comment."""
        return b":\n\n"

    def end(self, count: int) -> bytes:
        """An event of its own."""
        return b"event: end\ndata: " + show({"items": count}) + b"\n\n"

    def failure(self, told: dict[str, object]) -> bytes:
        """Another one."""
        return b"event: error\ndata: " + show({"error": told}) + b"\n\n"


@final
class Lines:
    """A line of JSON for each item."""

    kind = LINES
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """One line."""
        return show(value) + b"\n"

    def sign_of_life(self) -> bytes:
        """Readers need not know of empty lines, so there are none."""
        return b""

    def end(self, count: int) -> bytes:
        """That of the response says it."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """A last line, for those who read lines."""
        return show({"$error": told}) + b"\n"


@final
class Sequence:
    """A CBOR sequence (RFC 8742): one item after the other."""

    kind = SEQUENCE
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """Its end is clear from its beginning, so nothing separates it from the next."""
        return show_cbor(value)

    def sign_of_life(self) -> bytes:
        """A sequence has items and nothing else."""
        return b""

    def end(self, count: int) -> bytes:
        """The end of the response is the end of the sequence."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """A last item, as the last of :class:`Lines`."""
        return show_cbor({"$error": told})


@final
class Raw:
    """Bytes as they are."""

    kind = BYTES
    is_cut = True

    def item(self, number: int, value: object) -> bytes:
        """What is no bytes is text, or a line of JSON."""
        if isinstance(value, bytes | memoryview):
            return bytes(value)
        return value.encode() if isinstance(value, str) else show(value) + b"\n"

    def sign_of_life(self) -> bytes:
        """There is no room for it."""
        return b""

    def end(self, count: int) -> bytes:
        """Nor for this."""
        return b""

    def failure(self, told: dict[str, object]) -> bytes:
        """Nor for this: the response is cut off."""
        return b""


def form_for(request: Request) -> Form:
    """The one that a client wants."""
    wanted = accepts(request)
    if "text/event-stream" in wanted:
        return Events()
    if "application/cbor-seq" in wanted or "application/cbor" in wanted:
        return Sequence()
    if "application/octet-stream" in wanted:
        return Raw()
    return Lines()
