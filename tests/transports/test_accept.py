"""The accept loop: admission, timeouts, and isolation of connections from each other."""

from __future__ import annotations

import errno
import logging
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import AuthenticationFailed, ChannelBroken, HostLimits, RemoteProtocolError, WireLimits
from spear._limits import MIB
from spear.transports import (
    Acceptor,
    AcceptorStatistics,
    Address,
    ByteStream,
    Listener,
    MemoryAddress,
    PeerCredentials,
    Reason,
    SocketListener,
    SocketStream,
    TcpAddress,
    UnixAddress,
    connect_memory,
    connect_tcp,
    make_private_directory,
    memory_stream_pair,
    open_memory_listener,
    open_unix_listener,
    process_or_its_session,
)

from .helpers import PASSWORD, echo, expect_end, receive_exactly, say, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spear.transports import IncomingConnection

    from .helpers import Carrier

NOBODY = 65534


async def log_in(stream: trio.abc.Stream) -> None:
    await stream.send_all(PASSWORD)
    await say(stream, b"hello")


async def settled(acceptor: Acceptor) -> AcceptorStatistics:
    """Return the statistics after all tasks are blocked."""
    await trio.testing.wait_all_tasks_blocked()
    return acceptor.statistics()


# -- the end of a listener ------------------------------------------------------------------------


async def test_a_listener_that_is_closed_as_a_connection_comes_is_not_broken() -> None:
    """The accepting task and the closing one are woken in any order."""

    async def close(listener: Listener, sock: socket.socket) -> None:
        await trio.lowlevel.wait_readable(sock)
        listener.close()

    with make_private_directory("/tmp") as directory:
        for number in range(30):
            path = f"{directory}/{number}"
            listener = open_unix_listener(path)
            ours, theirs = socket.socketpair()
            with ours, theirs, socket.socket(socket.AF_UNIX) as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(Acceptor().serve, listener, echo)
                    nursery.start_soon(close, listener, ours)
                    await trio.testing.wait_all_tasks_blocked()
                    client.connect(path)
                    theirs.send(b"x")
                    client.close()
                assert ours.recv(1) == b"x"


class FaultyStream(ByteStream):
    """A stream in memory, one method of which raises."""

    def __init__(self, inner: ByteStream, fault: str) -> None:
        self._inner = inner
        self._fault = fault

    def _slip(self, name: str) -> None:
        if name == self._fault:
            raise ValueError("the wire is cut")

    def close(self) -> None:
        self._inner.close()
        self._slip("close")

    def describe_peer(self) -> str:
        self._slip("describe_peer")
        return "somewhere"

    def peer_credentials(self) -> PeerCredentials | None:
        self._slip("peer_credentials")
        return None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)


class BringingFaulty(Listener):
    """A listener whose first connection is faulty."""

    def __init__(self, fault: str) -> None:
        self._inner = open_memory_listener("here")
        self._fault = fault

    @property
    def bound(self) -> Address:
        return self._inner.bound

    async def accept(self) -> ByteStream:
        stream, fault, self._fault = await self._inner.accept(), self._fault, ""
        return FaultyStream(stream, fault)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("fault", ["peer_credentials", "describe_peer", "close"])
async def test_a_bug_of_a_stream_costs_its_own_connection(fault: str) -> None:
    acceptor = Acceptor()
    async with serving(acceptor, BringingFaulty(fault)):
        async with await connect_memory("here") as first:
            if fault == "peer_credentials":
                await expect_end(first)
            else:
                await first.send_all(b"not the password")
                await expect_end(first)
        async with await connect_memory("here") as second:
            await log_in(second)
        statistics = await settled(acceptor)
    assert (statistics.accepted, statistics.open) == (2, 0)
    assert sum(statistics.refused.values()) == 1


@pytest.mark.parametrize("fault", [ValueError("the wire is cut"), ExceptionGroup("x", [OSError()])])
async def test_a_listener_that_raises_whatever_it_likes_is_broken(fault: Exception) -> None:
    class Raising(BringingFaulty):
        async def accept(self) -> ByteStream:
            raise fault

    listener = Raising("")
    with pytest.raises(
        ChannelBroken, match="memory:here can no longer accept connections: "
    ) as caught:
        await Acceptor().serve(listener, echo)
    assert caught.value.__cause__ is fault
    listener.close()


