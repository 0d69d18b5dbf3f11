"""Calls of a function for many items, alone and in batches."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextvars import ContextVar
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast, final

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import (
    CallCancelled,
    ConfigurationError,
    DeadlineExceeded,
    DeploymentSettings,
    FunctionRaised,
    InvalidArguments,
    MapItem,
    Rejected,
    RemoteProtocolError,
    RetryPolicy,
    UnexpectedResult,
    WorkerDied,
    open_spearlet,
)
from spear.runtimes import MemorySettings
from spear.testing import Functions
from spear.wire import encode_result

from .helpers import PATIENCE_SECONDS, Probe, deployed, pid
from .test_functions import Foreign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from random import Random

    from spear.calls import CallAttributes, Candidate, Candidates, Function, MapResults, Result
    from spear.channels import InboundCall
    from spear.spearlet import Deployment
    from spear.telemetry import CallRecord, InstanceEvent

EVERY_SEVENTH = 7


@pytest.fixture(params=["alone", "in batches"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether items travel alone, or in batches that double from one to the next."""
    seconds = 0.0 if request.param == "alone" else 1e9
    monkeypatch.setattr("spear.spearlet._item_calls.BATCH_SECONDS", seconds)
    return str(request.param)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let items travel in batches that double from one to the next."""
    monkeypatch.setattr("spear.spearlet._item_calls.BATCH_SECONDS", 1e9)


def counter() -> spear.Agent:
    """An agent with functions of one number, each of which refuses every seventh one."""
    app = spear.Agent("counter", concurrency=4)

    def count(number: int) -> int:
        if number % EVERY_SEVENTH == 0:
            raise ConnectionError(f"{number} is busy")
        return 2 * number

    async def count_async(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return count(number)

    def count_by_wrapper(number: int) -> object:
        return count_async(number)

    for function in count, count_async, count_by_wrapper:
        app.function(function)
    return app


NAMES = ["count", "count_async", "count_by_wrapper"]


async def collect(function: Function, items: object, **options: object) -> list[MapItem[object]]:
    mapping = function.map(items, on_error="keep", **options)  # type: ignore[call-overload]  # any options
    async with mapping as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize("name", NAMES)
async def test_each_item_has_its_own_result_or_failure(size: str, name: str) -> None:
    async with deployed(counter(), replicas=2) as deployment:
        outcomes = await collect(deployment.function(name), range(100))
        assert [each.index for each in outcomes] == list(range(100))
        assert [each.argument for each in outcomes] == list(range(100))
        for each in outcomes:
            assert each.attempts == 1
            assert each.instance is not None
            if each.index % EVERY_SEVENTH == 0:
                assert isinstance(each.error, FunctionRaised)
                assert each.error.type_name == "ConnectionError"
                assert each.error.remote_message == f"{each.index} is busy"
                assert each.result is None
            else:
                assert (each.result, each.error) == (2 * each.index, None)
        statistics = deployment.statistics().functions[name]
        assert statistics.calls == 100
        assert statistics.failures == {"FunctionRaised": 15}
        assert statistics.latency.count == 85


async def test_results_are_plain_and_in_order(size: str) -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.echo.map(["tea", None, 3.5, [1, {"a": b"b"}], *range(50)]) as results,
    ):
        assert [each async for each in results] == ["tea", None, 3.5, [1, {"a": b"b"}], *range(50)]


async def test_results_can_come_as_the_calls_end() -> None:
    async with deployed(Probe().agent) as deployment:
        outcomes = await collect(deployment.echo, range(200), ordered=False)
    assert sorted(each.index for each in outcomes) == list(range(200))
    assert all(each.result == each.argument == each.index for each in outcomes)


async def test_the_first_failure_is_raised_in_its_turn_and_no_item_is_begun_after_it(
    size: str,
) -> None:
    pulled: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(1, 1_000_000):
            pulled.append(number)
            yield number

    taken: list[object] = []

    async def take(results: MapResults[Result]) -> None:
        async for each in results:
            taken.append(each)  # noqa: PERF401  # some are taken before the failure

    async with deployed(counter()) as deployment, deployment.count.map(numbers()) as results:
        with pytest.raises(FunctionRaised, match="7 is busy"):
            await take(results)
        assert taken == [2, 4, 6, 8, 10, 12]
        await trio.testing.wait_all_tasks_blocked()
        before = len(pulled)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pulled) == before


async def test_starmap_gives_each_item_as_arguments(size: str) -> None:
    pairs = [(number, 10 * number) for number in range(30)]
    async with deployed(Probe().agent) as deployment, deployment.add.starmap(pairs) as sums:
        assert [each async for each in sums] == [11 * number for number in range(30)]


async def test_for_each_returns_what_failed(size: str) -> None:
    async with deployed(counter()) as deployment:
        failed = await deployment.count.for_each(range(30), on_error="keep")
        assert sorted(each.argument for each in failed) == [0, 7, 14, 21, 28]
        assert await deployment.count.for_each(range(1, 7)) == []
        with pytest.raises(FunctionRaised, match="14 is busy"):
            await deployment.count.for_each(range(8, 20))


async def test_asynchronous_items_are_pulled_as_they_come(size: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(20):
            await trio.lowlevel.checkpoint()
            yield number

    async with deployed(Probe().agent) as deployment:
        outcomes = await collect(deployment.echo, numbers())
    assert [each.result for each in outcomes] == list(range(20))


# -- time and capacity ------------------------------------------------------------------------


async def test_a_full_queue_makes_a_map_wait_and_never_fails_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("slow")
    results: list[object] = []

    @app.function
    async def rest(number: int) -> int:
        await trio.sleep(10)
        return number

    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(queue=0, concurrency=1)
        deployment = await spearlet.deploy(app, settings=settings)

        async def run() -> None:
            results.extend(each.result for each in await collect(deployment.rest, range(5)))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run)
    assert sorted(map(str, results)) == sorted([*"01234"] * 3)


async def test_the_timeout_of_an_item_counts_from_its_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("slow", concurrency=1)

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return spear.context().remaining_seconds()

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.rest, [6, 6, 60, 6, 6], timeout=10)
    assert [each.result for each in outcomes if each.error is None] == pytest.approx([4] * 4)
    assert isinstance(outcomes[2].error, DeadlineExceeded)
    assert outcomes[2].error.delivered != "no"
    assert "rest took longer than 10 s" in str(outcomes[2].error)  # not with the wait for a slot


async def test_a_late_item_of_a_batch_is_the_only_one_that_fails(
    batches: None, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent("slow", concurrency=1)

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return spear.context().remaining_seconds()

    async with deployed(app) as deployment:
        seconds = [1.0] * 20 + [600.0] + [1.0] * 20
        outcomes = await collect(deployment.rest, seconds, timeout=10)
    late = outcomes.pop(20)
    assert isinstance(late.error, DeadlineExceeded)
    assert late.error.delivered == "yes"
    assert [each.result for each in outcomes] == pytest.approx([9] * 40)


@pytest.mark.parametrize("makes_coroutine", [False, True])
async def test_a_late_plain_item_of_a_batch_is_the_only_one_that_fails(
    batches: None, mock_clock: trio.testing.MockClock, makes_coroutine: bool
) -> None:
    app, begun, may_end = spear.Agent("slow"), threading.Event(), threading.Event()
    remaining: list[float] = []

    async def later(number: int) -> int:
        return number

    @app.function
    def work(number: int) -> object:
        if number == 20:
            begun.set()
            may_end.wait()
            remaining.append(spear.context().remaining_seconds())
        return later(number) if makes_coroutine else number

    outcomes: list[MapItem[object]] = []

    async def run(deployment: Deployment) -> None:
        outcomes.extend(await collect(deployment.work, range(60), timeout=10, limit=1))

    async with deployed(app) as deployment:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, deployment)
            await trio.to_thread.run_sync(begun.wait)
            mock_clock.jump(10.5)  # nothing that ran before it was sent
        assert not remaining
        may_end.set()
        mock_clock.rate = 1.0  # draining takes time
    assert remaining == [0]
    late = outcomes.pop(20)
    assert isinstance(late.error, DeadlineExceeded)
    assert [each.result for each in outcomes] == [*range(20), *range(21, 60)]


def mixed(*functions: Callable[..., object]) -> spear.Agent:  # type: ignore[explicit-any]  # of any kind
    """An agent with some plain functions and one that is not: it takes more calls than it has threads."""
    app = spear.Agent("mixed")
    for function in functions:
        app.function(function)

    @app.function
    async def ping() -> str:
        return "here"

    return app


async def test_the_timeout_of_a_plain_function_does_not_count_the_wait_for_a_thread(
    size: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.agent._app.MAX_THREADS", 1)

    def work(number: int) -> float:
        trio.from_thread.run_sync(autojump_clock.jump, 6.0)
        return spear.context().remaining_seconds()

    async with deployed(mixed(work)) as deployment:
        autojump_clock.autojump_threshold = inf  # time passes only in the function
        outcomes = await collect(deployment.work, range(5), timeout=10)
        autojump_clock.autojump_threshold = 0
    assert [each.error for each in outcomes] == [None] * 5
    assert [each.result for each in outcomes] == pytest.approx([4] * 5)


async def test_a_map_sends_no_more_calls_of_a_plain_function_than_there_are_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.agent._app.MAX_THREADS", 2)
    begun, gate = 0, threading.Event()
    full = trio.Event()

    def note() -> None:
        nonlocal begun
        begun += 1
        if begun == 2:
            full.set()

    def hold(number: int) -> int:
        trio.from_thread.run_sync(note)
        assert gate.wait(PATIENCE_SECONDS)
        return number

    outcomes: list[MapItem[object]] = []
    async with deployed(mixed(hold)) as deployment:

        async def run() -> None:
            outcomes.extend(await collect(deployment.hold, range(10)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await full.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert deployment.statistics().calls_in_flight == 2
            assert await deployment.ping() == "here"
            gate.set()
        assert begun == 10
    assert [each.result for each in outcomes] == list(range(10))


@final
class First:
    """A policy that always chooses the first replica, unless that is full."""

    def __init__(self, rng: Random) -> None: ...

    def choose(self, candidates: Candidates, call: CallAttributes) -> Candidate | None:
        return next((each for each in candidates.all if each.has_capacity), None)


async def test_a_map_uses_the_threads_of_all_replicas_whatever_the_policy_prefers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spear.agent._app.MAX_THREADS", 1)

    gate = threading.Event()
    outcomes: list[MapItem[object]] = []

    def hold(number: int) -> int:
        assert gate.wait(PATIENCE_SECONDS)
        return number

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(
            MemorySettings(agent=mixed(hold), shares_process=True),
            settings=DeploymentSettings(replicas=2, policy=First),
        )

        async def run() -> None:
            outcomes.extend(await collect(deployment.hold, range(2)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            assert deployment.statistics().calls_in_flight == 2
            gate.set()
    assert {str(each.instance) for each in outcomes} == {"memory:mixed-1#1", "memory:mixed-2#1"}
    assert [each.result for each in outcomes] == [0, 1]


async def test_a_map_of_a_plain_function_makes_a_deployment_grow(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.agent._app.MAX_THREADS", 1)
    gate, ready = threading.Event(), 0

    def hold(number: int) -> int:
        assert gate.wait(PATIENCE_SECONDS)
        return number

    def note(event: InstanceEvent) -> None:
        nonlocal ready
        ready += event.state.value == "ready"
        if ready == 2:
            gate.set()

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(
            MemorySettings(agent=mixed(hold), shares_process=True),
            replicas=spear.Scale(min=1, max=2),
            on_event=note,
        )
        outcomes = await collect(deployment.hold, range(10), timeout=inf)
    assert ready == 2
    assert [each.result for each in outcomes] == list(range(10))


HOLDING = """
import os, spear
app = spear.Agent()

