"""The accept loop of all listeners, in which a faulty connection affects no other connection.

Every connection gets one task. A connection is unauthenticated until its handler calls ``promote()``. An
unauthenticated connection has a deadline. The number of these connections is bounded; when the bound is
reached, a new connection replaces the oldest one. An exception ends only the connection that caused it,
and is counted by reason. (A server that starts its handlers in a common nursery and lets them raise is
ended by the first bad peer.)

This module knows listeners and streams, but neither the protocol nor the work of a handler.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import (
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    RemoteProtocolError,
)
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits
from spear._limits import shown
from spear._util import summary_of

from ._abc import ByteStream, Listener, Refused
from ._credentials import PeerCredentials
from ._reasons import Reason
from ._socket_stream import CAPACITY_ERRNOS

if TYPE_CHECKING:
    from collections.abc import Iterator

_logger = logging.getLogger("spear.transports")

# The values of NATS's accept loop: short enough to go unnoticed, long enough not to spin.
FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 1.0

# The exceptions that a peer can make a handler raise. Others are bugs of Spear, and logged as bugs.
_PEER_FAULTS: Final = (
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    RemoteProtocolError,
    Refused,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)


@final
@attrs.define(eq=False, repr=False)
class IncomingConnection:
    """A connection that was accepted, as its handler sees it. The accept loop makes and closes it.

    Attributes:
        stream: the stream for the protocol, after a TLS handshake if any.
        credentials: the peer's process as the kernel knows it; None unless this is a Unix socket.
        number: the number of the connection within its acceptor, for log lines.
        is_authenticated: whether :meth:`promote` was called in time.
    """

    stream: trio.abc.Stream
    credentials: PeerCredentials | None
    number: int
    _raw: ByteStream
    _unauthenticated: dict[IncomingConnection, None]
    # The scope for the deadline and for :meth:`_cut`; not cancelled after the promotion.
    _scope: trio.CancelScope
    is_authenticated: bool = False
    _reason: str | None = None

    @property
    def peer(self) -> str:
        """A description of the peer for log lines."""
        return _describe(self._raw)

    def promote(self) -> None:
        """Mark the peer as authenticated: the deadline and the limit for unauthenticated peers end.

        Has no effect if the deadline has passed or a newer connection has replaced this one. The
        handler's next checkpoint then raises ``trio.Cancelled``.
        """
        if not self._scope.cancel_called:
            self._scope.deadline = math.inf
            self._unauthenticated.pop(self, None)
            self.is_authenticated = True

    def refuse(self, reason: str) -> None:
        """Count this connection under ``reason`` when it ends; only the first call has an effect.

        The handler runs on until it returns or raises, so that it can notify the peer.
        """
        if self._reason is None:
            self._reason = str(reason)

    def _cut(self, reason: Reason) -> None:
        self._unauthenticated.pop(self, None)
        self.refuse(reason)
        self._scope.cancel()

    def __repr__(self) -> str:
        return f"<connection {self.number} from {self.peer}>"


Handler: TypeAlias = Callable[[IncomingConnection], Awaitable[None]]
PeerCheck: TypeAlias = Callable[[PeerCredentials], bool]


def process_or_its_session(pid: int) -> PeerCheck:
    """Return a check that accepts the process ``pid`` and all processes of the session that it leads."""

    def check(credentials: PeerCredentials) -> bool:
        if credentials.pid in (pid, 0):
            # 0 is a process outside our namespace; getsid(0) would return our own session.
            return credentials.pid == pid
        try:
            return os.getsid(credentials.pid) == pid
        except OSError:  # the process has exited
            return False

    return check


@final
@attrs.frozen(kw_only=True)
class AcceptorStatistics:
    """An acceptor's counters.

    Attributes:
        accepted: connections accepted from listeners, refused ones included.
        open: connections that exist now.
        unauthenticated: open connections that have not been promoted.
        refused: the number of refused connections, by reason.
        failed: handlers that raised after their connection was promoted.
        pauses: pauses of accepting because no file descriptor or memory was left.
    """

    accepted: int
    open: int
    unauthenticated: int
    refused: Mapping[str, int]
    failed: int
    pauses: int


@final
class Acceptor:
    """An accept loop for any number of listeners, which share its limits and statistics.

    Args:
        limits: limits, of which ``max_connections``, ``max_unauthenticated`` and ``handshake_seconds``
            apply.
        make_room: called when ``max_connections`` are open. It must either schedule the end of one of
            them and return True, so that the new connection is accepted, or return False.
    """

    def __init__(
        self, limits: HostLimits = DEFAULT_HOST_LIMITS, *, make_room: Callable[[], bool] = bool
    ) -> None:
        self._limits = limits
        self._make_room = make_room
        self._accepted = 0
        self._open = 0
        # Used as a set in order of arrival.
        self._unauthenticated: dict[IncomingConnection, None] = {}
        self._refused: dict[str, int] = {}
        self._failed = 0
        self._pauses = 0

    def statistics(self) -> AcceptorStatistics:
        """Return a snapshot of the counters."""
        return AcceptorStatistics(
            accepted=self._accepted,
            open=self._open,
            unauthenticated=len(self._unauthenticated),
            refused=MappingProxyType(dict(self._refused)),
            failed=self._failed,
            pauses=self._pauses,
        )

    @trio.lowlevel.enable_ki_protection
    async def serve(
        self, listener: Listener, handler: Handler, *, allow_peer: PeerCheck | None = None
    ) -> None:
        """Run ``handler`` for every connection, until the listener is closed and all handlers have ended.

        Each connection is closed when its handler returns or raises. No peer and no exception of a
        handler ends this call. Cancellation closes all connections.

        Args:
            listener: the listener to accept from; the caller closes it.
            handler: called as ``await handler(connection)``; authenticates the peer within
                ``handshake_seconds``, calls ``connection.promote()``, and serves.
            allow_peer: called with a peer's process before a byte is read; returns whether it may connect
                (Unix sockets only). Processes of other users are always refused.

        Raises:
            ChannelBroken: the listener can never accept again.
        """
        broken: ChannelBroken | None = None
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            while broken is None:
                try:
                    raw = await self._accept(listener)
                except trio.ClosedResourceError:
                    break
                except Exception as exc:  # also a bug of a transport of another distribution
                    # Existing connections go on.
                    is_known = isinstance(exc, trio.BrokenResourceError | OSError)
                    fault = exc if is_known else summary_of(exc)
                    broken = ChannelBroken(
                        f"the listener at {listener.bound} can no longer accept connections: {fault}"
                    )
                    broken.__cause__ = exc
                    _logger.error("%s", broken)  # now, since existing connections may last long
                else:
                    if connection := self._admit(raw, allow_peer):
                        # The same task name for all connections: Trio would make a string for each.
                        nursery.start_soon(
                            self._run, listener, raw, connection, handler, name="spear connection"
                        )
        if broken is not None:
            raise broken

    async def _accept(self, listener: Listener) -> ByteStream:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                raw: object = await listener.accept()
                if isinstance(raw, ByteStream):
                    return raw
                raise TypeError(f"accept() must return a ByteStream, not {shown(raw)}")
            except OSError as exc:
                if exc.errno not in CAPACITY_ERRNOS:
                    raise
                self._pauses += 1
                _logger.warning(
                    "the listener at %s pauses for %g s: %s", listener.bound, pause, exc.strerror
                )
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _admit(self, raw: ByteStream, allow_peer: PeerCheck | None) -> IncomingConnection | None:
        self._accepted += 1
        try:
            credentials = raw.peer_credentials()
            reason = self._objection(credentials, allow_peer)
        except Exception:  # a bug of a transport of another distribution
            _logger.exception("cannot determine the credentials of %s", _describe(raw))
            credentials, reason = None, Reason.CRASHED
        if reason:
            self._count_refusal(reason, _describe(raw), self._accepted)
            _close(raw)
            return None
        while len(self._unauthenticated) >= self._limits.max_unauthenticated:
            next(iter(self._unauthenticated))._cut(Reason.CROWDED_OUT)
        connection = IncomingConnection(
            stream=raw,
            credentials=credentials,
            number=self._accepted,
            raw=raw,
            unauthenticated=self._unauthenticated,
            scope=trio.CancelScope(
                deadline=trio.current_time() + self._limits.wire.handshake_seconds
            ),
        )
        self._unauthenticated[connection] = None
        self._open += 1
        return connection

    def _objection(
        self, credentials: PeerCredentials | None, allow_peer: PeerCheck | None
    ) -> Reason | None:
        if self._open >= self._limits.max_connections and not self._make_room():
            return Reason.TOO_MANY
        if credentials is None:
            return None
        if credentials.uid != os.geteuid():
            return Reason.WRONG_USER
        try:
            allowed = allow_peer is None or allow_peer(credentials)
        except Exception:
            _logger.exception("allow_peer failed for pid %d", credentials.pid)
            return Reason.CRASHED
        return None if allowed else Reason.WRONG_PROCESS

    @trio.lowlevel.enable_ki_protection
    async def _run(
        self,
        listener: Listener,
        raw: ByteStream,
        connection: IncomingConnection,
        handler: Handler,
    ) -> None:
        try:
            with connection._scope as scope:
                connection.stream = await listener.secure(raw)
                await handler(connection)
                if not connection.is_authenticated:
                    connection.refuse(Reason.LEFT)
            if scope.cancelled_caught:
                connection.refuse(Reason.HANDSHAKE_TIMEOUT)
        except* Exception as group:  # never Cancelled, which is a BaseException
            self._record_failure(connection, group)
        finally:
            self._dismiss(connection)
            _close(raw)

    def _record_failure(
        self, connection: IncomingConnection, group: ExceptionGroup[Exception]
    ) -> None:
        expected, unexpected = group.split(_PEER_FAULTS)
        if unexpected is not None:
            _logger.error("the handler of %r crashed", connection, exc_info=unexpected)
        for exc in _leaves(expected):
            _logger.info("connection %d: %r", connection.number, exc)
        if connection.is_authenticated:
            self._failed += 1
        elif unexpected is not None:
            connection.refuse(Reason.CRASHED)
        else:
            connection.refuse(_reason_of(expected))

    def _dismiss(self, connection: IncomingConnection) -> None:
        self._open -= 1
        self._unauthenticated.pop(connection, None)
        if (reason := connection._reason) is not None:
            self._count_refusal(reason, connection.peer, connection.number)

    def _count_refusal(self, reason: str, peer: str, number: int) -> None:
        self._refused[reason] = self._refused.get(reason, 0) + 1
        if reason == Reason.LEFT:  # usually a health check of the port
            _logger.debug("connection %d from %s ended before authentication", number, peer)
        else:
            _logger.info("refused connection %d from %s: %s", number, peer, reason)


def _describe(raw: ByteStream) -> str:
    try:
        return str(raw.describe_peer())
    except Exception:  # a bug of a transport of another distribution
        return f"a peer of {type(raw).__name__}"


def _close(raw: ByteStream) -> None:
    try:
        raw.close()
    except Exception:  # a bug of a transport of another distribution
        _logger.exception("cannot close the connection from %s", _describe(raw))


def _reason_of(failure: ExceptionGroup[Exception] | None) -> str:
    for exc in _leaves(failure):
        if isinstance(exc, Refused):
            return exc.reason
        if isinstance(exc, RemoteProtocolError):
            return Reason.GARBAGE
        if isinstance(exc, AuthenticationFailed):
            return Reason.NOT_AUTHENTICATED
    return Reason.LEFT


def _leaves(exc: Exception | None) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for each in exc.exceptions:
            yield from _leaves(each)
    elif exc is not None:
        yield exc
