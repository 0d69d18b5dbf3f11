"""Threads of plain functions: ``trio.from_thread`` in them, their number, and their end."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import Agent

from .helpers import Caller, calling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["threads of Spear", "threads of Trio"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test with both kinds of threads: a release of Trio may have other private names."""
    if request.param == "threads of Trio":
        monkeypatch.setattr("trio._threads._ParentTaskData.__annotations__", {})
    name: str = request.param
    return name


@pytest.fixture
def frozen_garbage() -> Iterator[None]:
    """Collect no reference cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_the_kind_of_threads_is_the_one_that_the_test_is_for(kind: str) -> None:
    app = Agent()

    @app.function
    def name() -> str:
        return threading.current_thread().name

    async with calling(app) as caller:
        found = await caller.call("name")
    assert (found == "spear function") is (kind == "threads of Spear")


async def test_a_release_of_trio_with_other_names_gets_its_own_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Agent()
    monkeypatch.delattr("trio._threads.RunSync")
    async with app.running():
        found = await app.service.threads.run(threading.current_thread)
        assert found.unwrap().name != "spear function"


async def test_a_plain_function_runs_functions_in_trio() -> None:
    app = Agent()
    ticks = trio.Semaphore(1)
    main_thread = threading.get_ident()

    @app.function
    def work(value: int) -> list[object]:
        async def double(number: int) -> int:
            await ticks.acquire()
            assert threading.get_ident() == main_thread
            return number * 2

        def fail() -> None:
            raise ValueError("in Trio")

        with pytest.raises(ValueError, match="in Trio"):
            trio.from_thread.run_sync(fail)
        return [
            trio.from_thread.run(double, value),
            trio.from_thread.run_sync(threading.get_ident) == main_thread,
            trio.from_thread.run_sync(lambda: spear.context().function),
        ]

    async with calling(app) as caller:
        assert await caller.call("work", 4) == [8, True, "work"]


async def test_a_function_that_a_thread_runs_in_trio_is_cancelled_with_the_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = Agent()
    ended: list[str] = []

    @app.function
    def wait() -> None:
        try:
            trio.from_thread.run(trio.sleep_forever)
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async with calling(app) as caller:
        begun = trio.current_time()
        with pytest.raises(spear.DeadlineExceeded):
            await caller.call("wait", timeout=3)
        assert trio.current_time() == pytest.approx(begun + 3)
    assert ended == ["cancelled"]


async def test_a_plain_function_asks_whether_its_call_is_cancelled() -> None:
    app = Agent()
    started, go = trio.Event(), threading.Event()
    ended: list[type[BaseException]] = []

    @app.function
    def work() -> None:
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(started.set)
        go.wait()
        try:
            trio.from_thread.check_cancelled()
        except BaseException as error:
            ended.append(type(error))
            raise

    @app.function
    def next_call() -> str:
        trio.from_thread.check_cancelled()  # the thread may be the same: the call is another one
        return "not cancelled"

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "work")
            await started.wait()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go.set()
        assert await caller.call("next_call") == "not cancelled"
    assert ended == [trio.Cancelled]


@attrs.define
class Busy:
    """A function that blocks in a thread until the test lets it go, and its agent.

    Attributes:
        running, most: calls that run, and the most at a time.
        begun: the arguments of all calls, in the order in which they began.
    """

    app: Agent
    running: int = 0
    most: int = 0
    begun: list[int] = attrs.field(factory=list)
    room: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self.app.function(self.block)

    def block(self, number: int) -> int:
        with self.lock:
            self.begun.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
        self.room.acquire()
        with self.lock:
            self.running -= 1
        return number

    async def wait_running(self, number: int) -> None:
        with trio.fail_after(10):
            while self.running < number:
                await trio.sleep(0.001)


async def gather(caller: Caller, numbers: range, found: dict[int, object]) -> None:
    async def call(number: int) -> None:
        found[number] = await caller.call("block", number)

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(call, number)


async def test_many_calls_share_few_threads_and_each_gets_its_own_result() -> None:
    app = Agent(concurrency=3)
    busy, found = Busy(app), dict[int, object]()
    limits = spear.WireLimits(max_calls=50)
    async with calling(app, limits=limits) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(gather, caller, range(50), found)
        await busy.wait_running(3)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert app.service.threads.busy == 3
        busy.room.release(50)
    assert found == {number: number for number in range(50)}
    assert busy.most == 3
    assert app.service.threads.busy == 0


async def test_a_call_that_waits_for_a_thread_can_be_cancelled() -> None:
    app = Agent(concurrency=1)
    busy, found = Busy(app), dict[int, object]()
    # The agent's own limit would keep the second call out: the service alone is asked here.
    async with app.running(), trio.open_nursery() as nursery:
        nursery.start_soon(run_in_thread, app, busy.block, 1, found)
        await busy.wait_running(1)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(run_in_thread, app, busy.block, 2, found)
            await trio.testing.wait_all_tasks_blocked(0.01)
            waiting.cancel_scope.cancel()
        nursery.start_soon(run_in_thread, app, busy.block, 3, found)
        busy.room.release(2)
    assert busy.begun == [1, 3]
    assert found == {1: 1, 3: 3}


async def run_in_thread(
    app: Agent, function: Callable[[int], int], number: int, found: dict[int, object]
) -> None:
    found[number] = (await app.service.threads.run(function, number)).unwrap()


async def test_a_cancelled_caller_begins_nothing() -> None:
    app = Agent()
    begun: list[int] = []
    async with app.running():
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.service.threads.run(begun.append, 1)
    assert scope.cancelled_caught
    assert begun == []


class Thing:
    pass


class Failure(Exception):
    pass


@pytest.mark.usefixtures("frozen_garbage")
@pytest.mark.parametrize("kind", ["threads of Spear"], indirect=True)  # not Trio's: they keep it
@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_of_a_call_is_kept_when_it_has_ended(fails: bool) -> None:
    app = Agent()
    kept: list[weakref.ref[Thing]] = []
    failure = Failure("kept by the test")

    def work(thing: Thing) -> None:
        kept.append(weakref.ref(thing))
        if fails:
            raise Failure

    async with app.running():
        outcome = await app.service.threads.run(work, Thing())
        if fails:
            with pytest.raises(Failure):
                outcome.unwrap()
            del outcome
        assert [each() for each in kept] == [None]
        # The exception is the same object, not a copy.
        raised = await app.service.threads.run(raise_it, failure)
        with pytest.raises(Failure) as caught:
            raised.unwrap()
        assert caught.value is failure


def raise_it(error: BaseException) -> None:
    raise error


async def test_a_thread_that_could_not_be_started_does_not_count(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    app = Agent(concurrency=1)
    where = "spear.agent._threads" if kind == "threads of Spear" else "trio._threads"
    async with app.running():
        with monkeypatch.context() as patched:
            patched.setattr(f"{where}.start_thread_soon", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                await app.service.threads.run(len, "")
            assert app.service.threads.busy == 0
        assert (await app.service.threads.run(len, "abc")).unwrap() == 3


def ours() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "spear function"]


async def wait_for_threads(number: int) -> None:
    with trio.fail_after(10):
        while len(ours()) != number:
            await trio.sleep(0.001)


async def test_idle_threads_end_after_a_while_and_when_the_agent_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await wait_for_threads(0)
    app = Agent(concurrency=3)
    busy, found = Busy(app), dict[int, object]()
    busy.room.release(100)
    async with calling(app) as caller:
        await gather(caller, range(10), found)
    await wait_for_threads(0)
    monkeypatch.setattr("spear.agent._threads.IDLE_SECONDS", 0.001)
    async with calling(app) as caller:
        await gather(caller, range(10, 20), found)
        await wait_for_threads(0)
        await gather(caller, range(20, 30), found)
    assert found == {number: number for number in range(30)}
