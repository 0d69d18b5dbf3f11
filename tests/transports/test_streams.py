"""R7: the streams of all transports keep Trio's stream contract, and Spear's additions to it."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear.transports import (
    Acceptor,
    ByteStream,
    MemoryAddress,
    MemoryStream,
    PeerCredentials,
    SocketStream,
    TcpAddress,
    connect_memory,
    connect_tcp,
    connect_tls,
    connect_unix,
    memory_stream_pair,
    open_tcp_listener,
    open_unix_listener,
)

from .helpers import echo, receive_exactly

if TYPE_CHECKING:
    from spear.transports import Listener

    from .helpers import Carrier

Pair = tuple[SocketStream, SocketStream]


async def socket_pair(transport: Carrier) -> Pair:
    one, other = await transport.pair()
    assert isinstance(one, SocketStream)
    assert isinstance(other, SocketStream)
    return one, other


async def clogged_pair(transport: Carrier) -> Pair:
    one, other = await socket_pair(transport)
    for end in one, other:
        with suppress(BlockingIOError):
            while True:
                end.socket.send(bytes(1 << 16))
    return one, other


async def test_r7_unix_streams_keep_the_contract(unix: Carrier) -> None:
    await trio.testing.check_half_closeable_stream(
        lambda: socket_pair(unix), lambda: clogged_pair(unix)
    )


async def test_r7_tcp_streams_keep_the_contract(tcp: Carrier) -> None:
    # The kernel moves bytes between the buffers of two TCP sockets at any time, so a TCP stream is never
    # clogged for certain. Unix sockets use the same class.
    await trio.testing.check_half_closeable_stream(lambda: socket_pair(tcp), None)


async def test_r7_tls_streams_keep_the_contract(tls: Carrier) -> None:
    await trio.testing.check_two_way_stream(tls.pair, None)


async def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    return memory_stream_pair()


async def clogged_memory_pair() -> tuple[MemoryStream, MemoryStream]:
    one, other = memory_stream_pair()
    for end in one, other:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end.send_all, bytes(1 << 20))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    return one, other


async def test_r7_memory_streams_keep_the_contract() -> None:
    await trio.testing.check_half_closeable_stream(memory_pair, clogged_memory_pair)


async def test_r7_memory_connections_keep_the_contract(memory: Carrier) -> None:
    await trio.testing.check_two_way_stream(memory.pair, None)


async def test_a_closed_stream_says_so_whatever_is_asked_of_it(memory: Carrier) -> None:
    one, other = await memory.pair()
    assert isinstance(one, MemoryStream)
    await one.aclose()
    await other.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await one.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await one.receive_some()


async def test_memory_streams_hold_no_more_than_64_kib() -> None:
    one, other = memory_stream_pair()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send_all, bytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert len(await other.receive_some(1 << 20)) == 64 * 1024


async def test_a_cancelled_receive_loses_nothing(transport: Carrier) -> None:
    one, other = await transport.pair()
    async with one, other:
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_some(1)
        await one.send_all(b"kept")
        assert await receive_exactly(other, 4) == b"kept"


async def test_the_plain_socket_can_be_used_beside_the_stream(unix: Carrier) -> None:
    one, other = await socket_pair(unix)
    async with one, other:
        assert one.socket.send(b"direct") == 6
        assert await other.receive_some() == b"direct"
        with pytest.raises(BlockingIOError):
            other.socket.recv(1)


def option(sock: socket.socket, level: int, name: int) -> int | None:
    """Return the value of a socket option, or None if this system does not have it."""
    with suppress(OSError):
        return sock.getsockopt(level, name)
    return None


async def test_socket_options(unix: Carrier, tcp: Carrier) -> None:
    """The expected values are those of another socket, because systems may change what was set."""
    size = socket.SOL_SOCKET, socket.SO_SNDBUF
    for each in await socket_pair(unix):
        async with each:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.setsockopt(*size, 1 << 20)
                assert option(each.socket, *size) == option(asked, *size)
            assert not each.socket.get_inheritable()
    for each in await socket_pair(tcp):
        async with each:
            with socket.socket(socket.AF_INET) as asked:
                asked.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for name in socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT:
                    found = option(each.socket, socket.IPPROTO_TCP, name)
                    assert found == option(asked, socket.IPPROTO_TCP, name)
            assert not each.socket.get_inheritable()


async def test_a_system_without_our_socket_options_will_do(
    unix: Carrier, tcp: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: set[int] = set()
    set_option = socket.socket.setsockopt

    def refuse(sock: socket.socket, level: int, name: int, value: int) -> None:
        if name == socket.SO_REUSEADDR and level == socket.SOL_SOCKET:
            set_option(sock, level, name, value)
        else:
            refused.add(name)
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    for transport in unix, tcp:
        one, other = await socket_pair(transport)
        async with one, other:
            await one.send_all(b"hello")
            assert await receive_exactly(other, 5) == b"hello"
    assert refused >= {socket.SO_SNDBUF, socket.TCP_NODELAY, socket.TCP_NOTSENT_LOWAT}


async def test_peers_are_described(unix: Carrier, tcp: Carrier, memory: Carrier) -> None:
    for each in await socket_pair(unix):
        async with each:
            assert each.peer_credentials() == PeerCredentials(
                os.getpid(), os.geteuid(), os.getegid()
            )
            assert each.describe_peer() == f"pid {os.getpid()} of uid {os.geteuid()}"
    one, other = await socket_pair(tcp)
    async with one, other:
        assert one.peer_credentials() is None
        assert one.describe_peer() == f"127.0.0.1 port {other.socket.getsockname()[1]}"
    assert one.describe_peer() == "a closed connection"
    for stream in await memory.pair():
        assert isinstance(stream, MemoryStream)
        assert stream.peer_credentials() is None
        assert stream.describe_peer() == "this process"
        stream.close()


async def test_a_reset_connection_is_broken(tcp: Carrier) -> None:
    one, other = await socket_pair(tcp)
    async with one, other:
        await one.send_all(b"never read")
        await other.receive_some(1)
        other.close()  # unread data makes this a reset
        with pytest.raises(trio.BrokenResourceError, match="Connection reset") as caught:
            await one.receive_some()
        assert isinstance(caught.value.__cause__, OSError)


async def test_r6_streams_and_listeners_checkpoint(transport: Carrier) -> None:
    with trio.testing.assert_checkpoints():
        listener = await transport.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_accept_with_checkpoint, listener)
        with trio.testing.assert_checkpoints():
            stream = await transport.connect(listener)
    with trio.testing.assert_no_checkpoints():
        str(listener.bound)
        repr(stream)
    for resource in stream, listener:
        with trio.testing.assert_checkpoints():
            await resource.aclose()


async def test_r6_streams_checkpoint(plain: Carrier) -> None:
    one, other = await plain.pair()
    assert isinstance(one, ByteStream)
    with trio.testing.assert_checkpoints():
        await one.wait_send_all_might_not_block()
    with trio.testing.assert_checkpoints():
        await one.send_all(b"data")
    with trio.testing.assert_checkpoints():
        await other.receive_some()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await one.send_eof()
        with trio.testing.assert_checkpoints():
            assert await other.receive_some() == b""
    with trio.testing.assert_no_checkpoints():
        one.describe_peer()
        one.peer_credentials()
        one.close()
    for each in one, other:
        with trio.testing.assert_checkpoints():
            await each.aclose()


async def test_r6_connecting_checkpoints(
    private_directory: str, tls: Carrier, memory: Carrier
) -> None:
    path = f"{private_directory}/socket"
    async with open_unix_listener(path), await memory.listen() as listener:
        with trio.testing.assert_checkpoints():
            (await connect_unix(path)).close()
        assert isinstance(listener.bound, MemoryAddress)
        with trio.testing.assert_checkpoints():
            (await connect_memory(listener.bound.name)).close()
    with trio.testing.assert_checkpoints():
        plain = await open_tcp_listener()
    async with plain:
        assert isinstance(plain.bound, TcpAddress)
        with trio.testing.assert_checkpoints():
            (await connect_tcp(plain.bound.host, plain.bound.port)).close()
    async with await tls.listen() as secure, trio.open_nursery() as nursery:
        nursery.start_soon(_accept_with_checkpoint, secure)
        assert isinstance(secure.bound, TcpAddress)
        assert tls.tls_client is not None
        with trio.testing.assert_checkpoints():
            stream = await connect_tls(secure.bound.host, secure.bound.port, tls.tls_client)
        await trio.aclose_forcefully(stream)
    plain.close()
    with trio.testing.assert_checkpoints():  # even if the listener is closed already
        await Acceptor().serve(plain, echo)


async def _accept_with_checkpoint(listener: Listener) -> None:
    with trio.testing.assert_checkpoints():
        raw = await listener.accept()
    await listener.secure(raw)
    raw.close()
