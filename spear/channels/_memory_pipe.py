"""A pipe between two ends of a channel in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import ChannelBroken
from spear._segments import Segment
from spear.wire import (
    Buffer,
    Frame,
    FrameType,
    Head,
    Payload,
    Receiver,
    Sink,
    decode_head_untrusted,
    encode_head,
)

from ._interrupts import protected_class
from .segments import NO_SEGMENTS


@final
@protected_class
class MemoryPipe:
    """A pipe that hands frames to a peer in the same process, without encoding them.

    Payloads that are ``bytes`` or segments arrive as the same objects; others are copied.
    """

    __slots__ = (
        "_inbox",
        "_reader",
        "bytes_received",
        "bytes_sent",
        "peer",
        "pending_bytes",
        "pushed",
        "receiver",
        "sink",
        "waiters",
    )

    can_fall_silent = False
    segments = NO_SEGMENTS

    def __init__(self) -> None:
        self.sink: Sink = self
        self.receiver: Receiver | None = None
        self.peer: MemoryPipe | None = None  # None: either end is closed
        self._inbox: list[Frame] = []
        self._reader: trio.lowlevel.Task | None = None
        self.pushed = 0
        self.pending_bytes = 0
        self.waiters: list[Task] = []
        self.bytes_sent = 0
        self.bytes_received = 0

    # -- the reader ---------------------------------------------------------------------------

    async def receive(self) -> list[Frame]:
        """Wait for frames and return them. Raises ChannelBroken when no more will come."""
        while not self._inbox:
            if self.peer is None:
                raise ChannelBroken("connection lost: closed by the peer")
            self._reader = current_task()
            await wait_task_rescheduled(self._abort)
        frames, self._inbox = self._inbox, []
        return frames

    async def serve(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Pass all frames to ``on_frames``, until ``on_frames`` or :meth:`receive` raises."""
        while True:
            on_frames(await self.receive())

    def _abort(self, _: object) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._reader is not None:
            reschedule(self._reader)
            self._reader = None

    # -- the sink -----------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """Zero: frames are delivered at once."""
        return 0

    def push(
        self,
        type_: int,
        flags: int,
        call_id: int,
        a: int,
        b: int,
        payload: Payload = b"",
        head: Head | None = None,
    ) -> None:
        """Deliver a frame to the peer's reader; drop it if the pipe is closed."""
        peer = self.peer
        if peer is None:
            return
        if type(payload) is not bytes and not isinstance(payload, Segment):
            payload = bytes(payload)
        if head is not None:
            # A copy, so that neither side sees later changes by the other. Encoding refuses a head
            # that another transport would refuse, too.
            head = decode_head_untrusted(encode_head(head))
        self.pushed += 1
        self.bytes_sent += len(payload)
        peer.bytes_received += len(payload)
        peer._inbox.append((type_, flags, call_id, a, b, head, payload))
        if peer._reader is not None:
            reschedule(peer._reader)
            peer._reader = None

    def push_item(self, flags: int, call_id: int, item: Buffer) -> None:
        """Deliver an item to the peer's reader."""
        self.push(FrameType.STREAM_DATA, flags, call_id, 1, 0, item)

    def push_latest(
        self,
        type_: int,
        call_id: int,
        a: int,
        b: int,
        payload: Buffer = b"",
        head: Head | None = None,
    ) -> None:
        """Deliver a frame. The peer reads it in the next pass, so older ones need not be replaced."""
        self.push(type_, 0, call_id, a, b, payload, head)

    def push_credit(self, call_id: int, credit: int) -> None:
        """Return credit to the peer."""
        self.push(FrameType.CREDIT, 0, call_id, credit, 0)

    def may_lend(self, segment: Segment) -> bool:
        """Return whether a segment can be delivered: always, because the object itself is."""
        return True

    def released(self, number: int) -> bool:
        """Return False: no segment has a number here."""
        return False

    def retract(self, call_id: int, sequence: int) -> bool:
        """Take back the newest frame if the peer has not read it; return whether that was done."""
        peer = self.peer
        if peer is None or sequence != self.pushed or not peer._inbox:
            return False
        if peer._inbox[-1][2] != call_id:
            return False
        peer._inbox.pop()
        return True

    def abandon(self, call_id: int) -> bool:
        """Return False: no payload is ever partly sent."""
        return False

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        """Return whether a frame is unsent: never, because all frames are delivered at once."""
        return False

    def flush(self) -> None:
        """Do nothing: frames are delivered at once."""

    async def drain(self) -> None:
        """Return at once, because no frame waits. A checkpoint."""
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Disconnect from the peer, which first reads the frames that were delivered."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            peer.peer = None
            peer._wake()
        self._wake()


def memory_pipes() -> tuple[MemoryPipe, MemoryPipe]:
    """Return two pipes, each of which is the other's peer."""
    left, right = MemoryPipe(), MemoryPipe()
    left.peer, right.peer = right, left
    return left, right