# -- the life of a connection -----------------------------------------------------------------


async def test_connections_are_counted(transport: Carrier) -> None:
    acceptor = Acceptor()
    assert acceptor.statistics() == AcceptorStatistics(
        accepted=0, open=0, unauthenticated=0, refused={}, failed=0, pauses=0
    )
    async with serving(acceptor, await transport.listen()) as listener:
        first = await transport.connect(listener)
        await log_in(first)
        async with await transport.connect(listener) as second:
            await second.send_all(PASSWORD[:1])
            statistics = await settled(acceptor)
            assert (statistics.open, statistics.unauthenticated) == (2, 1)
            await second.send_all(PASSWORD[1:])
            await say(second, b"hello")
            statistics = await settled(acceptor)
            assert (statistics.open, statistics.unauthenticated) == (2, 0)
        await say(first, b"still here")
        await first.aclose()
        assert await settled(acceptor) == AcceptorStatistics(
            accepted=2, open=0, unauthenticated=0, refused={}, failed=0, pauses=0
        )


async def test_serving_ends_with_the_last_connection_after_the_listener_is_closed() -> None:
    acceptor, ended = Acceptor(), trio.Event()
    listener = open_memory_listener("here")

    async def serve() -> None:
        await acceptor.serve(listener, echo)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = await connect_memory("here")
        await log_in(stream)
        listener.close()
        await trio.testing.wait_all_tasks_blocked()
        await say(stream, b"still here")
        assert not ended.is_set()
        await stream.aclose()
        await ended.wait()


async def test_cancelling_closes_every_connection_and_counts_none_as_refused(
    transport: Carrier,
) -> None:
    acceptor = Acceptor()
    async with serving(acceptor, await transport.listen()) as listener:
        first, second = [await transport.connect(listener) for _ in range(2)]
        await log_in(first)
        await trio.testing.wait_all_tasks_blocked()
    for stream in first, second:
        await expect_end(stream)
        await stream.aclose()
    assert (acceptor.statistics().open, acceptor.statistics().refused) == (0, {})


async def test_several_listeners_share_one_acceptor(unix: Carrier, memory: Carrier) -> None:
    acceptor = Acceptor(HostLimits(max_connections=1))
    async with (
        serving(acceptor, await unix.listen()) as one,
        serving(acceptor, await memory.listen()) as other,
        await unix.connect(one) as stream,
    ):
        await log_in(stream)
        async with await memory.connect(other) as too_many:
            await expect_end(too_many)
        assert acceptor.statistics().refused == {Reason.TOO_MANY: 1}


async def test_handlers_know_whom_they_talk_to(unix: Carrier, tcp: Carrier) -> None:
    seen: list[tuple[int, str, str, PeerCredentials | None]] = []

    async def note(connection: IncomingConnection) -> None:
        seen.append((connection.number, connection.peer, repr(connection), connection.credentials))

    acceptor = Acceptor()
    for transport in unix, tcp:
        async with serving(acceptor, await transport.listen(), note) as listener:
            stream = await transport.connect(listener)
            await expect_end(stream)
            assert isinstance(stream, SocketStream)
            ours = stream.socket.getsockname()
            await stream.aclose()
    us = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
    peer = f"pid {us.pid} of uid {us.uid}"
    other = f"127.0.0.1 port {ours[1]}"
    assert seen == [
        (1, peer, f"<connection 1 from {peer}>", us),
        (2, other, f"<connection 2 from {other}>", None),
    ]


# -- refusals and failures --------------------------------------------------------------------


