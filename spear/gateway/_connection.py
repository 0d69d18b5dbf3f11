"""One connection: hypercorn's HTTP/1.1 and WebSockets, with the bounds that a gateway needs.

What hypercorn 0.18 does otherwise, and why it is changed here:

* It waits for ever for a client that does not read, shielded from cancellation: here a client has so long
  for each 64 KiB, and nothing is shielded.
* A client that leaves is told to the handler as a message: here it cancels the handler.
* It speaks HTTP/2 to whoever asks for it: here it does not, which leaves out what can be done with that.
* It decompresses WebSocket messages, and keeps what comes of one that is too large: here neither is done.
* A client of a WebSocket that is gone without a word is pinged for ever: here it is cut.
* Its answers to what is no HTTP are empty, and do not say what is wrong.
* It takes a body whose length is said in two ways, of which somebody on the way may have read the other.

This module does not know what is asked for, nor who may ask. It leans on modules of hypercorn that are
not its public face: ``pyproject.toml`` says which releases have them, tests that they do what is wanted.
"""

from __future__ import annotations

import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast, final

import h11
import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import Body, Data, StreamClosed
from hypercorn.protocol.events import Request as StreamRequest
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper
from hypercorn.typing import ConnectionState
from trio.lowlevel import wait_readable
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from spear.transports import SocketStream

from ._errors import Problem
from ._request import LINGER_SECONDS

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.events import Event
    from hypercorn.protocol.events import Event as StreamEvent
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, H11SendableEvent
    from hypercorn.typing import Scope as HypercornScope
    from wsproto.events import Event as SocketEvent

    from ._request import Message as AppMessage
    from ._request import Receive, Scope, Send

    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

logger: Final = logging.getLogger("spear.gateway")

CHUNK_BYTES: Final = 64 * 1024

_TWO_LENGTHS: Final = (
    "Transfer-Encoding goes neither with Content-Length nor with HTTP/1.0: leave it out"
)

_LAST_MESSAGES: Final = frozenset({"http.response.body", "websocket.close"})


@final
class _Tasks(TaskGroup):
    """Runs the handler of each request in a scope of its own, which ends when the client leaves."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: HypercornScope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Begin to handle a request; returns where its events go."""
        events, incoming = trio.open_memory_channel["ASGIReceiveEvent"](config.max_app_queue_size)
        cancel_scope = trio.CancelScope()
        is_answered = False

        async def send_message(message: AppMessage) -> None:
            nonlocal is_answered
            if message["type"] in _LAST_MESSAGES and not message.get("more_body"):
                # From here on it is hypercorn that ends the request, in the handler's task.
                is_answered = True
            await send(cast("ASGISendEvent", message))

        async def run() -> None:
            with cancel_scope:
                try:
                    await cast("AsgiApp", app)(
                        cast("Scope", scope), cast("Receive", incoming.receive), send_message
                    )
                except Exception:
                    logger.exception("the gateway has failed")
            incoming.close()  # whatever still comes is not for anybody
            await send(None)

        async def put(event: ASGIReceiveEvent) -> None:
            if event["type"] in ("http.disconnect", "websocket.disconnect"):
                if is_answered:
                    events.close()
                else:
                    cancel_scope.cancel()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await events.send(event)

        assert self._nursery is not None  # it is used inside its block
        self._nursery.start_soon(run)
        return put

    def stop(self) -> None:
        """End all of them."""
        assert self._nursery is not None  # likewise
        self._nursery.cancel_scope.cancel()


