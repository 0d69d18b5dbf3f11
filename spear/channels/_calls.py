"""The two ends of a call, as the channel and its users see them.

Each class answers the same few events from the channel's reader (``on_response``, ``on_failure``,
``on_items`` ...), so that the reader need not know what kind of call it has before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, TypeAlias, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import (
    CallCancelled,
    CallFailed,
    DeadlineExceeded,
    LocalProtocolError,
)
from spear.wire import (
    CBOR,
    LAST,
    SHARED,
    CallerSide,
    CallState,
    Head,
    HeadValue,
    Payload,
    Received,
)

from ._arguments import Arguments
from ._interrupts import call_unprotected, protected_class
from ._response import ExecutionResponse
from ._streams import ItemQueue, ItemSender, without_frames

if TYPE_CHECKING:
    from ._channel import CommunicationChannel

Metadata: TypeAlias = Mapping[str, HeadValue]
OnProgress: TypeAlias = Callable[[bytes, bool], None]


class OutboundCall(CallerSide):
    """A call that waits for its one answer."""

    __slots__ = (
        "_channel", "_failure", "_flags", "_micros", "_payload", "deadline", "function", "started",
        "task",
    )  # fmt: skip

    def __init__(
        self,
        channel: CommunicationChannel,
        task: Task | None,
        function: str,
        started: float,
        deadline: float,
    ) -> None:
        self.state = CallState.IDLE  # written out, not inherited: this runs for every call
        self.windows = None
        self._channel = channel
        self.task = task  # parked in request(); None as soon as somebody has woken it
        self.function = function
        self.started = started
        self.deadline = deadline
        self._failure: BaseException | None = None

    def unwrap(self) -> ExecutionResponse:
        """The outcome: what the waiting task gets."""
        failure = self._failure
        if failure is not None:
            # The frames of its traceback hold this call and the arguments: no circle may keep them.
            self._failure = None
            try:
                raise failure
            finally:
                del failure
        return ExecutionResponse(self._payload, self._flags, self._micros)

    def abort(self, _: object) -> Abort:
        """The waiting task was cancelled: so is the call."""
        self.task = None
        self._channel.cancel_call(self)
        return Abort.SUCCEEDED

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.state is CallState.CANCELLING

    def expire(self, now: float) -> None:
        """The time is up."""
        channel = self._channel
        failure = DeadlineExceeded(
            f"{self.function} took longer than {now - self.started:.3g} s",
            delivered="no" if channel.connection.is_unsent(self) else "maybe",
        )
        channel.fail_call(self, failure)
        channel.cancel_call(self)

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """The result is here."""
        self._payload = payload
        self._flags = flags
        self._micros = micros
        task = self.task
        if task is not None:
            self.task = None
            # Trio asks nothing of an outcome but unwrap(). Being it ourselves saves making an
            # outcome.Value for each call (0.6 us of 10).
            reschedule(task, self)  # type: ignore[arg-type]  # see above; a cast costs as much again

    def on_failure(self, failure: BaseException) -> bool:
        """There will be no result; returns whether that is news (it is none after the deadline)."""
        task, self.task = self.task, None
        if task is None:
            return False
        self._failure = failure
        reschedule(task, self)  # type: ignore[arg-type]  # see on_response
        return True

    def on_progress_report(self, payload: bytes, flags: int) -> None:
        """The handler says how far it is; nobody wants to know."""


@final
class ReportedCall(OutboundCall):
    """A call that waits for its answer and hands on reports of progress meanwhile.

    They are handed on in the caller's task, in front of the answer.
    """

    __slots__ = ("_has_ended", "_on_progress", "_reports")

    def __init__(
        self,
        channel: CommunicationChannel,
        task: Task,
        function: str,
        started: float,
        deadline: float,
        on_progress: OnProgress,
    ) -> None:
        super().__init__(channel, task, function, started, deadline)
        self._on_progress = on_progress
        # No more than one read brings: the task takes them before the next.
        self._reports: list[tuple[bytes, bool]] = []
        self._has_ended = False

    async def follow(self) -> ExecutionResponse:
        """Hand on reports until the answer is here. Raises what a report's callback raises."""
        try:
            response: ExecutionResponse | None = await wait_task_rescheduled(self.abort)
            while response is None:
                reports, self._reports = self._reports, []
                for payload, is_cbor in reports:
                    call_unprotected(self._on_progress, payload, is_cbor)
                if self._has_ended:
                    return self.unwrap()
                self.task = current_task()
                response = await wait_task_rescheduled(self.abort)
            return response
        finally:
            if not self._has_ended:  # the callback has failed, or we are cancelled
                self._has_ended = True
                self._channel.cancel_call(self)

    def on_progress_report(self, payload: bytes, flags: int) -> None:
        """The handler says how far it is."""
        if self._has_ended:
            return
        self._reports.append((payload, bool(flags & CBOR)))
        task, self.task = self.task, None
        if task is not None:
            reschedule(task)

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """The result is here, perhaps while a report is being handed on."""
        self._has_ended = True
        super().on_response(payload, flags, micros)

    def on_failure(self, failure: BaseException) -> bool:
        """There will be no result; likewise."""
        if self._has_ended:
            return False
        self._has_ended = True
        if not super().on_failure(failure):
            self._failure = failure
        return True


