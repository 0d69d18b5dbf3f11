"""The life of a gateway: listening, checking connections periodically, and closing."""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import CannotListen, ChannelBroken, ConfigurationError
from spear._host_limits import HostLimits
from spear._limits import WireLimits
from spear._util import NoPublicConstructor
from spear.channels import open_private_nursery, protected_block, protected_class
from spear.transports import (
    Acceptor,
    TlsServer,
    UnixAddress,
    check_private_directory,
    connect_unix,
    open_tcp_listener,
    open_unix_listener,
)

from ._app import App, OnDrain, OnStart
from ._connection import HttpConnection
from ._departures import Departures
from ._guard import is_loopback
from ._routes import ROUTES
from ._settings import GatewaySettings
from ._statistics import GatewayStatistics

if TYPE_CHECKING:
    from spear.spearlet import Spearlet
    from spear.transports import IncomingConnection, Listener, SocketListener, TlsListener

    from ._terminals import DebugTerminals

logger: Final = logging.getLogger("spear.gateway")


@final
@protected_class
class Gateway(metaclass=NoPublicConstructor):
    """The HTTP interface of a spearlet. Made by :func:`open_gateway`.

    Attributes:
        urls: URLs of the TCP listener; empty if there is none.
        control_socket: path of the Unix socket, if there is one.
    """

    def __init__(self, app: App, departures: Departures) -> None:
        self.urls: tuple[str, ...] = ()
        self.control_socket = app.settings.control_socket
        self._app = app
        self._departures = departures
        limits = HostLimits(
            wire=WireLimits(handshake_seconds=app.settings.head_seconds),
            max_connections=app.settings.max_connections,
            max_unauthenticated=app.settings.max_new_connections,
        )
        # An acceptor for each, so that many connections over TCP do not keep operators out.
        self._acceptors = {
            is_local: Acceptor(limits, make_room=partial(self._make_room, is_local))
            for is_local in (False, True)
        }
        app.connections.acceptors += self._acceptors.values()
        self._all_left = trio.Event()  # set when the last connection has ended

    def statistics(self) -> GatewayStatistics:
        """Return the counters."""
        return self._app.statistics()

    async def _serve(self, listener: Listener, is_local: bool) -> None:
        await self._acceptors[is_local].serve(listener, partial(self._run, is_local=is_local))

    async def _run(self, incoming: IncomingConnection, *, is_local: bool) -> None:
        app = self._app
        connection = HttpConnection(
            app.handle,
            incoming.stream,
            app.settings,
            app.budgets,
            departures=self._departures,
            closing=app.closing,
            promote=incoming.promote,
            is_local=is_local,
        )
        connections = self._app.connections.open
        connections.add(connection)
        try:
            await connection.run()
        finally:
            connections.discard(connection)
            if not connections:
                self._all_left.set()

    def _make_room(self, is_local: bool) -> bool:
        """Close the connection that has been idle for longest; return whether there was one."""
        idle = [
            each
            for each in self._app.connections.open
            if each.is_local == is_local and each.is_idle and each.deadline < math.inf
        ]
        if not idle:
            return False
        min(idle, key=lambda each: each.deadline).cut()
        return True

    async def _sweep(self) -> None:
        """Check all connections periodically. One timer for all costs a request next to nothing."""
        while True:
            await trio.sleep(min(1.0, self._app.settings.idle_seconds / 4))
            now = trio.current_time()
            for connection in list(self._app.connections.open):
                connection.check(now)

    async def _finish(self) -> None:
        """Close idle connections, and wait up to ``close_seconds`` for the others."""
        self._app.closing.set()
        connections = self._app.connections.open
        for connection in list(connections):
            if connection.is_idle:
                connection.cut()
        with trio.move_on_after(self._app.settings.close_seconds):
            while connections:
                self._all_left = trio.Event()
                await self._all_left.wait()


def check_exposure(settings: GatewaySettings) -> None:
    """Raise ConfigurationError if other machines could reach a gateway without token or without TLS."""
    if settings.host is None or is_loopback(settings.host):
        return
    if settings.token is None:
        raise ConfigurationError(
            f"{settings.host!r} can be reached from other machines, which could call all functions: "
            "set a token (spear serve: token_file), or listen on 127.0.0.1"
        )
    if settings.tls_cert is None and not settings.allow_plaintext:
        raise ConfigurationError(
            f"{settings.host!r} can be reached from other machines, and the token would travel in "
            "plain text: set tls_cert and tls_key, or set allow_plaintext behind a proxy with TLS"
        )


