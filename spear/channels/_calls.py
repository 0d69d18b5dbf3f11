"""The two ends of a call: the caller's (:class:`OutboundCall`) and the handler's (:class:`InboundCall`).

The channel's reader notifies a call of each event by a method (``on_response``, ``on_failure``,
``on_items`` ...). Kinds of calls share these methods, so the reader need not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from ._reports import NewestReport
from ._response import ExecutionResponse
from ._streams import ItemQueue, ItemSender, without_frames

if TYPE_CHECKING:
    from ._channel import CommunicationChannel
    from ._reports import OnProgress

Metadata: TypeAlias = Mapping[str, HeadValue]


class OutboundCall(CallerSide):
    """A call to the peer, seen from the caller: one request and one response."""

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
        self.state = CallState.IDLE  # no super().__init__(): this runs for every call
        self.windows = None
        self._channel = channel
        self.task = task  # parked in request(); None once it has been woken
        self.function = function
        self.started = started
        self.deadline = deadline
        self._failure: BaseException | None = None

    def unwrap(self) -> ExecutionResponse:
        """Return the response, or raise the failure. Trio calls this in the task that it resumes."""
        failure = self._failure
        if failure is not None:
            # The traceback's frames refer to this call and its arguments: break the reference cycle.
            self._failure = None
            try:
                raise failure
            finally:
                del failure
        return ExecutionResponse(self._payload, self._flags, self._micros)

    def abort(self, _: object) -> Abort:
        """Cancel the call, because the waiting task was cancelled."""
        self.task = None
        self._channel.cancel_call(self)
        return Abort.SUCCEEDED

    @property
    def is_given_up(self) -> bool:
        """Whether the caller has given up waiting for the response."""
        return self.state is CallState.CANCELLING

    def expire(self, now: float) -> None:
        """Fail the call with DeadlineExceeded, and cancel it at the peer."""
        channel = self._channel
        failure = DeadlineExceeded(
            f"{self.function} took longer than {now - self.started:.3g} s",
            delivered="no" if channel.connection.is_unsent(self) else "maybe",
        )
        channel.fail_call(self, failure)
        channel.cancel_call(self)

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """Resume the waiting task with the result."""
        self._payload = payload
        self._flags = flags
        self._micros = micros
        task = self.task
        if task is not None:
            self.task = None
            # Trio only calls unwrap() on the outcome. Passing the call itself saves making an
            # outcome.Value for each call (0.6 us of 10).
            reschedule(task, self)  # type: ignore[arg-type]  # see above; a cast costs as much again

    def on_failure(self, failure: BaseException) -> bool:
        """Resume the waiting task with a failure; return False if no task waits (after the deadline)."""
        task, self.task = self.task, None
        if task is None:
            return False
        self._failure = failure
        reschedule(task, self)  # type: ignore[arg-type]  # see on_response
        return True

    def on_progress_report(self, payload: bytes, flags: int) -> None:
        """Ignore the report: this caller has not asked for reports of progress."""


@final
class ReportedCall(OutboundCall):
    """A call whose caller also receives reports of progress.

    A callback receives the reports, in the caller's task and before the response.
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
        # Holds at most the reports of one read: the task takes them before the next read.
        self._reports: list[tuple[bytes, bool]] = []
        self._has_ended = False

    async def follow(self) -> ExecutionResponse:
        """Pass reports to the callback until the response arrives. Raises what the callback raises."""
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
            if not self._has_ended:  # the callback raised, or this task was cancelled
                self._has_ended = True
                self._channel.cancel_call(self)

    def on_progress_report(self, payload: bytes, flags: int) -> None:
        """Keep a report for the callback, and wake the caller's task."""
        if self._has_ended:
            return
        self._reports.append((payload, bool(flags & CBOR)))
        task, self.task = self.task, None
        if task is not None:
            reschedule(task)

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """Note the result, and resume the caller's task unless the callback is running in it."""
        self._has_ended = True
        super().on_response(payload, flags, micros)

    def on_failure(self, failure: BaseException) -> bool:
        """Note a failure, and resume the task unless the callback runs; return False after the end."""
        if self._has_ended:
            return False
        self._has_ended = True
        if not super().on_failure(failure):
            self._failure = failure
        return True