@final
class _Socket(WSStream):
    """A WebSocket whose messages are bounded, and whose client is there."""

    _heard = True  # since the last ping
    _is_deaf = False  # the client has sent too much, and is told so

    async def handle(self, event: StreamEvent) -> None:
        """Something has come."""
        self._heard = True
        if not (self._is_deaf and isinstance(event, Body | Data)):
            await super().handle(event)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            await self._handle_event(event)

    async def _handle_event(self, event: SocketEvent) -> None:
        if isinstance(event, Message):
            try:
                self.buffer.extend(event)
            except FrameTooLargeError:
                self._is_deaf = True
                self.buffer.clear()
                await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
                assert self.app_put is not None  # there was a handshake
                await self.app_put({"type": "websocket.disconnect", "code": 1009, "reason": None})
                return
            if event.message_finished:
                assert self.app_put is not None  # there was a handshake
                await self.app_put(self.buffer.to_message())
                self.buffer.clear()
        elif isinstance(event, Ping):
            await self._send_wsproto_event(event.response())
        elif isinstance(event, CloseConnection):
            await self._send_wsproto_event(event.response())
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """The handler sends something; nothing, once it has ended."""
        if message is None and self._is_deaf:
            # A connection that is closed while its client still sends is reset, and our word is lost.
            await trio.sleep(LINGER_SECONDS)
        await super().app_send(message)

    async def _send_pings(self) -> None:
        interval = self.config.websocket_ping_interval
        assert interval is not None  # or nobody asks
        await trio.sleep(interval)
        while self._heard:
            self._heard = False
            await self._send_wsproto_event(Ping())
            await trio.sleep(interval)
        await self.send(StreamClosed(stream_id=self.stream_id))