@app.function
def hold(number: int) -> int:
    with open("begun", "ab", 0) as begun:
        begun.write(b".")
    with open("gate", "rb") as gate:
        gate.read()
    return os.getpid()

@app.function
async def ping() -> None: ...
"""
"""A program whose calls wait until `gate` has ended, and report to the pipe `begun`."""


@pytest.mark.slow
async def test_a_dead_instance_costs_no_more_items_than_it_has_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("holding.py").write_text(HOLDING)
    os.mkfifo("begun")
    os.mkfifo("gate")
    gate = os.open("gate", os.O_RDWR)
    async with (
        trio.lowlevel.FdStream(os.open("begun", os.O_RDWR | os.O_NONBLOCK)) as begun,
        deployed(Path("holding.py"), replicas=2) as deployment,
        deployment.hold.map(range(100), on_error="keep", timeout=inf) as results,
    ):
        threads = min(32, (os.cpu_count() or 1) + 4)
        count = 0
        while count < 2 * threads:  # all threads of both instances are used
            count += len(await begun.receive_some())
        assert count == 2 * threads
        assert deployment.statistics().calls_in_flight == count
        lost = deployment.replicas[0]
        os.kill(pid(lost), signal.SIGKILL)
        Path("open").touch()
        os.replace("open", "gate")
        os.close(gate)
        outcomes = [each async for each in results]
    failed = [each for each in outcomes if each.error is not None]
    assert len(failed) == threads
    assert {each.instance for each in failed} == {lost.id}
    assert all(each.instance != lost.id for each in outcomes if each.error is None)


async def test_leaving_the_block_cancels_the_calls_that_run() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        waiting = deployment.function("wait").starmap([()] * 3)
        async with waiting:
            await probe.begun.wait()
        await probe.cancelled.wait()
        assert deployment.statistics().calls_in_flight == 0


async def test_a_map_uses_replicas_that_come_later(autojump_clock: trio.testing.MockClock) -> None:
    app = spear.Agent("meeting", concurrency=1)
    here, full = 0, trio.Event()

    @app.function
    async def meet(number: int) -> int:
        nonlocal here
        here += 1
        if here == 3:
            full.set()
        await full.wait()
        return number

    async with open_spearlet() as spearlet:
        shared = MemorySettings(agent=app, shares_process=True)
        scale = spear.Scale(min=0, max=3)
        deployment = await spearlet.deploy(shared, replicas=scale)
        outcomes = await collect(deployment.meet, range(3))
    assert [each.result for each in outcomes] == [0, 1, 2]


# -- values -----------------------------------------------------------------------------------


async def test_an_item_that_cannot_be_sent_fails_alone(size: str) -> None:
    items: list[object] = [*range(10), object(), *range(10)]
    async with deployed(Probe().agent) as deployment:
        outcomes = await collect(deployment.echo, items)
    wrong = outcomes.pop(10)
    assert isinstance(wrong.error, InvalidArguments)
    assert (wrong.error.code, wrong.attempts) == ("argument_not_sendable", 0)
    assert [each.result for each in outcomes] == [*range(10), *range(10)]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_result_that_cannot_be_sent_fails_alone(size: str, is_async: bool) -> None:
    app = spear.Agent()

    def find(number: int) -> object:
        return {"view": memoryview(b"12"), 7: object(), 9: "\ud800"}.get(number, number)

    async def find_async(number: int) -> object:
        return find(number)

    app.function(find_async if is_async else find, name="find")  # type: ignore[call-overload]  # of two kinds
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.find, range(20))
    for number in 7, 9:
        assert isinstance(outcomes[number].error, FunctionRaised)
        assert "which cannot be sent" in str(outcomes[number].error)
    rest = [each for each in outcomes if each.index not in (7, 9)]
    assert [each.result for each in rest] == [each.index for each in rest]


async def test_buffers_arrive_as_bytes(size: str) -> None:
    app = spear.Agent()

    @app.function
    def cut(data: bytes) -> memoryview:
        return memoryview(data)[:1]

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.cut, [bytes([each]) * 3 for each in range(20)])
    assert [each.result for each in outcomes] == [bytes([each]) for each in range(20)]


async def test_one_slow_item_halves_the_batches_and_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Batches once went back to one item, and had to double again."""
    app = spear.Agent()

    @app.function
    async def call_id(number: int) -> int:
        await trio.sleep(1 if number == 100 else 0.0001)
        return spear.context().call_id

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.call_id, range(400), limit=1)
    calls = [each.result for each in outcomes]
    sizes = {call: calls.count(call) for call in calls}
    slow = list(sizes).index(calls[100])
    before, after = list(sizes.values())[slow : slow + 2]
    assert before >= 16
    assert after >= before // 2


