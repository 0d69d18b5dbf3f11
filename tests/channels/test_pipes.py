"""The pipes by themselves: partial writes, deadlines, closing, one write per scheduler pass."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, final

import pytest
import trio

from spear import ChannelBroken
from spear.channels._memory_pipe import MemoryPipe, memory_pipes
from spear.channels._stream_pipe import WRITE_BYTES
from spear.testing import RawPeer
from spear.wire import Head, HeadValue

from .helpers import park
from .pipes import LIMITS, REQUEST, push, receive, socket_pipes, stream_pipes

if TYPE_CHECKING:
    from trio.testing import MockClock

# -- sockets ----------------------------------------------------------------------------------------


async def test_a_kernel_that_takes_little_at_a_time_loses_nothing() -> None:
    """EAGAIN, partial sends, heads cut in the middle, many buffers in one call."""
    sizes = [0, 1, 5_000, 20_000, 3, 70_000, 9_000] * 20
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        for number, size in enumerate(sizes):
            push(pipe, number, bytes([number % 256]) * size)
        assert pipe.unsent_bytes > sum(sizes) // 2
        frames = await receive(peer, len(sizes))
        assert [frame[2] for frame in frames] == list(range(len(sizes)))
        assert [frame[6] for frame in frames] == [
            bytes([number % 256]) * size for number, size in enumerate(sizes)
        ]
        await pipe.drain()
        assert pipe.unsent_bytes == 0
        assert pipe.bytes_sent == peer.bytes_received > sum(sizes)


async def test_a_large_payload_through_a_small_kernel_buffer() -> None:
    body = bytes(range(256)) * 20_000
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        push(pipe, 1, body)
        push(pipe, 2, b"small")
        frames = await receive(peer, 2)
        assert {frame[2]: frame[6] for frame in frames} == {1: body, 2: b"small"}
        assert frames[0][2] == 2  # not behind the large frame


async def test_frames_of_one_scheduler_pass_are_written_at_once() -> None:
    async with socket_pipes() as (pipe, peer):

        async def sender(number: int) -> None:
            push(pipe, number)

        before = peer.bytes_received
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(sender, number)
        assert peer.bytes_received == before
        frames = await peer.receive()
        assert sorted(frame[2] for frame in frames) == list(range(10))


async def test_many_frames_are_written_before_the_pass_ends() -> None:
    """The peer can begin meanwhile; the rest goes with the next write."""
    async with socket_pipes() as (pipe, _):
        for number in range(15):
            push(pipe, number)
        assert pipe.bytes_sent == 0
        push(pipe, 15)
        assert pipe.bytes_sent > 0
        assert pipe.unsent_bytes == 0


async def test_a_peer_that_reads_nothing_is_cut(autojump_clock: MockClock) -> None:
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        push(pipe, 1, bytes(100_000))
        started = trio.current_time()
        with pytest.raises(ChannelBroken, match="the peer read no data for 5 s"):
            await pipe.receive()
        assert trio.current_time() - started == pytest.approx(5)
        assert pipe.unsent_bytes == 0
        # Later frames are not written any more, and do not change the reason.
        push(pipe, 2)
        pipe.flush()
        with pytest.raises(ChannelBroken, match="read no data"):
            await pipe.receive()
        await pipe.drain()
        with pytest.raises(ChannelBroken):
            await receive(peer, 99)


async def test_a_peer_that_reads_slowly_is_not_cut(autojump_clock: MockClock) -> None:
    """The transfer takes several times the deadline, but never that long without progress."""
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        push(pipe, 1, bytes(50_000))
        pipe.flush()
        started = trio.current_time()
        with trio.fail_after(1000):
            while pipe.unsent_bytes:
                await trio.sleep(4)
                peer._stream.socket.recv(100_000)  # bytes in the kernel's buffer
        assert trio.current_time() - started > 3 * LIMITS.write_seconds
        await pipe.drain()


async def test_a_peer_that_has_left_ends_reading_and_writing() -> None:
    async with socket_pipes() as (pipe, peer):
        push(peer, 1, b"last words")
        peer.flush()
        peer.close()
        peer.close()
        push(pipe, 2)
        pipe.flush()  # EPIPE
        frames = await pipe.receive()
        assert frames[0][6] == b"last words"
        with pytest.raises(ChannelBroken, match=r"connection lost: .*Broken pipe"):
            await pipe.receive()


async def test_a_peer_that_has_left_without_anything_to_say() -> None:
    async with socket_pipes() as (pipe, peer):
        peer.close()
        with pytest.raises(ChannelBroken, match="closed by the peer"):
            await pipe.receive()


async def test_the_writing_task_notices_that_the_peer_has_left() -> None:
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        push(pipe, 1, bytes(100_000))
        pipe.flush()
        await park()
        peer.close()
        with pytest.raises(ChannelBroken):
            await pipe.receive()
        await pipe.drain()


async def test_an_error_does_not_keep_the_payload_it_interrupts() -> None:
    """The error keeps no view either: CPython 3.13 complains when payload and view are collected."""
    async with socket_pipes() as (pipe, peer):
        push(pipe, 1)
        pipe.flush()  # unread bytes at the peer turn its close into a reset
        peer._stream.socket.send(RawPeer.encode(REQUEST, payload=bytes(70_000))[:30_000])
        peer.close()
        with pytest.raises(ChannelBroken) as caught:
            await pipe.receive()
        reset = caught.value.__cause__
        assert isinstance(reset, ConnectionResetError)
        frames = [frame for frame, _ in traceback.walk_tb(reset.__traceback__)]
        assert frames[-1].f_code.co_name == "_read"
        assert frames[-1].f_locals["is_direct"]
        kept = [value for frame in frames for value in frame.f_locals.values()]
        assert not [value for value in kept if isinstance(value, memoryview)]


async def test_everybody_who_drains_is_told() -> None:
    finished: list[int] = []

    async def drain(number: int) -> None:
        await pipe.drain()
        finished.append(number)

    async with socket_pipes(send_buffer_bytes=4608) as (pipe, peer):
        for close in (False, True):
            finished.clear()
            push(pipe, 1, bytes(100_000))
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(drain, number)
                await park()
                assert not finished
                if close:
                    pipe.close()
                else:
                    await receive(peer, 1)
            assert sorted(finished) == [0, 1, 2]


async def test_a_bug_while_writing_ends_one_connection_only() -> None:
    """If a write raised, Trio would remove the instrument that writes for all connections."""
    async with socket_pipes() as (pipe, peer), socket_pipes() as (sound, other):
        pipe.sink._frames.append("text")  # type: ignore[arg-type]  # no frame at all
        push(pipe, 1)
        push(sound, 2)
        with pytest.raises(ChannelBroken, match="connection lost"):
            await pipe.receive()
        with pytest.raises(ChannelBroken):
            await receive(peer, 99)
        push(sound, 3)
        assert len(await receive(other, 2)) == 2


@final
class TaskNames(trio.abc.Instrument):
    """An instrument that records the names of started tasks."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.started.append(task.name)


