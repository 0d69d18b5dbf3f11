"""The pump: one write and one read per scheduler pass, without a task."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, final

import pytest
import trio
import trio.testing
from trio._core._run import GLOBAL_RUN_CONTEXT

from spear import ChannelBroken
from spear.channels._pipes import open_pipe
from spear.channels._pump import Pump, current_pump

from .pipes import LIMITS, push, receive, socket_pipes, socket_streams

if TYPE_CHECKING:
    from spear.channels._pipes import Pipe
    from spear.wire import Frame


async def test_the_pump_is_there_while_somebody_uses_it() -> None:
    pump = current_pump()
    assert pump is current_pump()
    async with socket_pipes():
        assert pump._users == 2
        async with socket_pipes() as (pipe, peer):
            assert pump._users == 4
            push(pipe, 1)
            assert len(await receive(peer, 1)) == 1
    assert pump._users == 0
    with pytest.raises(KeyError):  # Trio has removed it
        trio.lowlevel.remove_instrument(pump)
    async with socket_pipes() as (pipe, peer):
        push(pipe, 1)
        assert len(await receive(peer, 1)) == 1


@pytest.fixture(params=["private", "public"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the pump wakes Trio: by Trio's epoll, or by a task if Trio's private names have changed."""
    if request.param == "public":
        monkeypatch.setattr("spear.channels._pump.trio_epoll", lambda: None)
    return str(request.param)


async def test_this_release_of_trio_has_the_private_names() -> None:
    async with socket_pipes():
        assert current_pump()._trio_epoll is not None


