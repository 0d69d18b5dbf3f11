"""Segments that we hand to a peer: large payloads whose memory it may look at.

Two kinds. A user's ``SharedBuffer`` is handed over as it is. And payloads of a few MiB that are bytes are
copied into segments of our own, which are kept: a new one costs a page fault for each 4 KiB of it, ten
times as much as the copy. Those of one channel are never used for another one, because a peer may keep
looking at what it says it has released.

This module knows no frames and no sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import LocalProtocolError, Overloaded
from spear._segments import Segment
from spear.transports import BorrowedFile, Descriptor, MemoryFile, SharedBuffer, make_memory_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap

    from spear._limits import Limits
    from spear.wire import Buffer

    from ._timers import Timers

LEAST_SHARED_BYTES: Final = 512 * 1024
"""Buffers of users below this are sent as bytes: handing them over takes 0.1 ms, whatever their size."""

WORTH_KEEPING: Final = 8
"""So many payloads of about the same size, and it pays to make a segment for those to come."""


@final
class _Kept:
    """A segment of our own, which is used again and again."""

    # No attrs here: making such a class takes a millisecond of every function's start.
    __slots__ = ("descriptor", "idle_since", "mapping", "size")

    def __init__(self, descriptor: Descriptor, mapping: mmap, size: int) -> None:
        self.descriptor = descriptor
        self.mapping = mapping
        self.size = size
        self.idle_since = 0.0


@final
class Lent:
    """A segment that the peer has, or is about to get.

    Attributes:
        number: our name for it.
        descriptor: of its memory.
        size: of the file: what it counts for.
        kept: whether, and which of our own, it is.
    """

    __slots__ = ("_lender", "descriptor", "kept", "number", "size")

    def __init__(
        self,
        lender: SegmentLender,
        number: int,
        descriptor: Descriptor,
        size: int,
        kept: _Kept | None,
    ) -> None:
        self._lender = lender
        self.number = number
        self.descriptor = descriptor
        self.size = size
        self.kept = kept

    def withdraw(self) -> None:
        """The frame that should have told the peer of it will not be sent."""
        self._lender.released(self.number)


@final
class SegmentLender:
    """What one peer may have of our memory.

    Args:
        limits: ours.
        peer: the peer's.
        ask: asks the peer whether we may pass descriptors.
        seals: whether what we send must never change again, because the peer does not trust us.
        clock: reads the time.

    Attributes:
        is_ready: the peer takes descriptors; or is gone.
        lent_bytes: what the peer has.
        kept_bytes: the segments of our own, in use or not.
    """

    def __init__(
        self,
        limits: Limits,
        peer: Limits,
        ask: Callable[[], None],
        *,
        seals: bool,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._peer = peer
        # The peer says what it takes, and we how much of ours it may keep from being freed.
        self._most_bytes = min(peer.mapped_segment_bytes, limits.mapped_segment_bytes)
        self._most = min(peer.max_segments, limits.max_segments)
        self._ask = ask
        self._has_asked = False
        self.is_ready = trio.Event()
        self._seals = seals
        self._clock = clock
        self._timers: Timers | None = None
        self._is_trimming = False
        self.least_bytes = min(LEAST_SHARED_BYTES, limits.segment_threshold_bytes)
        self._lent: dict[int, Lent] = {}
        self.lent_bytes = 0
        self._idle: dict[int, list[_Kept]] = {}  # by size
        self.kept_bytes = 0
        self._asked: dict[int, int] = {}  # size -> payloads that might have used one

    def keep_time(self, timers: Timers) -> None:
        """Keep segments, and free those that were not used for a while."""
        self._timers = timers

    async def get_ready(self) -> None:
        """Wait until the peer takes descriptors; on a channel that passes none, nobody looks for them.

        If cancelled, nothing has happened. A checkpoint, unless it is ready already.
        """
        self._ask_once()
        if not self.is_ready.is_set():
            await self.is_ready.wait()

    def _ask_once(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._ask()

    # -- handing over ---------------------------------------------------------------------------

    def may_lend(self, segment: Segment) -> bool:
        """Whether this segment can be handed over now; see :class:`spear._segments.Lender`."""
        size, peer = len(segment), self._peer
        if (
            not self.is_ready.is_set()
            or not isinstance(segment, MemoryFile)
            or segment.descriptor.fileno < 0
            or size < self.least_bytes
            or size > peer.max_segment_bytes
            # Somebody else's, who may write to it as soon as we say that we do not use it.
            or (isinstance(segment, BorrowedFile) and not segment.is_final)
        ):
            return False
        must = size > peer.max_message_bytes  # or it cannot be sent at all
        if not self._has_room(segment.file_bytes):
            if must:
                raise Overloaded(
                    f"the other side still uses {self.lent_bytes} bytes in {len(self._lent)} shared "
                    f"buffers; it takes {self._most_bytes} bytes in {self._most}"
                )
            return False
        return not self._seals or self._can_seal(segment, must=must)

    def _can_seal(self, segment: MemoryFile, *, must: bool) -> bool:
        if not isinstance(segment, SharedBuffer):
            return True  # which is final: see above
        try:
            segment.seal()
        except BufferError:
            if must:
                raise LocalProtocolError(
                    f"a SharedBuffer of {len(segment)} bytes of which there still are views: "
                    "drop them, and arrays made of them, before you send it"
                ) from None
            return False
        return True

    def lend(self, payload: Buffer | Segment) -> Lent | None:
        """The payload as a segment; None if it should be sent as bytes."""
        if isinstance(payload, MemoryFile):
            return self._hand_out(payload.descriptor, payload.file_bytes, None)
        if isinstance(payload, Segment) or len(payload) < self._limits.segment_threshold_bytes:
            return None
        kept = self._take_kept(len(payload))
        if kept is None:
            return None
        with memoryview(kept.mapping) as whole, whole[: len(payload)] as target:
            target[:] = payload
        return self._hand_out(kept.descriptor, kept.size, kept)

    def _has_room(self, size: int) -> bool:
        return len(self._lent) < self._most and self.lent_bytes + size <= self._most_bytes

    def _hand_out(self, descriptor: Descriptor, size: int, kept: _Kept | None) -> Lent:
        number = next(each for each in range(len(self._lent) + 1) if each not in self._lent)
        lent = self._lent[number] = Lent(self, number, descriptor, size, kept)
        self.lent_bytes += size
        return lent

    def released(self, number: int) -> bool:
        """The peer does not use a segment any more; False if it has none of that number."""
        lent = self._lent.pop(number, None)
        if lent is None:
            return False
        self.lent_bytes -= lent.size
        if lent.kept is not None:
            self._keep(lent.kept)
        return True

    # -- segments of our own ----------------------------------------------------------------------

    def _take_kept(self, payload_bytes: int) -> _Kept | None:
        """A segment for so many bytes; None if there is none, and to make one would not pay."""
        size = 1 << (payload_bytes - 1).bit_length()
        most = self._limits.segment_pool_bytes
        if size * 2 > most or size > self._peer.max_segment_bytes or not self._has_room(size):
            return None
        idle = self._idle.get(size)
        if idle:
            return idle.pop()
        self._asked[size] = asked = self._asked.get(size, 0) + 1
        if asked < WORTH_KEEPING or self._timers is None:
            return None
        self._ask_once()
        if not self.is_ready.is_set():
            return None
        if self.kept_bytes + size > most:
            self._free_idle(self.kept_bytes + size - most)
            if self.kept_bytes + size > most:
                return None
        try:
            descriptor, mapping = make_memory_file(size)
        except OSError:  # no memory, or no descriptor: the socket will do
            self._asked[size] = 0
            return None
        self.kept_bytes += size
        return _Kept(descriptor, mapping, size)

    def _keep(self, kept: _Kept) -> None:
        kept.idle_since = now = self._clock()
        self._idle.setdefault(kept.size, []).append(kept)
        if not self._is_trimming and self._timers is not None:
            self._is_trimming = True
            self._timers.call_at(now + self._limits.segment_pool_seconds, self._trim)

    def _free_idle(self, wanted_bytes: int) -> None:
        for idle in self._idle.values():
            while idle and wanted_bytes > 0:
                wanted_bytes -= self._free(idle.pop(0))

    def _free(self, kept: _Kept) -> int:
        self.kept_bytes -= kept.size
        kept.mapping.close()
        kept.descriptor.close()
        return kept.size

    def _trim(self, now: float) -> None:
        """Free what has not been used for a while."""
        self._is_trimming = False
        self._asked.clear()
        seconds = self._limits.segment_pool_seconds
        oldest = now
        for idle in self._idle.values():
            while idle and idle[0].idle_since + seconds <= now:
                self._free(idle.pop(0))
            if idle:
                oldest = min(oldest, idle[0].idle_since)
        if any(self._idle.values()) and self._timers is not None:
            self._is_trimming = True
            self._timers.call_at(oldest + seconds, self._trim)

    def close(self) -> None:
        """The peer is gone."""
        for idle in self._idle.values():
            while idle:
                self._free(idle.pop())
        self._lent.clear()
        self.lent_bytes = self.kept_bytes = 0
        self._timers = None
        self.is_ready.set()  # nobody need wait any more
