"""Calls with a key: executed once, for any number of callers and calls."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import DeploymentSettings, FunctionRaised, Rejected, WorkerDied, open_spearlet
from spear.calls import KeyedCall, Outcomes
from spear.telemetry import CallRecord

from .bench import open_bench
from .helpers import Probe, deployed, pid, write

if TYPE_CHECKING:
    from pathlib import Path

    from spear.channels import ExecutionResponse, InboundCall


@attrs.define
class Shop:
    """Functions that count their executions."""

    orders: list[object] = attrs.field(factory=list)
    release: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)

    def agent(self) -> spear.Agent:
        app = spear.Agent("shop")
        app.function(self.order)
        app.function(self.slow)
        app.function(self.fail)
        app.function(self.large)
        app.function(self.busy)
        app.function(self.too_large)
        app.function(self.reporting)
        app.function(self.whine)
        return app

    async def order(self, item: object) -> int:
        self.orders.append(item)
        return len(self.orders)

    async def slow(self, item: object) -> int:
        self.begun.set()
        try:
            await self.release.wait()
        finally:
            self.orders.append(item)
        return len(self.orders)

    async def fail(self) -> None:
        self.orders.append("fail")
        raise ValueError(f"number {len(self.orders)}")

    async def large(self, size: int) -> bytes:
        self.orders.append(size)
        return bytes(size)

    async def busy(self) -> None:
        self.orders.append("busy")
        raise spear.Overloaded("not now", retry_after_seconds=1)

    async def too_large(self) -> bytes:
        self.orders.append("too large")
        return bytes(spear.WireLimits().max_message_bytes + 1)

    async def reporting(self) -> str:
        self.orders.append("reporting")
        self.begun.set()
        spear.context().progress("begun")
        await self.release.wait()
        spear.context().progress("half")
        await trio.testing.wait_all_tasks_blocked()
        return "done"

    async def whine(self, size: int) -> None:
        self.orders.append(size)
        raise ValueError("x" * size)


async def set_when_blocked(event: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    event.set()


async def set_after(event: trio.Event, seconds: float) -> None:
    await trio.sleep(seconds)
    event.set()


async def test_r14_calls_with_the_same_key_are_one_call() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        order = deployment.order.options(key="a")
        assert [await order("tea") for _ in range(3)] == [1, 1, 1]
        assert await deployment.order.options(key="b")("tea") == 2
        assert await deployment.order("tea") == 3
        assert shop.orders == ["tea"] * 3


async def test_keys_of_other_functions_are_others() -> None:
    shop = Shop()
    shop.release.set()
    async with deployed(shop.agent()) as deployment:
        assert await deployment.order.options(key="a")("tea") == 1
        assert await deployment.slow.options(key="a")("tea") == 2


async def test_the_same_key_with_other_arguments_is_a_mistake() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        order = deployment.order.options(key="a")
        await order("tea")
        with pytest.raises(Rejected, match="'a' was used for a call of order with other arg") as no:
            await order("coffee")
        assert no.value.delivered == "no"
        assert shop.orders == ["tea"]


async def test_who_comes_meanwhile_waits_for_the_same_outcome() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        slow = deployment.slow.options(key="a")
        running = [slow.submit("tea") for _ in range(5)]
        await shop.begun.wait()
        await trio.testing.wait_all_tasks_blocked()
        shop.release.set()
        assert [await each.result() for each in running] == [1] * 5
        assert shop.orders == ["tea"]


async def test_what_it_raised_is_an_outcome_too() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        for _ in range(3):
            with pytest.raises(FunctionRaised, match="number 1") as caught:
                await deployment.fail.options(key="a")()
            assert caught.value.delivered == "yes"
        assert shop.orders == ["fail"]


async def test_r14_who_gives_up_does_not_end_it() -> None:
    """If the caller's end cancelled it, its outcome would be unknown, and a retry might repeat it."""
    shop = Shop()
    async with deployed(shop.agent()) as deployment, trio.open_nursery() as nursery:
        slow = deployment.slow.options(key="a")
        first = trio.CancelScope()

        @nursery.start_soon
        async def give_up() -> None:
            with first:
                await slow("tea")

        await shop.begun.wait()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert shop.orders == []
        shop.release.set()
        assert await slow("tea") == 1
        assert shop.orders == ["tea"]


