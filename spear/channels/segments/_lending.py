"""Segments that we hand to a peer: large payloads whose memory the peer may read.

Segments are of two kinds. A user's ``SharedBuffer`` is handed over as it is. Arrays, and large payloads
of bytes, are copied into segments of our own: see ``_pool``.

Most channels never hand over a segment, and a host may have ten thousand channels, so objects for
segments are only made when they are needed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import LocalProtocolError, Overloaded
from spear._segments import Segment, SharedBytes, UnsharedBytes
from spear.wire import BUNDLED_BYTES

from ._memory_files import (
    BorrowedFile,
    Descriptor,
    MemoryFile,
    SharedBuffer,
    send_with_descriptor,
)
from ._pool import PooledSegment, SegmentPool, rounded_up

if TYPE_CHECKING:
    import socket

    from spear._limits import WireLimits
    from spear.wire import Buffer, Outbox, Payload

    from .._timers import Timers

LEAST_SHARED_BYTES: Final = 512 * 1024
"""Users' buffers below this size are sent as bytes: handing one over takes 0.1 ms, whatever its size."""


@final
class Lent:
    """A segment that the peer has, or is about to get.

    Attributes:
        number: our number for the segment.
        descriptor: the descriptor of the segment's memory.
        size: the size of the file in bytes, which counts against the limits.
        pooled: the segment of our pool, if it is one; None for a user's buffer.
    """

    __slots__ = ("_lender", "descriptor", "number", "pooled", "size")

    def __init__(
        self,
        lender: SegmentLender,
        number: int,
        descriptor: Descriptor,
        size: int,
        pooled: PooledSegment | None,
    ) -> None:
        self._lender = lender
        self.number = number
        self.descriptor = descriptor
        self.size = size
        self.pooled = pooled

    def send(self, sock: socket.socket, frame: bytes) -> int:
        """Send the beginning of the segment's frame, with the descriptor; return the bytes sent."""
        return send_with_descriptor(sock, frame, self.descriptor.fileno)

    def withdraw(self) -> None:
        """Take the segment back, because the frame that announces it will not be sent."""
        self._lender.released(self.number)


@final
class PlacedPayload(MemoryFile):
    """A payload that was copied into a segment of our pool, and is about to be sent.

    Args:
        lender: takes the segment back if it is not sent.
        pooled: the segment.
        size: bytes of payload in it.
        is_shared: whether the receiver gets a view, as for all segments but those of plain bytes.
    """

    __slots__ = ("_lender", "_pooled", "_size", "is_shared")

    def __init__(
        self, lender: SegmentLender, pooled: PooledSegment, size: int, *, is_shared: bool
    ) -> None:
        self.is_shared = is_shared
        self._lender = lender
        self._pooled: PooledSegment | None = pooled
        self._size = size
        self.descriptor = pooled.descriptor
        self.file_bytes = pooled.size

    def __len__(self) -> int:
        return self._size

    def as_view(self) -> memoryview:
        """Return a view of a copy."""
        return memoryview(self.as_bytes())

    def as_bytes(self) -> bytes:
        """Return a copy of the payload."""
        if self._pooled is None:
            raise ValueError("this payload was sent, or given up")
        return self._pooled.mapping[: self._size]

    def take(self) -> PooledSegment | None:
        """Return the segment for sending it, once; None afterwards."""
        pooled, self._pooled = self._pooled, None
        return pooled

    def close(self) -> None:
        """Give the segment back, if it was not sent."""
        pooled = self.take()
        if pooled is not None:
            self._lender.unplace(pooled)


