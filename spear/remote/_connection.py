"""A connection to a host, for one request after the other, by h11.

A response is read part by part, so a reader that waits slows the host down. This module knows neither
paths nor the content of bodies.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from ._extra import h11

if TYPE_CHECKING:
    from trio.abc import Stream

RequestHeaders: TypeAlias = "list[tuple[bytes, bytes]]"

PART_BYTES: Final = 64 * 1024
"""Bytes that are read at a time."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Most bytes of the head of a response: twice the gateway's limit for the head of a request."""


class Disconnected(Exception):
    """The connection has ended before its response did, or the peer does not speak HTTP.

    Never leaves this package.

    Attributes:
        was_sent: whether the whole request was given to the operating system.
        is_http: whether nothing arrived that is no HTTP.
    """

    def __init__(self, *, was_sent: bool, is_http: bool = True) -> None:
        super().__init__("disconnected")
        self.was_sent = was_sent
        self.is_http = is_http


@final
class ResponseHead:
    """The head of a response.

    Attributes:
        status: the HTTP status.
        headers: values by lower-case name.
    """

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers

    @property
    def kind(self) -> bytes:
        """The content type of the body, without parameters."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


@final
class HostConnection:
    """A connection to a host. Has one request at a time; the caller reads its response to the end.

    If a method is cancelled or raises, the connection must be closed.

    Attributes:
        requests: the number of requests so far.
        idle_since: Trio's time at which the last response ended.
    """

    __slots__ = ("_first", "_http", "_stream", "idle_since", "requests")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._first = b""  # the first bytes of the response
        self.requests = 0
        self.idle_since = 0.0

    async def request(
        self, method: bytes, target: bytes, headers: RequestHeaders, body: bytes
    ) -> None:
        """Send a whole request. A checkpoint.

        Raises:
            Disconnected: the host has closed the connection before, and sent no response.
        """
        self.requests += 1
        self._first = b""
        http = self._http
        head = http.send(h11.Request(method=method, target=target, headers=headers))
        assert head is not None
        if body:
            http.send(h11.Data(data=body))
        http.send(h11.EndOfMessage())
        try:
            if len(body) > PART_BYTES:
                await self._stream.send_all(head)
                await self._stream.send_all(body)
            else:
                await self._stream.send_all(head + body)
        except trio.BrokenResourceError as error:
            # The host may have refused the request, with a reason, before it has read all of it.
            if not await self._has_response():
                raise Disconnected(was_sent=False) from error

    async def _has_response(self) -> bool:
        try:
            data = await self._stream.receive_some(PART_BYTES)
        except trio.BrokenResourceError:
            return False
        self._take(data)
        return bool(data)

    def _take(self, data: bytes | bytearray) -> None:
        self._first = self._first or bytes(data[:5])
        self._http.receive_data(bytes(data))

    async def receive_head(self) -> ResponseHead:
        """Return the head of the response. A checkpoint. Raises Disconnected."""
        event = await self._next_event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next_event()
        if not isinstance(event, h11.Response):
            raise Disconnected(was_sent=True)
        return ResponseHead(event.status_code, dict(event.headers))

    async def receive_part(self) -> bytes:
        """Return the next bytes of the body; empty at its end. Raises Disconnected."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise Disconnected(was_sent=True)
        return b""

    async def _next_event(self) -> object:
        try:
            while True:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._take(await self._stream.receive_some(PART_BYTES))
        except trio.BrokenResourceError as error:
            raise Disconnected(was_sent=True) from error
        except h11.RemoteProtocolError as error:
            is_http = b"HTTP/".startswith(self._first)
            raise Disconnected(was_sent=True, is_http=is_http) from error

    def may_be_reused(self) -> bool:
        """Return whether another request can follow, and prepare for it. The response must have ended."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.idle_since = trio.current_time()
        return True

    def is_alive(self) -> bool:
        """Return whether the host has neither closed the idle connection nor sent anything."""
        stream = self._stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        poll = select.poll()
        poll.register(stream.socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def aclose(self) -> None:
        """Close the connection at once; the host cancels the call whose response it had to send."""
        await trio.aclose_forcefully(self._stream)
