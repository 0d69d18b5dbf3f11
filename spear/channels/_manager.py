"""The host's side of connections: endpoints, logins, and the channels that they lead to.

An :class:`Endpoint` is where one instance logs in. It has listeners of its own, a secret for this
incarnation only, and, once the instance has logged in, the channel. The owner of the instance opens
the endpoint by an ``async with`` block; leaving the block closes all of it.

The policy of logins:

* The secret is valid for one login, and only until the startup deadline.
* While the instance's channel is open, every other login is refused, even with a valid proof.
* When the channel has broken, the same incarnation may resume within ``reconnect_seconds``, with the
  session key that both sides derived from its last login.
* An instance that may not have learned of its successful login may repeat the login unchanged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ChannelBroken, ChannelClosed, ChannelCreationFailed, SpearError
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits, InstanceTimeouts
from spear._ids import InstanceId, Secret
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.telemetry import ConnectionEvent, Instruments
from spear.transports import Acceptor, AcceptorStatistics, PeerCheck, PeerCredentials, Reason
from spear.wire import Connection, FrameTooLarge, OfferedAddress, Role

from ._channel import CommunicationChannel
from ._handshake import Login, LoginRefused, admit_agent
from ._interrupts import notify_all, protected_block, protected_class
from ._nursery import open_private_nursery
from ._peer import NO_THREADED
from ._pipes import Pipe, open_pipe
from ._timers import Timers, open_timers

if TYPE_CHECKING:
    from spear._retry_policy import RetryPolicy
    from spear.telemetry import ConnectionEventKind
    from spear.transports import Address, IncomingConnection, Listener
    from spear.wire import AuthRequest

    from ._handlers import Service
    from ._peer import ThreadedFunctions

logger: Final = logging.getLogger("spear.channels")


@final
@attrs.frozen(kw_only=True)
class ManagerStatistics:
    """A manager's counters since it was opened."""

    endpoints: int
    connected: int
    logins: int
    refused_logins: Mapping[str, int]
    """Number of refused logins, by reason."""
    heartbeats_lost: int
    acceptor: AcceptorStatistics