def nested(*exceptions: Exception) -> Exception:
    return ExceptionGroup("outer", [ExceptionGroup("inner", list(exceptions))])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: RemoteProtocolError("what?"), Reason.GARBAGE),
        (lambda: nested(ChannelBroken("gone"), RemoteProtocolError("what?")), Reason.GARBAGE),
        (lambda: AuthenticationFailed("no"), Reason.NOT_AUTHENTICATED),
        (lambda: ChannelBroken("gone"), Reason.LEFT),
        (lambda: nested(trio.BrokenResourceError(), ChannelBroken("gone")), Reason.LEFT),
        (lambda: KeyError("a bug"), Reason.CRASHED),
        (lambda: nested(RemoteProtocolError("what?"), KeyError("a bug")), Reason.CRASHED),
    ],
)
async def test_s5_what_a_handler_raises_ends_one_connection(
    make: Callable[[], Exception], reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(connection: IncomingConnection) -> None:
        if await connection.stream.receive_some(1) == b"p":
            connection.promote()
        raise make()

    caplog.set_level(logging.DEBUG)
    acceptor = Acceptor()
    async with serving(acceptor, open_memory_listener("here"), fail):
        for first_byte in b"x", b"p":
            async with await connect_memory("here") as stream:
                await stream.send_all(first_byte)
                await expect_end(stream)
        assert await settled(acceptor) == AcceptorStatistics(
            accepted=2, open=0, unauthenticated=0, refused={reason: 1}, failed=1, pauses=0
        )
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(crashes) == (2 if reason is Reason.CRASHED else 0)
    logged = [(each.levelname, each.getMessage()) for each in caplog.records]
    if reason is Reason.LEFT:
        assert ("DEBUG", "connection 1 from this process ended before authentication") in logged
    else:
        assert ("INFO", f"refused connection 1 from this process: {reason}") in logged


async def test_a_handler_may_name_its_own_reason() -> None:
    async def judge(connection: IncomingConnection) -> None:
        connection.refuse("bad_secret")
        connection.refuse("second thoughts")
        if await connection.stream.receive_some(1) == b"p":
            connection.promote()
        await connection.stream.send_all(b"no")

    acceptor = Acceptor()
    async with serving(acceptor, open_memory_listener("here"), judge):
        for first_byte in b"x", b"p":
            async with await connect_memory("here") as stream:
                await stream.send_all(first_byte)
                assert await receive_exactly(stream, 2) == b"no"
                await expect_end(stream)
        assert (await settled(acceptor)).refused == {"bad_secret": 2}


async def test_a_handler_that_returns_has_left() -> None:
    async def leave(connection: IncomingConnection) -> None:
        assert not connection.is_authenticated

    acceptor = Acceptor()
    async with serving(acceptor, open_memory_listener("here"), leave):
        async with await connect_memory("here") as stream:
            await expect_end(stream)
        assert (await settled(acceptor)).refused == {Reason.LEFT: 1}


async def test_what_is_no_exception_is_not_caught() -> None:
    async def interrupt(connection: IncomingConnection) -> None:
        raise KeyboardInterrupt

    async def serve_and_connect() -> None:
        async with serving(Acceptor(), open_memory_listener("here"), interrupt):
            await connect_memory("here")
            await trio.sleep_forever()

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await serve_and_connect()


# -- S2: the owner of the connecting process --------------------------------------------------

CLIENT_OF_ANOTHER_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[2])
    try:
        s.sendall(b"x" * 100)
        print(s.recv(1))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
async def test_s2_another_users_process_is_refused_before_a_byte_is_read() -> None:
    async def never(connection: IncomingConnection) -> None:
        raise AssertionError("a handler received the connection")

    acceptor = Acceptor()
    with make_private_directory("/tmp") as directory, socket.socket(socket.AF_UNIX) as sock:
        os.chmod(directory, 0o755)
        path = f"{directory}/socket"
        sock.bind(path)
        os.chmod(path, 0o777)
        sock.listen()
        async with serving(acceptor, SocketListener(sock, UnixAddress(path)), never):
            process = await trio.run_process(
                [sys.executable, "-c", CLIENT_OF_ANOTHER_USER, str(NOBODY), path],
                capture_stdout=True,
            )
    assert process.stdout == b"b''\n"
    assert acceptor.statistics().refused == {Reason.WRONG_USER: 1}


CLIENT_AND_ITS_CHILD = """
import os, socket, subprocess, sys
if len(sys.argv) == 3:
    sys.stdin.read(1)
with socket.socket(socket.AF_UNIX) as s:
    s.connect(sys.argv[1])
    try:
        s.sendall(sys.argv[2].encode())
        answer = s.recv(100)
    except (BrokenPipeError, ConnectionResetError):
        answer = b"out;"
if len(sys.argv) == 3:
    for new_session in False, True:
        answer += subprocess.run(
            [sys.executable, "-c", sys.orig_argv[2], *sys.argv[1:], "child"],
            start_new_session=new_session, capture_output=True, check=True,
        ).stdout
sys.stdout.buffer.write(answer)
"""


