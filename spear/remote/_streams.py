"""Messages of a host in a response that goes on: items of a stream, reports of progress, the end.

The response is a CBOR sequence of pairs ``[kind, content]``. It is read when the consumer wants a
message, so a slow consumer slows the function down. A sequence without a final message is a lost
connection. docs/http.md has the form.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import (
    CallCancelled,
    DeadlineExceeded,
    HostLost,
    LocalProtocolError,
    RemoteProtocolError,
    SpearError,
)
from spear.channels import ExecutionResponse, protected_class
from spear.wire import CBOR, SequenceSplitter, decode_result

from ._client import MAX_RESPONSE_BYTES
from ._connection import Disconnected
from ._failures import failure_from_untrusted

if TYPE_CHECKING:
    from spear.calls import Reports
    from spear.wire import Payload

    from ._client import HostClient
    from ._connection import HostConnection

MESSAGES_KIND: Final = b"application/vnd.spear.messages+cbor-seq"
"""The media type of such a response."""

ITEM: Final = 0
ALIVE: Final = 1
RESULT: Final = 2
FAILURE: Final = 3
PROGRESS: Final = 4
DETAILS: Final = 5

_PAIR: Final = 0x82  # the head of an array of two items


@final
@protected_class
class HostMessages:
    """The messages of one response. Must be closed.

    Args:
        client: has made the request.
        connection: the connection with the response.
        function: the function's name.
        seconds: the time of the call, for errors.
        latest: when the response must have ended, in Trio's time.
    """

    def __init__(
        self,
        client: HostClient,
        connection: HostConnection,
        function: str,
        seconds: float,
        latest: float,
    ) -> None:
        self._client = client
        self._connection: HostConnection | None = connection
        self._function = function
        self._seconds = seconds
        self._latest = latest
        self._splitter = SequenceSplitter(MAX_RESPONSE_BYTES)
        self._arrived: deque[bytes] = deque()
        self._is_reading = False
        self._has_ended = False  # whether the last message was taken

    async def receive(self) -> tuple[int, bytes]:
        """Return the kind of the next message, and its encoded content. A checkpoint for each read.

        If cancelled, no message is lost.

        Raises:
            CallFailed: the host reports a failure.
            DeadlineExceeded: the host has not ended the response in time.
            HostLost: the connection was lost.
            RemoteProtocolError: the host has sent no message.
            trio.BusyResourceError: another task is receiving.
        """
        while not self._arrived:
            await self._read()
        message = self._arrived.popleft()
        if message[0] != _PAIR or message[1] > DETAILS:
            raise RemoteProtocolError(f"{self._where} has sent no message", delivered="maybe")
        kind, content = message[1], message[2:]
        self._has_ended = kind in (RESULT, FAILURE)
        if kind == FAILURE:
            raise self._failure_untrusted(content)
        return kind, content

    @property
    def _where(self) -> str:
        return self._client.address.where

    def _failure_untrusted(self, content: bytes) -> SpearError:
        error: object = None
        with suppress(ValueError):
            error = decode_result(content, is_cbor=True)
        if not isinstance(error, dict):
            return RemoteProtocolError(f"{self._where} has sent no error", delivered="maybe")
        return failure_from_untrusted(error)

    async def _read(self) -> None:
        if self._is_reading:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if self._connection is None:
            raise CallCancelled("the stream was closed before its end")
        self._is_reading = True
        try:
            with trio.CancelScope(deadline=self._latest) as scope:
                part = await self._connection.receive_part()
        except Disconnected as loss:
            what = f"{self._where} closed the connection in the middle of its response"
            raise HostLost(what) from loss
        finally:
            self._is_reading = False
        if scope.cancelled_caught:
            raise DeadlineExceeded.of_call(self._function, self._seconds, "maybe")
        if not part:
            raise RemoteProtocolError(f"{self._where} has sent no end", delivered="maybe")
        self._arrived.extend(self._splitter.split_untrusted(part))

    async def aclose(self) -> None:
        """Give the connection back. If the last message was not taken, the host cancels the function."""
        connection, self._connection = self._connection, None
        assert connection is not None  # closed once
        is_whole = False
        try:
            with suppress(Disconnected):
                is_whole = self._has_ended and not await connection.receive_part()
        finally:
            if is_whole:
                await self._client.pool.release(connection)
            else:
                await self._client.pool.discard(connection)


@final
@protected_class
class RemoteItems:
    """The items of a stream from a host, and its result: an :class:`spear.calls.ItemStream`."""

    def __init__(self, messages: HostMessages, reports: Reports | None) -> None:
        self._messages = messages
        self._reports = reports
        self._has_items = False  # whether one has arrived
        self._response: ExecutionResponse | None = None

    async def send(self, item: Payload, *, is_cbor: bool = False) -> None:
        """Refuse to send an item: no stream from a host takes any."""
        raise LocalProtocolError("items cannot be sent to a host over HTTP")

    async def send_eof(self) -> None:
        """Do nothing: no items are sent."""
        await trio.lowlevel.checkpoint()

    async def receive_item(self) -> tuple[bytes, bool]:
        """Return the next item, and that it is CBOR. Raises trio.EndOfChannel after the last one."""
        while self._response is None:
            try:
                kind, content = await self._messages.receive()
            except HostLost as loss:
                loss.delivered = "yes" if self._has_items else "maybe"
                raise
            if kind == ITEM:
                self._has_items = True
                return content, True
            if kind == PROGRESS and self._reports is not None:
                self._reports(content, True)
            if kind == RESULT:
                self._response = ExecutionResponse(content, CBOR, 0)
        raise trio.EndOfChannel

    async def result(self) -> ExecutionResponse:
        """Drop the items that were not taken, wait for the end, and return the result."""
        while self._response is None:
            try:
                await self.receive_item()
            except trio.EndOfChannel:
                break
        assert self._response is not None
        return self._response