@final
class SlowThreads(trio.abc.Clock):
    """A clock by which a thread of a function is suspended for a second before it looks at the time."""

    def __init__(self) -> None:
        self._trios = threading.current_thread()
        self._suspended = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        if threading.current_thread() is not self._trios:
            self._suspended += 1
        return time.monotonic() + self._suspended

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


@pytest.fixture
def slow_threads() -> SlowThreads:
    return SlowThreads()


async def test_a_batch_whose_process_was_suspended_sends_outcomes(
    batches: None, slow_threads: SlowThreads
) -> None:
    async with deployed(counter()) as deployment:
        function = deployment.function("count")
        async with function.map([1] * 100) as results:
            assert [each async for each in results] == [2] * 100


async def test_large_results_of_a_batch_are_sent_in_parts(batches: None) -> None:
    app = spear.Agent()

    @app.function
    def fill(size: int) -> bytes:
        return bytes(size)

    async with deployed(app) as deployment:
        sizes = [1, 2, 400_000, 3, 2_000_000, *[300_000] * 10, 5]
        outcomes = await collect(deployment.fill, sizes, limit=1)
    assert [len(each.result) for each in outcomes] == sizes  # type: ignore[arg-type]  # bytes


async def test_large_results_bound_what_a_map_pulls(batches: None) -> None:
    app, pulled = spear.Agent(), []

    @app.function
    async def fill(number: int) -> bytes:
        return bytes(100_000 + number)

    def numbers() -> Iterator[int]:
        for number in range(2000):
            pulled.append(number)
            yield number

    async with deployed(app) as deployment, deployment.fill.map(numbers(), limit=2) as results:
        await anext(results)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pulled) < 60
        assert len(cast("bytes", await anext(results))) == 100_001