@pytest.mark.parametrize("closes", [False, True])
async def test_a_pipe_closed_before_its_writer_starts_needs_none(closes: bool) -> None:
    names = TaskNames()
    async with socket_pipes(send_buffer_bytes=4608) as (pipe, _):
        trio.lowlevel.add_instrument(names)
        push(pipe, 1, bytes(100_000))
        pipe.flush()  # a task sends the bytes that the kernel does not take, from the next pass on
        if closes:
            pipe.close()
            pipe.flush()
        await park()
        trio.lowlevel.remove_instrument(names)
        assert names.started.count("spear channel writer") == (not closes)
        assert (pipe.unsent_bytes == 0) is closes


async def test_what_arrives_in_one_read_or_many_is_the_same() -> None:
    """Payloads around the sizes at which the reading strategy changes, next to each other."""
    sizes = [16_000, 17_000, 130_000, 1_100_000, 10, 5_000_000, 1_500_000]
    async with socket_pipes() as (pipe, peer):
        for number, size in enumerate(sizes):
            push(pipe, number, bytes([number]) * size)
        frames = await receive(peer, len(sizes))
        assert {frame[2]: len(frame[6]) for frame in frames} == dict(enumerate(sizes))
        assert all(set(bytes(frame[6])) == {frame[2]} for frame in frames)


# -- streams ----------------------------------------------------------------------------------------


async def test_a_stream_carries_frames_both_ways() -> None:
    async with stream_pipes() as (pipe, peer):
        sizes = [0, 1, 70_000, 5_000, 2_500_000]
        for number, size in enumerate(sizes):
            push(pipe, number, bytes(size))
        push(peer, 7, b"back")
        assert (await receive(pipe, 1))[0][6] == b"back"
        frames = await receive(peer, len(sizes))
        assert {frame[2]: len(frame[6]) for frame in frames} == dict(enumerate(sizes))
        await pipe.drain()
        await pipe.drain()
        assert pipe.unsent_bytes == 0
        assert pipe.bytes_sent == peer.bytes_received


async def test_draining_a_stream_means_that_it_is_written() -> None:
    """A frame that was only taken out of the outbox is not drained."""
    drained: list[int] = []

    async def drain(number: int) -> None:
        await pipe.drain()
        drained.append(number)

    async with stream_pipes() as (pipe, peer), trio.open_nursery() as nursery:
        push(pipe, 1, bytes(200_000))
        for number in range(2):
            nursery.start_soon(drain, number)
        await park()
        nursery.start_soon(drain, 2)  # the frames have been taken and are being written
        await park()
        assert not drained
        assert 0 < pipe.unsent_bytes <= 200_100
        await receive(peer, 1)
        await park()
        assert sorted(drained) == [0, 1, 2]


async def test_a_stream_whose_peer_reads_nothing_is_cut(autojump_clock: MockClock) -> None:
    async with stream_pipes() as (pipe, peer):
        push(pipe, 1, bytes(200_000))
        started = trio.current_time()
        with pytest.raises(ChannelBroken, match="the peer read no data for 5 s"):
            await pipe.receive()
        assert trio.current_time() - started == pytest.approx(5)
        await pipe.drain()
        with pytest.raises(ChannelBroken):
            await receive(peer, 99)


