"""Memory of this process for copies of a peer's segments, used again and again.

New memory costs a page fault for each 4 KiB, several times as much as the copy. A copy lives as long as
views of it, which this module does not see end; it asks a mapping whether views of it exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from ._memory_files import make_private_memory
from ._pool import rounded_up

if TYPE_CHECKING:
    from mmap import mmap

    from spear._limits import WireLimits

    from .._timers import Timers


@final
class CopyMemory:
    """Memory for copies of one peer's segments.

    Args:
        limits: the limits of this side, which has those of a pool for its own segments.
        timers: free memory that was not used for ``segment_pool_seconds``; None: nothing is kept.

    Attributes:
        kept_bytes: bytes that are kept for further copies, in use or not.
    """

    __slots__ = ("_is_trimming", "_kept", "_limits", "_timers", "kept_bytes")

    def __init__(self, limits: WireLimits, timers: Timers | None) -> None:
        self._limits = limits
        self._timers = timers
        self._kept: list[tuple[mmap, float]] = []  # with the time when it was last taken
        self._is_trimming = False
        self.kept_bytes = 0

    def take(self, size: int) -> memoryview:
        """Return memory of this size, which is taken until no view of it exists. Raises OSError."""
        now = trio.current_time()
        for index, (mapping, _) in enumerate(self._kept):
            if size <= len(mapping) <= 2 * size and _is_unused(mapping):
                del self._kept[index]
                self._kept.append((mapping, now))
                return memoryview(mapping)[:size]
        room = rounded_up(size)
        mapping = make_private_memory(room)
        if self._timers is not None and self.kept_bytes + room <= self._limits.segment_pool_bytes:
            self._kept.append((mapping, now))
            self.kept_bytes += room
            self._trim_at(now + self._limits.segment_pool_seconds)
        return memoryview(mapping)[:size]

    def _trim_at(self, when: float) -> None:
        if not self._is_trimming and self._timers is not None:
            self._is_trimming = True
            self._timers.call_at(when, self._trim)

    def _trim(self, now: float) -> None:
        """Forget memory that was not taken for a while. Memory with views lives as long as they do."""
        self._is_trimming = False
        oldest = now - self._limits.segment_pool_seconds
        self._kept = [each for each in self._kept if each[1] > oldest]
        self.kept_bytes = sum(len(mapping) for mapping, _ in self._kept)
        if self._kept:
            self._trim_at(self._kept[0][1] + self._limits.segment_pool_seconds)

    def close(self) -> None:
        """Forget all memory, because the peer is gone."""
        self._timers = None
        self._kept.clear()
        self.kept_bytes = 0


def _is_unused(mapping: mmap) -> bool:
    """Return whether no view of a mapping exists."""
    try:
        mapping.resize(len(mapping))  # refused while there are views; otherwise no change
    except BufferError:
        return False
    return True
