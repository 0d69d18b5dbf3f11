"""Segments that a peer hands to us: their descriptors arrive beside the bytes of a socket.

A peer may pass any kind of descriptor, too many, or none. Only what the kernel says of one is trusted.
Every descriptor that arrives is owned by an object from the first moment, and closed with the object.
"""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import RemoteProtocolError
from spear._segments import Segment

from ._copies import CopyMemory
from ._memory_files import BorrowedFile, Descriptor, examine, receive_with_descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from spear._limits import WireLimits
    from spear.wire import Outbox, Receiver

    from .._timers import Timers

SPARE_BYTES: Final = 4096
"""Bytes that a file may have after its payload and still be viewed: a sender may round up to a page. A
payload in a larger file is copied, unless we trust the peer."""

LATEST_SECONDS: Final = 1.0
"""Seconds until the release of an unused segment is sent, if no other frame is sent before."""


@final
class _Lost(Segment):
    """A segment whose descriptor was lost on arrival, because this process had no free one."""

    __slots__ = ("_ended", "_number", "_size")

    def __init__(self, number: int, size: int, ended: list[int]) -> None:
        self._number = number
        self._size = size
        self._ended = ended

    def __len__(self) -> int:
        return self._size

    def as_view(self) -> memoryview:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def as_bytes(self) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def __del__(self) -> None:
        self._ended.append(self._number)


@final
class _Arrived:
    """A descriptor that has arrived, before its frame is read; None if it was lost on arrival."""

    __slots__ = ("_borrower", "_descriptor")

    def __init__(self, borrower: Borrower, descriptor: Descriptor | None) -> None:
        self._borrower = borrower
        self._descriptor = descriptor

    def claim(self, number: int, size: int) -> Segment:
        """Return the segment that a frame describes. Raises ValueError."""
        return self._borrower.borrow(self._descriptor, number, size)


@final
class Borrower:
    """A record of one peer's segments that we use.

    The release of an unused segment is sent with the next frames, or after :data:`LATEST_SECONDS`. A
    frame at once would wake up the peer, which costs more than the memory is worth.

    Args:
        limits: the limits of this end.
        receiver: is handed the descriptors that arrive.
        outbox: sends the releases of unused segments.
        timers: release unused segments in time, even if nothing else is sent; may be None.
        trusts: whether the peer is trusted not to change memory that it has sent.
        copies: whether the peer may send payloads larger than a message in memory that can still change,
            which are copied.

    Attributes:
        borrowed_bytes: bytes of the peer's memory that we hold: the most that its files can hold.
        ended: numbers of segments that are not used any more; filled in any thread, at any moment.
    """

    def __init__(
        self,
        limits: WireLimits,
        receiver: Receiver,
        outbox: Outbox,
        timers: Timers | None,
        *,
        trusts: bool,
        copies: bool,
    ) -> None:
        self._limits = limits
        self._copies = copies
        self._memory = CopyMemory(limits, timers)
        self._receiver = receiver
        self._outbox = outbox
        self._trusts = trusts
        self._sizes: dict[int, int] = {}  # segment number -> bytes that its file can hold
        self._timers = timers
        self._is_waiting = False  # whether a call of _on_time() is scheduled
        self.ended: list[int] = []
        self.borrowed_bytes = 0

    # -- arriving ---------------------------------------------------------------------------------

    def read(self, sock: socket.socket, size: int) -> bytes:
        """Read without waiting; keep the descriptor that arrives beside the bytes, return the bytes.

        Raises OSError as a socket does, and RemoteProtocolError.
        """
        data, descriptors, is_cut = receive_with_descriptors(sock, size)
        if descriptors or is_cut:
            self._take(descriptors, is_cut=is_cut)
        return data

    def _take(self, descriptors: Sequence[Descriptor], *, is_cut: bool) -> None:
        if is_cut:
            # This process had no free descriptor, which must cost one call and not the connection. (Or
            # the peer sent too many descriptors, which also costs it one call.)
            self._receiver.attach(_Arrived(self, None))
            return
        if len(descriptors) > 1:
            raise RemoteProtocolError(
                f"{len(descriptors)} file descriptors arrived together; at most 1 is allowed"
            )
        for descriptor in descriptors:
            self._receiver.attach(_Arrived(self, descriptor))

    def borrow(self, descriptor: Descriptor | None, number: int, size: int) -> Segment:
        """Return the segment that a frame describes. Raises ValueError if its file is unfit."""
        limits = self._limits
        self.give_back()
        if number >= limits.max_segments or number in self._sizes:
            raise ValueError(f"the segment number {number} is in use, or out of range")
        if size > limits.max_segment_bytes:
            raise ValueError(f"{size} bytes; at most {limits.max_segment_bytes} are allowed")
        if descriptor is None:
            self._note(number, 0)
            return _Lost(number, size, self.ended)
        found = examine(descriptor.fileno)
        if not found.is_fixed:
            raise ValueError("the file is not sealed against shrinking and growing")
        if found.size < size:
            raise ValueError(f"the file has {found.size} bytes, not {size}")
        # A view keeps the whole file in memory, but the limits of its users count only the view's bytes.
        is_full = found.size - size <= SPARE_BYTES
        can_be_viewed = found.is_whole and (self._trusts or (found.is_final and is_full))
        may_be_copied = self._copies and found.is_whole
        if size > limits.max_message_bytes and not can_be_viewed and not may_be_copied:
            if not is_full:
                raise ValueError(
                    f"the payload of {size} bytes is in a file of {found.size}, too large to view"
                )
            raise ValueError(f"the payload of {size} bytes can change, or is not fully allocated")
        if self.borrowed_bytes + found.held_bytes > limits.mapped_segment_bytes:
            raise ValueError(
                f"segments hold more than {limits.mapped_segment_bytes} bytes together"
            )
        self._note(number, found.held_bytes)
        on_end = partial(self.ended.append, number)
        return BorrowedFile(
            descriptor,
            found.size,
            size,
            on_end,
            is_final=found.is_final,
            can_be_viewed=can_be_viewed,
            take_memory=self._memory.take,
        )

    def _note(self, number: int, size: int) -> None:
        self._sizes[number] = size
        self.borrowed_bytes += size
        self._wait()

    # -- giving back ------------------------------------------------------------------------------

    def give_back(self) -> None:
        """Queue the releases of unused segments, which are sent with the next frames."""
        while self.ended:
            number = self.ended.pop()
            self.borrowed_bytes -= self._sizes.pop(number)
            self._outbox.push_release(number)

    def _wait(self) -> None:
        if self._timers is not None and not self._is_waiting:
            self._is_waiting = True
            self._timers.call_at(trio.current_time() + LATEST_SECONDS, self._on_time)

    def _on_time(self, now: float) -> None:
        self._is_waiting = False
        self.give_back()
        if self._outbox:
            self._outbox.notify()
        if self._sizes:
            self._wait()

    def close(self) -> None:
        """Forget all segments, because the peer is gone."""
        self._timers = None
        self._memory.close()
        self._sizes.clear()
        self.borrowed_bytes = 0
        self.ended = []  # segments that are still in use will append to the old list
