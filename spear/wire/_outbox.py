"""The outgoing half of a connection: frames in, bytes out, without I/O.

The outbox keeps frames until they are taken, in an order in which no small frame waits for a large one.

* Credit, heartbeats and progress have a lane of their own. In this lane the newest frame replaces an
  older one of its kind, so a peer that never reads cannot make the lane grow.
* Ordinary frames keep their order.
* Payloads above the fragment size are cut, and the payloads under way take turns, one fragment each. The
  outbox begins no more of them than the peer has agreed to assemble at once. Later frames of the same
  call wait behind the call's payload.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, cast, final

from spear._limits import WireLimits
from spear._segments import Lender, Loan, Segment

from ._credit import ITEM_OVERHEAD_BYTES
from ._frames import (
    ARRAY_KIND,
    BYTES_BYTES,
    FRAGMENT,
    ID,
    LAST,
    MORE,
    NULL_BYTES,
    NUMBER,
    PLAIN_BYTES,
    SEGMENT,
    SHORT,
    Buffer,
    FrameType,
    Payload,
    pack_prefix,
)
from ._heads import Head, encode_head
from ._outgoing import Batch, Bulk, LendingFrame, encode_loan

BATCHED_BYTES: Final = 1024
"""Largest stream items that share a frame with others."""

BATCH_BYTES: Final = 16 * 1024
"""Bytes of items in a shared frame: enough to amortise the frame's overhead, without a noticeable
delay."""

INLINE_BYTES: Final = 8 * 1024
"""Largest payload that is copied behind its head. Above, copying costs more than a second buffer: a third
of the CPU time at 16 KiB."""

OPENING_BYTES: Final = 1024
"""Payload bytes in the first frame of a fragmented payload: few, so that the receiver soon knows the
buffer for the rest and can read straight into it. Together with READ_AHEAD_BYTES at the other end, this
is worth 6 % of the rate of 4 MiB payloads."""

ROUND_BYTES: Final = 1024 * 1024
"""Bytes of large payloads that one :meth:`Outbox.take` returns: the size of the socket buffer."""

EARLY_FRAMES: Final = 16
EARLY_BYTES: Final = 256 * 1024
"""Number of small frames, and bytes of larger ones, that are worth a system call of their own: the peer
can work on them meanwhile. Waiting for the end of the scheduler's pass would make the two processes take
turns: half the rate with 64 payloads of 1 KiB in flight, and of 16 KiB."""

_LENDABLE: Final = frozenset({FrameType.EXECUTION_REQUEST, FrameType.EXECUTION_RESPONSE})

_pack_short: Final = SHORT.pack


def _nothing(*_: object) -> None:
    pass


_QueuedItem: TypeAlias = tuple[bytes, int]
"""A complete frame queued behind a payload of its call, and the credit that the frame has cost."""


@final
class Outbox:
    """A queue of frames to be sent.

    Args:
        limits: the *peer's* limits for fragments, messages and assembly.
        on_pending: called, synchronously, when the outbox stops being empty.
        on_many: called when so many frames are queued that sending some at once lets the peer begin its
            work while this end continues.
    """

    __slots__ = (
        "_batched", "_batches", "_begun_bytes", "_bulk", "_credits", "_frames", "_latest",
        "_lender", "_limits", "_notified", "_on_dropped", "_on_many", "_on_pending", "_vectored",
        "has_lent", "has_more", "pending_bytes", "pushed", "taken",
    )  # fmt: skip

    def __init__(
        self,
        limits: WireLimits,
        on_pending: Callable[[], None],
        on_many: Callable[[], None] = _nothing,
    ) -> None:
        self._limits = limits
        self._on_pending = on_pending
        self._on_many = on_many
        self._on_dropped: Callable[[int], None] = _nothing
        self._notified = False
        self._frames: list[Buffer | Batch] = []
        self._batched = False  # some of the frames are batches
        self._batches: dict[int, Batch] = {}  # call id -> the batch that takes its next item
        self._vectored = False  # some of the frames are large: return them unjoined
        self._credits: dict[int, int] = {}
        self._latest: dict[tuple[int, int], bytes] = {}
        # Call id -> the unsent frames of this call, in order; the first one is a Bulk.
        self._bulk: dict[int, deque[Bulk | _QueuedItem]] = {}
        self._lender: Lender | None = None
        self.has_lent = False  # whether a LendingFrame was ever pushed
        self.has_more = False  # whether take() left large payloads
        self._begun_bytes = 0  # total size of the payloads of which a fragment was taken
        self.pending_bytes = 0
        self.pushed = 0  # number of frames pushed so far; the number of the newest one
        self.taken = 0  # number of the newest frame taken, not counting fragmented ones

    def __bool__(self) -> bool:
        return bool(self._frames or self._bulk or self._credits or self._latest)

    def open(self, peer: WireLimits, on_dropped: Callable[[int], None]) -> None:
        """Use the peer's limits from now on: the handshake is done.

        Args:
            peer: the peer's limits.
            on_dropped: called with the credit of stream items that are dropped before they are sent.
        """
        self._limits = peer
        self._on_dropped = on_dropped

    def lend_through(self, lender: Lender) -> None:
        """From now on, let ``lender`` decide which payloads are passed in segments."""
        self._lender = lender

    # -- filling ------------------------------------------------------------------------------

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
        """Queue a frame. The payload must not be changed before it is sent."""
        size = len(payload)
        if (
            head is None
            and size <= INLINE_BYTES
            and not (self._bulk and call_id in self._bulk)
            and not (self._batches and call_id in self._batches)
        ):
            # The hot path: 0.35 us for 1 KiB.
            body = PLAIN_BYTES + size
            self._frames.append(
                _pack_short(  # type: ignore[operator]  # no segment is this small: see may_lend()
                    body & 255, body >> 8, ARRAY_KIND, type_, flags, ID, call_id, NUMBER, a, NUMBER,
                    b, NULL_BYTES, size,
                )
                + payload
            )  # fmt: skip
            self.pushed += 1
            self.pending_bytes += size
            if not self._notified:
                self._notified = True
                self._on_pending()
            elif len(self._frames) == EARLY_FRAMES:
                self._on_many()
        else:
            self._push_other(type_, flags, call_id, a, b, payload, head)

    def _push_other(
        self,
        type_: int,
        flags: int,
        call_id: int,
        a: int,
        b: int,
        payload: Payload,
        head: Head | None,
    ) -> None:
        """Queue a frame that has a head, or is large, or follows a large one of the same call."""
        size = len(payload)
        limits = self._limits
        queue = self._bulk.get(call_id)
        self._batches.pop(call_id, None)  # later items must follow this frame, not join the batch
        lender = self._lender
        if lender is not None and size >= lender.least_bytes and type_ in _LENDABLE:
            loan = lender.lend(payload)
            if loan is not None:
                self._push_lending(type_, flags, call_id, a, b, loan, size, head)
                return
        assert not isinstance(payload, Segment)  # may_lend() has refused it
        if size > limits.fragment_bytes:
            encoded = encode_head({**(head or {}), "size": size})
            view = memoryview(payload).cast("B")
            bulk = Bulk(type_, flags, call_id, a, b, encoded, view, self.pushed + 1)
            if queue is None:
                self._bulk[call_id] = deque([bulk])
            else:
                queue.append(bulk)
        else:
            encoded_head = None if head is None else encode_head(head)
            prefix = pack_prefix(type_, flags, call_id, a, b, encoded_head, size)
            if queue is not None:
                credit = size + ITEM_OVERHEAD_BYTES if type_ == FrameType.STREAM_DATA and a else 0
                queue.append((prefix + payload, credit))
            elif size <= INLINE_BYTES:
                self._frames.append(prefix + payload)
            else:
                self._frames += prefix, payload
                self._vectored = True
        self.pushed += 1
        early = (self.pending_bytes % EARLY_BYTES) + size >= EARLY_BYTES
        self.pending_bytes += size
        self.notify()
        if early:
            self._on_many()

    def _push_lending(
        self,
        type_: int,
        flags: int,
        call_id: int,
        a: int,
        b: int,
        loan: Loan,
        size: int,
        head: Head | None,
    ) -> None:
        """Queue a frame whose payload is passed as a file descriptor."""
        try:
            encoded = encode_loan(size, loan.number, head)
        except ValueError:
            loan.withdraw()
            raise
        frame = LendingFrame(pack_prefix(type_, flags | SEGMENT, call_id, a, b, encoded, 0))
        frame.loan = loan
        queue = self._bulk.get(call_id)
        if queue is not None:
            queue.append((frame, 0))
        else:
            self._frames.append(frame)
            self._vectored = True
        self.has_lent = True
        self.pushed += 1
        self.pending_bytes += len(frame)
        self.notify()

    def push_item(self, flags: int, call_id: int, item: Buffer) -> None:
        """Queue an item of a stream; small ones of the same stream may share a frame."""
        size = len(item)
        if size > BATCHED_BYTES or flags & LAST or (self._bulk and call_id in self._bulk):
            self.push(FrameType.STREAM_DATA, flags, call_id, 1, 0, item)
            return
        batch = self._batches.get(call_id)
        if batch is None or batch.room < size or batch.flags != flags:
            batch = self._batches[call_id] = Batch(call_id, flags, BATCH_BYTES)
            self._frames.append(batch)
            self._batched = True
            self.pushed += 1
        batch.items.append(item)
        batch.room -= size + BYTES_BYTES
        self.pending_bytes += size
        if not self._notified:
            self._notified = True
            self._on_pending()

    def push_latest(
        self,
        type_: int,
        call_id: int,
        a: int,
        b: int,
        payload: Buffer = b"",
        head: Head | None = None,
    ) -> None:
        """Queue a frame that replaces an unsent one of the same type and call."""
        encoded = None if head is None else encode_head(head)
        prefix = pack_prefix(type_, 0, call_id, a, b, encoded, len(payload))
        self._latest[type_, call_id] = prefix + payload
        self.notify()

    def push_credit(self, call_id: int, credit: int) -> None:
        """Queue returned credit, added to unsent credit of the same call."""
        self._credits[call_id] = self._credits.get(call_id, 0) + credit
        self.notify()

    def push_lend(self, *, is_answer: bool) -> None:
        """Queue the question whether descriptors may be passed, or the answer that they may."""
        # A question and an answer can be queued at once: neither may replace the other.
        self._latest[FrameType.LEND, is_answer] = pack_prefix(
            FrameType.LEND, 0, 0, is_answer, 0, None, 0
        )
        self.notify()

    def push_release(self, number: int) -> None:
        """Queue the release of the peer's segment ``number``, to be sent with the next frame."""
        # At most as many are queued as segments the peer may lend us.
        self._latest[FrameType.RELEASE, number] = pack_prefix(
            FrameType.RELEASE, 0, 0, number, 0, None, 0
        )

    # -- segments -----------------------------------------------------------------------------

    def may_lend(self, segment: Segment) -> bool:
        """Return whether this segment can be pushed as it is; see :class:`spear._segments.Lender`."""
        return self._lender is not None and self._lender.may_lend(segment)

    def released(self, number: int) -> bool:
        """Record that the peer released a segment; return False if it has none with that number."""
        return self._lender is not None and self._lender.released(number)

    def notify(self) -> None:
        """Call ``on_pending`` unless it was called since the outbox was last empty."""
        if not self._notified:
            self._notified = True
            self._on_pending()

    # -- taking back --------------------------------------------------------------------------

    def retract(self, call_id: int, sequence: int) -> bool:
        """Take back the frame pushed as number ``sequence``; return True if no byte of it was taken.

        Only the newest ordinary frame, or a fragmented payload not yet begun, can be taken back.
        """
        queue = self._bulk.get(call_id)
        if queue is not None:
            bulk = queue[0]
            assert isinstance(bulk, Bulk)  # see _finish_bulk
            if bulk.sequence != sequence or bulk.offset:
                return False
            self.abandon(call_id)
        elif sequence != self.pushed or sequence <= self.taken or self._vectored:
            return False
        else:
            self._frames.pop()
        if not self:
            self.pending_bytes = 0
        return True

    def abandon(self, call_id: int) -> bool:
        """Drop a call's fragmented payload and the frames behind it; return False if there is none."""
        queue = self._bulk.pop(call_id, None)
        if queue is None:
            return False
        bulk = queue[0]
        assert isinstance(bulk, Bulk)  # see _finish_bulk
        if bulk.offset:
            self._begun_bytes -= len(bulk.view)
        self.has_more = bool(self._bulk)
        for part in queue:
            if isinstance(part, tuple) and isinstance(part[0], LendingFrame):
                part[0].loan.withdraw()
        credit = sum(part.unsent_credit if isinstance(part, Bulk) else part[1] for part in queue)
        if credit:
            self._on_dropped(credit)
        return True

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        """Return whether no byte of the frame pushed as number ``sequence`` was taken."""
        queue = self._bulk.get(call_id)
        if queue is not None:
            bulk = queue[0]
            assert isinstance(bulk, Bulk)  # see _finish_bulk
            if bulk.sequence <= sequence:
                return bulk.sequence < sequence or bulk.offset == 0
        return sequence > self.taken

    # -- emptying -----------------------------------------------------------------------------

    def take(self) -> list[Buffer]:
        """Return the buffers to send next, in order; an empty list if there are none.

        Large payloads are returned in portions: call again when these bytes are sent.
        """
        frames: list[Buffer]
        if not (
            self._bulk or self._batched or self._vectored or self._credits or self._latest
        ):  # the usual case
            frames = cast("list[Buffer]", self._frames)
            self._frames = []
            self.taken = self.pushed
            self.pending_bytes = 0
            self._notified = False
            return frames if len(frames) < 2 else [b"".join(frames)]
        if self._batched:
            frames = [
                frame.encode() if isinstance(frame, Batch) else frame for frame in self._frames
            ]
            self._batched = False
            self._batches.clear()
        else:
            frames = cast("list[Buffer]", self._frames)
        if self._credits or self._latest:
            frames = self._control_frames() + frames
        self.taken = self.pushed
        self.pending_bytes = 0
        self._frames = []
        vectored, self._vectored = self._vectored, False
        if self._bulk:
            self._take_fragments(frames)
            vectored = True
            self.pending_bytes = sum(
                len(part.view) - part.offset if isinstance(part, Bulk) else len(part[0])
                for queue in self._bulk.values()
                for part in queue
            )
        self._notified = self.has_more = bool(self._bulk)
        if vectored or len(frames) < 2:
            return frames
        return [b"".join(frames)]

    def _control_frames(self) -> list[Buffer]:
        frames: list[Buffer] = [
            pack_prefix(FrameType.CREDIT, 0, call_id, credit, 0, None, 0)
            for call_id, credit in self._credits.items()
        ]
        frames += self._latest.values()
        self._credits.clear()
        self._latest.clear()
        return frames

    def _take_fragments(self, frames: list[Buffer]) -> None:
        """Add a fragment of each payload under way, and begin further payloads that fit."""
        taken = 0
        may_begin = True
        for call_id in list(self._bulk):
            queue = self._bulk[call_id]
            bulk = queue[0]
            assert isinstance(bulk, Bulk)  # see _finish_bulk
            if taken >= ROUND_BYTES:
                break
            if bulk.offset == 0:
                # Begin payloads in order of arrival, so that smaller ones cannot starve a large one.
                fits = self._begun_bytes + len(bulk.view) <= self._limits.assembly_bytes
                if not may_begin or not (fits or self._begun_bytes == 0):
                    may_begin = False
                    continue
                self._begun_bytes += len(bulk.view)
            taken += self._take_fragment(bulk, frames)
            del self._bulk[call_id]  # moves to the end of the round, unless finished
            if bulk.offset < len(bulk.view):
                self._bulk[call_id] = queue
            else:
                self._finish_bulk(call_id, queue, frames)

    def _take_fragment(self, bulk: Bulk, frames: list[Buffer]) -> int:
        start = bulk.offset
        size = self._limits.fragment_bytes if start else OPENING_BYTES
        part = bulk.view[start : start + size]
        bulk.offset = start + len(part)
        flags = FRAGMENT if bulk.offset == len(bulk.view) else FRAGMENT | MORE
        if start == 0:
            prefix = pack_prefix(
                bulk.type, bulk.flags | flags, bulk.call_id, bulk.a, bulk.b, bulk.head, len(part)
            )
        else:
            prefix = pack_prefix(FrameType.BODY, flags, bulk.call_id, 0, 0, None, len(part))
        frames += prefix, part
        return len(part)

    def _finish_bulk(
        self, call_id: int, queue: deque[Bulk | _QueuedItem], frames: list[Buffer]
    ) -> None:
        """Remove a sent payload, and release the frames behind it, up to the call's next large one."""
        finished = queue.popleft()
        assert isinstance(finished, Bulk)
        self._begun_bytes -= len(finished.view)
        while queue:
            part = queue[0]
            if isinstance(part, Bulk):
                self._bulk[call_id] = queue
                break
            frames.append(part[0])
            queue.popleft()
