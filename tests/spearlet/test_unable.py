"""An instance that cannot run functions any more ends, gives the reason, and fails its calls."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing
from agent.helpers import calling

import spear
from spear import Agent, ChannelClosed, FunctionRaised, Rejected, WorkerDied

from .helpers import deployed, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear.spearlet import Deployment

WAYS = ["exit", "interrupt", "stop", "shut"]
"""Ways in which a background task can end the asyncio loop of a program."""

REASONS = {
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "stop": "RuntimeError: Event loop stopped before Future completed.",
    "shut": "ValueError: I/O operation on closed epoll object",
}

PROGRAM = """
import asyncio, os, resource, sys, threading
import spear, trio

app = spear.Agent("fragile")

@app.function
async def hold() -> str:
    return f"held until {await app.wait_failed()}"

@app.function(asyncio=True)
async def never() -> None:
    await asyncio.sleep(1000)

@app.function(asyncio=True)
async def end_loop(way: str) -> None:
    loop = asyncio.get_running_loop()

    async def end() -> None:
        for _ in range(5):  # until the answer has left the loop
            await asyncio.sleep(0)
        if way == "exit":
            sys.exit(3)
        if way == "interrupt":
            raise KeyboardInterrupt
        if way == "stop":
            return loop.stop()
        loop._selector._selector.close()

    global background
    background = loop.create_task(end())

@app.function(asyncio=True)
async def borrowed() -> int:
    return os.getpid()

@app.function
def plain() -> int:
    return os.getpid()

@app.function
def items():
    yield os.getpid()

@app.function
async def who() -> int:
    return os.getpid()

@app.function
async def refuse_threads() -> int:
    size = 256 << 20
    threading.stack_size(size)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + size // 2, used + size // 2))
    return os.getpid()

@app.function
async def refuse_descriptors() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return os.getpid()

@app.function
async def close_all() -> None:
    os.closerange(3, 4096)

@app.function
def close_all_in_thread() -> None:
    os.closerange(3, 4096)

@app.function(asyncio=True)
async def close_all_in_asyncio() -> None:
    os.closerange(3, 4096)

@app.function
async def cancel_handlers() -> int:
    trio.lowlevel.current_task().parent_nursery.cancel_scope.cancel()
    return os.getpid()

@app.function
async def break_handlers() -> int:
    async def fail():
        raise ValueError("in a nursery of others")
    trio.lowlevel.current_task().parent_nursery.start_soon(fail)
    return os.getpid()

@app.function
async def cancel_everything() -> int:
    nursery = trio.lowlevel.current_task().parent_nursery
    while nursery.parent_task.parent_nursery is not None:
        nursery = nursery.parent_task.parent_nursery
    nursery.cancel_scope.cancel()
    return os.getpid()