async def test_r14_a_caller_whose_time_is_up_does_not_have_it_done_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment, trio.open_nursery() as nursery:
        slow = deployment.slow.options(key="a")
        with pytest.raises(spear.DeadlineExceeded, match="being executed for the key 'a'") as late:
            await slow("tea", timeout=0.2)
        assert late.value.delivered == "maybe"
        nursery.start_soon(set_after, shop.release, 1)
        assert await slow("tea", timeout=5) == 1
        assert shop.orders == ["tea"]


async def test_r14_the_scopes_around_the_first_caller_do_not_reach_the_one_that_joins_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment, trio.open_nursery() as nursery:
        slow = deployment.slow.options(key="a")

        @nursery.start_soon
        async def first() -> None:
            with trio.move_on_after(0.2) as scope:
                await slow("tea")
            assert scope.cancelled_caught

        nursery.start_soon(set_after, shop.release, 10)
        await shop.begun.wait()
        assert await slow("tea", timeout=30) == 1
        assert shop.orders == ["tea"]


async def test_r14_with_no_caller_left_it_goes_on_and_a_drain_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with open_spearlet() as spearlet, trio.open_nursery() as nursery:
        deployment = await spearlet.deploy(shop.agent())
        with trio.move_on_after(1):
            await deployment.slow.options(key="a")("tea")
        assert shop.orders == []
        nursery.start_soon(set_after, shop.release, 10)
        await spearlet.drain(20)
        assert shop.release.is_set()
        assert shop.orders == ["tea"]