async def test_s2_only_the_spawned_process_and_its_session_are_let_in(
    private_directory: str,
) -> None:
    path = f"{private_directory}/socket"
    secret = "s"  # a kind of secret
    acceptor = Acceptor()

    async def greet(connection: IncomingConnection) -> None:
        assert await connection.stream.receive_some(1) == secret.encode()
        connection.promote()
        await connection.stream.send_all(b"in;")

    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", CLIENT_AND_ITS_CHILD, path, secret],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout
    async with open_unix_listener(path) as listener, trio.open_nursery() as nursery:
        allowed = process_or_its_session(process.pid)

        async def serve() -> None:
            await acceptor.serve(listener, greet, allow_peer=allowed)

        nursery.start_soon(serve)
        await process.stdin.send_all(b"!")
        answers = b"".join([part async for part in process.stdout])
        assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    await process.stdin.aclose()
    await process.stdout.aclose()
    assert answers in (b"in;in;", b"in;in;out;")
    assert acceptor.statistics().refused == {Reason.WRONG_PROCESS: 1}


def test_s2_processes_that_cannot_be_seen_are_not_let_in() -> None:
    # Not this process's session: in a container its leader may be outside, and have the number 0, too.
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        allowed = process_or_its_session(process.pid)
        assert allowed(PeerCredentials(process.pid, 0, 0))
        assert not allowed(PeerCredentials(os.getpid(), 0, 0)), "a process of another session"
        assert not allowed(PeerCredentials(0, 0, 0)), "a process outside our pid namespace"
        with subprocess.Popen(["/bin/true"]) as ended:
            pass
        assert not allowed(PeerCredentials(ended.pid, 0, 0)), "a process that has ended"


async def test_s2_a_check_that_fails_lets_nobody_in(
    unix: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(credentials: PeerCredentials) -> bool:
        raise KeyError("a bug")

    acceptor = Acceptor()
    async with await unix.listen() as listener, trio.open_nursery() as nursery:

        async def serve() -> None:
            await acceptor.serve(listener, echo, allow_peer=crash)

        nursery.start_soon(serve)
        async with await unix.connect(listener) as stream:
            await expect_end(stream)
        assert acceptor.statistics().refused == {Reason.CRASHED: 1}
        nursery.cancel_scope.cancel()
    assert f"allow_peer failed for pid {os.getpid()}" in caplog.messages


# -- S4: connections that are not authenticated yet -------------------------------------------


async def test_s4_slow_drip_ends_at_the_deadline(
    autojump_clock: trio.testing.MockClock, transport: Carrier
) -> None:
    acceptor = Acceptor(HostLimits(wire=WireLimits(handshake_seconds=2.0)))
    async with serving(acceptor, await transport.listen()) as listener:
        stream = await transport.connect(listener)
        start = trio.current_time()

        async def drip() -> None:
            for byte in PASSWORD:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.5)

        with pytest.raises(trio.BrokenResourceError):
            await drip()
        # The stream raises at the next byte, or the one after.
        assert 2.0 <= trio.current_time() - start <= 3.0
        await trio.aclose_forcefully(stream)
        assert acceptor.statistics().refused == {Reason.HANDSHAKE_TIMEOUT: 1}


async def test_s4_a_tls_client_that_says_nothing_is_cut_too(
    autojump_clock: trio.testing.MockClock, tls: Carrier
) -> None:
    acceptor = Acceptor()
    async with serving(acceptor, await tls.listen()) as listener:
        assert isinstance(listener.bound, TcpAddress)
        async with await connect_tcp("127.0.0.1", listener.bound.port) as stream:
            await expect_end(stream)
        assert trio.current_time() == pytest.approx(WireLimits().handshake_seconds)
        assert acceptor.statistics().refused == {Reason.HANDSHAKE_TIMEOUT: 1}


async def test_s4_no_deadline_once_authenticated(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        serving(Acceptor(), open_memory_listener("here")),
        await connect_memory("here") as stream,
    ):
        await log_in(stream)
        await trio.sleep(24 * 60 * 60)
        await say(stream, b"still here")