@pytest.mark.parametrize("missing", ["epoll", "manager"])
async def test_without_the_private_names_a_task_waits(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pump, runner = current_pump(), GLOBAL_RUN_CONTEXT.runner
    with monkeypatch.context() as patch:  # no task runs in this block
        if missing == "epoll":
            patch.setattr(runner.io_manager, "_epoll", object())
        else:
            patch.delattr(runner, "io_manager")
        pump.acquire()
    assert pump._trio_epoll is None
    async with socket_pipes() as (pipe, peer):
        push(pipe, 1)
        assert len(await receive(peer, 1)) == 1
    pump.release()


@pytest.mark.parametrize("others", [0, 1])
async def test_trio_is_woken_by_what_comes_either_way(way: str, others: int) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    got: list[Frame] = []
    async with AsyncExitStack() as stack:
        for _ in range(others):  # with several readers, the pump's epoll tells which are ready
            await stack.enter_async_context(socket_pipes())
        pipe, peer = await stack.enter_async_context(socket_pipes())
        nursery = await stack.enter_async_context(trio.open_nursery())
        other, _ = await stack.enter_async_context(socket_pipes())
        if others:
            nursery.start_soon(other.serve, got.extend)
        nursery.start_soon(peer.serve, got.extend)
        await trio.testing.wait_all_tasks_blocked()
        extra = trio.lowlevel.current_statistics().tasks_living - tasks
        assert extra == (way == "public") + 1 + others
        for number in range(3):
            push(pipe, number)
            pipe.flush()
            while len(got) <= number:
                await trio.sleep(0.0005 if number else 0)
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_the_pump_leaves_no_task_and_no_descriptor(way: str) -> None:
    def held() -> tuple[int, int]:
        descriptors = len(os.listdir("/proc/self/fd"))
        return trio.lowlevel.current_statistics().tasks_living, descriptors

    before = held()
    for _ in range(3):
        async with socket_pipes() as (pipe, peer):
            push(pipe, 1)
            assert len(await receive(peer, 1)) == 1
        await trio.testing.wait_all_tasks_blocked()
        assert held() == before


async def test_a_pump_without_a_descriptor_says_so() -> None:
    left, right = socket_streams()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (left.socket.fileno() + 8, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        async with trio.open_nursery() as nursery:
            with pytest.raises(ChannelBroken, match="cannot create an epoll instance"):
                open_pipe(left, LIMITS, nursery)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)
        left.close()
        right.close()
    async with socket_pipes() as (pipe, peer):
        push(pipe, 1)
        assert len(await receive(peer, 1)) == 1


def test_each_trio_run_has_a_pump_of_its_own() -> None:
    found: list[Pump] = []
    both = threading.Barrier(2)

    async def use() -> None:
        found.append(current_pump())
        async with socket_pipes() as (pipe, peer):
            for number in range(50):
                push(pipe, number)
                assert len(await receive(peer, 1)) == 1
                if number == 25:
                    both.wait(10)

    threads = [threading.Thread(target=trio.run, args=(use,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 2


@final
class Passes(trio.abc.Instrument):
    """An instrument that counts the passes of the scheduler."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_what_has_come_wakes_its_task_in_the_same_pass() -> None:
    """Bytes are read before the tasks of the pass run. A reading task would need a pass of its own."""
    passes = Passes()
    woken_in: list[int] = []
    read_in: list[int] = []

    async def wait(event: trio.Event) -> None:
        await event.wait()
        woken_in.append(passes.count)

    async with socket_pipes() as (pipe, peer), trio.open_nursery() as nursery:
        event = trio.Event()

        def on_frames(frames: list[Frame]) -> None:
            with pytest.raises(RuntimeError):  # no task runs now
                trio.lowlevel.current_task()
            read_in.append(passes.count)
            event.set()

        nursery.start_soon(peer.serve, on_frames)
        nursery.start_soon(wait, event)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(passes)
        push(pipe, 1)
        await event.wait()
        trio.lowlevel.remove_instrument(passes)
        await trio.testing.wait_all_tasks_blocked()
        assert woken_in == read_in
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("most", [1, 4, 16])
async def test_what_needs_several_reads_has_several_in_a_pass_and_no_more(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads alternate between the receive buffer and the payload's own memory."""
    monkeypatch.setattr("spear.channels._pipes.MAX_READS", most)
    monkeypatch.setattr("spear.channels._pipes.READ_BYTES", 30_000)
    passes = Passes()
    seen: list[tuple[int, int]] = []  # (pass, call id)
    all_seen = trio.Event()

    def on_frames(frames: list[Frame]) -> None:
        seen.extend((passes.count, frame[2]) for frame in frames)
        if len(seen) == 4:
            all_seen.set()

    async with socket_pipes() as (pipe, peer):
        for call_id in range(4):  # 30,000 bytes first, then the rest: two reads for each
            push(peer, call_id, bytes(40_000))
        peer.flush()
        assert peer.unsent_bytes == 0
        trio.lowlevel.add_instrument(passes)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.serve, on_frames)
                await all_seen.wait()
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(passes)
    assert [call_id for _, call_id in seen] == [0, 1, 2, 3]
    reads = 8
    assert seen[-1][0] - seen[0][0] == {1: reads - 2, 4: 1, 16: 0}[most]


async def test_a_pipe_that_fails_harms_no_other() -> None:
    seen: list[int] = []

    def fail(frames: list[Frame]) -> None:
        raise ZeroDivisionError

    async def serve_failing(pipe: Pipe) -> None:
        with pytest.raises(ZeroDivisionError):
            await pipe.serve(fail)
        seen.append(-1)

    async with (
        socket_pipes() as (bad_pipe, bad_peer),
        socket_pipes() as (pipe, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(peer.serve, lambda frames: seen.append(len(frames)))
        nursery.start_soon(serve_failing, bad_peer)
        for number in range(3):
            await trio.testing.wait_all_tasks_blocked()
            push(bad_pipe, number)
            push(pipe, number)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(seen) == [-1, 1, 1, 1]
        nursery.cancel_scope.cancel()


async def test_serving_can_be_cancelled_and_what_comes_then_waits() -> None:
    async with socket_pipes() as (pipe, peer):
        with trio.move_on_after(0):
            await peer.serve(lambda frames: pytest.fail("frames arrived after the cancellation"))
        push(pipe, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(await receive(peer, 1)) == 1


async def test_closing_a_pipe_ends_its_serving() -> None:
    ended: list[str] = []

    async def serve(name: str) -> None:
        await peer.serve(lambda frames: None)
        ended.append(name)

    async with socket_pipes() as (_, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, "by closing")
            await trio.testing.wait_all_tasks_blocked()
            assert ended == []
            peer.close()
        await serve("closed already")
    assert ended == ["by closing", "closed already"]


async def test_a_socket_that_was_closed_under_its_pipe_can_be_served_no_more() -> None:
    def ignore(frames: list[Frame]) -> None:
        pass

    async with (
        socket_pipes() as (pipe, _),
        socket_pipes() as (third, _),  # a single pipe is read without polling
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(third.serve, ignore)
        nursery.start_soon(pipe.serve, ignore)
        await trio.testing.wait_all_tasks_blocked()
        fileno = pipe._stream.socket.fileno()
        pipe._stream.close()
        async with socket_pipes() as (other, peer), trio.open_nursery() as reading:
            assert fileno in {each._stream.socket.fileno() for each in (other, peer)}
            if other._stream.socket.fileno() != fileno:
                other, peer = peer, other
            got: list[Frame] = []
            reading.start_soon(other.serve, got.extend)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()  # must not stop reading the other
            await trio.testing.wait_all_tasks_blocked()
            push(peer, 1, b"x")
            while not got:
                await trio.lowlevel.checkpoint()
            reading.cancel_scope.cancel()


async def test_a_socket_that_was_closed_under_the_only_pipe_ends_its_serving() -> None:
    ended = trio.Event()

    async def serve() -> None:
        with pytest.raises(ChannelBroken, match="connection lost"):
            await pipe.serve(lambda frames: None)
        ended.set()

    async with socket_pipes() as (pipe, _), trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        pipe._stream.close()
        await trio.lowlevel.checkpoint()  # a pass of the scheduler, in which the pump reads
        await ended.wait()


async def test_the_end_of_the_connection_ends_the_serving() -> None:
    async with socket_pipes() as (pipe, peer):
        pipe.close()
        with pytest.raises(ChannelBroken, match="closed by the peer"):
            await peer.serve(lambda frames: None)


async def test_low_latency_looks_for_input_before_it_goes_to_sleep() -> None:
    pump = current_pump()
    async with trio.open_nursery() as nursery:
        streams = [*socket_streams(), *socket_streams()]
        pipes = [open_pipe(each, LIMITS, nursery, low_latency=True) for each in streams]
        assert pump._spinning_users == 4
        nursery.start_soon(pipes[1].serve, lambda frames: None)
        await trio.sleep(0.001)  # no bytes come: the pump goes to sleep
        streams[0].socket.send(b"x")
        pump.before_io_wait(1.0)  # bytes are there: the pump does not wait
        for pipe in pipes:
            pipe.close()
        assert pump._spinning_users == 0
        pump.before_io_wait(1.0)
