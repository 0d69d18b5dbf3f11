"""The two halves of a stream of items inside a call: the receiver's queue, and the sender.

Items that arrive wait in an :class:`ItemQueue`. As the application takes items, the credit that they
cost returns to the peer. An :class:`ItemSender` waits for credit before it sends an item. The channel's
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
    from collections.abc import Callable, Iterable

    from spear._limits import WireLimits

    from ._pipes import Pipe
    from ._statistics import Counters

CHECKPOINT_EVERY: Final = 64
"""Items that an iteration takes from a queue before it lets other tasks run. A checkpoint for each
item would cost three times as much as the item."""

ITEM_COST: Final = 1024
CHECKPOINT_COST: Final = CHECKPOINT_EVERY * ITEM_COST
"""Cost of the items that a task sends before it lets others run: 64 small items, or 64 KiB."""


def wake_all(waiters: list[Task]) -> None:
    """Resume every waiting task, and empty the list."""
    if waiters:
        woken = waiters[:]
        waiters.clear()
        for task in woken:
            reschedule(task)


def without_frames(failure: BaseException | None) -> BaseException | None:
    """Return a copy of a SpearError without its traceback, whose frames would hold the arguments."""
    return copy(failure) if isinstance(failure, SpearError) else failure


@final
class ItemQueue:
    """A queue of items that have arrived and were not yet taken.

    Attributes:
        on_turn: called in the task that receives, at its checkpoints, and after :meth:`interrupt` before
            the next item is taken. If it raises, so does :meth:`receive`, and no item is lost.
    """

    __slots__ = (
        "_call", "_connection", "_cost", "_failure", "_items", "_reader", "_since", "ended", "on_turn",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, call: Call, on_turn: Callable[[], object] | None = None
    ) -> None:
        self.on_turn = on_turn
        self._connection = connection
        self._call = call
        self._items: deque[tuple[bytes, bool]] = deque()
        self._cost = 0  # cost of items taken, whose credit has not been returned
        self._since = 0  # items taken since the last checkpoint
        self._reader: Task | None = None
        self._failure: BaseException | None = None
        self.ended = False

    # -- filled by the channel's reader -----------------------------------------------------------

    def put(self, items: Iterable[bytes], flags: int) -> None:
        """Queue items that arrived: all of them raw, or all of them CBOR."""
        is_cbor = bool(flags & CBOR)
        self._items.extend([(item, is_cbor) for item in items])
        self._wake()

    def end(self, failure: BaseException | None = None) -> None:
        """Note that no further item will arrive, because the stream is complete or has failed."""
        if not self.ended:
            self.ended = True
            self._failure = failure
            self._wake()

    def interrupt(self) -> None:
        """Call ``on_turn`` in the task that receives, now or at the beginning of its next call."""
        self._since = CHECKPOINT_EVERY
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            reschedule(self._reader)
            self._reader = None

    # -- emptied by the application -----------------------------------------------------------------

    async def receive(self) -> tuple[bytes, bool]:
        """Return the next item, and whether it is CBOR.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: no further item will arrive.
            SpearError: the stream failed; raised after all items that arrived before.
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
        """Return credit, and let other tasks run until an item is there or the stream has ended."""
        self._return_credit()
        self._since = 0
        await trio.lowlevel.checkpoint()
        while True:
            if self.on_turn is not None:
                self.on_turn()
            if self._items or self.ended:
                return
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
        """Drop the items that were not taken, and return their credit."""
        if self._items and self._failure is None:
            self._failure = CallCancelled("the stream was closed before its end")
        self._failure = without_frames(self._failure)
        self._cost += sum(len(item) + ITEM_OVERHEAD_BYTES for item, _ in self._items)
        self._items.clear()
        self._return_credit()


@final
class ItemOutlet:
    """A gate through which the items of all streams leave a channel.

    Credit alone is no bound: the peer chooses its window, and may return credit for items that it has
    not read. An item therefore also waits until the pipe has sent enough of the bytes before it.

    Attributes:
        connection: the connection of the channel.
        counters: the counters of the channel.
        waiters: tasks that wait for credit or for the pipe. All of them are woken together, because
            credit may arrive for one stream or for all.
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
        """Return whether the peer has given credit for an item, and the pipe has room."""
        return self.connection.may_send_item(call) and self._has_room()

    def _has_room(self) -> bool:
        pipe, most = self._pipe, self._most_unsent
        if pipe.unsent_bytes > most:
            pipe.flush()
        return pipe.unsent_bytes <= most


@final
class ItemSender:
    """A sender of one stream's items, which waits for credit and for room in the pipe."""

    __slots__ = ("_call", "_connection", "_counters", "_outlet", "_since")

    def __init__(self, outlet: ItemOutlet, call: Call) -> None:
        self._outlet = outlet
        self._connection = outlet.connection
        self._counters = outlet.counters
        self._call = call
        self._since = 0  # cost of the items sent since the last checkpoint

    async def send(self, item: Payload, flags: int) -> None:
        """Wait for credit, then send an item. A checkpoint at least every 64 items.

        If cancelled, the item was not sent.

        Raises:
            LocalProtocolError: the call takes no more items, or the item is too large.
        """
        if self._since >= CHECKPOINT_COST or not self._connection.may_send_item(self._call):
            await self._wait()
        self._since += self._connection.send_item(self._call, item, flags) + ITEM_COST
        self._counters.messages_sent += 1

    async def _wait(self) -> None:
        self._since = 0
        call, outlet = self._call, self._outlet
        await trio.lowlevel.checkpoint()
        # Do not wait for a call that takes no items, or no more items: send_item() then raises.
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
