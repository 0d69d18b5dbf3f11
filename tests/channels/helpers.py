"""Channels over all transports, and helpers that their tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio
import trio.testing
import trustme

from spear import HostLimits, InstanceId, RetryPolicy, WireLimits
from spear._ids import Secret
from spear.channels import (
    CommunicationChannel,
    ConnectionManager,
    Endpoint,
    InboundCall,
    Service,
    ThreadedFunctions,
    connect_channel,
    open_connection_manager,
    open_memory_channels,
    open_private_nursery,
)
from spear.testing import Functions, OpenPair, RawPeer
from spear.transports import (
    Address,
    ConnectOptions,
    Listener,
    ListenOptions,
    MemoryAddress,
    MemoryTransport,
    TcpAddress,
    TcpTransport,
    TlsClient,
    TlsServer,
    Transport,
    UnixAddress,
    UnixTransport,
    make_private_directory,
)

if TYPE_CHECKING:
    from pathlib import Path

INSTANCE = InstanceId("process", "worker", 1)
DEFAULTS = WireLimits()
NONE_THREADED = ThreadedFunctions()


@attrs.frozen
class Certificate:
    """The certificate of a TLS listener, and the TLS settings of both sides."""

    server: TlsServer
    client: TlsClient

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        authority = trustme.CA()
        ca, leaf = str(directory / "ca.pem"), str(directory / "leaf.pem")
        authority.cert_pem.write_to_path(ca)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(leaf)
        return cls(TlsServer(certificate=leaf), TlsClient(ca=ca))


@attrs.frozen
class Carrier:
    """A byte stream that carries channels."""

    transport: Transport
    address: Address
    client: TlsClient | None = None

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self.transport.listen(ListenOptions(address=self.address))

    async def connect(self, address: Address) -> trio.abc.Stream:
        """Connect; the caller closes the connection, because none of these transports has tasks."""
        return await self.transport.connect(address, ConnectOptions(tls=self.client)).__aenter__()

    @asynccontextmanager
    async def open_host(
        self, *, service: Service | None = None, limits: WireLimits = DEFAULTS
    ) -> AsyncIterator[tuple[ConnectionManager, Endpoint]]:
        """Open a host that waits for one instance."""
        async with (
            open_connection_manager(HostLimits(wire=limits)) as manager,
            self.listen() as listener,
            manager.open_endpoint(INSTANCE, listener, service=service) as endpoint,
        ):
            yield manager, endpoint

    @asynccontextmanager
    async def open_pair(
        self,
        *,
        host_service: Service | None = None,
        agent_service: Service | None = None,
        functions: Sequence[str] = (),
        streams: Collection[str] = (),
        threaded: ThreadedFunctions = NONE_THREADED,
        retry_policies: Mapping[str, RetryPolicy] | None = None,
        limits: WireLimits = DEFAULTS,
    ) -> AsyncIterator[tuple[CommunicationChannel, CommunicationChannel]]:
        """Open both ends of a channel: (host's, agent's)."""
        async with self.open_host(service=host_service, limits=limits) as (_, endpoint):
            stream = await self.connect(endpoint.address)
            async with connect_channel(
                stream,
                INSTANCE,
                endpoint.secret,
                service=agent_service,
                functions=functions,
                streams=streams,
                threaded=threaded,
                retry_policies=retry_policies,
                limits=limits,
            ) as (agent, _):
                yield await endpoint.wait_connected(), agent

    @asynccontextmanager
    async def open_raw(
        self,
        *,
        service: Service | None = None,
        limits: WireLimits = DEFAULTS,
        peer_limits: WireLimits = DEFAULTS,
        functions: Sequence[str] = ("f",),
        features: Sequence[str] = (),
    ) -> AsyncIterator[tuple[CommunicationChannel, RawPeer]]:
        """Open a host's channel, and an instance that the test drives by hand."""
        async with (
            self.open_host(service=service, limits=limits) as (_, endpoint),
            await self.connect(endpoint.address) as stream,
        ):
            peer = RawPeer(stream, peer_limits)
            await peer.log_in(INSTANCE, endpoint.secret, functions, features=features)
            yield await endpoint.wait_connected(), peer

    @asynccontextmanager
    async def open_raw_host(
        self,
        *,
        service: Service | None = None,
        limits: WireLimits = DEFAULTS,
        peer_limits: WireLimits = DEFAULTS,
        functions: Sequence[str] = (),
    ) -> AsyncIterator[tuple[CommunicationChannel, RawPeer]]:
        """Open an agent's channel, and a host that the test drives by hand."""
        secret = Secret.generate()
        admitted = trio.Event()
        peer: RawPeer

        async def admit() -> None:
            nonlocal peer
            peer = RawPeer(await listener.secure(await listener.accept()), peer_limits)
            await peer.admit(secret)
            admitted.set()

        async with self.listen() as listener, open_private_nursery() as nursery:
            nursery.start_soon(admit)
            stream = await self.connect(listener.advertised)
            async with connect_channel(
                stream, INSTANCE, secret, service=service, functions=functions, limits=limits
            ) as (channel, _):
                await admitted.wait()
                async with peer.stream:
                    yield channel, peer


MEMORY_STREAM = Carrier(MemoryTransport(), MemoryAddress("here"))
"""A carrier of bytes without a kernel, which works in virtual time."""

open_in_memory: OpenPair = partial(open_memory_channels, INSTANCE)
"""Channels in memory, without bytes."""


@asynccontextmanager
async def open_unix(directory: str | None = None) -> AsyncIterator[Carrier]:
    with make_private_directory(directory) as path:
        yield Carrier(UnixTransport(), UnixAddress(f"{path}/socket"))


def tcp() -> Carrier:
    return Carrier(TcpTransport(), TcpAddress("127.0.0.1", 0))


def tls(certificate: Certificate) -> Carrier:
    address = TcpAddress("localhost", 0, tls=True)
    return Carrier(TcpTransport(tls=certificate.server), address, certificate.client)


async def park() -> None:
    """Wait until all other tasks are blocked."""
    await trio.testing.wait_all_tasks_blocked()


async def run_all(*functions: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)


async def sleep(call: InboundCall) -> bytes:
    """A handler that never returns."""
    await trio.sleep_forever()
    raise AssertionError


async def echo(call: InboundCall) -> bytes:
    """A handler that returns its argument."""
    return call.payload


@asynccontextmanager
async def open_served(
    open_pair: OpenPair, functions: Functions, limits: WireLimits
) -> AsyncIterator[tuple[CommunicationChannel, CommunicationChannel]]:
    """Open both ends of a channel, each with the same functions for the other: (host's, agent's)."""
    async with open_pair(
        host_service=functions, agent_service=functions, functions=functions.names, limits=limits
    ) as pair:
        yield pair