async def test_s4_too_late_is_too_late(autojump_clock: trio.testing.MockClock) -> None:
    promoted: list[bool] = []

    async def dawdle(connection: IncomingConnection) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2.1)
        connection.promote()
        promoted.append(connection.is_authenticated)
        await trio.sleep(math.inf)

    acceptor = Acceptor()
    async with serving(acceptor, open_memory_listener("here"), dawdle):
        async with await connect_memory("here") as stream:
            await expect_end(stream)
        assert promoted == [False]
        assert (await settled(acceptor)).refused == {Reason.HANDSHAKE_TIMEOUT: 1}


async def test_s4_the_oldest_is_cut_for_the_newest() -> None:
    acceptor = Acceptor(HostLimits(max_unauthenticated=3))
    async with serving(acceptor, open_memory_listener("here")):
        known = await connect_memory("here")
        await log_in(known)
        waiting = [await connect_memory("here") for _ in range(3)]
        assert (await settled(acceptor)).unauthenticated == 3
        newest = await connect_memory("here")
        await expect_end(waiting[0])
        await log_in(waiting[1])  # out of order: its slot is free again
        await connect_memory("here")
        statistics = await settled(acceptor)
        assert (statistics.unauthenticated, statistics.open) == (3, 5)
        await connect_memory("here")
        await expect_end(waiting[2])
        await log_in(newest)
        await say(known, b"not me")
        assert (await settled(acceptor)).refused == {Reason.CROWDED_OUT: 2}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_s4_honest_clients_get_in_among_a_thousand_slow_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Their memory is that of 64 connections, not more than 32 MiB."""
    acceptor = Acceptor()
    most = 0
    before = resident_bytes()

    async def drip() -> None:
        stream = await connect_memory("here")
        for byte in PASSWORD:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)

    async def drip_until_cut() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await drip()

    async with serving(acceptor, open_memory_listener("here")):
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(drip_until_cut)
                await trio.sleep(0.001)
                most = max(most, acceptor.statistics().unauthenticated)
                if number % 10 == 0:
                    start = trio.current_time()
                    async with await connect_memory("here") as stream:
                        await log_in(stream)
                    assert trio.current_time() == start
        assert resident_bytes() - before <= 32 * MIB
        statistics = await settled(acceptor)
        assert most == HostLimits().max_unauthenticated
        assert statistics.accepted == 1100
        assert sum(statistics.refused.values()) == 1000
        assert statistics.refused[Reason.CROWDED_OUT] >= 900


# -- S5: garbage ------------------------------------------------------------------------------


async def send_garbage(stream: trio.abc.Stream, seed: random.Random) -> None:
    """Send the bytes of one kind of bad connection, and abandon it."""
    try:
        match seed.randrange(5):
            case 0:
                pass
            case 1:
                await stream.send_all(seed.randbytes(seed.randint(1, 200)))
            case 2:
                await stream.send_all(b"\x16\x03\x01" + seed.randbytes(seed.randint(1, 200)))
            case 3:
                await stream.send_all(PASSWORD[: seed.randint(1, 11)])
            case 4:
                await stream.send_all(seed.randbytes(len(PASSWORD)))
                await expect_end(stream)
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def endure_garbage(
    transport: Carrier,
    connect_badly: Callable[[Listener], Awaitable[trio.abc.Stream]],
    seed: random.Random,
) -> None:
    """Make many bad connections at once, while one honest connection is in use and another one comes."""
    acceptor = Acceptor()
    garbage, at_once = 500, 20
    hellos = 0
    over = False

    async def be_honest(stream: trio.abc.Stream) -> None:
        nonlocal hellos
        while not over:
            await say(stream, b"hello")
            hellos += 1

    async def misbehave(listener: Listener) -> None:
        for _ in range(garbage // at_once):
            await send_garbage(await connect_badly(listener), seed)

    async with serving(acceptor, await transport.listen()) as listener:
        async with await transport.connect(listener) as first, trio.open_nursery() as honest:
            await log_in(first)
            honest.start_soon(be_honest, first)
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(misbehave, listener)
            over = True
        async with await transport.connect(listener) as second:
            await log_in(second)
        statistics = await settled(acceptor)
        assert hellos > garbage // at_once
        assert (statistics.open, statistics.failed) == (0, 0)
        assert statistics.accepted == garbage + 2
        assert sum(statistics.refused.values()) == garbage
        assert statistics.refused.keys() <= {
            Reason.GARBAGE,
            Reason.LEFT,
            Reason.PLAINTEXT_ON_TLS,
            Reason.TLS_FAILED,
        }


@pytest.mark.slow
async def test_s5_garbage_hurts_nobody_else(transport: Carrier, seed: random.Random) -> None:
    async def connect_badly(listener: Listener) -> trio.abc.Stream:
        if isinstance(listener.bound, TcpAddress):
            return await connect_tcp("127.0.0.1", listener.bound.port)
        return await transport.connect(listener)

    await endure_garbage(transport, connect_badly, seed)


@pytest.mark.slow
@pytest.mark.repetitive
async def test_s5_garbage_inside_tls_hurts_nobody_else(tls: Carrier, seed: random.Random) -> None:
    await endure_garbage(tls, tls.connect, seed)


# -- R23: no descriptors left -----------------------------------------------------------------


def test_r23_out_of_descriptors_means_waiting() -> None:
    program = Path(__file__).parent / "exhausted.py"
    subprocess.run([sys.executable, program], check=True)


class Faulty(Listener):
    """A listener whose next accepts raise these errors, and which is then closed."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self._outcomes = list(outcomes)
        self.accepts: list[float] = []

    @property
    def bound(self) -> Address:
        return MemoryAddress("faulty")

    async def accept(self) -> ByteStream:
        await trio.lowlevel.checkpoint()
        self.accepts.append(trio.current_time())
        match self._outcomes.pop(0) if self._outcomes else trio.ClosedResourceError():
            case 0:
                return memory_stream_pair()[0]
            case int(number):
                raise OSError(number, os.strerror(number))
            case Exception() as error:
                raise error

    def close(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_r23_pauses_grow_to_one_second(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    acceptor = Acceptor()
    start = trio.current_time()
    listener = Faulty(*[number] * 9, 0, number)
    await acceptor.serve(listener, echo_nothing)
    pauses = [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0, 10]
    assert [time - start for time in listener.accepts] == pytest.approx(
        [sum(pauses[:count]) / 1000 for count in range(len(pauses) + 1)]
    )
    assert acceptor.statistics().pauses == 10
    assert (
        f"the listener at memory:faulty pauses for 0.01 s: {os.strerror(number)}" in caplog.messages
    )


async def echo_nothing(connection: IncomingConnection) -> None:
    connection.promote()


@pytest.mark.parametrize(
    "error", [trio.BrokenResourceError("out of order"), OSError(errno.EINVAL, "out of order")]
)
async def test_a_listener_that_breaks_leaves_its_connections_alone(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    ended = trio.Event()

    async def linger(connection: IncomingConnection) -> None:
        connection.promote()
        await trio.testing.wait_all_tasks_blocked()
        ended.set()

    with pytest.raises(
        ChannelBroken, match=r"memory:faulty can no longer accept connections: .*order"
    ) as e:
        await Acceptor().serve(Faulty(0, error), linger)
    assert e.value.__cause__ is error
    assert ended.is_set()
    assert str(e.value) in caplog.messages


class MoodySocket(socket.socket):
    """A socket whose accept raises these errors first."""

    def __init__(self, *errors: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self._errors = list(errors)
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> tuple[socket.socket, object]:
        if self._errors:
            number = self._errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


async def test_accept_overlooks_what_went_wrong_with_a_single_connection() -> None:
    sock = MoodySocket(errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN)
    port = sock.getsockname()[1]
    stream = await connect_tcp("127.0.0.1", port)
    async with stream, SocketListener(sock, TcpAddress("127.0.0.1", port)) as listener:
        (await listener.accept()).close()
        assert await stream.receive_some(1) == b""


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMFILE, OSError),
        (errno.EINVAL, trio.BrokenResourceError),
    ],
)
async def test_accept_reports_what_is_wrong_with_the_listener(
    number: int, expected: type[Exception]
) -> None:
    sock = MoodySocket(number)
    port = sock.getsockname()[1]
    async with SocketListener(sock, TcpAddress("127.0.0.1", port)) as listener:
        with socket.create_connection(("127.0.0.1", port)):
            with pytest.raises(expected):
                await listener.accept()
            (await listener.accept()).close()


async def test_closing_a_listener_wakes_accept(transport: Carrier) -> None:
    listener = await transport.listen()

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()
    await listener.aclose()
    await accept()