@final
@protected_class
class CallStream(OutboundCall):
    """A call with items in one or both directions, from the caller's side.

    Iterate over it for the items of the other side; each is ``bytes``. Made by
    :meth:`CommunicationChannel.open_stream`.
    """

    __slots__ = ("_done", "_queue", "_sender")

    def __init__(
        self, channel: CommunicationChannel, function: str, started: float, deadline: float
    ) -> None:
        super().__init__(channel, None, function, started, deadline)
        self._queue = ItemQueue(channel.connection, self)
        self._sender = ItemSender(channel.outlet, self)
        self._done = trio.Event()

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Send an item, as soon as the other side has room for it.

        If cancelled, the item was not sent. A checkpoint at least every 64 items.

        Raises:
            SpearError: the call has failed; see :meth:`result`.
            LocalProtocolError: the call has ended, or its items have.
        """
        try:
            await self._sender.send(item, CBOR if is_cbor else 0)
        except LocalProtocolError:
            if self._failure is not None:
                raise self._failure from None
            raise

    async def send_eof(self) -> None:
        """Say that no further item will be sent. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self.state is CallState.STREAMING:
            self._channel.connection.end_items(self)

    async def receive_item(self) -> tuple[bytes, bool]:
        """The next item and whether it is CBOR.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the other side has sent all of its items.
            SpearError: the call failed, after the items in front of that.
        """
        return await self._queue.receive()

    async def receive(self) -> bytes:
        """The next item's bytes; see :meth:`receive_item`."""
        return (await self._queue.receive())[0]

    def __aiter__(self) -> CallStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return (await self._queue.receive())[0]
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def result(self) -> ExecutionResponse:
        """Wait for the call's end; returns what the function returned, usually nothing.

        If cancelled, the call goes on. Raises what the call failed with.
        """
        await self._done.wait()
        failure = self._failure
        try:
            return self.unwrap()
        finally:
            self._failure = failure  # for whoever asks next
            del failure

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """The call is complete."""
        self._payload, self._flags, self._micros = payload, flags, micros
        self._queue.end()
        self._done.set()
        self._channel.wake_senders()

    def on_failure(self, failure: BaseException) -> bool:
        """The call failed."""
        if self._done.is_set():
            return False
        self._failure = failure
        self._queue.end(failure)
        self._done.set()
        self._channel.wake_senders()
        return True

    def on_items(self, items: list[bytes], flags: int) -> None:
        """Items arrived."""
        self._queue.put(items, flags)

    @property
    def is_done(self) -> bool:
        """Whether the call has had its end, one way or another."""
        return self._done.is_set()

    def close(self) -> None:
        """Nobody uses the stream any more: cancel what still runs, give credit back."""
        if not self._done.is_set():
            self._channel.cancel_call(self)
            self.on_failure(CallCancelled("the stream was left"))
        self._failure = without_frames(self._failure)
        self._queue.discard()