async def test_wrong_arguments_fail_alone(size: str) -> None:
    async with deployed(counter()) as deployment:
        items: list[object] = [1, 2, 3, 4, "five", 6]
        outcomes = await collect(deployment.count_async, items)
    error = outcomes[4].error
    assert isinstance(error, InvalidArguments)
    assert (error.code, error.parameter) == ("argument_type", "number")
    assert [each.result for each in outcomes if each.error is None] == [2, 4, 6, 8, 12]


async def test_a_stop_iteration_of_an_item_keeps_its_name(size: str) -> None:
    app = spear.Agent()

    @app.function
    def first(numbers: list[int]) -> int:
        return next(iter(numbers))

    async with deployed(app) as deployment:
        outcomes = await collect(
            deployment.first, [[each] if each % 5 else [] for each in range(20)]
        )
    for each in outcomes:
        if each.index % 5:
            assert each.result == each.index
        else:
            assert isinstance(each.error, FunctionRaised)
            assert each.error.type_name == "StopIteration"


# -- the function's side ----------------------------------------------------------------------


async def test_the_context_of_an_item_is_its_own(batches: None) -> None:
    app = spear.Agent()

    @app.function
    def look(number: int) -> list[object]:
        here = spear.context()
        return [here.function, 0 < here.remaining_seconds() <= 60, here.is_cancelled, here.caller]

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.look, range(20))
    assert [each.result for each in outcomes] == [["look", True, False, "host"]] * 20


converting: list[str] = []
"""The functions whose arguments were converted to Order objects."""


@attrs.frozen
class Order:
    number: int

    def __attrs_post_init__(self) -> None:
        converting.append(spear.context().function)


async def test_the_context_of_an_item_is_its_own_after_a_wrapper_and_in_a_converter(
    batches: None,
) -> None:
    app = spear.Agent()
    converting.clear()

    async def look(number: int) -> list[object]:
        await trio.lowlevel.checkpoint()
        here = spear.context()
        return [here.function, 0 < here.remaining_seconds() <= 60]

    @app.function
    def look_by_wrapper(number: int) -> object:
        return look(number)

    @app.batched
    async def take(orders: list[Order]) -> list[int]:
        return [each.number for each in orders]

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.look_by_wrapper, range(20))
        taken = await collect(deployment.take, [{"number": each} for each in range(20)])
    assert [each.result for each in outcomes] == [["look_by_wrapper", True]] * 20
    assert [each.result for each in taken] == list(range(20))
    assert converting == ["take"] * 20


mark: ContextVar[int | None] = ContextVar("mark", default=None)


async def set_in_task(number: int) -> list[int | None]:
    before = mark.get()
    mark.set(number)
    await trio.lowlevel.checkpoint()
    seen: list[int | None] = [before, mark.get()]

    async def look() -> None:
        seen.append(mark.get())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
    return seen