"""


async def wait_lost(deployment: Deployment, number: int = 1) -> None:
    """Wait until so many replicas have ended without a request, and another one is ready."""
    while deployment.statistics().lost < number or not deployment.replicas:
        await trio.sleep(0.01)


async def written(deployment: Deployment) -> str:
    return "\n".join(each.line.text for each in deployment.logs())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_an_asyncio_loop_that_a_task_has_ended_costs_what_ran_in_it_and_no_more(
    tmp_path: Path, way: str
) -> None:
    failures: list[FunctionRaised] = []
    held: list[object] = []

    async def never() -> None:
        with pytest.raises(FunctionRaised) as raised:
            await deployment.never()
        failures.append(raised.value)

    async def hold() -> None:
        held.append(await deployment.hold())

    async def is_answered_by_another() -> bool:
        try:
            return bool(await deployment.borrowed() != first)
        except FunctionRaised as raised:  # it ran in the loop while that ended
            if REASONS[way] not in raised.remote_message:
                raise
            return False

    path = write(tmp_path, "fragile.py", PROGRAM)
    async with deployed(path) as deployment, trio.open_nursery() as nursery:
        first = await deployment.who()
        nursery.start_soon(never)
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        await deployment.borrowed()
        await deployment.end_loop(way)
        # These calls reach an instance with a loop, one without a loop, and its successor.
        while not await is_answered_by_another():
            pass
        await wait_lost(deployment)
        text = await written(deployment)
    assert held == [f"held until the asyncio loop has ended: {REASONS[way]}"]
    assert [each.delivered for each in failures] == ["yes"]
    assert f"the asyncio loop has ended: {REASONS[way]}" in str(failures[0])
    assert f"fragile-1#1: the asyncio loop has ended: {REASONS[way]}" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refuse", "names", "reason"),
    [
        ("refuse_threads", ["plain", "borrowed"], "can't start new thread"),
        ("refuse_threads", ["items"], "cannot start a thread: can't start new thread"),
        ("refuse_descriptors", ["borrowed"], "cannot start an asyncio loop: [Errno 24]"),
    ],
)
async def test_an_instance_that_can_start_no_thread_hands_its_calls_to_another_one(
    tmp_path: Path, refuse: str, names: list[str], reason: str
) -> None:
    path = write(tmp_path, "fragile.py", PROGRAM)
    async with deployed(path) as deployment:
        for number, name in enumerate(names, 1):
            before = await getattr(deployment, refuse)()
            if name == "items":  # a stream is retried only before it has begun
                with pytest.raises(Rejected, match="the agent is shutting down") as raised:
                    async with deployment.items.stream() as items:
                        await items.__anext__()
                assert raised.value.delivered == "no"
            else:
                assert await getattr(deployment, name)() != before
            await wait_lost(deployment, number)
            assert await deployment.plain() != before
        assert reason in await written(deployment)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "close_all", "close_all_in_thread", "close_all_in_asyncio", "cancel_handlers",
        "break_handlers", "cancel_everything",
    ],
)  # fmt: skip
async def test_an_instance_whose_foundations_a_function_has_taken_away_ends_and_says_why(
    tmp_path: Path, way: str
) -> None:
    path = write(tmp_path, "fragile.py", PROGRAM)
    async with deployed(path) as deployment:
        before = await deployment.who()
        with suppress(WorkerDied):  # the answer may have been sent before
            await getattr(deployment, way)()
        await wait_lost(deployment)
        for name in ("who", "plain", "borrowed"):
            assert await getattr(deployment, name)() != before
        text = await written(deployment)
    if way == "break_handlers":
        assert "ValueError: in a nursery of others" in text
    else:
        assert "did the program cancel tasks or close descriptors of Spear?" in text


# -- an agent in the host's own process -----------------------------------------------------------------


def fragile() -> Agent:
    app = Agent("local")
    tasks: list[asyncio.Task[None]] = []

    @app.function(asyncio=True)
    async def end_loop() -> None:
        async def end() -> None:
            sys.exit(3)

        tasks.append(asyncio.create_task(end()))
        tasks[-1].add_done_callback(lambda task: task.exception())  # otherwise asyncio logs it

    @app.function(asyncio=True)
    async def borrowed() -> str:
        return "done"

    @app.function(asyncio=True)
    async def items() -> AsyncIterator[str]:
        yield "item"

    @app.function
    async def hold() -> str:
        return await app.wait_failed()

    return app


REASON = "the asyncio loop has ended: SystemExit: 3"


async def test_a_local_agent_whose_asyncio_loop_has_ended_is_replaced_too() -> None:
    app = fragile()
    async with deployed(app, replicas=2) as deployment, trio.open_nursery() as nursery:
        held = [deployment.hold.submit(), deployment.hold.submit()]
        await trio.testing.wait_all_tasks_blocked()
        await deployment.end_loop()
        assert [await each.result() for each in held] == [REASON, REASON]
        assert await deployment.borrowed() == "done"
        await wait_lost(deployment, 2)
        assert await deployment.borrowed() == "done"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["call", "stream"])
async def test_what_an_agent_could_not_begin_was_not_delivered(kind: str) -> None:
    app = fragile()
    async with calling(app) as caller:
        call = caller.call("borrowed") if kind == "call" else caller.items("items")
        await caller.call("end_loop")
        assert await app.wait_failed() == REASON
        with pytest.raises(Rejected, match=f"the agent is shutting down: {REASON}") as raised:
            await call
        assert raised.value.delivered == "no"
        with pytest.raises(ChannelClosed):
            await caller.call("borrowed")
        with pytest.raises(spear.SpearError, match=f"the agent is shutting down: {REASON}"):
            async with app.running():
                raise AssertionError
    async with calling(app) as caller:
        assert await caller.call("borrowed") == "done"


async def test_a_call_of_a_loop_that_makes_no_tasks_was_not_delivered() -> None:
    """The call, and every later one, once waited until its deadline."""
    app = fragile()

    def refuse(loop: object, coroutine: object, **_: object) -> NoReturn:
        raise ValueError("no tasks")

    @app.function(asyncio=True)
    async def break_loop() -> None:
        asyncio.get_running_loop().set_task_factory(refuse)

    reason = "the asyncio loop cannot create tasks: ValueError: no tasks"
    async with calling(app) as caller:
        await caller.call("break_loop")
        with trio.fail_after(10), pytest.raises(Rejected, match=reason) as raised:
            await caller.call("borrowed")
        assert raised.value.delivered == "no"
        assert await app.wait_failed() == reason


async def test_calls_that_wait_for_a_loop_that_makes_no_tasks_were_not_delivered() -> None:
    """Only the first of them ended."""
    app = Agent("local")
    go_on, blocked = threading.Event(), trio.Event()

    def refuse(loop: object, coroutine: object, **_: object) -> NoReturn:
        raise ValueError("no tasks")

    @app.function(asyncio=True)
    async def break_loop() -> None:
        asyncio.get_running_loop().set_task_factory(refuse)
        app.service.token.run_sync_soon(blocked.set)
        go_on.wait()

    @app.function(asyncio=True)
    async def borrowed() -> None:
        raise AssertionError

    async def be_refused() -> None:
        with pytest.raises(Rejected, match="cannot create tasks") as raised:
            await caller.call("borrowed")
        assert raised.value.delivered == "no"

    async with calling(app) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "break_loop")
        await blocked.wait()
        for _ in range(3):
            nursery.start_soon(be_refused)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()


async def test_a_call_that_a_loop_has_not_begun_when_it_ends_was_not_delivered() -> None:
    app = Agent("local")
    go_on, tasks = threading.Event(), list[asyncio.Task[None]]()

    @app.function(asyncio=True)
    async def end_loop() -> None:
        async def end() -> None:
            await asyncio.sleep(0)  # the answer leaves the loop
            app.service.token.run_sync_soon(blocked.set)
            go_on.wait()
            sys.exit(3)

        tasks.append(asyncio.create_task(end()))
        tasks[-1].add_done_callback(lambda task: task.exception())

    @app.function(asyncio=True)
    async def borrowed() -> None:
        raise AssertionError

    blocked = trio.Event()
    refused: list[Rejected] = []

    async def be_refused() -> None:
        with pytest.raises(Rejected, match=REASON) as raised:
            await caller.call("borrowed")
        refused.append(raised.value)

    async with calling(app) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(caller.call, "end_loop")
        await blocked.wait()
        nursery.start_soon(be_refused)
        async with trio.open_nursery() as leaving:
            leaving.start_soon(caller.call, "borrowed")
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        go_on.set()
    assert [each.delivered for each in refused] == ["no"]