@final
@protected_class
class InboundCall(Arguments):
    """A call that the peer made, as its handler sees it.

    Attributes:
        function: its number, as we announced it; 0 if the caller named it in :attr:`head`.
        wants_stream: whether the caller takes items.
        head: what else came with the request.
        deadline: in Trio's time; ``inf`` if there is none.
    """

    __slots__ = (
        "_cancelled", "_queue", "_sender", "deadline", "function", "head", "scope", "started",
        "wants_stream",
    )  # fmt: skip

    def __init__(self, channel: CommunicationChannel) -> None:
        self.state = CallState.IDLE  # written out, not inherited: this runs for every call
        self.windows = None
        self._channel = channel
        self._queue: ItemQueue | None = None
        self._sender: ItemSender | None = None
        self._cancelled: CallFailed | None = None
        self.scope: trio.CancelScope | None = None  # while a worker is at it
        self.deadline = inf
        self.head: Head | None = None

    def begin(
        self, function: int, head: Head | None, payload: Received, flags: int, started: float
    ) -> None:
        """The request is complete."""
        self.function = function
        self.head = head
        self._received = payload
        self.is_shared = flags >= SHARED
        self.is_segment = self.is_shared or type(payload) is not bytes
        self.is_cbor = bool(flags & CBOR)
        self.wants_stream = self.windows is not None
        self.started = started

    def unwrap(self) -> InboundCall:
        """The outcome with which a parked worker is resumed; see :meth:`OutboundCall.on_response`."""
        return self

    @property
    def metadata(self) -> Metadata:
        """What the caller sent along."""
        metadata = self.head.get("meta") if self.head else None
        return metadata if isinstance(metadata, dict) else {}

    @property
    def key(self) -> str | None:
        """What the caller calls that which the call does: the same each time it is tried."""
        key = self.head.get("key") if self.head else None
        return key if isinstance(key, str) else None

    @property
    def channel(self) -> CommunicationChannel:
        """The channel it came in on."""
        return self._channel

    @property
    def cancelled(self) -> CallFailed | None:
        """Why the handler should stop, if it should."""
        return self._cancelled

    def cancel(self, reason: CallFailed) -> None:
        """Stop the handler, or see that it never starts."""
        if self._cancelled is None:
            self._cancelled = reason
            if self.scope is not None:
                self.scope.cancel()
            if self._queue is not None:
                self._queue.end(reason)

    @property
    def is_given_up(self) -> bool:
        """Whether its handler has been told to stop."""
        return self._cancelled is not None

    def expire(self, now: float) -> None:
        """The time is up."""
        connection = self._channel.connection
        if self.id in connection.incomplete:
            connection.fail(self, DeadlineExceeded("the call's time is up", delivered="no"))
        else:
            self.cancel(DeadlineExceeded("the call's time is up", delivered="yes"))

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Send an item to the caller, as soon as it has room for it.

        If cancelled, the item was not sent. A checkpoint at least every 64 items.

        Raises:
            LocalProtocolError: the caller takes no items.
        """
        if self._sender is None:
            self._sender = ItemSender(self._channel.outlet, self)
        try:
            await self._sender.send(item, CBOR if is_cbor else 0)
        except LocalProtocolError:
            if self._cancelled is not None:
                await trio.lowlevel.checkpoint()  # where the cancellation that is due is raised
            raise

    async def receive(self) -> bytes:
        """The caller's next item.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the caller has sent all of its items.
        """
        return (await self.receive_item())[0]

    async def receive_item(self) -> tuple[bytes, bool]:
        """The caller's next item, and whether it is CBOR; see :meth:`receive`."""
        return await self._items().receive()

    def __aiter__(self) -> InboundCall:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def report_progress(self, payload: Payload, *, is_cbor: bool = False) -> None:
        """Tell the caller how far the work is. Only the newest unsent report is kept."""
        if self.state in (CallState.STREAMING, CallState.RUNNING):
            self._channel.report(self, payload, is_cbor=is_cbor)

    def _items(self) -> ItemQueue:
        if self._queue is None:
            self._queue = ItemQueue(self._channel.connection, self)
            if self.state is not CallState.STREAMING:
                self._queue.end()
        return self._queue

    def on_items(self, items: list[bytes], flags: int) -> None:
        """Items of the caller arrived."""
        if self._queue is None:
            self._queue = ItemQueue(self._channel.connection, self)
        self._queue.put(items, flags)
        if flags & LAST:
            self._queue.end()

    def discard_items(self) -> None:
        """The handler has ended: nobody will take the rest."""
        if self._queue is not None:
            self._queue.discard()
