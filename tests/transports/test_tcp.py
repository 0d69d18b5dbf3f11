"""S12: plain text stays on the loopback interface, and TLS checks certificates; errors of TCP."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Literal

import pytest
import trio
import trio.testing

from spear import AuthenticationFailed, ChannelBroken, ConfigurationError, WireLimits
from spear.transports import (
    Acceptor,
    Reason,
    SocketStream,
    TcpAddress,
    TlsClient,
    TlsListener,
    TlsServer,
    connect_tcp,
    connect_tls,
    looks_like_tls,
    open_tcp_listener,
)

from .helpers import PASSWORD, expect_end, say, serving

if TYPE_CHECKING:
    from spear.transports import IncomingConnection

    from .helpers import Carrier, Certificates


# Declared as in Trio.
Found = (
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
)


class Names(trio.abc.HostnameResolver):
    """A resolver that knows these names only."""

    def __init__(self, **names: tuple[str, ...]) -> None:
        self._names = names

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  # Trio's name for it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Found]:
        await trio.lowlevel.checkpoint()
        assert host
        if host.decode() not in self._names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        assert isinstance(port, int)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ip, port))
            for ip in self._names[host.decode()]
        ]

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError


# -- listening --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "::ffff:127.0.0.1"])
async def test_s12_plain_text_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="can be reached from other machines"):
        await open_tcp_listener(host)


async def test_s12_a_name_may_not_lead_beyond_loopback_either() -> None:
    trio.socket.set_custom_hostname_resolver(Names(two=("127.0.0.1", "192.0.2.1")))
    with pytest.raises(ConfigurationError, match="'two' can be reached"):
        await open_tcp_listener("two")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
async def test_plain_text_on_loopback(host: str) -> None:
    async with await open_tcp_listener(host) as listener:
        assert isinstance(listener.bound, TcpAddress)
        assert listener.bound == TcpAddress(host, listener.bound.port)
        assert listener.bound.port != 0
        stream = await connect_tcp(host, listener.bound.port)
        async with stream, await listener.accept() as accepted:
            await stream.send_all(b"x")
            assert await accepted.receive_some() == b"x"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_with_tls_all_addresses_may_be_listened_on(
    host: str, certificates: Certificates
) -> None:
    server = TlsServer(certificate=certificates.issue("localhost"))
    async with await open_tcp_listener(host, tls=server) as listener:
        assert isinstance(listener, TlsListener)
        assert listener.bound == TcpAddress(host, listener.bound.port, tls=True)
        # "::" accepts IPv4, too.
        async with await connect_tcp("127.0.0.1", listener.bound.port):
            (await listener.accept()).close()


async def test_the_first_free_port_of_a_range_is_taken() -> None:
    async with await open_tcp_listener() as occupied:
        assert isinstance(occupied.bound, TcpAddress)
        port = occupied.bound.port
        with pytest.raises(ConfigurationError, match=rf"port {port}: .*in use"):
            await open_tcp_listener("127.0.0.1", port)
        async with await open_tcp_listener("127.0.0.1", range(port, port + 20)) as listener:
            assert isinstance(listener.bound, TcpAddress)
            assert port < listener.bound.port < port + 20
            with pytest.raises(ConfigurationError, match=rf"ports {port} to {port}: |port {port}"):
                await open_tcp_listener("127.0.0.1", range(port, port + 1))


async def test_several_taken_ports_are_named() -> None:
    async with await open_tcp_listener() as first:
        assert isinstance(first.bound, TcpAddress)
        port = first.bound.port
        async with await open_tcp_listener("127.0.0.1", range(port, port + 20)) as second:
            assert isinstance(second.bound, TcpAddress)
            taken = range(port, second.bound.port + 1, second.bound.port - port)
            with pytest.raises(ConfigurationError, match=f"ports {port} to {taken[-1]}: "):
                await open_tcp_listener("127.0.0.1", taken)


async def test_what_cannot_be_listened_on_is_explained() -> None:
    with pytest.raises(ConfigurationError, match=r"range of ports .* is empty"):
        await open_tcp_listener("127.0.0.1", range(0))
    with pytest.raises(ConfigurationError, match="65536 is not between"):
        await open_tcp_listener("127.0.0.1", range(65530, 65537))
    with pytest.raises(ConfigurationError, match="neither a host name"):
        await open_tcp_listener("")
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(ConfigurationError, match=r"'nowhere': .*not known"):
        await open_tcp_listener("nowhere")


# -- connecting -------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    async with await open_tcp_listener() as listener:
        assert isinstance(listener.bound, TcpAddress)
        port = listener.bound.port
    with pytest.raises(ChannelBroken, match=f"cannot connect to tcp:127.0.0.1:{port}: "):
        await connect_tcp("127.0.0.1", port)
    with pytest.raises(ChannelBroken, match=f"cannot connect to tls:127.0.0.1:{port}: "):
        await connect_tls("127.0.0.1", port, TlsClient())


async def test_a_name_that_leads_nowhere() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(ChannelBroken, match=r"tcp:nowhere:1: .*not known"):
        await connect_tcp("nowhere", 1)
    with pytest.raises(ConfigurationError, match="invalid host name"):
        await connect_tcp("x" * 64 + ".", 1)


async def test_a_listener_that_never_answers(
    tcp: Carrier, autojump_clock: trio.testing.MockClock
) -> None:
    async with await tcp.listen() as listener:
        assert isinstance(listener.bound, TcpAddress)
        with pytest.raises(ChannelBroken, match="within 3 s"):
            await connect_tls("127.0.0.1", listener.bound.port, TlsClient(), seconds=3)
        assert trio.current_time() == pytest.approx(3)


# -- TLS --------------------------------------------------------------------------------------


async def expect_tls(listener: TlsListener, client: TlsClient, host: str = "localhost") -> str:
    """Connect, exchange text with the echo, and return the version of TLS."""
    async with await connect_tls(host, listener.bound.port, client) as stream:
        await stream.send_all(PASSWORD)
        await say(stream, b"hello")
        version = stream.version()
        assert isinstance(version, str)
        return version


@pytest.fixture
def acceptor() -> Acceptor:
    return Acceptor()


async def test_s12_tls_1_3_with_a_checked_name(
    acceptor: Acceptor, certificates: Certificates
) -> None:
    server = TlsServer(certificate=certificates.issue("localhost"))
    client = TlsClient(ca=certificates.ca)
    async with await open_tcp_listener(tls=server) as listener, serving(acceptor, listener):
        assert await expect_tls(listener, client) == "TLSv1.3"
        with pytest.raises(AuthenticationFailed, match=r"is not trusted: .*127\.0\.0\.1"):
            await expect_tls(listener, client, "127.0.0.1")
        elsewhere = TlsClient(ca=certificates.ca, server_name="localhost")
        assert await expect_tls(listener, elsewhere, "127.0.0.1") == "TLSv1.3"
        assert acceptor.statistics().refused == {Reason.TLS_FAILED: 1}


async def test_s12_an_expired_certificate_is_refused(
    acceptor: Acceptor, certificates: Certificates
) -> None:
    server = TlsServer(certificate=certificates.issue("localhost", expired=True))
    async with await open_tcp_listener(tls=server) as listener, serving(acceptor, listener):
        with pytest.raises(AuthenticationFailed, match="certificate has expired"):
            await expect_tls(listener, TlsClient(ca=certificates.ca))


async def test_s12_an_unknown_authority_is_refused(
    acceptor: Acceptor, certificates: Certificates, strangers: Certificates
) -> None:
    server = TlsServer(certificate=certificates.issue("localhost"))
    async with await open_tcp_listener(tls=server) as listener, serving(acceptor, listener):
        for client in TlsClient(ca=strangers.ca), TlsClient():
            with pytest.raises(AuthenticationFailed, match="unable to get local issuer"):
                await expect_tls(listener, client)


async def test_s12_mutual_tls(
    acceptor: Acceptor, certificates: Certificates, strangers: Certificates
) -> None:
    server = TlsServer(
        certificate=certificates.issue("localhost"),
        client_ca=certificates.ca,
    )
    known = TlsClient(ca=certificates.ca, certificate=certificates.issue("client"))
    unknown = TlsClient(ca=certificates.ca, certificate=strangers.issue("client"))
    anonymous = TlsClient(ca=certificates.ca)
    async with await open_tcp_listener(tls=server) as listener, serving(acceptor, listener):
        await expect_tls(listener, known)
        for client in unknown, anonymous:
            # With TLS 1.3 the client is done before the listener has checked its certificate.
            async with await connect_tls("localhost", listener.bound.port, client) as stream:
                await expect_end(stream)
        assert acceptor.statistics().refused == {Reason.TLS_FAILED: 2}


async def test_s12_tls_1_2_must_be_allowed_by_both(
    acceptor: Acceptor, certificates: Certificates
) -> None:
    path = certificates.issue("localhost")
    strict, lenient = (TlsServer(certificate=path, allow_tls_1_2=old) for old in (False, True))
    old_client = TlsClient(ca=certificates.ca, allow_tls_1_2=True)
    context = old_client.make_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async with await open_tcp_listener(tls=lenient) as listener, serving(acceptor, listener):
        plain = await connect_tcp("127.0.0.1", listener.bound.port)
        async with plain, trio.SSLStream(plain, context, server_hostname="localhost") as stream:
            await stream.do_handshake()
            assert stream.version() == "TLSv1.2"
    async with await open_tcp_listener(tls=strict) as listener, serving(acceptor, listener):
        plain = await connect_tcp("127.0.0.1", listener.bound.port)
        stream = trio.SSLStream(plain, context, server_hostname="localhost")
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        plain.close()
    assert acceptor.statistics().refused == {Reason.LEFT: 1, Reason.TLS_FAILED: 1}
    assert old_client.make_context().minimum_version is ssl.TLSVersion.TLSv1_2
    assert TlsClient().make_context().minimum_version is ssl.TLSVersion.TLSv1_3


async def test_s12_plain_text_on_a_tls_port_is_known_by_its_first_byte(
    acceptor: Acceptor, tls: Carrier
) -> None:
    async with await tls.listen() as listener, serving(acceptor, listener):
        assert isinstance(listener.bound, TcpAddress)
        async with await connect_tcp("127.0.0.1", listener.bound.port) as stream:
            await stream.send_all(b"G")
            await expect_end(stream)
        assert acceptor.statistics().refused == {Reason.PLAINTEXT_ON_TLS: 1}


async def test_a_tls_client_that_leaves_is_no_failure_of_tls(
    acceptor: Acceptor, tls: Carrier
) -> None:
    async with await tls.listen() as listener, serving(acceptor, listener):
        assert isinstance(listener.bound, TcpAddress)
        (await connect_tcp("127.0.0.1", listener.bound.port)).close()
        stream = await connect_tcp("127.0.0.1", listener.bound.port)
        # Closing at once with this option is a reset.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.close()
        await trio.testing.wait_all_tasks_blocked()
        assert acceptor.statistics().refused == {Reason.LEFT: 2}


async def test_s12_tls_on_a_plain_port_is_known_by_its_first_bytes(tcp: Carrier) -> None:
    first: list[bytes] = []

    async def speak_first(connection: IncomingConnection) -> None:
        first.append(bytes(await connection.stream.receive_some(3)))
        await connection.stream.send_all(b"\x40\0\0\0\0\0\0\0a frame of ours")

    async with await tcp.listen() as listener, serving(Acceptor(), listener, speak_first):
        assert isinstance(listener.bound, TcpAddress)
        with pytest.raises(
            ChannelBroken, match=r"the TLS handshake with tls:.* failed: .*WRONG_VERSION"
        ):
            await connect_tls("127.0.0.1", listener.bound.port, TlsClient())
    assert looks_like_tls(first[0])


@pytest.mark.parametrize(
    "first", [b"", b"\x16", b"\x16\x03", b"\x17\x03\x01", b"\x16\x02\x01", b"\x16\x03\x00", b"GET"]
)
def test_what_does_not_look_like_tls(first: bytes) -> None:
    assert not looks_like_tls(first)


def test_no_small_frame_looks_like_tls() -> None:
    assert not any(
        looks_like_tls(length.to_bytes(8, "little"))
        for length in range(WireLimits().handshake_frame_bytes)
    )


async def test_a_failed_handshake_leaves_no_socket(
    acceptor: Acceptor, tls: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[SocketStream] = []
    close = SocketStream.close

    def note(stream: SocketStream) -> None:
        closed.append(stream)
        close(stream)

    monkeypatch.setattr(SocketStream, "close", note)
    async with await tls.listen() as listener:  # accept() is never called
        assert isinstance(listener.bound, TcpAddress)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect_tls, "127.0.0.1", listener.bound.port, TlsClient())
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert [each.socket.fileno() for each in closed] == [-1]


@pytest.mark.parametrize("side", [TlsServer, TlsClient])
def test_unusable_files_are_explained(
    side: type[TlsServer | TlsClient], certificates: Certificates
) -> None:
    with pytest.raises(ConfigurationError, match=r"settings.*: No such file"):
        side(certificate="/missing.pem").make_context()
    with pytest.raises(ConfigurationError, match="settings: "):
        side(certificate=certificates.ca).make_context()  # a certificate without a key
    with pytest.raises(ConfigurationError, match="settings: "):
        TlsClient(ca=__file__).make_context()
