"""A host with several addresses: which one an agent uses, and how long it tries each."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import trustme

from spear import (
    Agent,
    AuthenticationFailed,
    ChannelBroken,
    ConfigurationError,
    InstanceId,
    WireLimits,
)
from spear._ids import Secret
from spear.agent import HostAddresses, serve
from spear.channels import open_connection_manager
from spear.transports import (
    Address,
    ConnectOptions,
    Listener,
    ListenOptions,
    MemoryAddress,
    MemoryListener,
    MemoryStream,
    MemoryTransport,
    Opening,
    TlsClient,
    TlsServer,
    Transport,
    TransportRegistry,
    open_memory_listener,
    open_tcp_listener,
)
from spear.wire import OfferedAddress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear.channels import ConnectionManager, Endpoint

INSTANCE = InstanceId("memory", "shop")
DEFAULTS = WireLimits()


@asynccontextmanager
async def endpoint_at(*listeners: Listener) -> AsyncIterator[tuple[ConnectionManager, Endpoint]]:
    async with (
        open_connection_manager() as manager,
        manager.open_endpoint(INSTANCE, *listeners) as endpoint,
    ):
        yield manager, endpoint


def at(*texts: str) -> list[OfferedAddress]:
    return [OfferedAddress(each) for each in texts]


async def serve_until_ready(
    endpoint: Endpoint, addresses: HostAddresses, limits: WireLimits = DEFAULTS
) -> None:
    """Serve until the host has a channel."""
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(Agent(), addresses, endpoint.secret, INSTANCE, limits=limits)

        nursery.start_soon(run)
        await endpoint.wait_connected()
        nursery.cancel_scope.cancel()


async def test_an_address_that_hangs_leaves_the_others_their_share(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of three addresses, the first two accept connections and send nothing."""
    limits = WireLimits(connect_seconds=5, handshake_seconds=4)
    said: list[str] = []
    silent = [open_memory_listener(name) for name in ("one", "two")]
    async with silent[0], silent[1], endpoint_at(open_memory_listener("three")) as (_, endpoint):
        addresses = HostAddresses(
            at("memory:one", "memory:two", "memory:three"), report=said.append
        )
        await serve_until_ready(endpoint, addresses, limits)
        assert str(endpoint.address) == "memory:three"
    assert [each.partition(":")[0] for each in said] == ["cannot reach the host at memory"] * 2
    assert "memory:one: the login was not complete after 3 s" in said[0]
    assert "memory:two: the login was not complete after 3 s" in said[1]


async def test_after_a_break_the_address_that_worked_is_tried_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    said: list[str] = []
    async with (
        endpoint_at(open_memory_listener("here")) as (manager, endpoint),
        trio.open_nursery() as nursery,
    ):

        async def run() -> None:
            addresses = HostAddresses(at("memory:gone", "memory:here"), report=said.append)
            await serve(Agent(), addresses, endpoint.secret, INSTANCE)

        nursery.start_soon(run)
        first = await endpoint.wait_connected()
        assert len(said) == 1
        first._end(ChannelBroken("cut"))
        while await endpoint.wait_connected() is first:
            await trio.sleep(0.1)
        assert manager.statistics().logins == 2
        assert len(said) == 1  # the agent did not try the other address again
        nursery.cancel_scope.cancel()


async def test_a_reason_is_reported_once_however_often_it_is_tried(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = HostAddresses(at("memory:here", "memory:there"))
    with caplog.at_level(logging.WARNING), pytest.raises(ChannelBroken) as caught:
        await serve(
            Agent(), addresses, Secret(bytes(32)), INSTANCE, limits=WireLimits(reconnect_seconds=5)
        )
    lines = [each.getMessage() for each in caplog.records]
    assert [each.split(": ")[0] for each in lines] == [
        "cannot reach the host at memory:here",
        "cannot reach the host at memory:there",
    ]
    assert "none of the host's 2 addresses can be reached" in str(caught.value)
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [type(each) for each in group.exceptions] == [ChannelBroken, ChannelBroken]


class Broken(Transport):
    """A transport that cannot connect, because of a bug or a refusal of the system."""

    name = "broken"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def parse(self, address: str) -> Address:
        return MemoryAddress("there")

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        raise NotImplementedError

    def connect(self, address: Address, options: ConnectOptions) -> Opening[trio.abc.Stream]:
        raise self._error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("a bug")], ids=repr)
