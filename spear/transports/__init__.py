"""Transports (Unix sockets, TCP with and without TLS, memory, third-party ones), and the accept loop.

This package moves bytes and does not interpret them. Every function's process imports the package, but
uses one transport only. Names are therefore loaded on first use, and modules of the package import at
their top only modules that Trio has already imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._lazy import lazily

if TYPE_CHECKING:
    from ._abc import ByteStream as ByteStream
    from ._abc import Listener as Listener
    from ._accept import Acceptor as Acceptor
    from ._accept import AcceptorStatistics as AcceptorStatistics
    from ._accept import Handler as Handler
    from ._accept import IncomingConnection as IncomingConnection
    from ._accept import PeerCheck as PeerCheck
    from ._accept import process_or_its_session as process_or_its_session
    from ._addresses import Address as Address
    from ._addresses import MemoryAddress as MemoryAddress
    from ._addresses import Reach as Reach
    from ._addresses import TcpAddress as TcpAddress
    from ._addresses import UnixAddress as UnixAddress
    from ._credentials import PeerCredentials as PeerCredentials
    from ._memory import MemoryListener as MemoryListener
    from ._memory import MemoryStream as MemoryStream
    from ._memory import MemoryTransport as MemoryTransport
    from ._memory import connect_memory as connect_memory
    from ._memory import memory_stream_pair as memory_stream_pair
    from ._memory import open_memory_listener as open_memory_listener
    from ._private_directory import check_private_directory as check_private_directory
    from ._private_directory import make_private_directory as make_private_directory
    from ._reasons import Reason as Reason
    from ._registry import TransportRegistry as TransportRegistry
    from ._registry import connect as connect
    from ._registry import parse_address as parse_address
    from ._socket_stream import SocketListener as SocketListener
    from ._socket_stream import SocketStream as SocketStream
    from ._tcp import TcpTransport as TcpTransport
    from ._tcp import TlsListener as TlsListener
    from ._tcp import connect_tcp as connect_tcp
    from ._tcp import connect_tls as connect_tls
    from ._tcp import open_tcp_listener as open_tcp_listener
    from ._tls import TlsClient as TlsClient
    from ._tls import TlsServer as TlsServer
    from ._tls import TlsStream as TlsStream
    from ._tls import looks_like_tls as looks_like_tls
    from ._transport import ConnectOptions as ConnectOptions
    from ._transport import GetDirectory as GetDirectory
    from ._transport import ListenOptions as ListenOptions
    from ._transport import Opening as Opening
    from ._transport import Transport as Transport
    from ._unix import UnixTransport as UnixTransport
    from ._unix import connect_unix as connect_unix
    from ._unix import open_unix_listener as open_unix_listener

_HOMES = {
    "Acceptor": "._accept",
    "AcceptorStatistics": "._accept",
    "Address": "._addresses",
    "ByteStream": "._abc",
    "ConnectOptions": "._transport",
    "GetDirectory": "._transport",
    "Handler": "._accept",
    "IncomingConnection": "._accept",
    "ListenOptions": "._transport",
    "Listener": "._abc",
    "MemoryAddress": "._addresses",
    "MemoryListener": "._memory",
    "MemoryStream": "._memory",
    "MemoryTransport": "._memory",
    "Opening": "._transport",
    "PeerCheck": "._accept",
    "PeerCredentials": "._credentials",
    "Reach": "._addresses",
    "Reason": "._reasons",
    "SocketListener": "._socket_stream",
    "SocketStream": "._socket_stream",
    "TcpAddress": "._addresses",
    "TcpTransport": "._tcp",
    "TlsClient": "._tls",
    "TlsListener": "._tcp",
    "TlsServer": "._tls",
    "TlsStream": "._tls",
    "Transport": "._transport",
    "TransportRegistry": "._registry",
    "UnixAddress": "._addresses",
    "UnixTransport": "._unix",
    "check_private_directory": "._private_directory",
    "connect": "._registry",
    "connect_memory": "._memory",
    "connect_tcp": "._tcp",
    "connect_tls": "._tcp",
    "connect_unix": "._unix",
    "looks_like_tls": "._tls",
    "make_private_directory": "._private_directory",
    "memory_stream_pair": "._memory",
    "open_memory_listener": "._memory",
    "open_tcp_listener": "._tcp",
    "open_unix_listener": "._unix",
    "parse_address": "._registry",
    "process_or_its_session": "._accept",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = lazily(__name__, _HOMES)
