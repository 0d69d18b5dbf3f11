"""TCP, plain on the loopback interface and with TLS everywhere else."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, final, overload

import trio

from spear._errors import (
    AuthenticationFailed,
    CannotListen,
    ChannelBroken,
    ConfigurationError,
    SpearError,
)
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits

from ._abc import ByteStream, Listener, Refused
from ._addresses import TcpAddress
from ._connecting import connecting_to
from ._reasons import Reason
from ._socket_stream import LISTEN_BACKLOG, SocketListener, SocketStream
from ._tls import HANDSHAKE_RECORD, TlsClient, TlsServer, TlsStream

if TYPE_CHECKING:
    from collections.abc import Sequence

_Candidate: TypeAlias = tuple[socket.AddressFamily, str]


@final
class TlsListener(Listener):
    """Accepts from another listener, and makes each connection secure."""

    __slots__ = ("_address", "_context", "_plain")

    def __init__(self, plain: SocketListener, address: TcpAddress, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._address = address
        self._context = context

    @property
    def address(self) -> TcpAddress:
        """Where to connect, with the port that was really bound."""
        return self._address

    async def accept(self) -> SocketStream:
        """The next connection, not yet secure. See :meth:`Listener.accept`."""
        return await self._plain.accept()

    async def secure(self, stream: ByteStream) -> TlsStream:
        """The connection after its TLS handshake. If cancelled, it is unusable.

        Raises:
            Refused: the peer does not speak TLS, or failed the handshake.
        """
        assert isinstance(stream, SocketStream)  # as accept() returned it
        await trio.lowlevel.wait_readable(stream.socket)
        # A look at the first byte costs one system call, spares OpenSSL's 30 KiB for whoever does
        # not speak TLS at all, and tells a wrong configuration from a wrong certificate.
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
    host: str = ..., port: int | range = ..., *, tls: None = None, allow_plaintext: bool = ...
) -> SocketListener: ...
@overload
async def open_tcp_listener(
    host: str = ..., port: int | range = ..., *, tls: TlsServer
) -> TlsListener: ...
async def open_tcp_listener(
    host: str = "127.0.0.1",
    port: int | range = 0,
    *,
    tls: TlsServer | None = None,
    allow_plaintext: bool = False,
) -> SocketListener | TlsListener:
    """A listener on one address of ``host``.

    If cancelled, nothing stays open.

    Args:
        host: a name or an address; without ``tls`` it must be on the loopback interface.
        port: 0 for any free one, or a range to take the first free one of.
        tls: our certificate; connections then speak TLS.
        allow_plaintext: listen beyond the loopback interface without it: whoever says so knows why.

    Raises:
        ConfigurationError: the address is taken, not ours, or would expose plain text.
    """
    if isinstance(port, range):
        if not port:
            raise ConfigurationError(f"the range of ports for {host!r} is empty")
        TcpAddress(host, min(port))
        address, ports = TcpAddress(host, max(port)), port
    else:
        address = TcpAddress(host, port)
        ports = range(port, port + 1)
    context = None if tls is None else tls.make_context()
    candidates = await _resolve(address)
    if context is None and not allow_plaintext:
        _check_loopback(address, candidates)
    sock = _bind(address, ports, candidates)
    bound_port: int = sock.getsockname()[1]
    plain = SocketListener(sock, TcpAddress(host, bound_port))
    if context is None:
        return plain
    return TlsListener(plain, TcpAddress(host, bound_port, tls=True), context)


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
    host: str, port: int, *, limits: WireLimits = DEFAULT_WIRE_LIMITS
) -> SocketStream:
    """A plain connection to ``host``, by whichever of its addresses answers first.

    If cancelled, nothing stays open.

    Raises:
        ChannelBroken: nobody answered within ``limits.connect_seconds``, or nobody listens there.
        ConfigurationError: that is not a host and a port.
    """
    address = TcpAddress(host, port)
    with connecting_to(address, limits):
        return await _connect(host, port)


async def connect_tls(
    host: str, port: int, tls: TlsClient, *, limits: WireLimits = DEFAULT_WIRE_LIMITS
) -> TlsStream:
    """A connection to ``host`` after its TLS handshake; the listener has proved who it is.

    With TLS 1.3 the listener judges our own certificate only after that. If it refuses, the stream
    ends without a word; the reason is in the listener's log.

    If cancelled, nothing stays open.

    Raises:
        AuthenticationFailed: the listener's certificate is not one that we trust for this name.
        ChannelBroken: no connection or no TLS handshake within ``limits.connect_seconds``.
        ConfigurationError: that is not a host and a port, or ``tls`` names unusable files.
    """
    address = TcpAddress(host, port, tls=True)
    context = tls.make_context()
    with connecting_to(address, limits):
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
