"""Byte streams and listeners: Unix sockets, TCP, TLS, memory; and the loop that accepts.

Everything here moves bytes and knows nothing of what they mean. Every function process imports it,
so at the top level of its modules it imports nothing that Trio has not imported already.
"""

from __future__ import annotations

from ._abc import ByteStream as ByteStream
from ._abc import Listener as Listener
from ._abc import PeerCredentials as PeerCredentials
from ._accept import Acceptor as Acceptor
from ._accept import AcceptorStatistics as AcceptorStatistics
from ._accept import Handler as Handler
from ._accept import IncomingConnection as IncomingConnection
from ._accept import PeerCheck as PeerCheck
from ._accept import process_or_its_session as process_or_its_session
from ._addresses import Address as Address
from ._addresses import MemoryAddress as MemoryAddress
from ._addresses import TcpAddress as TcpAddress
from ._addresses import UnixAddress as UnixAddress
from ._addresses import parse_address as parse_address
from ._memory import MemoryListener as MemoryListener
from ._memory import MemoryStream as MemoryStream
from ._memory import connect_memory as connect_memory
from ._memory import memory_stream_pair as memory_stream_pair
from ._memory import open_memory_listener as open_memory_listener
from ._open import connect as connect
from ._open import open_listener as open_listener
from ._private_directory import check_private_directory as check_private_directory
from ._private_directory import make_private_directory as make_private_directory
from ._reasons import Reason as Reason
from ._socket_stream import SocketListener as SocketListener
from ._socket_stream import SocketStream as SocketStream
from ._tcp import TlsListener as TlsListener
from ._tcp import connect_tcp as connect_tcp
from ._tcp import connect_tls as connect_tls
from ._tcp import open_tcp_listener as open_tcp_listener
from ._tls import TlsClient as TlsClient
from ._tls import TlsServer as TlsServer
from ._tls import TlsStream as TlsStream
from ._tls import looks_like_tls as looks_like_tls
from ._unix import connect_unix as connect_unix
from ._unix import open_unix_listener as open_unix_listener
