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

_ResolvedAddress: TypeAlias = tuple[socket.AddressFamily, str]


@final
class TlsListener(Listener):
    """A listener that accepts from another listener, and does a TLS handshake on each connection."""

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
        """The address on which this listener listens, with the port that was actually bound."""
        return self._bound

    @property
    def advertised(self) -> TcpAddress:
        """The address at which instances reach this listener."""
        return self._advertised

    @property
    def trust(self) -> TlsClient | None:
        """TLS settings for instances to verify this listener; None for their system's."""
        return self._trust

    async def accept(self) -> ByteStream:
        """Return the next connection, before its TLS handshake. See :meth:`Listener.accept`."""
        return await self._plain.accept()

    async def secure(self, stream: ByteStream) -> TlsStream:
        """Do the TLS handshake, and return the stream. A cancelled connection is unusable.

        Raises:
            Refused: the peer does not speak TLS, or failed the handshake.
        """
        assert isinstance(stream, SocketStream)  # returned by accept()
        await trio.lowlevel.wait_readable(stream.socket)
        # Reading the first byte costs one system call. It saves OpenSSL's 30 KiB for a peer that does
        # not speak TLS, and distinguishes a wrong configuration from a wrong certificate.
        try:
            first = stream.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            raise Refused(Reason.LEFT) from None
        if not first:
            raise Refused(Reason.LEFT)
        if first[0] != HANDSHAKE_RECORD:
            raise Refused(Reason.PLAINTEXT_ON_TLS)
        # https_compatible: no close_notify. Spear's protocol has its own end, so a truncated stream
        # is detected without it, and closing never has to wait for a peer that does not read.
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as exc:
            # Trio does not send the alert of OpenSSL, so only the log of this process has the reason.
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
    """Open a listener on one address of ``host``.

    Cancellation leaves no socket open.

    Args:
        host: a name or an address; without ``tls`` it must be on the loopback interface.
        port: a port, 0 for any free port, or a range, of which the first free port is taken.
        tls: the certificate of the listener; connections then use TLS.
        allow_plaintext: whether to listen beyond the loopback interface without TLS.
        advertised_host: the name or address at which clients reach ``host``, if it is different.

    Raises:
        ConfigurationError: the address is taken, not of this machine, or would expose plain text.
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
    """Return the ports to try. Raises ConfigurationError for an invalid host or port."""
    if not isinstance(port, range):
        TcpAddress(host, port)
        return range(port, port + 1)
    if not port:
        raise ConfigurationError(f"the range of ports for {host!r} is empty")
    TcpAddress(host, min(port))
    TcpAddress(host, max(port))
    return port


async def _resolve(address: TcpAddress) -> list[_ResolvedAddress]:
    try:
        found = await trio.socket.getaddrinfo(
            address.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise CannotListen("tcp", f"cannot listen on {address.host!r}: {exc}") from exc
    return [(family, str(where[0])) for family, _, _, _, where in found]


def _check_loopback(address: TcpAddress, candidates: Sequence[_ResolvedAddress]) -> None:
    for _, ip in candidates:
        if not (ip.startswith("127.") or ip == "::1"):
            raise ConfigurationError(
                f"{address.host!r} can be reached from other machines: listen on 127.0.0.1, "
                f"or pass a certificate (tls=TlsServer(...))"
            )


def _bind(
    address: TcpAddress, ports: Sequence[int], candidates: Sequence[_ResolvedAddress]
) -> socket.socket:
    for port in ports:
        for family, ip in candidates:
            try:
                # create_server sets SO_REUSEADDR: a port whose last connections are in TIME_WAIT is
                # free. "::" accepts IPv4 as well.
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
        # Without the error's own text, which repeats the address.
        f"cannot listen on {address.host!r}, {_describe(ports)}: {os.strerror(error.errno or 0)}",
    ) from error


def _describe(ports: Sequence[int]) -> str:
    return f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"


async def connect_tcp(
    host: str, port: int, *, seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
) -> SocketStream:
    """Open a plain connection to the address of ``host`` that answers first.

    Cancellation leaves no socket open.

    Raises:
        ChannelBroken: no host answered within ``seconds``, or no program listens there.
        ConfigurationError: the host or the port is invalid.
    """
    address = TcpAddress(host, port)
    with connecting_to(address, seconds):
        return await _connect(host, port)


async def connect_tls(
    host: str, port: int, tls: TlsClient, *, seconds: float = DEFAULT_WIRE_LIMITS.connect_seconds
) -> TlsStream:
    """Open a connection to ``host`` with a TLS handshake that verifies the listener's identity.

    With TLS 1.3, the listener verifies the client certificate only after this handshake. If the listener
    refuses the certificate, the stream ends without an error; the reason is in the listener's log.

    Cancellation leaves no socket open.

    Raises:
        AuthenticationFailed: the listener's certificate is not trusted for this name.
        ChannelBroken: no connection or no TLS handshake within ``seconds``.
        ConfigurationError: the host or the port is invalid, or ``tls`` names unusable files.
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
    # Trio's wrapper offers no other way to get its socket.
    sock = socket.socket(fileno=found.socket.detach())
    # Undo Trio's limit of 16 KiB, which makes a round trip of 1 MiB on loopback 45 % slower.
    with suppress(OSError):  # some systems lack the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    return SocketStream(sock)