async def test_a_stream_whose_peer_reads_slowly_is_not_cut(autojump_clock: MockClock) -> None:
    """A megabyte of small frames is sent in parts, and each part has its own deadline."""
    async with stream_pipes() as (pipe, peer):
        for number in range(200):
            push(pipe, number, bytes(8_000))
        total = 200 * 8_000
        assert total > 5 * WRITE_BYTES
        started = trio.current_time()
        received = 0
        while received < total:
            await trio.sleep(0.9)
            received += len(await peer._stream.receive_some(WRITE_BYTES // 4))
        assert trio.current_time() - started > 2 * LIMITS.write_seconds
        await pipe.drain()


async def test_a_stream_that_breaks_ends_reading_and_writing() -> None:
    async with stream_pipes() as (pipe, peer):
        push(peer, 1, b"last words")
        await park()
        await trio.aclose_forcefully(peer._stream)
        push(pipe, 2)
        assert (await receive(pipe, 1))[0][6] == b"last words"
        await park()
        with pytest.raises(ChannelBroken, match="connection lost: the peer has closed its end"):
            await pipe.receive()
        with pytest.raises(ChannelBroken, match="connection lost"):
            await peer.receive()
        await pipe.drain()


async def test_a_bug_while_writing_to_a_stream_ends_one_connection_only() -> None:
    async with stream_pipes() as (pipe, peer), stream_pipes() as (sound, other):
        await park()
        pipe.sink._frames.append("text")  # type: ignore[arg-type]  # no frame at all
        push(pipe, 1)
        with pytest.raises(ChannelBroken):
            await pipe.receive()
        with pytest.raises(ChannelBroken):
            await peer.receive()
        push(sound, 3)
        assert len(await receive(other, 1)) == 1


async def test_closing_a_stream_pipe_closes_the_stream_at_once() -> None:
    """Closed even in the middle of a write; the peer must not wait for a heartbeat to notice."""
    async with stream_pipes() as (pipe, peer):
        push(pipe, 1, bytes(200_000))
        await park()
        pipe.close()
        with pytest.raises(ChannelBroken):
            await receive(peer, 1)
        with pytest.raises(ChannelBroken):
            await pipe.receive()


# -- memory -----------------------------------------------------------------------------------------


async def test_memory_hands_over_the_very_object() -> None:
    left, right = memory_pipes()
    body = b"x" * 100_000
    push(left, 1, body)
    left.sink.push(REQUEST, 0, 2, 0, 0, bytearray(b"copied"))
    frames = await receive(right, 2)
    assert frames[0][6] is body
    assert type(frames[1][6]) is bytes
    assert left.bytes_sent == right.bytes_received == len(body) + 6
    assert left.unsent_bytes == 0
    await left.drain()
    left.flush()


async def test_memory_copies_heads_and_refuses_what_no_wire_would_carry() -> None:
    left, right = memory_pipes()
    inner: list[HeadValue] = [1, 2]
    head: Head = {"meta": {"list": inner}}
    left.push(REQUEST, 0, 1, 0, 0, b"", head)
    inner.append(3)
    (frame,) = await receive(right, 1)
    assert frame[5] == {"meta": {"list": [1, 2]}}
    with pytest.raises(ValueError, match="the head cannot be encoded"):
        left.push(REQUEST, 0, 1, 0, 0, b"", {"meta": object()})  # type: ignore[dict-item]  # the point
    assert left.pushed == 1


async def test_memory_shows_the_end_behind_what_was_sent_before() -> None:
    left, right = memory_pipes()
    push(left, 1, b"last words")
    left.close()
    left.close()
    assert (await receive(right, 1))[0][6] == b"last words"
    with pytest.raises(ChannelBroken, match="closed by the peer"):
        await right.receive()
    push(right, 2)  # the peer has left
    assert right.pushed == 0
    with pytest.raises(ChannelBroken):
        await left.receive()


async def test_memory_wakes_a_reader_at_either_end() -> None:
    left, right = memory_pipes()
    async with trio.open_nursery() as nursery:
        for pipe in (left, right):

            async def expect_end(pipe: MemoryPipe = pipe) -> None:
                with pytest.raises(ChannelBroken):
                    await pipe.receive()

            nursery.start_soon(expect_end)
        await park()
        right.close()


async def test_memory_takes_back_what_was_not_read() -> None:
    left, right = memory_pipes()
    push(left, 1)
    assert not left.retract(1, 99)
    assert left.retract(1, left.pushed)
    assert not left.retract(1, left.pushed)
    push(left, 1)
    push(left, 3)
    assert not left.retract(1, left.pushed)
    assert len(await receive(right, 2)) == 2
    assert not left.retract(3, left.pushed)
    right.close()
    assert not left.retract(3, left.pushed)
    assert not left.is_unsent(3, left.pushed)
    assert not left.abandon(3)


async def test_a_reader_of_memory_can_be_cancelled() -> None:
    left, right = memory_pipes()
    with trio.move_on_after(0):
        await right.receive()
    push(left, 1)
    assert len(await receive(right, 1)) == 1
