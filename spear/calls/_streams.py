"""A running stream of a deployed function, as its caller sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, cast, final

import trio

from spear._errors import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    LocalProtocolError,
)
from spear._util import NoPublicConstructor
from spear.channels import protected_class

from ._options import cannot_be_sent
from ._payloads import Result, decode_result_untrusted, encode_item
from ._returns import R
from ._scopes import leave_it_to_scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear._errors import Delivered
    from spear._ids import InstanceId
    from spear.channels import ExecutionResponse
    from spear.wire import Payload

    from ._attempts import Reports
    from ._target import Callee


class ItemStream(Protocol):
    """The items of a call in both directions, undecoded, and its end; see :class:`CallStream`."""

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Send an item to the function."""

    async def send_eof(self) -> None:
        """Tell the function that no further item will be sent."""

    async def receive_item(self) -> tuple[bytes, bool]:
        """Return the next item, and whether it is CBOR. Raises trio.EndOfChannel after the last one."""

    async def result(self) -> ExecutionResponse:
        """Wait for the call's end, and return the result."""


async def explain_loss(
    callee: Callee, error: ChannelBroken | ChannelClosed, delivered: Delivered
) -> CallFailed:
    """Return the failure of a call that was lost with an instance's target. A checkpoint."""
    failure = await callee.explain_loss(error)
    failure.delivered = delivered
    return failure


def first_of(error: BaseException) -> BaseException:
    """Return what ended a block with nurseries in it; a cancellation only if there is nothing else."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.split(trio.Cancelled)[1] or error).exceptions[0]
    return error


@final
@protected_class
class FunctionStream(Generic[R], metaclass=NoPublicConstructor):
    """A running stream: iterate over it for the function's items.

    Made by :meth:`Function.stream`. Its methods raise as :meth:`Function.call` does.

    Attributes:
        instance: the instance where the function runs.
        has_ended: whether the stream's end or the function's result has been taken.
        failure: the error that ended the stream, if any.
    """

    def __init__(
        self,
        stream: ItemStream,
        function: str,
        late: Callable[[Delivered], DeadlineExceeded],
        deadline: float,
        instance: InstanceId,
        *,
        sends_items: bool,
        convert: Callable[[Result], Result] | None = None,
        reports: Reports | None = None,
        callee: Callee | None = None,
    ) -> None:
        self.instance = instance
        self._convert = convert
        self._stream = stream
        self._function = function
        self._late = late
        self._deadline = deadline
        self._callee = callee
        self._sends_items = sends_items
        self._sent = 0
        self._reports = reports
        self._has_items = False  # whether one has arrived
        self.has_ended = False
        self.failure: CallFailed | None = None

    @property
    def delivered(self) -> Delivered:
        """Whether the function has run: ``yes`` after an item, a report or the end, or else ``maybe``."""
        return "yes" if self._has_begun or self.has_ended else "maybe"

    @property
    def _has_begun(self) -> bool:
        return self._has_items or (self._reports is not None and self._reports.arrived)

    async def send(self, item: object) -> None:
        """Wait until the function's window has room for an item, then send the item.

        If cancelled, the item was not sent. A checkpoint at least every 64 items.

        Raises:
            InvalidArguments: the item cannot be sent.
            LocalProtocolError: the call has ended, or takes no more items.
        """
        payload, is_cbor = encode_item(self._function, self._sent, item)
        try:
            await self._stream.send(payload, is_cbor=is_cbor)
        except (DeadlineExceeded, ChannelBroken, ChannelClosed) as error:
            await self._fail(error)
            raise
        except LocalProtocolError as error:
            if error.code in ("types_not_supported", "payload_too_large"):
                raise cannot_be_sent(self._function, error) from error
            raise LocalProtocolError(f"{self._function}: {self._why_no_items()}") from error
        self._sent += 1

    def _why_no_items(self) -> str:
        if self._sends_items:
            return "cannot send more items: the function, or its stream of items, has ended"
        return f"this call takes no items: use {self._function}.stream(..., sends_items=True)"

    async def send_eof(self) -> None:
        """Tell the function that no further item will be sent. A checkpoint."""
        await self._stream.send_eof()

    async def receive_item(self) -> tuple[bytes, bool]:
        """Return the function's next item undecoded, and whether it is CBOR.

        If cancelled, no item is lost. A checkpoint at least every 64 items.

        Raises:
            trio.EndOfChannel: the function has sent all of its items.
        """
        try:
            item = await self._stream.receive_item()
        except trio.EndOfChannel:
            self.has_ended = True
            raise
        except (CallFailed, ChannelBroken, ChannelClosed) as error:
            await self._fail(error)
            raise
        self._has_items = True
        return item

    def __aiter__(self) -> FunctionStream[R]:
        return self

    async def __anext__(self) -> R:
        try:
            payload, is_cbor = await self.receive_item()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        return self._read(payload, is_cbor)

    async def result(self) -> R:
        """Wait for the function's end, and return its result. If cancelled, the function goes on."""
        response = await self.response()
        return self._read(response.payload, response.is_cbor)

    def _read(self, payload: bytes | memoryview, is_cbor: bool) -> R:
        result = decode_result_untrusted(payload, is_cbor)
        return cast("R", result if self._convert is None else self._convert(result))

    async def response(self) -> ExecutionResponse:
        """Wait as :meth:`result` does, and return the undecoded result."""
        try:
            response = await self._stream.result()
        except (CallFailed, ChannelBroken, ChannelClosed) as error:
            await self._fail(error)
            raise
        self.has_ended = True
        return response

    async def _fail(self, error: CallFailed | ChannelBroken | ChannelClosed) -> None:
        """Note a failure; raise the error that the caller gets, unless that is ``error`` itself."""
        delivered = "yes" if self._has_begun else error.delivered
        if isinstance(error, DeadlineExceeded):
            await leave_it_to_scope(self._deadline)
            self.failure = self._late(delivered)
        elif isinstance(error, ChannelBroken | ChannelClosed):
            assert self._callee is not None  # there is one behind every channel
            self.failure = await explain_loss(self._callee, error, delivered)
        else:
            self.failure = error
            return
        raise self.failure from error