def _handshake_error(address: TcpAddress, error: trio.BrokenResourceError) -> SpearError:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        # The client refuses, so the reason can be passed to the caller.
        return AuthenticationFailed(
            f"the certificate of {address} is not trusted: {cause.verify_message}"
        )
    return ChannelBroken(f"the TLS handshake with {address} failed: {cause or error}")


@final
@attrs.frozen(kw_only=True, repr=False)
class TcpTransport(Transport):
    """A transport over TCP, with TLS if a certificate is given.

    Attributes:
        host: the name or the address to listen on. Without ``tls`` it must be on the loopback interface.
        port: 0 for any free port, or a range of ports. A single port suffices for one instance only.
        tls: the certificate of the host; all connections then use TLS.
        advertised_host: the name or the address at which instances reach ``host``, if it is different,
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
        """Parse ``tcp:host:port`` or ``tls:host:port``. Raises ConfigurationError."""
        return parse_tcp_address(address)

    def listen(self, options: ListenOptions) -> Opening[SocketListener | TlsListener]:
        """Listen while the block runs; see :func:`open_tcp_listener`."""
        return Opening(self._listen, options)

    async def _listen(self, options: ListenOptions) -> SocketListener | TlsListener:
        host, port = self.host, self.port
        if options.address is not None:
            address = _own(options.address)
            # No guess is safe: neither plain text in spite of a certificate, nor TLS without one.
            if address.tls and self.tls is None:
                raise ConfigurationError(
                    f"{address} requires a certificate: pass TcpTransport(tls=TlsServer(...))"
                )
            if self.tls is not None and not address.tls:
                raise ConfigurationError(
                    f"{address} is an address without TLS: remove tls, or use tls:..."
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
        """Keep a connection open while the block runs; see :func:`connect_tcp`, :func:`connect_tls`."""
        own, seconds = _own(address), options.seconds
        if own.tls:
            tls = options.tls or TlsClient()
            return Opening(partial(connect_tls, own.host, own.port, tls, seconds=seconds))
        if options.tls is not None:
            raise ConfigurationError(
                f"{address} is an address without TLS: remove tls, or use tls:..."
            )
        return Opening(partial(connect_tcp, own.host, own.port, seconds=seconds))


def _own(address: Address) -> TcpAddress:
    if not isinstance(address, TcpAddress):
        raise ConfigurationError(f"{address} is not a TCP address: use tcp:host:port")
    return address
