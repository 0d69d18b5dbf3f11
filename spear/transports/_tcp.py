"""TCP, plain on the loopback interface and with TLS everywhere else."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, final, overload

import attrs
import trio

from spear._errors import (
    AuthenticationFailed,
    CannotListen,
    ChannelBroken,
    ConfigurationError,
    SpearError,
)
from spear._limits import DEFAULT_WIRE_LIMITS

from ._abc import ByteStream, Listener, Refused
from ._addresses import TcpAddress, parse_tcp_address
from ._connecting import connecting_to
from ._reasons import Reason
from ._socket_stream import LISTEN_BACKLOG, SocketListener, SocketStream
from ._tls import HANDSHAKE_RECORD, TlsClient, TlsServer, TlsStream
from ._transport import ConnectOptions, ListenOptions, Opening, Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._addresses import Address

_Candidate: TypeAlias = tuple[socket.AddressFamily, str]


@final
class TlsListener(Listener):
    """Accepts from another listener, and makes each connection secure."""

    __slots__ = ("_advertised", "_bound", "_context", "_plain", "_trust")

    def __init__(
        self,
        plain: SocketListener,
        bound: TcpAddress,
        advertised: TcpAddress,
        context: ssl.SSLContext,
        trust: TlsClient | None,
    ) -> None:
        self._plain = plain
        self._bound = bound
        self._advertised = advertised
        self._context = context
        self._trust = trust

    @property
    def bound(self) -> TcpAddress:
        """The address that it listens on, with the port that was really bound."""
        return self._bound

    @property
    def advertised(self) -> TcpAddress:
        """The address at which instances reach it."""
        return self._advertised

    @property
    def trust(self) -> TlsClient | None:
        """How instances check who listens; None if by what their system trusts."""
        return self._trust

    async def accept(self) -> ByteStream:
        """The next connection, not yet secure. See :meth:`Listener.accept`."""
        return await self._plain.accept()

    async def secure(self, stream: ByteStream) -> TlsStream:
        """The connection after its TLS handshake. If cancelled, it is unusable.

        Raises:
            Refused: the peer does not speak TLS, or failed the handshake.
        """
        assert isinstance(stream, SocketStream)  # as accept() returned it
        await trio.lowlevel.wait_readable(stream.socket)
        # A look at the first byte costs one system call, spares OpenSSL's 30 KiB for a peer that
        # does not speak TLS at all, and tells a wrong configuration from a wrong certificate.
        try:
            first = stream.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            raise Refused(Reason.LEFT) from None
        if not first:
            raise Refused(Reason.LEFT)
        if first[0] != HANDSHAKE_RECORD:
            raise Refused(Reason.PLAINTEXT_ON_TLS)
        # https_compatible: no close_notify. Our own protocol says when it ends, so a cut-off
        # stream is noticed, and closing never has to wait for a peer that does not read.
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as exc:
            # Trio does not send the alert that OpenSSL has prepared: only our log can say why.
            raise Refused(Reason.TLS_FAILED, exc.__cause__ or exc) from exc
        return tls

    def close(self) -> None:
        """Stop accepting at once; a blocked ``accept`` gets ``trio.ClosedResourceError``."""
        self._plain.close()


@overload
async def open_tcp_listener(
    host: str = ...,
    port: int | range = ...,
    *,
    tls: None = None,
    allow_plaintext: bool = ...,
    advertised_host: str | None = ...,
) -> SocketListener: ...
@overload
async def open_tcp_listener(
    host: str = ...,
    port: int | range = ...,
    *,
    tls: TlsServer,
    advertised_host: str | None = ...,
) -> TlsListener: ...
async def open_tcp_listener(
    host: str = "127.0.0.1",
    port: int | range = 0,
    *,
    tls: TlsServer | None = None,
    allow_plaintext: bool = False,
    advertised_host: str | None = None,
) -> SocketListener | TlsListener:
    """A listener on one address of ``host``.

    If cancelled, nothing stays open.

    Args:
        host: a name or an address; without ``tls`` it must be on the loopback interface.
        port: 0 for any free one, or a range to take the first free one of.
        tls: our certificate; connections then speak TLS.
        allow_plaintext: listen beyond the loopback interface without TLS. The caller has a reason.
        advertised_host: the name or the address at which clients reach ``host``, if it is another one.

    Raises:
        ConfigurationError: the address is taken, not ours, or would expose plain text.
    """
    ports = _check_ports(host, port)
    address = TcpAddress(host, ports[0])
    context, trust = (None, None) if tls is None else (tls.make_context(), tls.make_trust())
    candidates = await _resolve(address)
    if context is None and not allow_plaintext:
        _check_loopback(address, candidates)
    sock = _bind(address, ports, candidates)
    bound = TcpAddress(host, sock.getsockname()[1], tls=context is not None)
    advertised = bound if advertised_host is None else attrs.evolve(bound, host=advertised_host)
    plain = SocketListener(sock, bound, advertised=advertised)
    return plain if context is None else TlsListener(plain, bound, advertised, context, trust)


def _check_ports(host: str, port: int | range) -> range:
    """The ports to try. Raises ConfigurationError for a host or ports that no address can have."""
    if not isinstance(port, range):
        TcpAddress(host, port)
        return range(port, port + 1)
    if not port:
        raise ConfigurationError(f"the range of ports for {host!r} is empty")
    TcpAddress(host, min(port))
    TcpAddress(host, max(port))
    return port


async def _resolve(address: TcpAddress) -> list[_Candidate]:
    try:
        found = await trio.socket.getaddrinfo(
            address.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise CannotListen("tcp", f"cannot listen on {address.host!r}: {exc}") from exc
    return [(family, str(where[0])) for family, _, _, _, where in found]


def _check_loopback(address: TcpAddress, candidates: Sequence[_Candidate]) -> None:
    for _, ip in candidates:
        if not (ip.startswith("127.") or ip == "::1"):
            raise ConfigurationError(
                f"{address.host!r} can be reached from other machines: listen on 127.0.0.1, "
                f"or give a certificate (tls=TlsServer(...))"
            )


def _bind(
    address: TcpAddress, ports: Sequence[int], candidates: Sequence[_Candidate]
) -> socket.socket:
    for port in ports:
        for family, ip in candidates:
            try:
                # Sets SO_REUSEADDR: a port whose last connections linger in TIME_WAIT is free.
                # "::" takes IPv4 as well.
                return socket.create_server(
                    (ip, port),
                    family=family,
                    backlog=LISTEN_BACKLOG,
                    dualstack_ipv6=ip == "::" and socket.has_dualstack_ipv6(),
                )
            except OSError as exc:
                error = exc
    raise CannotListen(
        "tcp",
        # The error's own text says the address once more.
        f"cannot listen on {address.host!r}, {_describe(ports)}: {os.strerror(error.errno or 0)}",
    ) from error


def _describe(ports: Sequence[int]) -> str:
    return f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"


async def connect_tcp(
    host: str, port: int, *, seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
) -> SocketStream:
    """A plain connection to ``host``, by whichever of its addresses answers first.

    If cancelled, nothing stays open.

    Raises:
        ChannelBroken: no host answered within ``seconds``, or no program listens there.
        ConfigurationError: that is not a host and a port.
    """
    address = TcpAddress(host, port)
    with connecting_to(address, seconds):
        return await _connect(host, port)


async def connect_tls(
    host: str, port: int, tls: TlsClient, *, seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
) -> TlsStream:
    """A connection to ``host`` after its TLS handshake; the listener has proved who it is.

    With TLS 1.3 the listener judges our own certificate only after that. If it refuses, the stream
    ends without a word; the reason is in the listener's log.

    If cancelled, nothing stays open.

    Raises:
        AuthenticationFailed: the listener's certificate is not one that we trust for this name.
        ChannelBroken: no connection or no TLS handshake within ``seconds``.
        ConfigurationError: that is not a host and a port, or ``tls`` names unusable files.
    """
    address = TcpAddress(host, port, tls=True)
    context = tls.make_context()
    with connecting_to(address, seconds):
        plain = await _connect(host, port)
        try:
            # https_compatible: see TlsListener.secure.
            secure = trio.SSLStream(
                plain, context, server_hostname=tls.server_name or host, https_compatible=True
            )
            await secure.do_handshake()
        except trio.BrokenResourceError as exc:
            plain.close()
            raise _handshake_error(address, exc) from exc
        except BaseException:
            plain.close()
            raise
        return secure


async def _connect(host: str, port: int) -> SocketStream:
    found = await trio.open_tcp_stream(host, port)
    # Trio's wrapper has no other way to hand over its socket.
    sock = socket.socket(fileno=found.socket.detach())
    # Undo Trio's 16 KiB: it makes a round trip of 1 MiB on loopback 45 % slower.
    with suppress(OSError):  # not every system has it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    return SocketStream(sock)


def _handshake_error(address: TcpAddress, error: trio.BrokenResourceError) -> SpearError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        # Here we are the side that refuses, so our caller may know why.
        return AuthenticationFailed(f"{address} is not who it should be: {cause.verify_message}")
    return ChannelBroken(f"no TLS handshake with {address}: {cause or error}")


@final
@attrs.frozen(kw_only=True, repr=False)
class TcpTransport(Transport):
    """TCP, with TLS if there is a certificate.

    Attributes:
        host: the name or the address to listen on. Without ``tls`` it must be on the loopback interface.
        port: 0 for any free port, or a range of ports. A single port has room for one instance.
        tls: our certificate; all connections then speak TLS.
        advertised_host: the name or the address at which instances reach ``host``, if it is another one,
            such as the name of a service.
    """

    host: str = "127.0.0.1"
    port: int | range = 0
    tls: TlsServer | None = None
    advertised_host: str | None = None

    name = "tcp"
    schemes = ("tcp", "tls")

    def __attrs_post_init__(self) -> None:
        _check_ports(self.host, self.port)
        if self.advertised_host is not None:
            _check_ports(self.advertised_host, 0)

    def parse(self, address: str) -> TcpAddress:
        """The address that ``tcp:host:port`` or ``tls:host:port`` names. Raises ConfigurationError."""
        return parse_tcp_address(address)

    def listen(self, options: ListenOptions) -> Opening[SocketListener | TlsListener]:
        """Listen for as long as the block runs; see :func:`open_tcp_listener`."""
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> SocketListener | TlsListener:
        host, port = self.host, self.port
        if options.address is not None:
            address = _own(options.address)
            # Neither guess is safe: plain text where TLS was configured, or TLS without a certificate.
            if address.tls and self.tls is None:
                raise ConfigurationError(
                    f"{address} needs a certificate: give TcpTransport(tls=TlsServer(...))"
                )
            if self.tls is not None and not address.tls:
                raise ConfigurationError(
                    f"{address} does not speak TLS: leave tls out, or write tls:..."
                )
            host, port = address.host, address.port
        if self.tls is None:
            return await open_tcp_listener(host, port, advertised_host=self.advertised_host)
        return await open_tcp_listener(
            host, port, tls=self.tls, advertised_host=self.advertised_host
        )

    def connect(
        self, address: Address, options: ConnectOptions
    ) -> Opening[SocketStream] | Opening[TlsStream]:
        """A connection for as long as the block runs; see :func:`connect_tcp`, :func:`connect_tls`."""
        own, seconds = _own(address), options.seconds
        if own.tls:
            tls = options.tls or TlsClient()
            return Opening(partial(connect_tls, own.host, own.port, tls, seconds=seconds))
        if options.tls is not None:
            raise ConfigurationError(
                f"{address} does not speak TLS: leave tls out, or write tls:..."
            )
        return Opening(partial(connect_tcp, own.host, own.port, seconds=seconds))


def _own(address: Address) -> TcpAddress:
    if not isinstance(address, TcpAddress):
        raise ConfigurationError(f"{address} is no address of TCP: write tcp:host:port")
    return address