async def _listen(settings: GatewaySettings) -> SocketListener | TlsListener:
    assert settings.host is not None  # open_gateway() has checked it
    if settings.tls_cert is None:
        return await open_tcp_listener(
            settings.host, settings.port, allow_plaintext=settings.allow_plaintext
        )
    tls = TlsServer(
        certificate=settings.tls_cert, key=settings.tls_key, allow_tls_1_2=settings.allow_tls_1_2
    )
    return await open_tcp_listener(settings.host, settings.port, tls=tls)


async def _listen_locally(path: str) -> SocketListener:
    """Listen at the control socket, after removing a socket that a killed host has left behind.

    Raises:
        ConfigurationError: another file or program is there, or the path cannot be used.
    """
    address = UnixAddress(path)  # raises for an invalid path
    _make_directory(os.path.dirname(address.path))
    try:
        return open_unix_listener(address.path)
    except CannotListen:
        await _remove_abandoned(address.path)
    return open_unix_listener(address.path)


async def _remove_abandoned(path: str) -> None:
    """Remove a socket at which no program listens. Raise ConfigurationError for anything else."""
    with suppress(FileNotFoundError):  # its owner may remove it meanwhile
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigurationError(
                f"{path} exists and is not a socket: move it away, or choose another control_socket"
            )
        try:
            (await connect_unix(path)).close()
        except ChannelBroken as error:
            if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                os.unlink(path)  # no program listens there
                return
        raise ConfigurationError(
            f"another program listens at {path}: choose another control_socket (spear serve: "
            "another --name)"
        )


def _make_directory(path: str) -> None:
    """Create a directory for our user only, or check an existing one. Raises ConfigurationError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_private_directory(path)
    except OSError as error:
        raise ConfigurationError(
            f"cannot create {path}: {error.strerror}; choose another control_socket"
        ) from error


def _url_of(listener: SocketListener | TlsListener, settings: GatewaySettings) -> str:
    address = listener.bound
    host = f"[{settings.host}]" if ":" in (settings.host or "") else settings.host
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{host}:{getattr(address, 'port', '')}"


@protected_block
async def open_gateway(
    spearlet: Spearlet,
    settings: GatewaySettings | None = None,
    *,
    on_drain: OnDrain | None = None,
    on_start: OnStart | None = None,
    terminals: DebugTerminals | None = None,
) -> AsyncIterator[Gateway]:
    """Serve HTTP for a spearlet while the block runs.

    When the block ends, requests in flight have ``close_seconds``; streams are ended at once. If the
    block raises or is cancelled, all connections are cut. The block's exceptions are raised as they are,
    not in a group.

    Args:
        spearlet: the spearlet whose functions can be called.
        settings: addresses, access and limits.
        on_drain: called when an operator requests a drain of the host; drains the spearlet by default.
        on_start: called with the name of a deployment that an operator starts again after a stop. By
            default the name of a stopped deployment is unknown.
        terminals: terminals for debugging; without them no debugger can be attached.

    Raises:
        ConfigurationError: the settings are insecure, or an address cannot be used.
    """
    settings = GatewaySettings() if settings is None else settings
    check_exposure(settings)
    with closing(Departures()) as departures:
        async with open_private_nursery() as nursery:
            drain = on_drain or partial(nursery.start_soon, spearlet.drain)
            app = App(spearlet, settings, ROUTES, nursery, drain, on_start, terminals)
            gateway: Gateway = Gateway._create(app, departures)
            listeners: list[Listener] = []
            try:
                if settings.control_socket is not None:
                    local = await _listen_locally(settings.control_socket)
                    listeners.append(local)
                    nursery.start_soon(gateway._serve, local, True)
                if settings.host is not None:
                    tcp = await _listen(settings)
                    listeners.append(tcp)
                    gateway.urls = (_url_of(tcp, settings),)
                    nursery.start_soon(gateway._serve, tcp, False)
                nursery.start_soon(gateway._sweep)
                nursery.start_soon(gateway._departures.run)
                nursery.start_soon(app.history.run)
                yield gateway
                for listener in listeners:
                    listener.close()
                await gateway._finish()
            finally:
                app.closing.set()
                for listener in listeners:
                    listener.close()
