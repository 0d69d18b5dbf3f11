"""A pool of our own segments: large payloads are copied into them, and segments are used again.

A new segment costs a page fault for each 4 KiB, ten times as much as the copy. Segments of one channel
are never used for another, because a peer may go on reading a segment that it has released.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import trio

from spear._segments import STEP_BYTES

from ._memory_files import (
    PAGE_BYTES,
    Descriptor,
    fix_memory_file,
    make_memory_file,
    open_memory_file,
)

if TYPE_CHECKING:
    from mmap import mmap

    from spear._limits import WireLimits

    from .._timers import Timers

MOST_AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes of the largest payload that is copied into a segment in one step. A larger one would hold up
other tasks for longer than two fragments do."""

WORTH_KEEPING: Final = 8
"""Payloads of about the same size after which a segment is made for further ones."""


def rounded_up(size: int) -> int:
    """Return a size from so much up to an eighth more, so that similar sizes can use the same memory."""
    step = max(1 << max(size.bit_length() - 4, 0), PAGE_BYTES)
    return -(-size // step) * step


@final
class PooledSegment:
    """A segment of the pool."""

    # No attrs here: making such a class takes a millisecond at the start of every function's process.
    __slots__ = ("descriptor", "idle_since", "mapping", "size")

    def __init__(self, descriptor: Descriptor, mapping: mmap, size: int) -> None:
        self.descriptor = descriptor
        self.mapping = mapping
        self.size = size
        self.idle_since = 0.0

    def close(self) -> None:
        """Give up the memory, which is freed once the peer has released it, too."""
        self.mapping.close()
        self.descriptor.close()


@final
class SegmentPool:
    """A pool of shared-memory segments that are used again and again for one peer.

    Args:
        limits: the limits of this side.
        timers: runs the timer that closes segments which were not used for ``segment_pool_seconds``.

    Attributes:
        kept_bytes: total size of all segments in bytes, whether in use or not.
    """

    __slots__ = ("_asked", "_idle", "_is_trimming", "_limits", "_timers", "kept_bytes")

    def __init__(self, limits: WireLimits, timers: Timers) -> None:
        self._limits = limits
        self._timers = timers
        self._is_trimming = False
        self._idle: dict[int, list[PooledSegment]] = {}  # by size
        self._asked: dict[int, int] = {}  # size -> payloads that could have used a segment
        self.kept_bytes = 0

    def is_worth(self, size: int) -> bool:
        """Count a payload of this size; return whether it should travel in a segment."""
        if size > MOST_AT_ONCE or size * 2 > self._limits.segment_pool_bytes:
            return False
        self._asked[size] = asked = self._asked.get(size, 0) + 1
        return asked >= WORTH_KEEPING or bool(self._idle.get(size))

    def is_worth_placing(self, size: int) -> bool:
        """Count a payload above :data:`MOST_AT_ONCE`; return whether it should travel in a segment."""
        if size <= MOST_AT_ONCE:
            return False
        if any(idle and size <= each <= 2 * size for each, idle in self._idle.items()):
            return True
        kind = 1 << (size - 1).bit_length()
        self._asked[kind] = asked = self._asked.get(kind, 0) + 1
        fits = self.kept_bytes + rounded_up(size) <= self._limits.segment_pool_bytes
        return fits and asked > WORTH_KEEPING

    def take(self, size: int) -> PooledSegment | None:
        """Return a segment of this size; None if the pool is full, or no segment can be made."""
        idle = self._idle.get(size)
        if idle:
            return idle.pop()
        most = self._limits.segment_pool_bytes
        if self.kept_bytes + size > most:
            self._free_idle(self.kept_bytes + size - most)
            if self.kept_bytes + size > most:
                return None
        try:
            descriptor, mapping = make_memory_file(size)
        except OSError:  # no memory, or no descriptor: the payload goes through the socket
            self._asked[size] = 0
            return None
        self.kept_bytes += size
        return PooledSegment(descriptor, mapping, size)

    async def take_large(self, size: int) -> PooledSegment:
        """Return a segment of at least this size, though the pool may be full; make one if necessary.

        If cancelled, nothing is taken. Other tasks run while memory is allocated.

        Raises:
            OSError: there is not enough memory, or no descriptor.
        """
        fitting = [each for each, idle in self._idle.items() if idle and size <= each <= 2 * size]
        if fitting:
            return self._idle[min(fitting)].pop()
        room = rounded_up(size)
        descriptor = open_memory_file(room)
        for start in range(0, room, STEP_BYTES):
            os.posix_fallocate(descriptor.fileno, start, min(STEP_BYTES, room - start))
            await trio.lowlevel.checkpoint()
        mapping = fix_memory_file(descriptor, room)
        self.kept_bytes += room
        return PooledSegment(descriptor, mapping, room)

    def put(self, segment: PooledSegment) -> None:
        """Take back a segment that the peer has released; free segments beyond the limit."""
        segment.idle_since = now = trio.current_time()
        self._idle.setdefault(segment.size, []).append(segment)
        if self.kept_bytes > self._limits.segment_pool_bytes:
            self._free_idle(self.kept_bytes - self._limits.segment_pool_bytes)
        self._trim_at(now + self._limits.segment_pool_seconds)

    def _free_idle(self, wanted_bytes: int) -> None:
        for idle in self._idle.values():
            while idle and wanted_bytes > 0:
                wanted_bytes -= self._free(idle.pop(0))

    def _free(self, segment: PooledSegment) -> int:
        self.kept_bytes -= segment.size
        segment.close()
        return segment.size

    def _trim_at(self, when: float) -> None:
        if not self._is_trimming:
            self._is_trimming = True
            self._timers.call_at(when, self._trim)

    def _trim(self, now: float) -> None:
        """Free segments that have not been used for ``segment_pool_seconds``."""
        self._is_trimming = False
        self._asked.clear()
        seconds = self._limits.segment_pool_seconds
        for idle in self._idle.values():
            while idle and idle[0].idle_since + seconds <= now:
                self._free(idle.pop(0))
        oldest = min((idle[0].idle_since for idle in self._idle.values() if idle), default=None)
        if oldest is not None:
            self._trim_at(oldest + seconds)

    def close(self) -> None:
        """Free all idle segments, because the peer is gone. Lent segments are freed with their loans."""
        for idle in self._idle.values():
            while idle:
                self._free(idle.pop())
        self._is_trimming = True  # never again
        self.kept_bytes = 0