def set_in_thread(number: int) -> list[int | None]:
    before = mark.get()
    mark.set(number)
    return [before, mark.get(), trio.from_thread.run_sync(mark.get)]


def set_by_wrapper(number: int) -> object:
    assert mark.get() is None
    mark.set(0)
    return set_in_task(number)


async def set_in_batch(numbers: list[int]) -> list[list[int | None]]:
    before = mark.get()
    mark.set(numbers[-1])
    return [[before, number, number] for number in numbers]


@pytest.mark.parametrize(
    "function", [set_in_task, set_in_thread, set_by_wrapper], ids=lambda each: each.__name__
)
async def test_context_variables_do_not_leak_from_item_to_item(
    size: str, function: Callable[[int], object]
) -> None:
    app = spear.Agent("marks", concurrency=1)
    app.function(function)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.function(function.__name__), range(50))
    assert [each.result for each in outcomes] == [[None, each, each] for each in range(50)]
    assert mark.get() is None


@final
class Incomparable:
    """A value such as an array of numpy, whose comparisons have no truth."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("no truth")

    __hash__ = None  # type: ignore[assignment]  # as of numpy's arrays


async def test_context_variables_do_not_leak_if_their_values_cannot_be_compared(
    batches: None,
) -> None:
    app = spear.Agent("odd")
    value: ContextVar[Incomparable] = ContextVar("value")
    first = Incomparable()

    @app.lifespan
    async def life() -> AsyncIterator[None]:
        value.set(first)
        yield

    @app.function
    async def is_first(number: int) -> bool:
        found = value.get()
        value.set(Incomparable())
        return found is first

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.is_first, range(20))
    assert [each.result for each in outcomes] == [True] * 20


async def test_context_variables_do_not_leak_from_batch_to_batch(size: str) -> None:
    app = spear.Agent("marks")
    app.batched(max_size=3)(set_in_batch)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.set_in_batch, range(50))
    assert [each.result for each in outcomes] == [[None, each, each] for each in range(50)]


@pytest.mark.parametrize("name", ["count", "count_async"])
async def test_instruments_see_every_call(batches: None, name: str) -> None:
    records: list[CallRecord] = []
    async with open_spearlet(on_call=records.append) as spearlet:
        deployment = await spearlet.deploy(counter())
        await deployment.function(name).for_each(range(1, 50), on_error="keep")
    assert len(records) == 49
    assert sum(each.failure is not None for each in records) == 7


async def test_an_agent_without_batches_gets_one_call_for_each_item(batches: None) -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Foreign())
        outcomes = await collect(deployment.price, range(30))
    assert {each.result for each in outcomes} == {b"3.5"}
    assert {each.attempts for each in outcomes} == {1}  # the refused batch is none


async def test_a_function_that_takes_items_gets_one_call_for_each_item(batches: None) -> None:
    app = spear.Agent()

    @app.function
    async def total(start: int, more: spear.Items[int]) -> int:
        return start + sum([each async for each in more])

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.total, range(30))
    assert [each.result for each in outcomes] == list(range(30))


async def test_items_of_a_batched_function_are_gathered_by_the_agent(batches: None) -> None:
    app = spear.Agent()
    sizes: list[int] = []

    @app.batched(max_size=20, max_wait_seconds=0.01)
    async def double(numbers: list[int]) -> list[int | Exception]:
        sizes.append(len(numbers))
        return [KeyError() if number == 77 else 2 * number for number in numbers]

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.double, [*range(100), "text"])
    assert [each.result for each in outcomes[:77]] == list(range(0, 154, 2))
    errors = {each.index: each.error for each in outcomes if each.error is not None}
    assert {index: type(error) for index, error in errors.items()} == {
        77: FunctionRaised,
        100: InvalidArguments,
    }
    assert sum(sizes) == 100
    assert max(sizes) == 20
    assert len(sizes) <= 20


async def test_a_late_item_of_a_batched_function_is_the_only_one_that_fails(
    batches: None, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent()

    @app.batched(max_size=1, max_concurrent_batches=1000)
    async def nap(numbers: list[int]) -> list[int]:
        await trio.sleep(5 if numbers == [20] else 0.5)
        return numbers

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.nap.options(timeout=2), range(30))
    late = {each.index: type(each.error) for each in outcomes if each.error is not None}
    assert late == {20: DeadlineExceeded}


async def test_a_late_item_of_a_batched_function_tells_whether_the_function_has_had_it(
    batches: None, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent()
    seen: list[int] = []

    @app.batched(max_size=4)
    async def nap(numbers: list[int]) -> list[int]:
        seen.extend(numbers)
        await trio.sleep(5 if len(seen) > 15 else 0)
        return numbers

    async with deployed(app) as deployment:
        outcomes = await collect(deployment.nap.options(timeout=2), range(31), limit=1)
    late = [each for each in outcomes if isinstance(each.error, DeadlineExceeded)]
    assert {each.error.delivered for each in late if each.error} == {"no", "yes"}
    for each in late:
        assert each.error is not None
        assert (each.error.delivered == "yes") == (each.index in seen)


@pytest.mark.parametrize(
    "junk",
    [
        17,
        [1, []],
        [1, [], []],
        [-1, [1], []],
        [1, list(range(100)), []],
        [1, [None], [[0, 1, 2, 3]]],
        [1, [None], [[1, 0, 2, 0, {}]]],
        [1, [None], [[0, 0, 2, 0, None]]],
        [True, [1], []],
    ],
    ids=lambda each: repr(each)[:30],
)
async def test_what_is_no_outcome_of_a_batch_fails_its_items(batches: None, junk: object) -> None:
    class Liar(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.service = Functions({"price": self.price, "spear.batch": self.lie})

        async def lie(self, call: InboundCall) -> bytes:
            payload, is_cbor = encode_result(junk)
            await call.send(payload, is_cbor=is_cbor)
            return b""

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Liar())
        outcomes = await collect(deployment.price, range(30), limit=1)
    failed = [each for each in outcomes if each.error is not None]
    assert len(failed) == 20  # an item travels alone, the next two together, and so on
    assert all(isinstance(each.error, RemoteProtocolError) for each in failed)
    assert all(each.result == b"3.5" for each in outcomes if each not in failed)


# -- retries ----------------------------------------------------------------------------------


async def test_failed_items_are_tried_again(size: str) -> None:
    app, tried = spear.Agent(), set[int]()

    @app.function
    async def fetch(number: int) -> int:
        if number % 3 == 0 and number not in tried:
            tried.add(number)
            raise ConnectionError("busy")
        return number

    retry = RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.fetch, range(30), retry=retry)
    assert [each.result for each in outcomes] == list(range(30))
    assert [each.attempts for each in outcomes] == [1 + (n % 3 == 0) for n in range(30)]


async def test_the_retries_of_items_are_not_limited_by_the_budget_of_the_deployment(
    size: str,
) -> None:
    """Of 2,000 items that failed once, 886 had one attempt: the budget was used up."""
    app, tried = spear.Agent(), set[int]()

    @app.function
    async def fetch(number: int) -> int:
        if number not in tried:
            tried.add(number)
            raise ConnectionError("busy")
        return number

    retry = RetryPolicy(max_attempts=3, on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.fetch, range(300), retry=retry)
        assert [each.result for each in outcomes] == list(range(300))
        tried.clear()
        # The map has used none of the budget, which limits other calls.
        assert await deployment.fetch.options(retry=retry)(7) == 7


DYING = """
import os, spear, time

