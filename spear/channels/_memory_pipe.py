"""Moving frames between two ends in the same process."""

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
    """Frames handed to a peer in the same process: no bytes, no copies, no encoding.

    What a peer receives are the very objects that were sent, if they are ``bytes``.
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
        self.peer: MemoryPipe | None = None  # None: the other end is closed
        self._inbox: list[Frame] = []
        self._reader: trio.lowlevel.Task | None = None
        self.pushed = 0
        self.pending_bytes = 0
        self.waiters: list[Task] = []
        self.bytes_sent = 0
        self.bytes_received = 0

    # -- the reader ---------------------------------------------------------------------------

    async def receive(self) -> list[Frame]:
        """The next frames. Raises ChannelBroken when there will be none."""
        while not self._inbox:
            if self.peer is None:
                raise ChannelBroken("connection lost: closed by the peer")
            self._reader = current_task()
            await wait_task_rescheduled(self._abort)
        frames, self._inbox = self._inbox, []
        return frames

    async def serve(self, on_frames: Callable[[list[Frame]], None]) -> None:
        """Hand over all frames that come; ends as :meth:`receive` does, or with what it raises."""
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
        """Nothing waits."""
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
        """Put a frame before the peer's reader."""
        peer = self.peer
        if peer is None:
            return
        if type(payload) is not bytes and not isinstance(payload, Segment):
            payload = bytes(payload)
        if head is not None:
            # A copy, so that neither side sees what the other does to it; and no head passes here
            # that another transport would refuse.
            head = decode_head_untrusted(encode_head(head))
        self.pushed += 1
        self.bytes_sent += len(payload)
        peer.bytes_received += len(payload)
        peer._inbox.append((type_, flags, call_id, a, b, head, payload))
        if peer._reader is not None:
            reschedule(peer._reader)
            peer._reader = None

    def push_item(self, flags: int, call_id: int, item: Buffer) -> None:
        """Put an item before the peer's reader."""
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
        """The peer's reader runs in the next pass, so nothing piles up that could be replaced."""
        self.push(type_, 0, call_id, a, b, payload, head)

    def push_credit(self, call_id: int, credit: int) -> None:
        """Give credit back."""
        self.push(FrameType.CREDIT, 0, call_id, credit, 0)

    def may_lend(self, segment: Segment) -> bool:
        """The object itself is handed over."""
        return True

    def released(self, number: int) -> bool:
        """Nothing is ever handed over by number."""
        return False

    def retract(self, call_id: int, sequence: int) -> bool:
        """Take back the newest frame, if the peer has not seen it."""
        peer = self.peer
        if peer is None or sequence != self.pushed or not peer._inbox:
            return False
        if peer._inbox[-1][2] != call_id:
            return False
        peer._inbox.pop()
        return True

    def abandon(self, call_id: int) -> bool:
        """Nothing is ever half sent."""
        return False

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        """Everything pushed is with the peer."""
        return False

    def flush(self) -> None:
        """Nothing waits."""

    async def drain(self) -> None:
        """Nothing waits."""
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Part from the peer, which will see the end after what it has not read yet."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            peer.peer = None
            peer._wake()
        self._wake()


def memory_pipes() -> tuple[MemoryPipe, MemoryPipe]:
    """Two pipes, each the other's peer."""
    left, right = MemoryPipe(), MemoryPipe()
    left.peer, right.peer = right, left
    return left, right
