"""Instances with several addresses: which one they use, and their reports about the others."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

import spear
from spear import HostLimits, InstanceTimeouts, SpawnFailed, WireLimits, open_spearlet
from spear.channels import CommunicationStrategy
from spear.transports import (
    Address,
    ByteStream,
    ConnectOptions,
    Listener,
    ListenOptions,
    Opening,
    SocketListener,
    TcpAddress,
    TcpTransport,
    TlsServer,
    Transport,
    UnixTransport,
    open_tcp_listener,
)

from ..helpers import listening

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import spear

app = spear.Agent()


@app.function
def echo(value: str) -> str:
    return value
"""


class HostOnly(Transport):
    """A transport that only listens: its addresses are those of a transport that agents have."""

    name = "host-only"

    def parse(self, address: str) -> Address:
        raise NotImplementedError

    def connect(self, address: Address, options: ConnectOptions) -> Opening[trio.abc.Stream]:
        raise NotImplementedError


class LostTransport(HostOnly):
    """Unix sockets that are bound, and then removed from the file system."""

    name = "lost"

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> Listener:
        listener = await UnixTransport().listen(options).__aenter__()
        os.unlink(str(listener.bound).removeprefix("unix:"))
        return listener


class SilentListener(Listener):
    """A listener whose port accepts connections in the kernel only."""

    def __init__(self, listener: SocketListener) -> None:
        self._listener = listener

    @property
    def bound(self) -> Address:
        return self._listener.bound

    async def accept(self) -> ByteStream:
        await trio.sleep_forever()
        raise AssertionError

    def close(self) -> None:
        self._listener.close()


class SilentTransport(HostOnly):
    """TCP to a port where no connection is accepted."""

    name = "silent"

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        return Opening(self._listen)

    async def _listen(self) -> Listener:
        return SilentListener(await open_tcp_listener())


class ClosedTransport(HostOnly):
    """TCP to a port that refuses connections."""

    name = "closed"

    def listen(self, options: ListenOptions) -> Opening[Listener]:
        return Opening(self._listen)

    async def _listen(self) -> Listener:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            listener = SilentListener(await open_tcp_listener())
        self.address = TcpAddress("127.0.0.1", port)
        return AdvertisedElsewhere(listener, self.address)


class AdvertisedElsewhere(Listener):
    """A listener that advertises an address at which it does not listen."""

    def __init__(self, listener: Listener, advertised: Address) -> None:
        self._listener = listener
        self._advertised = advertised

    @property
    def bound(self) -> Address:
        return self._listener.bound

    @property
    def advertised(self) -> Address:
        return self._advertised

    async def accept(self) -> ByteStream:
        return await self._listener.accept()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


def processes(*transports: str) -> dict[str, CommunicationStrategy]:
    return {"process": CommunicationStrategy(transports)}


@pytest.mark.slow
async def test_an_instance_uses_the_second_address_if_the_first_leads_nowhere(
    program: Path,
) -> None:
    with listening() as lines:
        async with open_spearlet(
            transports=(LostTransport(),), strategies=processes("lost", "tcp")
        ) as spearlet:
            deployment = await spearlet.deploy(program)
            assert await deployment.echo("tea") == "tea"
            (endpoint,) = spearlet._factory.manager.endpoints
            lost, tcp = (each.address for each in endpoint.offered)
            assert str(endpoint.address) == tcp
            said = await lines.wait_for("cannot reach the host")
            assert f"{lost}: cannot connect to {lost}: No such file or directory" in said


@pytest.mark.slow
async def test_an_address_at_which_nobody_answers_is_left_for_the_next_one(program: Path) -> None:
    limits = HostLimits(wire=WireLimits(handshake_seconds=0.5))
    with listening() as lines:
        async with open_spearlet(
            limits=limits, transports=(SilentTransport(),), strategies=processes("silent", "unix")
        ) as spearlet:
            deployment = await spearlet.deploy(program)
            assert await deployment.echo("tea") == "tea"
            (endpoint,) = spearlet._factory.manager.endpoints
            silent, unix = (each.address for each in endpoint.offered)
            assert str(endpoint.address) == unix
            assert silent in await lines.wait_for("did not finish the handshake")


@pytest.mark.slow
async def test_if_no_address_can_be_reached_the_error_names_each_failure(program: Path) -> None:
    closed = ClosedTransport()
    limits = HostLimits(
        wire=WireLimits(reconnect_seconds=0.01), timeouts=InstanceTimeouts(startup_seconds=60)
    )
    async with open_spearlet(
        limits=limits, transports=(LostTransport(), closed), strategies=processes("lost", "closed")
    ) as spearlet:
        with pytest.raises(SpawnFailed) as caught:
            await spearlet.deploy(program, settings=spear.DeploymentSettings())
    said = str(caught.value)
    assert "none of the host's 2 addresses can be reached: unix:/" in said
    assert ".sock: No such file or directory; " in said
    assert f"{closed.address}: cannot connect to {closed.address}: " in said


@pytest.mark.slow
async def test_what_failed_is_told_even_if_the_host_kills_the_instance(program: Path) -> None:
    """At the second address it waits for longer than its start may take."""
    limits = HostLimits(
        wire=WireLimits(handshake_seconds=60), timeouts=InstanceTimeouts(startup_seconds=3)
    )
    async with open_spearlet(
        limits=limits,
        transports=(LostTransport(), SilentTransport()),
        strategies=processes("lost", "silent"),
    ) as spearlet:
        with pytest.raises(SpawnFailed, match="did not log in within 3 s") as caught:
            await spearlet.deploy(program)
    assert "cannot reach the host at unix:/" in caught.value.stderr_tail
    assert "No such file or directory [no_listener]" in caught.value.stderr_tail


@pytest.mark.parametrize("server_name", [None, "spear.internal"])
@pytest.mark.slow
async def test_s12_instances_trust_what_they_are_told_to_trust(
    program: Path, tmp_path: Path, server_name: str | None
) -> None:
    authority = trustme.CA()
    ca, certificate = str(tmp_path / "ca.pem"), str(tmp_path / "certificate.pem")
    authority.cert_pem.write_to_path(ca)
    issued = authority.issue_cert(server_name or "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    server = TlsServer(certificate=certificate, ca=ca, server_name=server_name)
    async with open_spearlet(
        transports=(TcpTransport(tls=server),), strategies=processes("tcp")
    ) as spearlet:
        deployment = await spearlet.deploy(program)
        assert await deployment.echo("tea") == "tea"
        (endpoint,) = spearlet._factory.manager.endpoints
        assert str(endpoint.address).startswith("tls:127.0.0.1:")


@pytest.mark.slow
async def test_s12_a_certificate_that_an_instance_cannot_trust_is_told(
    program: Path, tmp_path: Path
) -> None:
    certificate = str(tmp_path / "certificate.pem")
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    async with open_spearlet(
        transports=(TcpTransport(tls=TlsServer(certificate=certificate)),),
        strategies=processes("tcp"),
    ) as spearlet:
        with pytest.raises(SpawnFailed, match="is not trusted: unable to get local issuer"):
            await spearlet.deploy(program)