app = spear.Agent()

@app.function
def work(number: int) -> int:
    if number == 39:
        time.sleep(0.05)  # so that outcomes of its batch are sent
    if number == 40 and not os.path.exists({flag!r}):
        open({flag!r}, "w").close()
        os._exit(9)
    return number
"""


@pytest.mark.slow
async def test_a_dead_instance_costs_only_its_own_items(size: str, tmp_path: Path) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING.format(flag=str(tmp_path / "flag")))
    async with deployed(program, replicas=2) as deployment:
        outcomes = await collect(deployment.work, range(200))
    failed = [each for each in outcomes if each.error is not None]
    assert 40 in [each.index for each in failed]
    assert all(isinstance(each.error, WorkerDied) for each in failed)
    assert all(each.error.delivered == "maybe" for each in failed if each.error)
    assert len({each.instance for each in failed}) == 1
    assert all(each.result == each.index for each in outcomes if each.error is None)


@pytest.mark.slow
async def test_items_of_a_dead_instance_are_repeated_if_the_function_is_idempotent(
    size: str, tmp_path: Path
) -> None:
    program = tmp_path / "dying.py"
    program.write_text(DYING.format(flag=str(tmp_path / "flag")))
    retry = RetryPolicy(idempotent=True, initial_seconds=0)
    async with deployed(program, replicas=2) as deployment:
        outcomes = await collect(deployment.work, range(200), retry=retry)
    assert [each.result for each in outcomes] == list(range(200))
    assert max(each.attempts for each in outcomes) > 1


DYING_TWICE = """
import os, spear

app = spear.Agent()

@app.function
def work(number: int) -> int:
    deaths = len(os.listdir({place!r}))
    if (deaths == 0 and number == 40) or deaths == 1:
        os.mkdir(os.path.join({place!r}, str(deaths)))
        os._exit(9)
    return number
"""


@pytest.mark.slow
async def test_after_a_batch_was_lost_the_next_item_travels_alone(
    batches: None, tmp_path: Path
) -> None:
    program, place = tmp_path / "dying.py", tmp_path / "deaths"
    program.write_text(DYING_TWICE.format(place=str(place)))
    place.mkdir()
    async with deployed(program) as deployment:
        outcomes = await collect(deployment.work, range(200), limit=1)
    lost = [each.instance for each in outcomes if each.error is not None]
    assert lost.count(lost[-1]) == 1
    assert len(set(lost)) == 2
    assert outcomes[-1].result == 199


STEPPING = """
import os, time, spear

app = spear.Agent(concurrency=1)

@app.function
def work(number: int) -> int:
    if number >= 100:
        time.sleep(0.005)
    if number == 120:
        os._exit(9)
    return number