@final
@protected_class
class CallStream(OutboundCall):
    """A streaming call, seen from the caller: items flow in one or both directions.

    Iterate over it to receive the function's items as ``bytes``. Made by
    :meth:`CommunicationChannel.open_stream`.
    """

    __slots__ = ("_done", "_queue", "_reports", "_sender")

    def __init__(
        self,
        channel: CommunicationChannel,
        function: str,
        started: float,
        deadline: float,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(channel, None, function, started, deadline)
        self._reports = None if on_progress is None else NewestReport(on_progress)
        on_turn = None if self._reports is None else self._reports.pass_on
        self._queue = ItemQueue(channel.connection, self, on_turn)
        self._sender = ItemSender(channel.outlet, self)
        self._done = trio.Event()

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Wait until the peer's window has room for an item, then send the item.

        If cancelled, the item was not sent. A checkpoint at least every 64 items.

        Raises:
            SpearError: the call has failed; see :meth:`result`.
            LocalProtocolError: the call has ended or takes no more items, or the item is too large.
        """
        try:
            await self._sender.send(item, CBOR if is_cbor else 0)
        except LocalProtocolError:
            if self._failure is not None:
                raise self._failure from None
            raise

    async def send_eof(self) -> None:
        """Tell the function that no further item will be sent. A checkpoint."""
        await trio.lowlevel.checkpoint()
        if self.state is CallState.STREAMING:
            self._channel.connection.end_items(self)

    async def receive_item(self) -> tuple[bytes, bool]:
        """Return the function's next item, and whether it is CBOR.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the function has sent all of its items.
            SpearError: the call failed; raised after all items that arrived before.
        """
        return await self._queue.receive()

    async def receive(self) -> bytes:
        """Return the function's next item as bytes; see :meth:`receive_item`."""
        return (await self._queue.receive())[0]

    def __aiter__(self) -> CallStream:
        return self

    async def __anext__(self) -> bytes:
        try:
            return (await self._queue.receive())[0]
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def result(self) -> ExecutionResponse:
        """Wait for the call's end; return the function's result, which usually is empty.

        If cancelled, the call goes on. Raises the failure if the call has failed.
        """
        if self._reports is not None:
            await self._reports.follow(self._done)
        await self._done.wait()
        failure = self._failure
        try:
            return self.unwrap()
        finally:
            self._failure = failure  # for the next call of result()
            del failure

    def on_response(self, payload: Received, flags: int, micros: int) -> None:
        """Keep the result, end the received items, and wake all tasks that use the stream."""
        self._payload, self._flags, self._micros = payload, flags, micros
        self._end(None)

    def on_failure(self, failure: BaseException) -> bool:
        """Keep the failure, and wake all tasks; return False if the call has already ended."""
        if self._done.is_set():
            return False
        self._failure = failure
        self._end(failure)
        return True

    def _end(self, failure: BaseException | None) -> None:
        self._queue.end(failure)
        self._done.set()
        if self._reports is not None:
            self._reports.news.set()
        self._channel.wake_senders()

    def on_progress_report(self, payload: bytes, flags: int) -> None:
        """Keep a report until a task that waits for an item or for the result passes it on."""
        if self._reports is not None and not self._done.is_set():
            self._reports.put(payload, is_cbor=bool(flags & CBOR))
            self._queue.interrupt()

    def on_items(self, items: list[bytes], flags: int) -> None:
        """Queue items that arrived."""
        self._queue.put(items, flags)

    @property
    def is_done(self) -> bool:
        """Whether the call has ended, with a result or a failure."""
        return self._done.is_set()

    def close(self) -> None:
        """Cancel the call if it still runs, and return the credit of items that were not read."""
        if not self._done.is_set():
            self._channel.cancel_call(self)
            self.on_failure(CallCancelled("the stream was closed before its end"))
        self._failure = without_frames(self._failure)
        self._queue.discard()


@final
@protected_class
class InboundCall(Arguments):
    """A call that the peer made, as its handler sees it.

    Attributes:
        function: the number under which we announced the function; 0 if :attr:`head` has the name.
        wants_stream: whether the call is a stream, so that items can be sent.
        head: the map that came with the request: name, metadata and key; None without one.
        deadline: when the call expires, in Trio's time; ``inf`` without a deadline.
    """

    __slots__ = (
        "_cancelled", "_queue", "_sender", "deadline", "function", "head", "scope", "started",
        "wants_stream",
    )  # fmt: skip

    def __init__(self, channel: CommunicationChannel) -> None:
        self.state = CallState.IDLE  # no super().__init__(): this runs for every call
        self.windows = None
        self._channel = channel
        self._queue: ItemQueue | None = None
        self._sender: ItemSender | None = None
        self._cancelled: CallFailed | None = None
        self.scope: trio.CancelScope | None = None  # while a worker runs the handler
        self.deadline = inf
        self.head: Head | None = None

    def begin(
        self, function: int, head: Head | None, payload: Received, flags: int, started: float
    ) -> None:
        """Fill in the request, now that all of it has arrived."""
        self.function = function
        self.head = head
        self._received = payload
        self.is_shared = flags >= SHARED
        self.is_segment = self.is_shared or type(payload) is not bytes
        self.is_cbor = bool(flags & CBOR)
        self.wants_stream = self.windows is not None
        self.started = started

    def unwrap(self) -> InboundCall:
        """Return the call, which is the outcome that resumes a parked worker; see ``Workers``."""
        return self

    @property
    def metadata(self) -> Metadata:
        """The map that the caller sent with the call; empty if none."""
        metadata = self.head.get("meta") if self.head else None
        return metadata if isinstance(metadata, dict) else {}

    @property
    def key(self) -> str | None:
        """The idempotency key, which is the same each time the call is tried; None without one."""
        key = self.head.get("key") if self.head else None
        return key if isinstance(key, str) else None

    @property
    def channel(self) -> CommunicationChannel:
        """The channel on which the call arrived."""
        return self._channel

    @property
    def cancelled(self) -> CallFailed | None:
        """The reason to stop the handler; None while there is none."""
        return self._cancelled

    def cancel(self, reason: CallFailed) -> None:
        """Stop the handler, or keep it from starting."""
        if self._cancelled is None:
            self._cancelled = reason
            if self.scope is not None:
                self.scope.cancel()
            if self._queue is not None:
                self._queue.end(reason)

    @property
    def is_given_up(self) -> bool:
        """Whether the handler has been told to stop."""
        return self._cancelled is not None

    def expire(self, now: float) -> None:
        """Fail the call if its request is incomplete; otherwise stop its handler."""
        connection = self._channel.connection
        if self.id in connection.incomplete:
            connection.fail(
                self, DeadlineExceeded("the call's deadline has passed", delivered="no")
            )
        else:
            self.cancel(DeadlineExceeded("the call's deadline has passed", delivered="yes"))

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Wait until the caller's window has room for an item, then send the item.

        If cancelled, the item was not sent. A checkpoint at least every 64 items.

        Raises:
            LocalProtocolError: the caller takes no items, or the item is too large.
        """
        if self._sender is None:
            self._sender = ItemSender(self._channel.outlet, self)
        try:
            await self._sender.send(item, CBOR if is_cbor else 0)
        except LocalProtocolError:
            if self._cancelled is not None:
                await trio.lowlevel.checkpoint()  # raises the cancellation that is due
            raise

    async def receive(self) -> bytes:
        """Return the caller's next item as bytes.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the caller has sent all of its items.
        """
        return (await self.receive_item())[0]

    async def receive_item(self) -> tuple[bytes, bool]:
        """Return the caller's next item, and whether it is CBOR; see :meth:`receive`."""
        return await self._items().receive()

    def __aiter__(self) -> InboundCall:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def report_progress(self, payload: Payload, *, is_cbor: bool = False) -> None:
        """Send the caller a report of progress, which replaces an older one that is still unsent."""
        if self.state in (CallState.STREAMING, CallState.RUNNING):
            self._channel.report(self, payload, is_cbor=is_cbor)

    def _items(self) -> ItemQueue:
        if self._queue is None:
            self._queue = ItemQueue(self._channel.connection, self)
            if self.state is not CallState.STREAMING:
                self._queue.end()
        return self._queue

    def on_items(self, items: list[bytes], flags: int) -> None:
        """Queue items that the caller sent."""
        if self._queue is None:
            self._queue = ItemQueue(self._channel.connection, self)
        self._queue.put(items, flags)
        if flags & LAST:
            self._queue.end()

    def discard_items(self) -> None:
        """Drop the items that the handler has not read, and return their credit."""
        if self._queue is not None:
            self._queue.discard()