async def test_r14_an_execution_has_the_deadline_of_its_deployment_and_is_not_repeated_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The function was cancelled, but may have had effects before."""
    shop = Shop()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shop.agent(), settings=DeploymentSettings(timeout=3))
        slow = deployment.slow.options(key="a", timeout=60)
        begun = trio.current_time()
        running = [slow.submit("tea") for _ in range(2)]
        for each in running:
            with pytest.raises(spear.DeadlineExceeded, match="slow took longer than 3 s"):
                await each.result()
        assert trio.current_time() - begun == pytest.approx(3)
        shop.release.set()
        with pytest.raises(spear.DeadlineExceeded, match="slow took longer than 3 s") as late:
            await slow("tea")
        assert late.value.delivered == "maybe"
        assert shop.orders == ["tea"]


@pytest.mark.parametrize(("seconds", "ends_at"), [(None, 60), (7, 7), (100, 100)])
async def test_an_execution_may_have_a_deadline_of_its_own(
    seconds: float | None, ends_at: float, autojump_clock: trio.testing.MockClock
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        slow = deployment.slow.options(key="a", key_seconds=seconds, timeout=math.inf)
        begun = trio.current_time()
        with pytest.raises(spear.DeadlineExceeded):
            await slow("tea")
        assert trio.current_time() - begun == pytest.approx(ends_at, abs=1)
        assert shop.orders == ["tea"]


async def test_what_was_certainly_not_begun_is_executed_by_the_next_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    settings = DeploymentSettings(timeout=3, concurrency=1)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shop.agent(), settings=settings)
        with pytest.raises(spear.DeadlineExceeded, match="no time left") as late:
            await deployment.order.options(key="a")("tea", timeout=0)
        assert late.value.delivered == "no"
        blocking = deployment.slow.submit("milk", timeout=10)
        await shop.begun.wait()
        order = deployment.order.options(key="a", timeout=60)
        with pytest.raises(spear.DeadlineExceeded, match="had a free slot") as late:
            await order("tea")
        assert late.value.delivered == "no"
        shop.release.set()
        assert await blocking.result() == 1
        assert await order("tea") == 2


async def test_r14_every_failure_of_a_function_that_has_run_is_its_outcome() -> None:
    """Also Overloaded, and a result that cannot be sent: the function has run."""
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        for function, kind in (("busy", spear.Overloaded), ("too_large", Rejected)):
            call = deployment.function(function).options(key="a")
            for _ in range(2):
                with pytest.raises(kind) as caught:
                    await call()
                assert caught.value.delivered == "yes"
        assert shop.orders == ["busy", "too large"]


async def test_each_caller_of_a_key_gets_the_reports_of_progress_that_come_while_it_waits() -> None:
    """A caller whose callback fails does not affect the others."""
    shop = Shop()
    seen: dict[str, list[object]] = {"first": [], "second": []}

    def fail(report: object) -> None:
        raise ZeroDivisionError(report)

    async with deployed(shop.agent()) as deployment, trio.open_nursery() as nursery:
        slow = deployment.reporting.options(key="a")
        for reports in seen.values():
            nursery.start_soon(slow.options(on_progress=reports.append))
        await shop.begun.wait()
        await trio.testing.wait_all_tasks_blocked()  # until "begun" has arrived
        nursery.start_soon(set_when_blocked, shop.release)
        with pytest.raises(ZeroDivisionError, match="half"):
            await slow.options(on_progress=fail)()
        assert await slow() == "done"
    assert seen == {"first": ["begun", "half"], "second": ["begun", "half"]}
    assert shop.orders == ["reporting"]


async def test_a_caller_that_has_seen_progress_knows_that_the_function_has_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        with pytest.raises(spear.DeadlineExceeded) as late:
            await deployment.reporting.options(key="a", timeout=1)()
        assert late.value.delivered == "yes"


async def test_every_caller_of_a_key_is_counted_and_told_of_once() -> None:
    records: list[CallRecord] = []
    shop = Shop()
    async with open_spearlet(on_call=records.append) as spearlet:
        deployment = await spearlet.deploy(shop.agent())
        for key in "aab":
            await deployment.order.options(key=key)("tea")
        for _ in range(2):
            with pytest.raises(FunctionRaised):
                await deployment.fail.options(key="a")()
        with pytest.raises(Rejected):
            await deployment.order.options(key="a")("coffee")
        counted = deployment.statistics().functions
        assert counted["order"].calls == 4
        assert counted["order"].failures == {"Rejected": 1}
        assert counted["fail"].failures == {"FunctionRaised": 2}
        assert [type(each.failure) for each in records] == [
            type(None), type(None), type(None), FunctionRaised, FunctionRaised, Rejected,
        ]  # fmt: skip


async def test_a_submitted_call_that_joins_a_key_runs_where_that_runs() -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        slow = deployment.slow.options(key="a")
        first = slow.submit("tea")
        await shop.begun.wait()
        second = slow.submit("tea")
        await trio.testing.wait_all_tasks_blocked()
        assert second.status is spear.ExecutionStatus.RUNNING
        assert second.instance == first.instance == deployment.replicas[0].id
        first.cancel()
        shop.release.set()
        assert await second.result() == 1


async def test_after_a_lost_start_nothing_says_that_it_certainly_did_not_run() -> None:
    """Neither for a full queue, nor for a deployment that has ended meanwhile."""
    async with trio.open_nursery() as nursery, open_bench(1) as bench:

        async def answer(call: InboundCall) -> bytes:
            bench.pool.remove(bench.replicas[0])
            bench.pool.give_up(WorkerDied("there is none any more"))
            nursery.start_soon(bench.replicas[0].channel.aclose)
            await trio.sleep_forever()
            return b""  # pragma: no cover  # never

        bench.services[0].answer = answer  # type: ignore[method-assign]  # the loss
        with pytest.raises(WorkerDied, match="there is none any more") as caught:
            await bench.function.options(key="a")()
        assert caught.value.delivered == "maybe"


async def test_r14_what_a_process_that_does_not_end_has_cancelled_is_not_begun_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The instance is shutting down, but while its process lives, the call may still have effects."""
    async with open_bench(2) as bench:
        for number, service in enumerate(bench.services):

            async def answer(call: InboundCall, *, number: int = number) -> bytes:
                bench.services[number].calls += 1
                bench.leave(number)
                await trio.lowlevel.checkpoint()
                raise spear.CallCancelled("the channel is being closed", delivered="yes")

            service.answer = answer  # type: ignore[method-assign]  # the cancellation
        where = bench.function.options(key="a", timeout=100)
        for _ in range(2):
            with pytest.raises(spear.CallCancelled) as caught:
                await where()
            assert caught.value.delivered == "yes"
        assert sum(each.calls for each in bench.services) == 1


