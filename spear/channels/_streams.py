"""The two halves of a stream of items inside a call.

Items that arrive wait in an :class:`ItemQueue`; the credit they cost goes back to the sender as the
application takes them. Items that leave wait for credit in an :class:`ItemSender`. The channel's
reader fills the queue and wakes the sender; it never waits for either.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import CallCancelled, SpearError
from spear.wire import CBOR, ITEM_OVERHEAD_BYTES, Call, Connection, Kind, Payload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spear._limits import WireLimits

    from ._pipes import Pipe
    from ._statistics import Counters

CHECKPOINT_EVERY: Final = 64
"""An iteration over items that are there already lets other tasks run after this many. One
checkpoint for each item would cost three times as much as the item."""

ITEM_COST: Final = 1024
CHECKPOINT_COST: Final = CHECKPOINT_EVERY * ITEM_COST
"""Whoever sends lets others run after so many small items, or after 64 KiB."""


def wake_all(waiters: list[Task]) -> None:
    """Resume every task that waits, once."""
    if waiters:
        woken = waiters[:]
        waiters.clear()
        for task in woken:
            reschedule(task)


def without_frames(failure: BaseException | None) -> BaseException | None:
    """A failure to keep, without its traceback, whose frames would hold the arguments."""
    return copy(failure) if isinstance(failure, SpearError) else failure


@final
class ItemQueue:
    """Items that have arrived and were not yet taken."""

    __slots__ = (
        "_call",
        "_connection",
        "_cost",
        "_failure",
        "_items",
        "_reader",
        "_since",
        "ended",
    )

    def __init__(self, connection: Connection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self._items: deque[tuple[bytes, bool]] = deque()
        self._cost = 0  # of items taken for which credit has not been returned
        self._since = 0  # items taken since the last checkpoint
        self._reader: Task | None = None
        self._failure: BaseException | None = None
        self.ended = False

    # -- filled by the channel's reader -----------------------------------------------------------

    def put(self, items: Iterable[bytes], flags: int) -> None:
        """Items arrived, all raw or all CBOR."""
        is_cbor = bool(flags & CBOR)
        self._items.extend([(item, is_cbor) for item in items])
        self._wake()

    def end(self, failure: BaseException | None = None) -> None:
        """No further item will arrive, because the stream is complete or because it failed."""
        if not self.ended:
            self.ended = True
            self._failure = failure
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            reschedule(self._reader)
            self._reader = None

    # -- emptied by the application -----------------------------------------------------------------

    async def receive(self) -> tuple[bytes, bool]:
        """The next item, and whether it is CBOR.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: there is none.
            SpearError: the stream failed, after the items in front of that.
            trio.BusyResourceError: another task is receiving.
        """
        self._since += 1
        if not self._items or self._since >= CHECKPOINT_EVERY:
            await self._wait()
        if not self._items:
            if self._failure is not None:
                raise self._failure
            raise trio.EndOfChannel
        item = self._items.popleft()
        self._cost += len(item[0]) + ITEM_OVERHEAD_BYTES
        return item

    async def _wait(self) -> None:
        """Give back credit and let others run; returns when there is an item or there will be none."""
        self._return_credit()
        self._since = 0
        await trio.lowlevel.checkpoint()
        while not self._items and not self.ended:
            if self._reader is not None:
                raise trio.BusyResourceError("another task is receiving from this stream")
            self._reader = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _return_credit(self) -> None:
        if self._cost:
            self._connection.consumed(self._call, self._cost)
            self._cost = 0

    def discard(self) -> None:
        """Nobody will take the rest: give its credit back."""
        if self._items and self._failure is None:
            self._failure = CallCancelled("the stream was left before its end")
        self._failure = without_frames(self._failure)
        self._cost += sum(len(item) + ITEM_OVERHEAD_BYTES for item, _ in self._items)
        self._items.clear()
        self._return_credit()


@final
class ItemOutlet:
    """Where the items of all streams of a channel leave it.

    Credit alone is no bound. The peer says how large its window is, and may give credit back for what
    it has not even read. So an item also waits until the pipe has taken what was sent before.

    Attributes:
        connection: of the channel.
        counters: of the channel.
        waiters: senders that wait for credit or for the pipe. All of them are woken, because credit may
            arrive for one stream or for all.
    """

    __slots__ = ("_most_unsent", "_pipe", "connection", "counters", "waiters")

    def __init__(
        self, connection: Connection, pipe: Pipe, limits: WireLimits, counters: Counters
    ) -> None:
        self.connection = connection
        self.counters = counters
        self.waiters = pipe.waiters
        self._pipe = pipe
        self._most_unsent = limits.connection_window_bytes

    def takes_item(self, call: Call) -> bool:
        """Whether the peer has given credit for an item, and the pipe has room."""
        return self.connection.may_send_item(call) and self._has_room()

    def _has_room(self) -> bool:
        pipe, most = self._pipe, self._most_unsent
        if pipe.unsent_bytes > most:
            pipe.flush()
        return pipe.unsent_bytes <= most


@final
class ItemSender:
    """The sending half: waits for credit, and for the pipe to take what was sent before."""

    __slots__ = ("_call", "_connection", "_counters", "_outlet", "_since")

    def __init__(self, outlet: ItemOutlet, call: Call) -> None:
        self._outlet = outlet
        self._connection = outlet.connection
        self._counters = outlet.counters
        self._call = call
        self._since = 0  # cost of the items sent since the last checkpoint

    async def send(self, item: Payload, flags: int) -> None:
        """Send an item, when there is credit. A checkpoint at least every 64 items.

        If cancelled, the item was not sent.

        Raises:
            LocalProtocolError: the call takes no more items, or none of that size.
        """
        if self._since >= CHECKPOINT_COST or not self._connection.may_send_item(self._call):
            await self._wait()
        self._since += self._connection.send_item(self._call, item, flags) + ITEM_COST
        self._counters.messages_sent += 1

    async def _wait(self) -> None:
        self._since = 0
        call, outlet = self._call, self._outlet
        await trio.lowlevel.checkpoint()
        # A call that takes no items, or no more of them, is not worth waiting for.
        while (
            call.windows is not None
            and Kind.ITEM in call.sends[call.state]
            and not outlet.takes_item(call)
        ):
            task = current_task()
            outlet.waiters.append(task)

            def abort(_: object, task: Task = task) -> Abort:
                outlet.waiters.remove(task)
                return Abort.SUCCEEDED

            await wait_task_rescheduled(abort)