@final
@protected_class
class Endpoint:
    """A place at the host where one instance logs in: its listeners, its secret and its channel.

    Attributes:
        instance_id: the instance that may log in.
        offered: the addresses at which the instance may connect, best first; pass them to it.
        not_offered: transports of the strategy that could not be opened, and why: (name, reason).
        address: the address of the last login; before a login, the best address.
        secret: the key by which the instance proves its identity; pass it on, never log it.
        channel: the instance's channel; None until the instance has announced its functions, before
            which nothing may be sent to it. A reconnection makes a new channel.
    """

    def __init__(
        self,
        manager: ConnectionManager,
        instance_id: InstanceId,
        listeners: Sequence[Listener],
        *,
        service: Service | None,
        low_latency: bool,
        timeouts: InstanceTimeouts,
    ) -> None:
        self.instance_id = instance_id
        self.offered = tuple(map(_offer, listeners))
        self._lost: list[tuple[str, str]] = []  # listeners that cannot accept any more, and why
        self.not_offered: tuple[tuple[str, str], ...] = ()
        self.address: Address = listeners[0].advertised
        self.secret = Secret.generate()
        self.channel: CommunicationChannel | None = None
        self.allow_peer: PeerCheck | None = None
        self._newest: CommunicationChannel | None = None  # the last channel, from its login on
        self._manager = manager
        self._service = service
        self._low_latency = low_latency
        self._expires = trio.current_time() + timeouts.startup_seconds
        self._session: Secret | None = None
        # The last login (resumes, key), until an announcement shows that the instance knows of it.
        self._unconfirmed: tuple[bool, Secret] | None = None
        self._closed = False
        self._changed: trio.Event | None = None  # while a task waits for a change

    def __repr__(self) -> str:
        return f"<Endpoint {self.instance_id} at {self.address}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is a channel that takes calls now."""
        return self.channel is not None and self.channel.is_connected

    async def wait_connected(self) -> CommunicationChannel:
        """Wait until the instance has logged in and announced its functions; return its channel.

        If cancelled, nothing changes. The wait has no limit: set a deadline, and watch the instance's
        process meanwhile.

        Raises:
            ChannelClosed: the endpoint was closed.
            ChannelCreationFailed: there is no channel, and no listener accepts connections any more.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise ChannelClosed(f"{self.instance_id} is being stopped")
            if self.is_connected:
                assert self.channel is not None  # is_connected implies it
                return self.channel
            if len(self._lost) == len(self.offered) and not self._has_newest():
                raise ChannelCreationFailed(str(self.instance_id), self._lost)
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    @protected_block
    async def attach(
        self,
        *,
        service: Service | None = None,
        functions: Sequence[str] = (),
        streams: Collection[str] = (),
        threaded: ThreadedFunctions = NO_THREADED,
        retry_policies: Mapping[str, RetryPolicy] | None = None,
        limits: WireLimits = DEFAULT_WIRE_LIMITS,
        debug: bool = False,
    ) -> AsyncIterator[CommunicationChannel]:
        """Connect an instance of this process, without a transport, for as long as the block runs.

        Yields the instance's end. No authentication takes place. The arguments are those of
        :func:`open_memory_channels`.

        Raises:
            SpearError: the instance is connected already, or is being stopped.
        """
        from ._connect import open_memory_channels

        await trio.lowlevel.checkpoint()
        if self._closed or self._has_newest():
            raise SpearError(f"{self.instance_id} is connected already, or is being stopped")
        manager = self._manager
        try:
            async with open_memory_channels(
                self.instance_id,
                host_service=self._service,
                agent_service=service,
                functions=functions,
                streams=streams,
                threaded=threaded,
                retry_policies=retry_policies,
                limits=limits,
                debug=debug,
                timers=manager.timers,
            ) as (host, agent):
                self._newest = self.channel = host
                manager.logged_in(self.instance_id, 0)
                self._announce_change()
                yield agent
        finally:
            self._announce_change()

    def _has_newest(self) -> bool:
        return self._newest is not None and not self._newest.closed.is_set()

    def lose(self, listener: Listener, error: ChannelBroken) -> None:
        """Close a listener that cannot accept any more. Channels that were opened through it go on."""
        logger.error("%s: %s", self.instance_id, error)
        scheme = str(listener.advertised).partition(":")[0]
        self._lost.append((scheme, error.summary))
        _close(listener)  # connections are now refused, so the instance tries the next address
        self._announce_change()

    def expect_peer(self, check: PeerCheck) -> None:
        """Accept only processes for which ``check`` returns true from now on (Unix sockets)."""
        self.allow_peer = check

    # -- logins -------------------------------------------------------------------------------

    def judge(self, request: AuthRequest) -> tuple[tuple[Secret, ...], str]:
        """Return the keys of which one must have signed a login; or no keys, and why it is refused."""
        if request.instance != self.instance_id:
            return (), "wrong_instance"
        if self._closed:
            return (), "endpoint_closed"
        if self._has_newest():
            return (), "second_login"
        keys: list[Secret] = []
        if request.resumes:
            if self._session is not None:
                keys.append(self._session)
        elif self._session is None:
            keys.append(self.secret)
        if self._unconfirmed is not None and self._unconfirmed[0] == request.resumes:
            keys.append(self._unconfirmed[1])
        if not keys:
            return (), "nothing_to_resume" if request.resumes else "secret_spent"
        if trio.current_time() > self._expires:
            return (), "nothing_to_resume" if request.resumes else "secret_expired"
        return tuple(keys), ""

    async def serve(self, address: Address, incoming: IncomingConnection) -> None:
        """Handle one connection until it ends; ``address`` is that of its listener."""
        manager, limits = self._manager, self._manager.limits.wire
        manager.tell("connected", None, incoming.number)
        async with trio.open_nursery() as nursery:
            pipe = open_pipe(incoming.stream, limits, nursery, low_latency=self._low_latency)
            try:
                connection = Connection(Role.HOST, limits, pipe.sink, receiver=pipe.receiver)
                try:
                    self._accept(await admit_agent(pipe, connection, limits, self.judge))
                except LoginRefused as refusal:
                    incoming.refuse(refusal.reason)
                    manager.refused(refusal, incoming.number)
                    return
                except FrameTooLarge:
                    incoming.refuse(Reason.OVERSIZED)
                    raise
                except ChannelBroken:
                    if pipe.receiver is not None and pipe.receiver.buffered_bytes:
                        incoming.refuse(Reason.CUT_SHORT)
                    raise
                incoming.promote()
                self.address = address
                await self._run(pipe, connection, nursery, incoming.number)
            finally:
                pipe.close()
                nursery.cancel_scope.cancel()

    def _accept(self, login: Login) -> None:
        self._session = login.session
        self._unconfirmed = (login.request.resumes, login.key)

    def _on_announced(self) -> None:
        self._unconfirmed = None
        self.channel = self._newest
        self._announce_change()

    async def _run(
        self, pipe: Pipe, connection: Connection, nursery: trio.Nursery, number: int
    ) -> None:
        manager, limits = self._manager, self._manager.limits.wire
        channel = CommunicationChannel(
            pipe,
            connection,
            self.instance_id,
            limits,
            manager.timers,
            service=self._service,
            on_heartbeat_lost=lambda: manager.heartbeat_lost(self.instance_id, number),
        )
        channel.on_announced = self._on_announced
        self._newest = channel
        manager.logged_in(self.instance_id, number)
        try:
            await channel.run(nursery)
        finally:
            self._expires = trio.current_time() + limits.reconnect_seconds
            self._announce_change()
            manager.tell("disconnected", self.instance_id, number, str(channel.closed_by or ""))

    def _announce_change(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def aclose(self) -> None:
        """Close the channel, if there is one, and refuse further logins. A checkpoint."""
        self._closed = True
        self._announce_change()
        if self._newest is not None:
            await self._newest.aclose()
        else:
            await trio.lowlevel.checkpoint()


def _close(listener: Listener) -> None:
    try:
        listener.close()
    except Exception:  # a bug of a third-party transport
        logger.exception("cannot close the listener at %s", listener.advertised)


def _offer(listener: Listener) -> OfferedAddress:
    address, trust = str(listener.advertised), listener.trust
    if trust is None:
        return OfferedAddress(address)
    return OfferedAddress(address, trust.server_name or "", trust.ca_data or "")


@final
@protected_class
class ConnectionManager:
    """A keeper of all endpoints of a host; made by :func:`open_connection_manager`.

    Attributes:
        limits: the host's limits, of which ``wire`` applies to every connection.
        timers: the timers that all channels share.
        instruments: the host's instruments, which are notified of connections, instances and calls.
    """

    def __init__(self, limits: HostLimits, timers: Timers, instruments: Instruments) -> None:
        self.limits = limits
        self.instruments = instruments
        self.timers = timers
        self._acceptor = Acceptor(limits)
        self._endpoints: dict[InstanceId, Endpoint] = {}
        self._logins = 0
        self._refused: Counter[str] = Counter()
        self._heartbeats_lost = 0

    @protected_block
    async def open_endpoint(
        self,
        instance_id: InstanceId,
        *listeners: Listener,
        service: Service | None = None,
        low_latency: bool = False,
        timeouts: InstanceTimeouts | None = None,
    ) -> AsyncIterator[Endpoint]:
        """Let one instance log in, for as long as the block runs.

        The instance may connect to any of the listeners, of which the first is the best, but has only
        one channel at a time. Leaving the block closes the listeners and the channel. If cancelled, the
        peer is not sent a reason. The secret expires after ``timeouts.startup_seconds``.

        Raises:
            SpearError: the instance has an endpoint already.
        """
        if instance_id in self._endpoints:
            raise SpearError(f"{instance_id} has an endpoint already")
        endpoint = Endpoint(
            self,
            instance_id,
            listeners,
            service=service,
            low_latency=low_latency,
            timeouts=timeouts or self.limits.timeouts,
        )
        self._endpoints[instance_id] = endpoint
        try:
            async with open_private_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._serve, listener, endpoint)
                try:
                    yield endpoint
                finally:
                    for listener in listeners:
                        _close(listener)
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                        await endpoint.aclose()
        finally:
            del self._endpoints[instance_id]

    async def _serve(self, listener: Listener, endpoint: Endpoint) -> None:
        def allow(credentials: PeerCredentials) -> bool:
            return endpoint.allow_peer is None or endpoint.allow_peer(credentials)

        try:
            handler = partial(endpoint.serve, listener.advertised)
            await self._acceptor.serve(listener, handler, allow_peer=allow)
        except ChannelBroken as error:
            endpoint.lose(listener, error)

    def endpoint(self, instance_id: InstanceId) -> Endpoint | None:
        """Return the instance's endpoint; None if it has none."""
        return self._endpoints.get(instance_id)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints that are open."""
        return tuple(self._endpoints.values())

    # -- events -------------------------------------------------------------------------------

    def tell(
        self,
        kind: ConnectionEventKind,
        instance: InstanceId | None,
        connection: int,
        reason: str = "",
    ) -> None:
        """Log an event of a connection, and notify the instruments."""
        whose = "" if instance is None else f" of {instance}"
        logger.debug("connection %d%s: %s %s", connection, whose, kind, reason)
        if hooks := self.instruments.connection_changed:
            notify_all(logger, hooks, ConnectionEvent(kind, instance, connection, reason))

    def logged_in(self, instance: InstanceId, connection: int) -> None:
        """Count a successful login, and notify the instruments."""
        self._logins += 1
        self.tell("authenticated", instance, connection)

    def refused(self, refusal: LoginRefused, connection: int) -> None:
        """Count and log a refused login, and notify the instruments."""
        self._refused[refusal.reason] += 1
        logger.warning(
            "connection %d: login as %s refused: %s", connection, refusal.instance, refusal.reason
        )
        self.tell("authentication_failed", refusal.instance, connection, refusal.reason)

    def heartbeat_lost(self, instance: InstanceId, connection: int) -> None:
        """Count a channel whose peer went silent, and notify the instruments."""
        self._heartbeats_lost += 1
        self.tell("heartbeat_lost", instance, connection)

    def statistics(self) -> ManagerStatistics:
        """Return the counters up to now."""
        return ManagerStatistics(
            endpoints=len(self._endpoints),
            connected=sum(endpoint.is_connected for endpoint in self._endpoints.values()),
            logins=self._logins,
            refused_logins=dict(self._refused),
            heartbeats_lost=self._heartbeats_lost,
            acceptor=self._acceptor.statistics(),
        )


@protected_block
async def open_connection_manager(
    limits: HostLimits = DEFAULT_HOST_LIMITS, *, instruments: Instruments | None = None
) -> AsyncIterator[ConnectionManager]:
    """Open a manager for as long as the block runs; its endpoints must be closed before it ends."""
    async with open_timers() as timers:
        yield ConnectionManager(limits, timers, instruments or Instruments())
