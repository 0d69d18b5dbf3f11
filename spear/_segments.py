"""Payloads that lie in memory which can be handed to another process. A leaf: it knows no other part of
Spear, and neither how such memory is made nor how it travels.

A *segment* is a payload that is not bytes yet and may never have to be: whoever needs bytes makes a copy,
whoever can work on a view gets one. What the layers below need to know of one stands here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, final


class Segment:
    """A payload in memory that can be handed over. Its length is that of the payload, in bytes.

    No ``ABC``: every call asks several times whether its payload is one of these, and that takes 0.15 us
    more each time with one.
    """

    __slots__ = ("__weakref__",)

    @abstractmethod
    def __len__(self) -> int:
        """Bytes of payload."""

    @abstractmethod
    def as_view(self) -> memoryview:
        """The payload where it lies, read-only. It stays valid as long as the view lives."""

    @abstractmethod
    def as_bytes(self) -> bytes:
        """A copy of the payload. Call it once, and do not use the segment afterwards."""

    def __bytes__(self) -> bytes:
        return self.as_bytes()


@final
class SharedBytes(Segment):
    """Bytes that their sender would have handed over, if that had been possible."""

    __slots__ = ("_payload",)

    def __init__(self, payload: bytes | memoryview) -> None:
        self._payload = payload

    def __len__(self) -> int:
        return len(self._payload)

    def as_view(self) -> memoryview:
        """A view of them."""
        return memoryview(self._payload)

    def as_bytes(self) -> bytes:
        """Themselves."""
        return bytes(self._payload)


class Attachment(Protocol):
    """Something that has come beside the bytes of a stream, before its frame has been read."""

    def claim(self, number: int, size: int) -> Segment:
        """What it is, if a frame may speak of it as this.

        Args:
            number: the sender's name for it, until we release it.
            size: bytes of payload in it.

        Raises:
            ValueError: it is not what the frame says; the message says why.
        """


class Loan(Protocol):
    """A payload that the peer is about to get in a segment."""

    number: int
    """Our name for it, until the peer releases it."""

    def withdraw(self) -> None:
        """The frame that should have told the peer of it will not be sent."""


class Lender(Protocol):
    """Hands out payloads in segments, as far as the peer takes them."""

    least_bytes: int
    """Payloads below this are better sent as they are."""

    def may_lend(self, segment: Segment) -> bool:
        """Whether this segment can be handed over now.

        Raises:
            LocalProtocolError: it must not change any more, and it cannot be kept from that.
            Overloaded: the peer has not released enough of what it has.
        """

    def lend(self, payload: bytes | bytearray | memoryview | Segment) -> Loan | None:
        """The payload as a segment; None if it should be sent as bytes."""

    def released(self, number: int) -> bool:
        """The peer does not use this segment any more; False if it has none of that number."""
