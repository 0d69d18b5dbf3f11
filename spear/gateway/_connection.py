"""A connection of the gateway: one request after the other, in one task.

The task reads only for a request head, for a body that its handler asks for, or for a WebSocket. Requests
sent ahead (pipelining) stay in the kernel's buffers, except for up to 64 KiB that were read with the
current one. If the client disconnects while its request is handled, :mod:`._departures` notices, and the
handler is cancelled.

A client may end its own stream and still wait for the response (half-close). TCP reports a half-close and
a disconnected client in the same way. So the gateway sends ``100 Continue``, which every HTTP/1.1 client
must ignore: the kernel of a disconnected client answers with a reset. Over TLS, with HTTP/1.0, or once
the response has begun, no ``100 Continue`` can be sent, and a half-close cancels the handler. On a Unix
socket the kernel tells the two apart, so nothing is sent.

This module knows neither paths nor permissions.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, final

import trio
from trio.lowlevel import wait_readable

from spear.channels import protected_class
from spear.transports import SocketStream

from ._errors import Problem
from ._guard import is_loopback
from ._http1 import CONTINUE, RequestParser, response_head
from ._request import Request

if TYPE_CHECKING:
    from ._budget import Budgets
    from ._departures import Departures
    from ._settings import GatewaySettings

Handle: TypeAlias = Callable[[Request, "HttpConnection"], Awaitable[None]]
"""Handles a request. Raises nothing but Cancelled."""

CHUNK_BYTES: Final = 64 * 1024

LINGER_SECONDS: Final = 2.0
"""Seconds for a client to read the last response while it still sends. Closing the connection earlier
would reset it, and the response would be lost."""


@final
@protected_class
class HttpConnection:
    """A connection, from its acceptance to its end.

    Args:
        handle: The handler of each request.
        stream: The client's stream, after the TLS handshake if there is one.
        settings: The settings of the gateway.
        budgets: The budgets of the gateway.
        departures: The watcher of all sockets, with which :meth:`run` registers this one.
        closing: An event that is set when the gateway closes: the current request is then the last.
        promote: Called without arguments when the first request head is complete or malformed.
        is_local: Whether the client connected to the control socket.

    Attributes:
        parser: The parser of the client's bytes.
        is_local: Whether the client connected to the control socket.
        is_idle: Whether the connection waits for a request head.
        deadline: Trio's time from which :meth:`check` closes the idle connection. Infinite while a
            request is handled, and before the first one, for which the acceptor has a deadline.
    """

    def __init__(
        self,
        handle: Handle,
        stream: trio.abc.Stream,
        settings: GatewaySettings,
        budgets: Budgets,
        *,
        departures: Departures,
        closing: trio.Event,
        promote: Callable[[], None],
        is_local: bool,
    ) -> None:
        raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(raw, SocketStream)  # all listeners give this type
        self.parser = RequestParser(settings.max_head_bytes)
        self.is_local = is_local
        self.is_idle = True
        self.deadline = math.inf  # until the first request, the acceptor has a deadline
        self._handle = handle
        self._stream = stream
        # Most streams are plain sockets: they can be read and written without a pass of the scheduler.
        self._plain = raw.socket if raw is stream else None
        self._raw = raw
        self._settings = settings
        self._budgets = budgets
        self._departures = departures
        self._closing = closing
        self._promote = promote
        self._client: Hashable = None
        self._request: Request | None = None  # the request being handled
        self._scope = trio.CancelScope()  # of all handlers: a cancelled one is the last
        self._lingers = False  # whether to linger although there is no request
        self._is_half_closed = False
        self._is_gone = False
        self._probed = -math.inf  # time of the last 100 Continue sent as a probe
        self._is_promoted = False
        self._is_cut = False

    @property
    def client(self) -> Hashable:
        """The client, for budgets: its IP address; this connection if the client is on this machine."""
        if self._client is None:
            self._client = self
            with suppress(OSError):
                address = self._raw.socket.getpeername()
                if isinstance(address, tuple) and not is_loopback(address[0]):
                    self._client = address[0]
        return self._client

    @property
    def is_closing(self) -> bool:
        """Whether the request that is handled is the last one."""
        return self._closing.is_set()

    async def run(self) -> None:
        """Serve requests until either side ends the connection, then close it.

        Returns also if a handler was cancelled because the client disconnected. After the last response,
        the client has up to ``LINGER_SECONDS`` to read it. If cancelled, closes the connection at once.
        """
        self._departures.watch(self._raw.socket.fileno(), self._note_departure)
        try:
            with self._scope:
                while not self.is_closing and await self._serve_request():
                    pass
            if self._lingers or (self._request is not None and self._request.is_ended):
                await self._linger()
        finally:
            self.cut()

    def cut(self) -> None:
        """Close the connection at once. Tasks that read or write it behave as if the client had left."""
        if not self._is_cut:
            self._is_cut = True
            self.is_idle = False
            self._departures.forget(self._raw.socket.fileno())
            self._raw.close()

    def check(self, now: float) -> None:
        """Close the connection if it is idle past its deadline; probe a half-closed client.

        The probe is repeated each ``keep_alive_seconds`` until the response begins. The gateway calls
        this once a second, or more often if ``idle_seconds`` is below 4.

        Args:
            now: Trio's time.
        """
        if self.deadline <= now:
            self.cut()
        elif (
            self._is_half_closed
            and self._request is not None
            and not self._request.status  # a response that has begun is a probe itself
            and self._probed + self._settings.keep_alive_seconds <= now
        ):
            self._probe()

    # -- requests ---------------------------------------------------------------------------------

    async def _serve_request(self) -> bool:
        """Serve one request; return whether there may be another one."""
        try:
            head = self.parser.next_head_untrusted()
            if head is not None:  # it was pipelined: give other tasks a turn
                await trio.lowlevel.checkpoint()
            while head is None:
                data = await self._receive()
                if not data:
                    return False
                self.parser.receive(data)
                head = self.parser.next_head_untrusted()
        except Problem as problem:
            self._begin()
            await self.write(_refusal(problem))
            self._lingers = True
            return False
        self._begin()
        request = self._request = Request(head, self, self._settings, self._budgets)
        if self._is_half_closed:
            self._probe()
        await self._handle(request, self)
        if request.closes or self.is_closing or not request.is_ended:
            return False
        self._request = None
        self.is_idle = True
        self.deadline = trio.current_time() + self._settings.idle_seconds
        return True

    def _begin(self) -> None:
        if not self._is_promoted:
            self._is_promoted = True
            self._promote()
        self.is_idle = False
        self.deadline = math.inf

    async def _linger(self) -> None:
        """Shut down sending, and wait for the client to read the last response."""
        sock = self._raw.socket
        with trio.move_on_after(LINGER_SECONDS), suppress(OSError, trio.ClosedResourceError):
            if self._plain is None:  # TLS has its own closing message, which the client may require
                assert isinstance(self._stream, trio.SSLStream)  # all others are plain
                with suppress(trio.BrokenResourceError):  # the client still sends
                    await self._stream.unwrap()
            sock.shutdown(socket.SHUT_WR)
            while await _receive_plain(sock):
                pass

    # -- disconnecting clients --------------------------------------------------------------------

    def _note_departure(self, is_gone: bool) -> None:
        self._is_half_closed = True
        self._is_gone = self._is_gone or is_gone  # a note may come before the request is read
        self._probe()

    def _probe(self) -> None:
        """Check whether the client still reads; cancel the handler if that cannot be checked."""
        if self._request is None:  # between requests, reading shows it
            return
        self._probed = trio.current_time()
        sock = self._plain
        if self._is_gone:
            self._scope.cancel()
        elif sock is not None and sock.family == socket.AF_UNIX:
            return  # of a Unix socket, the system reports a client that is gone
        elif sock is None or self._request.is_open_ended or self._request.is_http_1_0:
            self._scope.cancel()
        elif not self._request.status:  # otherwise sending the response shows it
            with suppress(OSError):  # a reset causes another note
                if sock.send(CONTINUE) < len(CONTINUE):
                    self._scope.cancel()  # a part of the probe would corrupt the response

    # -- bytes ------------------------------------------------------------------------------------

    async def receive(self) -> None:
        """Pass received bytes to the parser; cancel the handler if the client's stream has ended."""
        data = await self._receive()
        if not data:
            await self.leave()
        self.parser.receive(data)

    async def leave(self) -> NoReturn:
        """Cancel the handler that calls this. Never returns; raises Cancelled."""
        self._scope.cancel()
        await trio.sleep_forever()
        raise AssertionError  # pragma: no cover  # the line above does not return

    async def _receive(self) -> bytes:
        """Return received bytes; empty at the end of the client's stream."""
        try:
            if self._plain is None:
                assert isinstance(self._stream, trio.SSLStream)  # all others are plain
                return bytes(await self._stream.receive_some(CHUNK_BYTES))
            return await _receive_plain(self._plain)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def write(self, *data: bytes) -> None:
        """Send bytes. This is a checkpoint only if it has to wait.

        If the client disconnects, or takes no 64 KiB within ``write_seconds``, the handler is cancelled.
        """
        if self._plain is None:
            await self._write_all(memoryview(b"".join(data)))
            return
        try:
            sent = self._plain.send(data[0]) if len(data) == 1 else self._plain.sendmsg(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            await self.leave()
        if sent < sum(map(len, data)):
            await self._write_all(memoryview(b"".join(data))[sent:])

    async def _write_all(self, view: memoryview) -> None:
        """Send bytes, as long as the client takes each 64 KiB in time."""
        is_sent = False
        try:
            while view:
                with trio.fail_after(self._settings.write_seconds):
                    await self._stream.send_all(view[:CHUNK_BYTES])
                view = view[CHUNK_BYTES:]
            is_sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass
        finally:
            if not is_sent:
                self.cut()  # a part of the data may have been sent
        if not is_sent:
            await self.leave()


def _refusal(problem: Problem) -> bytes:
    """Return the response to malformed input."""
    body = problem.body()
    headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    )
    return response_head(problem.status, headers) + body


async def _receive_plain(sock: socket.socket) -> bytes:
    while sock.fileno() != -1:  # waiting for a closed socket would never end
        await wait_readable(sock)
        with suppress(BlockingIOError):
            return sock.recv(CHUNK_BYTES)
    return b""