"""


@pytest.mark.slow
async def test_the_outcomes_of_a_long_batch_are_known_before_its_end(
    batches: None, tmp_path: Path
) -> None:
    program = tmp_path / "stepping.py"
    program.write_text(STEPPING)
    async with deployed(program) as deployment:
        outcomes = await collect(deployment.work, range(127), limit=1)
    lost = [each.index for each in outcomes if each.error is not None]
    assert lost == list(range(lost[0], 127))  # the rest of the last batch, items 63 to 126
    assert 63 < lost[0] <= 120


async def test_a_retried_item_of_a_batch_has_no_more_attempts_than_allowed(batches: None) -> None:
    app = spear.Agent()

    @app.function
    async def fail(number: int) -> int:
        if number < 5:
            return number
        raise ConnectionError("busy")

    retry = RetryPolicy(max_attempts=3, on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.fail, range(20), retry=retry, limit=1)
    assert {each.attempts for each in outcomes if each.error is not None} == {3}


async def test_items_are_tried_again_by_the_policy_of_the_deployment(size: str) -> None:
    app = spear.Agent()
    seen: set[int] = set()

    @app.function
    async def fetch(number: int) -> int:
        if number % 3 == 0 and number not in seen:
            seen.add(number)
            raise ConnectionError("refused")
        return number

    retry = RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app, settings=DeploymentSettings(retry=retry))
        outcomes = await collect(deployment.fetch, range(30))
        assert [each.result for each in outcomes] == list(range(30))
        seen.clear()
        once = await collect(deployment.fetch, range(30), retry=RetryPolicy(max_attempts=1))
    assert sum(each.error is not None for each in once) == 10


async def test_a_full_queue_makes_a_batch_wait_and_never_fails_it(
    batches: None, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent("slow")

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(queue=0, concurrency=1)
        deployment = await spearlet.deploy(app, settings=settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.rest, 30)
            await trio.testing.wait_all_tasks_blocked()
            outcomes = await collect(deployment.rest, [0.001] * 40)
    assert {each.result for each in outcomes} == {0.001}


async def test_a_batch_that_finds_the_queue_full_waits(
    batches: None, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent("slow")

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(queue=0, concurrency=1)
        deployment = await spearlet.deploy(app, settings=settings)
        async with deployment.rest.map([0.001] * 400) as results:
            for _ in range(20):
                await anext(results)
            await trio.sleep(1)  # the map runs ahead, with two large batches at a time
            assert [each async for each in results] == [0.001] * 380


async def test_a_result_of_another_type_fails_alone(size: str) -> None:
    async with deployed(Probe().agent) as deployment:
        wanted = deployment.echo.options(returns=int)
        outcomes = await collect(cast("Function", wanted), [*range(9), "tea", *range(30)])
    assert [each.index for each in outcomes if each.error is not None] == [9]
    assert isinstance(outcomes[9].error, UnexpectedResult)
    assert [each.result for each in outcomes] == [*range(9), None, *range(30)]


async def test_an_item_that_is_tried_again_has_no_more_time_than_its_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("slow", concurrency=1)

    @app.function
    async def fetch(number: int) -> float:
        left = spear.context().remaining_seconds()
        await trio.sleep(4)
        if left > 4:
            raise ConnectionError("refused")
        return left

    retry = RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with deployed(app) as deployment:
        outcomes = await collect(deployment.fetch, [1], timeout=9, retry=retry)
    assert isinstance(outcomes[0].error, DeadlineExceeded)
    assert outcomes[0].attempts == 3


async def test_several_tasks_may_take_the_results() -> None:
    taken: list[object] = []

    async def take(results: MapResults[Result]) -> None:
        async for each in results:
            taken.append(each)  # noqa: PERF401  # as they come

    async with (
        deployed(Probe().agent) as deployment,
        deployment.echo.map(range(50)) as results,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(take, results)
    assert sorted(map(str, taken)) == sorted(map(str, range(50)))


@pytest.mark.parametrize("wrong", [3, "tea", b"tea", {"tea": 1}], ids=repr)
async def test_an_item_of_starmap_that_is_no_list_fails_alone(size: str, wrong: object) -> None:
    items: list[object] = [(1,), (2,), wrong, (4,)]
    async with deployed(Probe().agent) as deployment:
        mapping = deployment.echo.starmap(items, on_error="keep")  # type: ignore[call-overload]  # the mistake
        async with mapping as outcomes:
            found = [each async for each in outcomes]
    assert isinstance(found[2].error, InvalidArguments)
    assert (found[2].error.code, found[2].attempts) == ("bad_item", 0)
    assert [each.result for each in found] == [1, 2, None, 4]


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "error", "text"),
    [
        (lambda f: f.map([], limit=0), ConfigurationError, "limit must be from 1 to"),
        (lambda f: f.map([], on_error="ignore"), InvalidArguments, 'must be "raise" or "keep"'),
        (lambda f: f.map([], timeout="1"), InvalidArguments, "timeout must be a number"),
        (lambda f: f.map([], retry=3), InvalidArguments, "retry must be a spear.RetryPolicy"),
        (lambda f: f.options(key="7").map([]), ConfigurationError, "a key makes all calls one"),
        (
            lambda f: f.map([], retries=3),
            InvalidArguments,
            "option 'retries'; did you mean 'retry'",
        ),
        (lambda f: f.map([], on_eror="keep"), InvalidArguments, "did you mean 'on_error'"),
        (
            lambda f: f.map([], currency="GBP"),
            InvalidArguments,
            r"use echo\.options\(keywords={'currency': \.\.\.}\)\.map\(items\)",
        ),
        (
            lambda f: f.starmap([], session="7"),
            InvalidArguments,
            r"use echo\.options\(session=\.\.\.\)\.starmap\(items\)",
        ),
        (lambda f: f.map([1], [2]), InvalidArguments, r"use echo\.starmap\(zip\(\.\.\.\)\)"),
    ],
)
async def test_mistakes_are_told(
    mistake: Callable[[Function], object], error: type[Exception], text: str
) -> None:
    """At once, and not only on entering the block."""
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(error, match=text):
            mistake(deployment.echo)
        with pytest.raises(Rejected, match="returns a stream"):
            deployment.ticks.map([1])


async def test_items_that_cannot_be_iterated_over_are_refused() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match="items must be an iterable"):
            async with deployment.echo.map(17):  # type: ignore[call-overload]  # the mistake
                raise AssertionError


async def test_items_wait_for_a_slot_no_longer_than_the_option_queue_timeout(
    size: str, autojump_clock: trio.testing.MockClock
) -> None:
    app = spear.Agent("waits", concurrency=1)

    @app.function
    async def rest(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    settings = spear.DeploymentSettings(queue_timeout=0.5)  # for other calls
    async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
        deployment = await spearlet.deploy(app, settings=settings)
        outcomes = await collect(deployment.rest.options(queue_timeout=1), [2.0] * 9)
        assert [each.error for each in outcomes] == [None] * 9  # the map itself holds items back
        nursery.start_soon(deployment.rest.options(timeout=inf), 40.0)
        await trio.testing.wait_all_tasks_blocked()
        late = await collect(deployment.rest.options(queue_timeout=1), [2.0] * 3)
        for each in late:
            assert isinstance(each.error, DeadlineExceeded)
            assert "no replica of waits had a free slot" in str(each.error)
            assert (each.error.delivered, each.attempts) == ("no", 0)
        outcomes = await collect(deployment.rest, [2.0] * 3)
        assert [each.error for each in outcomes] == [None] * 3  # they have waited


async def test_an_unknown_option_of_for_each_is_named() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match="no option 'ordered'") as caught:
            await deployment.echo.for_each([1], ordered=True)  # type: ignore[call-arg]  # the mistake
        assert (caught.value.parameter, caught.value.code) == ("ordered", "unknown_argument")


async def test_keywords_are_arguments_of_all_calls(size: str) -> None:
    app = spear.Agent()

    @app.function
    async def price(number: int, *, currency: str = "EUR") -> str:
        return f"{number} {currency}"

    async with deployed(app) as deployment:
        function = deployment.price.options(keywords={"currency": "GBP"})
        outcomes = await collect(function, range(10))
    assert [each.result for each in outcomes] == [f"{number} GBP" for number in range(10)]


async def test_a_map_that_is_not_opened_says_how_to_open_it() -> None:
    async with deployed(Probe().agent) as deployment:
        mapping: object = deployment.echo.starmap([])
        with pytest.raises(TypeError, match=r"use `async with echo\.starmap\(\.\.\.\) as results`"):
            async for _ in mapping:  # type: ignore[attr-defined]  # the mistake
                pass
        with pytest.raises(TypeError, match=r"use `async with echo\.starmap\(\.\.\.\) as opened`"):
            await mapping  # type: ignore[misc]  # the mistake


# -- after the block --------------------------------------------------------------------------


async def test_results_that_were_not_taken_are_missed_after_the_block() -> None:
    """An iteration after the block once ended at once, as if there had been no items."""
    async with deployed(Probe().agent) as deployment:
        async with deployment.echo.map(range(3)) as results:
            assert await anext(results) == 0
            await trio.testing.wait_all_tasks_blocked()  # other results are there
        for _ in range(2):
            with pytest.raises(CallCancelled, match="inside its `async with` block"):
                await anext(results)


async def test_a_map_whose_results_were_all_taken_has_ended_after_the_block(size: str) -> None:
    async with deployed(Probe().agent) as deployment:
        async with deployment.echo.map(range(3)) as results:
            assert [each async for each in results] == [0, 1, 2]
        assert [each async for each in results] == []


async def test_a_task_that_waits_for_a_result_is_not_left_waiting_after_the_block() -> None:
    async def wait(results: MapResults[Result]) -> None:
        with pytest.raises(CallCancelled, match="closed before its end"):
            await anext(results)

    async with (
        deployed(Probe().agent) as deployment,
        trio.open_nursery() as nursery,
        deployment.function("wait").starmap([()]) as results,
    ):
        nursery.start_soon(wait, results)
        await trio.testing.wait_all_tasks_blocked()


# -- failures ---------------------------------------------------------------------------------


async def test_a_failure_that_is_raised_names_its_item(size: str) -> None:
    retry = RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)
    async with deployed(counter()) as deployment:
        async with deployment.count.starmap([(number,) for number in range(1, 20)]) as results:
            with pytest.raises(FunctionRaised, match="7 is busy") as caught:
                assert [each async for each in results] == []
        assert caught.value.__notes__ == ["item 6 of count.starmap(): (7,)"]
        with pytest.raises(FunctionRaised) as caught:
            await deployment.count.for_each([7], retry=retry)
        assert caught.value.__notes__ == ["item 0 of count.for_each(), after 3 calls: 7"]
        with pytest.raises(InvalidArguments) as wrong:
            await deployment.count.for_each(["7" * 80])
        assert wrong.value.__notes__ == [f"item 0 of count.for_each(): '{'7' * 56}..."]