async def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    async with trio.open_nursery() as nursery:
        outcomes = Outcomes(spear.HostLimits(), nursery)

        async def execute(_: object) -> ExecutionResponse:
            await trio.lowlevel.checkpoint()
            raise KeyError("ours")

        call = KeyedCall(
            name=("shop", "pay", "a"), payload=b"", deadline=math.inf, execution=None, reports=None
        )
        with pytest.raises(KeyError, match="ours") as caught:
            await outcomes.once(call, 60, execute)
        assert caught.traceback[-1].name == "execute"


async def test_r18_failures_count_as_what_they_hold_and_hold_no_arguments() -> None:
    shop = Shop()
    limits = spear.HostLimits(outcome_bytes=20_000)
    async with deployed(shop.agent(), limits=limits) as deployment:
        whine = deployment.whine
        for key in "abcdefgh":  # each fails with 4 KiB of text, which is held twice
            with pytest.raises(FunctionRaised):
                await whine.options(key=key)(4000)
        outcomes = deployment._registry.outcomes
        assert len(outcomes._kept) == 2
        assert 16_000 < outcomes._bytes <= 20_000
        for kept in outcomes._kept.values():
            assert isinstance(kept.result, Exception)
            assert kept.result.__traceback__ is None
            assert kept.result.__cause__ is None


async def test_a_failure_that_is_too_large_to_be_kept_is_no_reason_to_execute_again() -> None:
    shop = Shop()
    async with deployed(shop.agent(), limits=spear.HostLimits(outcome_bytes=1000)) as deployment:
        whine = deployment.whine.options(key="a")
        with pytest.raises(FunctionRaised):
            await whine(2000)
        with pytest.raises(Rejected, match="too large to be kept") as caught:
            await whine(2000)
        assert caught.value.delivered == "yes"
        assert shop.orders == [2000]


async def test_at_the_end_of_the_spearlet_it_is_cancelled() -> None:
    shop = Shop()
    limits = spear.HostLimits(timeouts=spear.InstanceTimeouts(drain_seconds=0.01))
    async with deployed(shop.agent(), limits=limits) as deployment:
        execution = deployment.slow.options(key="a").submit("tea")
        await shop.begun.wait()
    with pytest.raises((WorkerDied, spear.CallCancelled)):
        await execution.result()


async def test_who_waits_has_a_deadline_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shop = Shop()
    async with deployed(shop.agent()) as deployment:
        execution = deployment.slow.options(key="a").submit("tea")
        await shop.begun.wait()
        with pytest.raises(spear.DeadlineExceeded, match="being executed for the key 'a'") as late:
            await deployment.slow.options(key="a", timeout=3)("tea")
        assert late.value.delivered == "maybe"
        shop.release.set()
        assert await execution.result() == 1


async def test_outcomes_are_kept_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    shop = Shop()
    settings = DeploymentSettings(dedup_seconds=60)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(shop.agent(), settings=settings)
        order = deployment.order.options(key="a")
        assert await order("tea") == 1
        await trio.sleep(59)
        assert await order("tea") == 1
        await trio.sleep(2)
        assert await order("tea") == 2


