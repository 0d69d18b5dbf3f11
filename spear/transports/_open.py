"""Listen at, or connect to, whatever an address names.

Each transport is imported where it is chosen: a function's process needs one of them, and waits for all
that is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from spear._errors import ConfigurationError
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits

from ._addresses import Address, TcpAddress, UnixAddress

if TYPE_CHECKING:
    from ._abc import Listener
    from ._tls import TlsClient, TlsServer


async def open_listener(address: Address, *, tls: TlsServer | None = None) -> Listener:
    """A listener at ``address``; a ``tls:`` address needs ``tls``, no other may have it.

    If cancelled, nothing stays open.

    Raises:
        ConfigurationError: the address is taken, unsafe, or not ours; see
            :func:`open_unix_listener`, :func:`open_tcp_listener`, :func:`open_memory_listener`.
    """
    _check_tls(address, tls)
    match address:
        case TcpAddress():
            from ._tcp import open_tcp_listener

            return await open_tcp_listener(address.host, address.port, tls=tls)
        case UnixAddress():
            from ._unix import open_unix_listener

            await trio.lowlevel.checkpoint()
            return open_unix_listener(address.path)
    from ._memory import open_memory_listener

    await trio.lowlevel.checkpoint()
    return open_memory_listener(address.name)


async def connect(
    address: Address, *, tls: TlsClient | None = None, limits: WireLimits = DEFAULT_WIRE_LIMITS
) -> trio.abc.Stream:
    """A connection to ``address``, ready to speak on.

    If cancelled, nothing stays open.

    Args:
        address: where to.
        tls: for a ``tls:`` address only; by default the system's certificates are trusted.
        limits: ``connect_seconds`` bounds the whole.

    Raises:
        ChannelBroken: nobody listens there, or not in time.
        AuthenticationFailed: TLS only: the listener is not who it should be.
        ConfigurationError: this address and these arguments cannot work.
    """
    if isinstance(address, TcpAddress) and address.tls:
        from ._tcp import connect_tls
        from ._tls import TlsClient

        return await connect_tls(address.host, address.port, tls or TlsClient(), limits=limits)
    _check_tls(address, tls)
    match address:
        case UnixAddress():
            from ._unix import connect_unix

            return await connect_unix(address.path, limits=limits)
        case TcpAddress():
            from ._tcp import connect_tcp

            return await connect_tcp(address.host, address.port, limits=limits)
    from ._memory import connect_memory

    return await connect_memory(address.name, limits=limits)


def _check_tls(address: Address, tls: TlsClient | TlsServer | None) -> None:
    # Neither guess is safe: plain text where TLS was configured, or a server without certificate.
    wants_tls = isinstance(address, TcpAddress) and address.tls
    if wants_tls and tls is None:
        raise ConfigurationError(f"{address} needs a certificate: give tls=TlsServer(...)")
    if tls is not None and not wants_tls:
        raise ConfigurationError(f"{address} does not speak TLS: leave tls out, or write tls:...")
