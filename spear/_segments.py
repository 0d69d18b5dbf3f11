"""Payloads in memory that can be handed to another process. A leaf module: it imports no other part of
Spear, and knows neither how such memory is made nor how it travels.

A *segment* is a payload in such memory. Code that needs bytes makes a copy, and code that can work on a
view gets a view. This module has the interfaces of segments that the lower layers need.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, final

STEP_BYTES: Final = 1024 * 1024
"""Bytes of memory that are copied or allocated in one step, between which other tasks run: 0.1 to 0.3 ms
of copying, and 2 ms of allocating."""


class Segment:
    """A payload in memory that can be handed over. Its ``len()`` is the payload's length in bytes.

    No ``ABC``: each call checks several times whether its payload is a segment, and with an ABC every
    check would take 0.15 us more.
    """

    __slots__ = ("__weakref__",)

    is_shared = True
    """Whether the receiver gets a view of the payload if it can; otherwise the receiver gets bytes."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the payload's length in bytes."""

    @abstractmethod
    def as_view(self) -> memoryview:
        """Return a read-only view of the payload, not a copy. The payload lives as long as the view."""

    @abstractmethod
    def as_bytes(self) -> bytes:
        """Return a copy of the payload. Call this once, and do not use the segment afterwards."""

    async def settle(self, *, as_bytes: bool) -> None:
        """Make sure that :meth:`as_view` or :meth:`as_bytes` takes no time for a large payload."""

    def copy_in_steps(self, target: memoryview) -> Iterator[None]:
        """Copy the payload to the beginning of ``target``; yield after each step but the last.

        Raises:
            OSError: the payload's memory cannot be read.
        """
        return copy_in_steps(self.pieces(), target)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Iterate over the payload in pieces, which together have its length. Raises OSError."""
        yield self.as_view()

    def __bytes__(self) -> bytes:
        return self.as_bytes()


def copy_in_steps(pieces: Iterable[bytes | memoryview], target: memoryview) -> Iterator[None]:
    """Copy pieces of bytes to ``target``, one after the other; yield before each further STEP_BYTES."""
    at = since = 0
    for piece in pieces:
        with memoryview(piece) as view:
            for start in range(0, len(view), STEP_BYTES):
                part = view[start : start + STEP_BYTES]
                if since + len(part) > STEP_BYTES:
                    yield
                    since = 0
                target[at : at + len(part)] = part
                at += len(part)
                since += len(part)


@final
class SharedBytes(Segment):
    """A payload of a ``SharedBuffer`` that has arrived as bytes: its memory was not handed over."""

    __slots__ = ("_payload",)

    def __init__(self, payload: bytes | memoryview) -> None:
        self._payload = payload

    def __len__(self) -> int:
        return len(self._payload)

    def as_view(self) -> memoryview:
        """Return a view of the bytes."""
        return memoryview(self._payload)

    def as_bytes(self) -> bytes:
        """Return the bytes, copied only if the payload is a view."""
        return bytes(self._payload)


@final
class UnsharedBytes(Segment):
    """A payload in a segment that its receiver gets as bytes: the sender shares no memory."""

    __slots__ = ("_segment",)

    is_shared = False

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __len__(self) -> int:
        return len(self._segment)

    def as_view(self) -> memoryview:
        """Return a view of the bytes."""
        return memoryview(self.as_bytes())

    def as_bytes(self) -> bytes:
        """Return the bytes. May be called again: a call may be tried again."""
        payload = self._segment.as_bytes()
        self._segment = SharedBytes(payload)
        return payload

    async def settle(self, *, as_bytes: bool) -> None:
        """Make sure that :meth:`as_bytes` takes no time for a large payload."""
        await self._segment.settle(as_bytes=True)

    def copy_in_steps(self, target: memoryview) -> Iterator[None]:
        """Copy the bytes to the beginning of ``target``; see :class:`Segment`."""
        return self._segment.copy_in_steps(target)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Iterate over the bytes in pieces."""
        return self._segment.pieces()


def forwarded(
    payload: bytes | memoryview | Segment, *, is_shared: bool
) -> bytes | memoryview | Segment:
    """Return a payload that has arrived in the form in which it is sent on.

    Args:
        payload: the payload.
        is_shared: whether its sender shares its memory, so that the next receiver gets a view, too.
    """
    if isinstance(payload, Segment):
        return payload if is_shared else UnsharedBytes(payload)
    return SharedBytes(payload) if is_shared else payload


class Attachment(Protocol):
    """A segment's descriptor that has arrived beside the bytes of a stream, before its frame was read."""

    def claim(self, number: int, size: int) -> Segment:
        """Return the segment that a frame announces.

        Args:
            number: the sender's number for the segment, until we release the segment.
            size: bytes of payload in the segment.

        Raises:
            ValueError: the attachment is not what the frame announces; the message says why.
        """


class Loan(Protocol):
    """A payload that is about to be sent to the peer in a segment."""

    number: int
    """Our number for the segment, until the peer releases the segment."""

    def withdraw(self) -> None:
        """Take the segment back, because the frame that announces it will not be sent."""


class Lender(Protocol):
    """A lender of segments to one peer, within the limits that the peer has announced."""

    least_bytes: int
    """Size below which payloads are better sent as bytes."""

    def may_lend(self, segment: Segment) -> bool:
        """Return whether this segment can be handed over now.

        Raises:
            LocalProtocolError: the segment's memory must be sealed against changes, and cannot be.
            Overloaded: the peer still holds too many segments, or too many bytes in them.
        """

    def lend(self, payload: bytes | bytearray | memoryview | Segment) -> Loan | None:
        """Put a payload into a segment for the peer; None if it should be sent as bytes."""

    def released(self, number: int) -> bool:
        """Take back a segment that the peer has released; False if it has none of this number."""