async def test_r18_outcomes_are_bounded() -> None:
    shop = Shop()
    limits = spear.HostLimits(max_outcomes=2, outcome_bytes=1000)
    async with deployed(shop.agent(), limits=limits) as deployment:
        for key in "abc":
            await deployment.order.options(key=key)("tea")
        assert await deployment.order.options(key="c")("tea") == 3
        assert await deployment.order.options(key="a")("tea") == 4  # the outcome was forgotten
        large = deployment.large.options(key="x")
        assert len(await large(600)) == 600  # type: ignore[arg-type]  # bytes
        assert len(await deployment.large.options(key="y")(600)) == 600  # type: ignore[arg-type]  # bytes
        assert shop.orders[-2:] == [600, 600]
        await large(600)
        assert shop.orders[-1] == 600
        assert len(shop.orders) == 7  # x was forgotten for y
        assert len(await deployment.large.options(key="z")(2000)) == 2000  # type: ignore[arg-type]  # bytes
        with pytest.raises(Rejected, match="too large to be kept") as caught:
            await deployment.large.options(key="z")(2000)
        assert caught.value.delivered == "yes"


@pytest.mark.parametrize("key", ["", "x" * 257, 5, b"a"])
async def test_a_key_that_is_none(key: object) -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(spear.InvalidArguments, match="key must be text of 1 to 256"):
            deployment.echo.options(key=key)  # type: ignore[call-overload]  # the mistake


DYING = """
import os, spear
app = spear.Agent("dying")

@app.function
async def die(book: str) -> None:
    with open(book, "a") as file:
        file.write("x")
    os._exit(7)
"""


@pytest.mark.slow
async def test_r14_a_function_whose_process_dies_is_started_3_times_under_one_key_and_else_once(
    tmp_path: Path,
) -> None:
    target = write(tmp_path, "dying.py", DYING)
    policy = spear.RestartPolicy(
        intensity=100, first_delay_seconds=0.01, longest_delay_seconds=0.05
    )
    settings = spear.DeploymentSettings(replicas=2, restart=policy)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(target, settings=settings)
        for key, starts in ((None, 1), ("one", 3), ("two", 3)):
            book = tmp_path / f"book of {key}"
            die = deployment.die.options(key=key)
            with pytest.raises(WorkerDied, match="exited with status 7") as caught:
                await die(str(book))
            assert caught.value.delivered == "maybe"
            assert book.read_text() == "x" * starts
        once = tmp_path / "book of one start"
        with pytest.raises(WorkerDied, match="exited with status 7"):
            await deployment.die.options(key="once", key_restarts=False)(str(once))
        assert once.read_text() == "x"
        with pytest.raises(WorkerDied):  # nothing was kept: this is another call
            await deployment.die.options(key="two")(str(book))
        assert book.read_text() == "x" * 6


@pytest.mark.slow
async def test_a_lost_process_is_the_kept_outcome_of_a_key_without_restarts(tmp_path: Path) -> None:
    target = write(tmp_path, "dying.py", DYING)
    book = tmp_path / "book"
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(target, replicas=2)
        for key_restarts in (False, False, True):  # the first call of a key decides
            with pytest.raises(WorkerDied, match="exited with status 7"):
                await deployment.die.options(key="once", key_restarts=key_restarts)(str(book))
            assert book.read_text() == "x"


UNPLUGGED = """
import os, socket, time, spear
app = spear.Agent("unplugged")

def note(book: str, word: str) -> None:
    with open(book, "a") as file:
        file.write(f"{os.getpid()} {word}\\n")

@app.function
def work(book: str) -> None:
    note(book, "begins")
    if open(book).read().count("begins") > 1:
        return
    for entry in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(entry))) as each:
                each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    for _ in range(1000):
        time.sleep(0.01)
        note(book, "is at it")
"""