@final
class SegmentLender:
    """A lender of our memory to one peer.

    Args:
        limits: the limits of this end.
        peer: the peer's limits.
        outbox: asks the peer whether we may pass descriptors.
        seals: whether memory must be sealed before it is sent, because the peer does not trust us.
        copies: whether the peer takes payloads larger than a message in memory that we write to again.

    Attributes:
        least_bytes: payloads below this size need not be offered.
        lent_bytes: bytes of the segments that the peer has.
        pool: the pool of our own segments; None until one is needed.
    """

    __slots__ = (
        "_copies", "_has_asked", "_is_ready", "_lent", "_limits", "_most", "_most_bytes", "_on_ready",
        "_on_room", "_outbox", "_peer", "_placed", "_placed_bytes", "_seals", "_timers", "least_bytes",
        "lent_bytes", "pool",
    )  # fmt: skip

    def __init__(
        self,
        limits: WireLimits,
        peer: WireLimits,
        outbox: Outbox,
        *,
        seals: bool,
        copies: bool,
    ) -> None:
        self._limits = limits
        self._peer = peer
        # The peer limits how much it takes; we limit how much of our memory it can keep.
        self._most_bytes = min(peer.mapped_segment_bytes, limits.mapped_segment_bytes)
        self._most = min(peer.max_segments, limits.max_segments)
        self._outbox = outbox
        self._has_asked = False
        self._is_ready = False  # whether the peer takes descriptors, or is gone
        self._on_ready: trio.Event | None = None  # while a task waits in get_ready()
        self._on_room: trio.Event | None = None  # while a task waits in _wait_room()
        self._placed = self._placed_bytes = 0  # segments with payloads that are not sent yet
        self._seals = seals
        self._copies = copies
        self._timers: Timers | None = None
        self.least_bytes = min(LEAST_SHARED_BYTES, limits.segment_threshold_bytes)
        self._lent: dict[int, Lent] = {}
        self.lent_bytes = 0
        self.pool: SegmentPool | None = None

    def keep_time(self, timers: Timers) -> None:
        """Enable the pool of our own segments; the timers free segments that stay unused."""
        self._timers = timers

    @property
    def kept_bytes(self) -> int:
        """Bytes of our own segments, in use or not."""
        return 0 if self.pool is None else self.pool.kept_bytes

    async def get_ready(self) -> None:
        """Ask the peer to take descriptors, and wait until it does.

        If cancelled, nothing is lost. A checkpoint, unless the peer takes descriptors already.
        """
        self._ask_once()
        if not self._is_ready:
            if self._on_ready is None:
                self._on_ready = trio.Event()
            await self._on_ready.wait()

    def _ask_once(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._outbox.push_lend(is_answer=False)

    def ready(self) -> None:
        """Wake the waiting tasks, because the peer takes descriptors or is gone."""
        self._is_ready = True
        if self._on_ready is not None:
            self._on_ready.set()

    # -- copying large payloads into segments ------------------------------------------------------

    async def place(self, payload: Segment, *, is_result: bool = False) -> Payload:
        """Return a payload in the form in which it can be sent best, and get ready to send it.

        Memory that cannot be handed over itself, such as that of arrays, is copied into a segment of our
        pool, while other tasks run. Close the returned :class:`PlacedPayload` if it is not sent. If
        cancelled, nothing is lost.

        Args:
            payload: the payload.
            is_result: whether another peer has made the payload for this one. If it has to wait, it is
                copied first: the memory of its maker must not be held by a peer that releases none.

        Raises:
            LocalProtocolError: the payload is too large for a message, and cannot be put into a segment.
        """
        size, peer = len(payload), self._peer
        if not must_be_copied(payload, peer.max_message_bytes):
            if size >= self.least_bytes:
                await self.get_ready()
            return payload
        is_large = size > peer.max_message_bytes
        if (
            (self._copies if is_large else size >= self._limits.segment_threshold_bytes)
            and self._timers is not None
            and size >= max(self.least_bytes, BUNDLED_BYTES)
            and rounded_up(size) <= self._most_bytes
            and size <= peer.max_segment_bytes
        ):
            await self.get_ready()
            if is_result and not self._has_room(rounded_up(size)):
                with suppress(OSError):
                    await payload.settle(as_bytes=not payload.is_shared)
            await self._wait_room(rounded_up(size))
            placed = await self._fill(payload)
            if placed is not None:
                return placed
        if is_large:
            message = (
                f"the payload has {size} bytes; the peer accepts at most {peer.max_message_bytes} in a "
                f"message, and at most {peer.max_segment_bytes} in shared memory"
            )
            raise LocalProtocolError(message, code="payload_too_large")
        return payload if isinstance(payload, MemoryFile) else payload.as_bytes()

    async def place_bytes(self, payload: Buffer) -> Payload:
        """Return a payload of bytes in a segment if it is too large for a message, or goes faster so.

        Otherwise as :meth:`place`.
        """
        size = len(payload)
        if size <= self._peer.max_message_bytes and not self._is_worth_placing(size):
            return payload
        return await self.place(UnsharedBytes(SharedBytes(memoryview(payload).cast("B"))))

    def _is_worth_placing(self, size: int) -> bool:
        """Return whether bytes that fit a message go faster in a segment.

        An agent copies them once, or not at all. A host always copies, and then the socket is as fast.
        """
        if (
            self._seals
            or not self._copies
            or self._timers is None
            or size < self._limits.segment_threshold_bytes
            or not self._has_room(rounded_up(size))
        ):
            return False
        pool = self.pool = self.pool or SegmentPool(self._limits, self._timers)
        return pool.is_worth_placing(size)

    @property
    def is_crowded(self) -> bool:
        """Whether payloads wait until the peer has released segments."""
        return self._on_room is not None

    async def _wait_room(self, size: int) -> None:
        while not self._has_room(size) and self._timers is not None:
            if self._on_room is None:
                self._on_room = trio.Event()
            await self._on_room.wait()

    async def _fill(self, payload: Segment) -> PlacedPayload | None:
        """Copy a payload into a segment; None if there is no memory for one."""
        if self._timers is None:  # closed
            return None
        pool = self.pool = self.pool or SegmentPool(self._limits, self._timers)
        room = rounded_up(len(payload))
        self._placed += 1
        self._placed_bytes += room
        pooled = None
        try:
            pooled = await pool.take_large(len(payload))
            self._placed_bytes += pooled.size - room
            with memoryview(pooled.mapping) as target:
                for _ in payload.copy_in_steps(target):
                    await trio.lowlevel.checkpoint()
        except BaseException as error:
            if pooled is None:
                self._free_room(room)
            else:
                self.unplace(pooled)
            if isinstance(error, OSError):
                return None
            raise
        return PlacedPayload(self, pooled, len(payload), is_shared=payload.is_shared)

    def unplace(self, pooled: PooledSegment) -> None:
        """Take back a segment with a payload that is not sent."""
        self._put(pooled)
        self._free_room(pooled.size)

    def _put(self, pooled: PooledSegment) -> None:
        if self.pool is not None:
            self.pool.put(pooled)
        else:
            pooled.close()

    def _free_room(self, size: int) -> None:
        self._placed -= 1
        self._placed_bytes -= size
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        event, self._on_room = self._on_room, None
        if event is not None:
            event.set()

    # -- handing over ---------------------------------------------------------------------------

    def may_lend(self, segment: Segment) -> bool:
        """Return whether this segment can be handed over now; see :class:`spear._segments.Lender`."""
        if isinstance(segment, PlacedPayload):
            return True  # see place()
        size, peer = len(segment), self._peer
        if (
            not self._is_ready
            or not isinstance(segment, MemoryFile)
            or segment.descriptor.fileno < 0
            or size < self.least_bytes
            or size > peer.max_segment_bytes
            # A peer's segment, which the peer may write to once we have released it.
            or (isinstance(segment, BorrowedFile) and not segment.is_final)
        ):
            return False
        must = size > peer.max_message_bytes  # too large to be sent as bytes
        if not self._has_room(segment.file_bytes):
            if must:
                raise self.crowded()
            return False
        return not self._seals or self._can_seal(segment, must=must)

    def crowded(self) -> Overloaded:
        """Return the error for a payload that has to wait until the peer has released others."""
        return Overloaded(
            f"the peer still uses {self.lent_bytes} bytes in {len(self._lent)} shared buffers; "
            f"at most {self._most_bytes} bytes in {self._most} are allowed: keep copies of arrays, not "
            "those that have arrived"
        )

    def _can_seal(self, segment: MemoryFile, *, must: bool) -> bool:
        if not isinstance(segment, SharedBuffer):
            return True  # a peer's segment, which is final: see may_lend()
        try:
            segment.seal()
        except BufferError:
            if must:
                raise LocalProtocolError(
                    f"cannot send a SharedBuffer of {len(segment)} bytes while views of it exist: "
                    "release the views, and the arrays made of them, first"
                ) from None
            return False
        return True

    def lend(self, payload: Buffer | Segment) -> Lent | None:
        """Return the payload as a segment; None if it should be sent as bytes."""
        if isinstance(payload, PlacedPayload):
            pooled = payload.take()
            assert pooled is not None  # a payload is sent once
            self._placed -= 1
            self._placed_bytes -= pooled.size
            return self._hand_out(pooled.descriptor, pooled.size, pooled)
        if isinstance(payload, MemoryFile):
            return self._hand_out(payload.descriptor, payload.file_bytes, None)
        if isinstance(payload, Segment) or len(payload) < self._limits.segment_threshold_bytes:
            return None
        pooled = self._take_pooled(len(payload))
        if pooled is None:
            return None
        with memoryview(pooled.mapping) as whole, whole[: len(payload)] as target:
            target[:] = payload
        return self._hand_out(pooled.descriptor, pooled.size, pooled)

    def _take_pooled(self, payload_bytes: int) -> PooledSegment | None:
        """Return a pooled segment for so many bytes; None if the payload should be sent as bytes."""
        size = 1 << (payload_bytes - 1).bit_length()
        if self._timers is None or size > self._peer.max_segment_bytes or not self._has_room(size):
            return None
        pool = self.pool = self.pool or SegmentPool(self._limits, self._timers)
        if not pool.is_worth(size):
            return None
        self._ask_once()
        return pool.take(size) if self._is_ready else None

    def _has_room(self, size: int) -> bool:
        return (
            len(self._lent) + self._placed < self._most
            and self.lent_bytes + self._placed_bytes + size <= self._most_bytes
        )

    def _hand_out(self, descriptor: Descriptor, size: int, pooled: PooledSegment | None) -> Lent:
        number = next(each for each in range(len(self._lent) + 1) if each not in self._lent)
        lent = self._lent[number] = Lent(self, number, descriptor, size, pooled)
        self.lent_bytes += size
        return lent

    def released(self, number: int) -> bool:
        """Note that the peer has released a segment; return False if it has none of that number."""
        lent = self._lent.pop(number, None)
        if lent is None:
            return False
        self.lent_bytes -= lent.size
        if lent.pooled is not None and self.pool is not None:
            self.pool.put(lent.pooled)
        self._wake_waiting()
        return True

    def close(self) -> None:
        """Forget all segments, free the pool and wake waiting tasks, because the peer is gone."""
        self._lent.clear()
        self.lent_bytes = 0
        self._timers = None
        if self.pool is not None:
            self.pool.close()
            self.pool = None
        self._wake_waiting()
        self.ready()


def must_be_copied(payload: Segment, most: int) -> bool:
    """Return whether a segment's memory cannot be handed over itself, so that its bytes are copied.

    Args:
        payload: the segment.
        most: the most bytes of a message.
    """
    if isinstance(payload, BorrowedFile):
        return not payload.is_final  # its owner may write to it once we have released it
    if isinstance(payload, SharedBytes):
        return len(payload) > most  # others travel as they are
    return not isinstance(payload, MemoryFile)