@final
class _Http(H11Protocol):
    """HTTP/1.1, and nothing else.

    Attributes:
        promote: called with each whole head of a request.
        linger: gives the client time to read a refusal.
    """

    promote: Callable[[], None]
    linger: Callable[[], Awaitable[None]]
    _head = b""  # not yet sent

    async def _check_protocol(self, event: h11.Request) -> None:
        """Whoever asks for HTTP/2 gets HTTP/1.1, as the standard allows."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.promote()
        headers = dict(request.headers)
        # h11 looks at the size of what is incomplete; this one may have come at once.
        size = len(request.target) + sum(len(name) + len(value) for name, value in headers.items())
        if size > self.config.h11_max_incomplete_size:
            await self._send_error_response(431)
            await self.send(Closed())
        elif request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(400, "that is not HTTP/1.1")
            await self.send(Closed())
        elif b"transfer-encoding" in headers and (
            b"content-length" in headers or request.http_version == b"1.0"
        ):
            # Whoever reads the one where another reads the other takes a body for a request.
            await self._refuse(400, _TWO_LENGTHS)
            await self.send(Closed())
        elif b"upgrade" not in headers:
            await super()._create_stream(request)
        elif (
            headers[b"upgrade"].lower() == b"websocket"
            and b"upgrade" in headers.get(b"connection", b"").lower()
            and request.method == b"GET"
        ):
            await self._create_socket(request)
        else:
            await super()._create_stream(_without(request, b"upgrade"))

    async def _create_socket(self, request: h11.Request) -> None:
        self.stream = _Socket(
            self.app, self.config, self.context, self.task_group, self.ssl, None, None,
            self.stream_send, STREAM_ID,
        )  # fmt: skip
        self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        # Without compression: a client could send a gigabyte in a few bytes.
        request = _without(request, b"sec-websocket-extensions")
        await self.stream.handle(
            StreamRequest(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method="GET",
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        data = self.connection.send(event)
        if isinstance(event, h11.Response) and any(
            name == b"content-length" for name, _ in event.headers
        ):
            self._head = data  # the body follows at once: both go with one system call
            return
        data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        if status_code == 431:
            await self._refuse(431, "request line and headers are too large", "HeadTooLarge")
            return
        reason = sys.exception()  # h11's: hypercorn is handling it, and hands on the status alone
        await self._refuse(status_code, f"that is not HTTP/1.1: {str(reason)[:200]}")

    async def _refuse(self, status_code: int, what: str, kind: str = "BadRequest") -> None:
        body = Problem(status_code, kind, what).body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.linger()


@final
class _Turn(EventWrapper):
    """What a request that was sent ahead waits for: that the one before it is done.

    Meanwhile the connection is read on, a little, so that its end is noticed.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    async def wait(self) -> None:
        """Wait for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connection.read_ahead)
            await super().wait()
            nursery.cancel_scope.cancel()


def _without(request: h11.Request, name: bytes) -> h11.Request:
    """The same without a header."""
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=[each for each in request.headers if each[0] != name],
        http_version=request.http_version,
    )


@final
class Connection(TCPServer):
    """One connection, from its acceptance to its end.

    Args:
        app: handles its requests.
        config: hypercorn's.
        context: what all connections share.
        stream: what to speak on; TLS, if any, is done.
        is_local: whether it came by the control socket.
        is_secure: whether it is TLS.
        write_seconds: for the client to take each 64 KiB.
        promote: called with each whole head of a request.

    Attributes:
        is_idle: whether no request is being handled.
        deadline: when a sweeper shall cut it.
    """

    def __init__(
        self,
        app: AsgiApp,
        config: Config,
        context: WorkerContext,
        stream: trio.abc.Stream,
        *,
        is_local: bool,
        is_secure: bool,
        write_seconds: float,
        promote: Callable[[], None],
    ) -> None:
        state = ConnectionState({"is_local": is_local})
        tls = cast("trio.SSLStream[trio.SocketStream]", stream)  # so hypercorn calls any stream
        super().__init__(cast("AppWrapper", app), config, context, state, tls)
        self.is_idle = True
        self.deadline = math.inf  # until the first request there is the acceptor's
        # Most streams are plain: they can be read and written without a pass of the scheduler.
        self._socket = stream.socket if isinstance(stream, SocketStream) else None
        self._is_secure = is_secure
        self._write_seconds = write_seconds
        self._promote = promote

    async def run(self) -> None:
        """Serve it. If cancelled, it is cut."""
        async with trio.open_nursery() as nursery:
            # Not as a block: hypercorn's lets a cancellation out that is meant to end in it.
            self._task_group = tasks = _Tasks()
            tasks._nursery = nursery
            protocol = _Http(
                self.app, self.config, self.context, self._task_group,
                ConnectionState(self.state.copy()), self._is_secure, None, None, self.protocol_send,
            )  # fmt: skip
            protocol.promote = self._promote
            protocol.linger = self._linger
            protocol.can_read = _Turn(self)
            self.protocol = protocol  # type: ignore[assignment]  # it has all that is asked of the wrapper
            while data := await self._receive():
                await protocol.handle(RawData(data))
            await protocol.handle(Closed())
            tasks.stop()

    def cut(self) -> None:
        """End it now: whoever waits for it finds it closed."""
        stream: object = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, SocketStream)  # as all listeners give
        stream.close()

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, close, or note whether something is being handled."""
        if isinstance(event, RawData):
            try:  # waiting for a lock that is free is a pass of the scheduler, too
                self.send_lock.acquire_nowait()
            except trio.WouldBlock:
                await self.send_lock.acquire()
            try:
                if await self._is_taken(event.data):
                    return
            finally:
                self.send_lock.release()
            await self.protocol.handle(Closed())
            self._stop()
        elif isinstance(event, Updated):
            self.is_idle = event.idle
            idle_until = trio.current_time() + self.config.keep_alive_timeout
            self.deadline = idle_until if event.idle else math.inf
        else:
            await super().protocol_send(event)
            self._stop()

    def _stop(self) -> None:
        """It is over, also for a reader that waits for its turn with a request that was sent ahead."""
        assert isinstance(self._task_group, _Tasks)  # as run() has made it
        self._task_group.stop()

    async def read_ahead(self) -> None:
        """Read a chunk more than can be used now. If there is none to come, it is over."""
        assert isinstance(self.protocol, _Http)  # as run() has made it
        data = await self._receive()
        if data:
            self.protocol.connection.receive_data(data)
        else:
            self._stop()

    async def _linger(self) -> None:
        """Let the client read why it was refused, while it still sends; by the task that reads."""
        with trio.move_on_after(LINGER_SECONDS):
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            while await self._receive():
                pass

    async def _receive(self) -> bytes:
        """What has come; nothing at the end."""
        try:
            if self._socket is None:
                return bytes(await self.stream.receive_some(CHUNK_BYTES))
            while self._socket.fileno() != -1:  # or it would wait for ever
                await wait_readable(self._socket)
                with suppress(BlockingIOError):
                    return self._socket.recv(CHUNK_BYTES)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return b""

    async def _is_taken(self, data: bytes) -> bool:
        """Whether the client has taken it, in time. A checkpoint only if it has to wait."""
        view = memoryview(data)
        if self._socket is not None:
            try:
                with suppress(BlockingIOError):
                    view = view[self._socket.send(view) :]
            except OSError:
                return False
        while view:
            try:
                with trio.fail_after(self._write_seconds):
                    await self.stream.send_all(view[:CHUNK_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                self.cut()
                return False
            except BaseException:
                self.cut()  # a part of it may have been sent
                raise
            view = view[CHUNK_BYTES:]
        return True