@pytest.mark.slow
async def test_r14_a_function_that_goes_on_without_its_connection_is_not_started_beside_itself(
    tmp_path: Path,
) -> None:
    """The host has lost the connection; only after the process has exited is the key executed again."""
    target = write(tmp_path, "unplugged.py", UNPLUGGED)
    limits = spear.HostLimits(
        wire=spear.WireLimits(reconnect_seconds=0.5),
        timeouts=spear.InstanceTimeouts(terminate_seconds=0.2),
    )
    async with open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(target, replicas=2)
        book = tmp_path / "book"
        await deployment.work.options(key="a")(str(book))
    notes = [line.split(maxsplit=1) for line in book.read_text().splitlines()]
    (first, begins), *others = notes
    assert begins == "begins"
    assert "is at it" in [note for _, note in others]
    pids = [number for number, _ in notes]
    assert pids == [first] * (len(pids) - 1) + [pids[-1]]  # never both at a time
    assert pids[-1] != first


FLAKY = """
import os, random, spear, trio
app = spear.Agent("flaky")
book = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_APPEND)

@app.function
async def count(number: int) -> int:
    os.write(book, b"%d %d\\n" % (number, os.getpid()))
    await trio.sleep(random.random() / 50)
    # What it does to the world is done by another function, which is asked under the same key.
    key = spear.context().key
    return await spear.call_once(key, "book.enter", number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_r14_with_a_key_each_call_is_executed_once_whatever_is_killed(
    tmp_path: Path, seed: random.Random, keys: int
) -> None:
    """Workers are killed and callers give up at random: only a death lets a key be executed again."""
    at_once = 32
    entries: Counter[int] = Counter()
    book = spear.Agent("book")

    @book.function
    async def enter(number: int) -> int:
        entries[number] += 1
        return number

    deaths = 3 * keys // 1000
    kills = sorted(seed.sample(range(keys // 10, 3 * keys // 4), deaths))
    starts = tmp_path / "starts"
    starts.touch()
    flaky_settings = spear.ProcessSettings(
        target=str(write(tmp_path, "flaky.py", FLAKY)), environment={"BOOK": str(starts)}
    )
    policy = spear.RestartPolicy(intensity=1000, longest_delay_seconds=0.1)
    done: list[int] = []
    killed: set[int] = set()
    late = 0
    limits = spear.HostLimits(max_outcomes=10 * keys)
    async with open_spearlet(limits=limits) as spearlet:
        await spearlet.deploy(book, name="book")
        flaky = await spearlet.deploy(
            flaky_settings,
            settings=DeploymentSettings(replicas=3, restart=policy),
        )

        async def once(number: int) -> int:
            nonlocal late
            count = flaky.count.options(key=f"number {number}")
            while True:
                try:
                    return int(await count(number, timeout=seed.choice((0.001, 0.01, 60))))  # type: ignore[arg-type]  # a number
                except spear.DeadlineExceeded:
                    late += 1
                except WorkerDied:
                    await trio.lowlevel.checkpoint()  # tried three times: again, with its key

        async def work(numbers: range) -> None:
            for number in numbers:
                assert await once(number) == number
                done.append(number)
                alive = [each for each in flaky.replicas if pid(each) not in killed]
                if kills and len(done) >= kills[0] and alive:
                    kills.pop(0)
                    victim = pid(seed.choice(alive))
                    killed.add(victim)
                    os.kill(victim, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            for first in range(at_once):
                nursery.start_soon(work, range(first, keys, at_once))
    assert len(killed) == deaths
    assert late > keys // 10
    assert entries == dict.fromkeys(range(keys), 1)
    begun: dict[int, list[int]] = {}
    for line in starts.read_text().splitlines():
        number, process = map(int, line.split())
        begun.setdefault(number, []).append(process)
    assert begun.keys() == entries.keys()
    for processes in begun.values():
        *lost, last = processes
        assert killed.issuperset(lost)
        assert last not in lost
