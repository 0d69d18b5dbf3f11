"""The guard of a host's instances: a process that runs for as long as it is needed."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from spear import HostLimits, InstanceId
from spear.runtimes import LogBook
from spear.runtimes.process._guard import Guard
from spear.runtimes.process._guard_program import WORD
from spear.runtimes.process._spawn import Plumbing

from ..helpers import (
    PATIENCE_SECONDS,
    call,
    children,
    guards,
    listening,
    nothing_left,
    open_host,
    the_guard,
    until,
    wait_dead,
    worker,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.slow
async def test_a_guard_is_nobodys_child_and_ends_with_its_host() -> None:
    async with open_host() as host:
        async with host.ready(worker()) as instance:
            await until(lambda: children() == {instance.pid})
            (pid,) = guards(os.getpid())
        async with host.ready(worker()):
            assert guards(os.getpid()).keys() == {pid}
        pidfd = os.pidfd_open(pid)
    with trio.fail_after(PATIENCE_SECONDS):
        await wait_dead(pidfd)


@pytest.mark.slow
async def test_a_guard_lets_go_of_an_instance_that_has_ended() -> None:
    async with open_host() as host, host.ready(worker(), "long"):
        pid = await the_guard_of_an_instance()
        before = guards(os.getpid())[pid]
        async with host.ready(worker(), "short"):
            await until(lambda: guards(os.getpid())[pid] == before + 1)
        await until(lambda: guards(os.getpid())[pid] == before)


async def the_guard_of_an_instance() -> int:
    await until(lambda: guards(os.getpid()))
    (pid,) = guards(os.getpid())
    known = -1
    while known != (known := guards(os.getpid())[pid]):  # until it has received the messages
        await trio.sleep(0.05)
    return pid


@pytest.mark.slow
async def test_a_guard_that_is_killed_is_replaced_and_the_next_one_knows_what_there_is() -> None:
    with pipe() as first, pipe() as second, listening("spear.runtimes") as lines:
        async with trio.open_nursery() as nursery:
            guard: Guard = await nursery.start(Guard().run)
            guard.watch(first[1])
            killed = await the_guard()
            os.kill(killed, signal.SIGKILL)
            await lines.wait_for("the guard of this host's instances has ended; starting another")
            guard.watch(second[1])  # there is no guard at the moment
            replaced = await the_guard(killed)
            others = {"socket", "pidfd", "poll"}
            await until(lambda: guards(os.getpid())[replaced] >= 3 + len(others))
            guard.forget(first[1])
            nursery.cancel_scope.cancel()
        for reader, _ in (first, second):  # no word was written
            assert not select.select([reader], [], [], 0)[0]


@pytest.mark.slow
async def test_a_guard_that_takes_nothing_is_replaced_and_harms_nobody_afterwards() -> None:
    with nothing_left(), pipe() as (reader, writer):
        async with trio.open_nursery() as nursery:
            guard: Guard = await nursery.start(Guard().run)
            guard.watch(writer)
            stopped = await the_guard()
            pidfd = os.pidfd_open(stopped)
            os.kill(stopped, signal.SIGSTOP)
            try:
                while guard._sock is not None:
                    guard.watch(writer)
                    await trio.lowlevel.checkpoint()
                await the_guard(stopped)
            finally:
                os.kill(stopped, signal.SIGCONT)
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_dead(pidfd)
            assert not select.select([reader], [], [], 0)[0]
            nursery.cancel_scope.cancel()


async def test_a_guard_knows_of_a_process_before_it_starts_and_lets_it_wait_for_nobody() -> None:
    async with trio.open_nursery() as nursery:
        guard: Guard = await nursery.start(Guard().run)
        pid = await the_guard()
        before = guards(os.getpid())[pid]
        async with AsyncExitStack() as ours:
            with ExitStack() as theirs, ExitStack() as waiting:
                book = LogBook(InstanceId("process", "late", 1), HostLimits(), None)
                plumbing = Plumbing(ours, theirs, book, guard, has_gate=True)
                await until(lambda: guards(os.getpid())[pid] == before + 2)
                readers = [os.dup(plumbing.lifeline), os.dup(plumbing.stdin)]
                for reader in readers:
                    waiting.callback(os.close, reader)
                theirs.close()
                await ours.aclose()  # the host gives up; the guard has copies, so there is no EOF
                assert [os.read(reader, 100) for reader in readers] == [WORD, WORD]
            await until(lambda: guards(os.getpid())[pid] == before)
        nursery.cancel_scope.cancel()


async def test_a_guard_that_gets_no_thread_ends_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with listening("spear.runtimes") as lines:
        async with trio.open_nursery() as nursery:
            await nursery.start(Guard().run)
            await lines.wait_for("could not be started: can't start new thread; starting another")
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_without_a_guard_there_are_instances_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = worker()
    with listening("spear.runtimes") as lines:
        async with open_host() as host:
            missing = os.path.join(os.getcwd(), "missing")
            monkeypatch.setattr(sys, "executable", missing)
            async with trio.open_nursery() as nursery:
                await nursery.start(Guard().run)
                line = await lines.wait_for(
                    "the guard of this host's instances could not be started"
                )
                assert missing in line
                nursery.cancel_scope.cancel()
            monkeypatch.undo()
            async with host.ready(settings) as instance:
                assert await call(instance, "echo", b"1") == b"1"