async def test_after_a_transport_that_fails_in_its_own_way_the_next_address_is_tried(
    error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    said: list[str] = []
    async with endpoint_at(open_memory_listener("here")) as (_, endpoint):
        addresses = HostAddresses(
            at("broken:there", "memory:here"),
            transports=TransportRegistry([Broken(error)]),
            report=said.append,
        )
        await serve_until_ready(endpoint, addresses)
    (line,) = said
    assert f"broken:there: the transport failed: {type(error).__name__}" in line


async def test_what_will_never_work_is_tried_once_at_each_address() -> None:
    said: list[str] = []
    addresses = HostAddresses(at("pigeon:loft", "nowhere"), report=said.append)
    with pytest.raises(ConfigurationError, match="none of the host's 2 addresses"):
        await serve(Agent(), addresses, Secret(bytes(32)), INSTANCE)
    assert len(said) == 1  # the error names the second address
    async with endpoint_at(open_memory_listener("here")) as (manager, endpoint):
        addresses = HostAddresses(at("pigeon:loft", "memory:here"), report=said.append)
        with pytest.raises(AuthenticationFailed, match="the host refused this instance"):
            await serve(Agent(), addresses, Secret(bytes(32)), INSTANCE)
        assert manager.statistics().refused_logins == {"bad_proof": 1}
        assert endpoint.channel is None


class Renamed(Transport):
    """The memory transport under a scheme that only one host knows."""

    name = "renamed"

    def parse(self, address: str) -> Address:
        return MemoryTransport().parse(address)

    def listen(self, options: ListenOptions) -> Opening[MemoryListener]:
        return MemoryTransport().listen(options)

    def connect(self, address: Address, options: ConnectOptions) -> Opening[MemoryStream]:
        return MemoryTransport().connect(address, options)


async def test_an_agent_in_the_hosts_process_may_use_its_transports() -> None:
    async with endpoint_at(open_memory_listener("here")) as (_, endpoint):
        await serve_until_ready(
            endpoint,
            HostAddresses(at("renamed:here"), transports=TransportRegistry((Renamed(),))),
        )


@pytest.mark.parametrize("given", ["handed over", "own", "none"])
async def test_s12_whom_an_agent_trusts(tmp_path: Path, given: str) -> None:
    """An agent trusts its own settings first, then the trust that came with the address."""
    authority, stranger = trustme.CA(), trustme.CA()
    certificate, ca = str(tmp_path / "certificate.pem"), str(tmp_path / "ca.pem")
    issued = authority.issue_cert("spear.internal")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(ca)
    pem, wrong = (each.cert_pem.bytes().decode() for each in (authority, stranger))
    listener = await open_tcp_listener(tls=TlsServer(certificate=certificate))
    async with listener, endpoint_at(listener) as (_, endpoint):
        address = str(endpoint.address)
        if given == "handed over":
            offered = OfferedAddress(address, server_name="spear.internal", ca=pem)
            await serve_until_ready(endpoint, HostAddresses([offered]))
        elif given == "own":
            offered = OfferedAddress(address, server_name="wrong", ca=wrong)
            tls = TlsClient(ca=ca, server_name="spear.internal")
            await serve_until_ready(endpoint, HostAddresses([offered], tls=tls))
        else:
            for offered in (
                OfferedAddress(address),
                OfferedAddress(address, ca=pem),
                OfferedAddress(address, server_name="spear.internal"),
                OfferedAddress(address, server_name="spear.internal", ca=wrong),
            ):
                with pytest.raises(AuthenticationFailed, match="is not trusted: "):
                    await serve(Agent(), HostAddresses([offered]), endpoint.secret, INSTANCE)
