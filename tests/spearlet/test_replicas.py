"""The choice of a replica: order, replicas that are skipped, and retries."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from runtimes.helpers import nothing_left

from spear import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    DeploymentSettings,
    InstanceId,
    NotFound,
    Overloaded,
    Rejected,
    WorkerDied,
)
from spear.calls import MAX_ATTEMPTS
from spear.channels import InboundCall

from .bench import OCCUPY, Answering, open_bench
from .helpers import PATIENCE_SECONDS, WORKERS, deployed, instance, pid

if TYPE_CHECKING:
    from pathlib import Path

NOISE_SECONDS = 1.0
"""Seconds that a busy machine may add to a time. tests/runtimes/test_failures.py shows that the median of
several runs is within the guarantee itself."""


async def test_replicas_are_served_in_turn() -> None:
    async with open_bench(3) as bench:
        assert "".join([await bench.where() for _ in range(7)]) == "abcabca"


async def test_their_order_is_that_of_their_numbers() -> None:
    async with open_bench(0) as bench, AsyncExitStack() as stack:
        for name in ("r-10", "r-2", "r-1"):
            await bench.add(stack, name)
        assert [each.id.name for each in bench.pool.ready] == ["r-1", "r-2", "r-10"]
        assert [await bench.where() for _ in range(4)] == ["r-1", "r-2", "r-10", "r-1"]


async def test_who_cannot_be_reached_is_passed_over() -> None:
    async with open_bench(3) as bench:
        await bench.agents[1].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert "".join([await bench.where() for _ in range(4)]) == "acac"
        assert [each.id.name for each in bench.pool.ready] == ["a", "c"]
        assert bench.pool.remove(bench.replicas[0])
        assert not bench.pool.remove(bench.replicas[0])
        assert "".join([await bench.where() for _ in range(2)]) == "cc"
        assert [each.id.name for each in bench.pool.ready] == ["c"]


async def test_without_hope_for_a_replica_the_reason_is_told() -> None:
    verdict = WorkerDied("it fell over", exit_status=3, stderr_tail="ouch")
    async with open_bench(1, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0)
        refused: list[WorkerDied] = []

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(WorkerDied) as caught:
                await bench.where()
            refused.append(caught.value)

        await trio.testing.wait_all_tasks_blocked()
        bench.pool.remove(bench.replicas[0])
        bench.pool.give_up(verdict)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(WorkerDied, match="no replica that takes calls: it fell over") as caught:
            await bench.where()
        assert str(caught.value) == str(refused[0])
        assert caught.value is not refused[0]
        assert (caught.value.delivered, caught.value.exit_status) == ("no", 3)
        assert caught.value.stderr_tail == "ouch"
        bench.services[0].release.set()
        await trio.testing.wait_all_tasks_blocked()
        bench.pool.add(bench.replicas[0])  # there is a replica again
        assert await bench.where() == "a"


async def test_a_call_that_crossed_a_close_goes_to_the_next() -> None:
    async with open_bench(2) as bench:
        bench.leave(0)
        assert await bench.where() == "b"
        assert [each.calls for each in bench.services] == [0, 1]


async def test_a_call_that_was_lost_before_it_was_taken_goes_to_the_next() -> None:
    async with open_bench(2) as bench, trio.open_nursery() as nursery:
        bench.leave(0)
        nursery.start_soon(bench.agents[0].aclose)
        assert await bench.where() == "b"


async def test_no_call_is_tried_more_than_3_times() -> None:
    async with open_bench(5) as bench:
        for number in range(4):
            bench.services[number].leaves = partial(bench.leave, number)
        with pytest.raises(Rejected, match="takes no new calls") as caught:
            await bench.where()
        assert caught.value.delivered == "no"
        assert [each.channel.is_connected for each in bench.replicas] == [False] * 3 + [True] * 2
        assert await bench.where() == "e"
        assert MAX_ATTEMPTS == 3


async def test_when_the_last_one_has_left_calls_wait_for_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_bench(1) as bench:
        bench.leave(0)
        with pytest.raises(
            DeadlineExceeded, match=r"not start within 0\.1 s: no replica"
        ) as caught:
            await bench.function(timeout=0.1)
        assert caught.value.delivered == "no"


@pytest.mark.parametrize(
    "failure",
    [
        Rejected("no"), Overloaded("no"), NotFound("no"), CallFailed("maybe"),
        Rejected("done", delivered="yes"),
    ],
    ids=repr,
)  # fmt: skip
async def test_r14_what_a_replica_answered_is_never_tried_again(failure: CallFailed) -> None:
    async with open_bench(2) as bench:
        for service in bench.services:
            service.failure = failure
        with pytest.raises(type(failure)) as caught:
            await bench.where()
        assert caught.value.delivered == failure.delivered
        assert [each.calls for each in bench.services] == [1, 0]


async def test_r14_what_may_have_been_executed_is_never_tried_again() -> None:
    class Closing(Answering):
        async def answer(self, call: InboundCall) -> bytes:
            self.calls += 1
            await call.channel.aclose()
            raise AssertionError

    async with open_bench(0) as bench, AsyncExitStack() as stack:
        closing = Closing("a")
        await bench.add(stack, "a", closing)
        await bench.add(stack, "b")
        with pytest.raises(WorkerDied, match="memory:a#1 is gone") as caught:
            await bench.where()
        assert caught.value.delivered == "maybe"
        assert isinstance(caught.value.__cause__, ChannelBroken | ChannelClosed)
        assert (closing.calls, bench.services[1].calls) == (1, 0)


async def test_the_deadline_is_one_for_all_attempts(autojump_clock: trio.testing.MockClock) -> None:
    class Late(Answering):
        async def answer(self, call: InboundCall) -> bytes:
            return str(call.deadline - trio.current_time()).encode()

    async with (
        open_bench(0) as bench,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        await bench.add(stack, "a", calls=1)
        await bench.add(stack, "b", Late("b"), calls=1)
        await bench.occupy(nursery, 0, 1)

        @nursery.start_soon
        async def leave_later() -> None:
            await trio.sleep(4)
            bench.leave(0)
            bench.services[1].release.set()

        answer = await bench.function(timeout=10)
        assert isinstance(answer, bytes)
        assert float(answer) == pytest.approx(6, abs=0.01)
        bench.services[0].release.set()


async def test_time_that_is_up_is_told_in_the_same_words_whoever_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_bench(1, calls=1) as bench, trio.open_nursery() as nursery:
        bench.services[0].failure = DeadlineExceeded(
            "the call's deadline has passed", delivered="yes"
        )
        with pytest.raises(DeadlineExceeded) as caught:  # noticed by the other side
            await bench.function(timeout=2)
        assert (str(caught.value), caught.value.delivered) == ("where took longer than 2 s", "yes")
        with pytest.raises(DeadlineExceeded) as caught:  # noticed by this side
            await bench.function(OCCUPY, timeout=2)
        assert (str(caught.value), caught.value.delivered) == (
            "where took longer than 2 s",
            "maybe",
        )
        await bench.occupy(nursery, 0)
        with pytest.raises(DeadlineExceeded) as caught:  # noticed only by this side
            await bench.function(timeout=2.5)
        assert (str(caught.value), caught.value.delivered) == (
            "where did not start within 2.5 s: no replica of bench had a free slot",
            "no",
        )
        with pytest.raises(
            DeadlineExceeded, match=r"^items did not start within 2.5 s: no replica"
        ):
            async with bench.stream.stream(timeout=2.5):
                raise AssertionError
        late = r"^there was no time left to call where: no replica of bench had a free slot$"
        for call in (bench.function(timeout=0), bench.function(timeout=-1)):
            with pytest.raises(DeadlineExceeded, match=late):
                await call
        bench.services[0].release.set()


async def test_a_surrounding_scope_moves_on_though_the_other_side_noticed_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_bench(1) as bench:
        bench.services[0].failure = DeadlineExceeded(
            "the call's deadline has passed", delivered="yes"
        )
        begun = trio.current_time()
        with trio.move_on_after(2) as scope:
            await bench.function()
        assert scope.cancelled_caught
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(2):
                await bench.function(timeout=3)
        with trio.move_on_after(2) as scope:
            async with bench.stream.stream() as stream:
                await stream.result()
        assert scope.cancelled_caught
        assert trio.current_time() - begun == pytest.approx(6)
        with trio.move_on_after(5) as scope, pytest.raises(DeadlineExceeded):
            await bench.function(timeout=3)
        assert not scope.cancel_called


async def test_a_call_goes_where_there_is_room() -> None:
    async with open_bench(3, calls=2) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0)
        assert "".join([await bench.where() for _ in range(4)]) == "bcbc"
        bench.services[0].release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert "".join([await bench.where() for _ in range(4)]) == "abca"


async def test_without_room_anywhere_calls_wait_in_line() -> None:
    async with open_bench(2, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0, 1)
        answers: list[tuple[int, str]] = []

        async def ask(number: int) -> None:
            answers.append((number, await bench.where()))

        for number in range(4):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        assert (bench.pool.load().waiting, answers) == (4, [])
        bench.services[1].release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == [(0, "b"), (1, "b"), (2, "b"), (3, "b")]
        bench.services[0].release.set()


async def test_nobody_overtakes_those_in_line() -> None:
    async with open_bench(1, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0)
        order: list[str] = []

        async def ask(name: str) -> None:
            await bench.where()
            order.append(name)

        nursery.start_soon(ask, "first")
        await trio.testing.wait_all_tasks_blocked()
        bench.services[0].release.set()
        await bench.replicas[0].channel._wait_for_change()
        nursery.start_soon(ask, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "second"]


async def test_r21_a_line_has_an_end() -> None:
    async with (
        open_bench(1, calls=1, settings=DeploymentSettings(queue=2)) as bench,
        trio.open_nursery() as nursery,
    ):
        await bench.occupy(nursery, 0)
        for _ in range(2):
            nursery.start_soon(bench.where)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(
            Overloaded, match="the queue of bench is full: 2 calls are queued"
        ) as caught:
            await bench.where()
        assert caught.value.delivered == "no"
        assert caught.value.retry_after_seconds is not None
        assert 0.05 <= caught.value.retry_after_seconds <= 60
        assert bench.pool.refused == 1
        bench.services[0].release.set()


async def test_r4_who_gives_up_in_line_leaves_it() -> None:
    async with open_bench(1, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0)
        scopes = [trio.CancelScope() for _ in range(3)]
        done: list[int] = []

        async def ask(number: int) -> None:
            with scopes[number]:
                await bench.where()
                done.append(number)

        for number in range(3):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.pool.load().waiting == 2
        bench.services[0].release.set()
        scopes[0].cancel()  # when it gets its slot, or just before
        await trio.testing.wait_all_tasks_blocked()
        assert done == [2]
        assert bench.pool.load().waiting == 0
        assert await bench.where() == "a"


async def test_a_new_replica_takes_those_in_line() -> None:
    async with open_bench(1, calls=2) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0)
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await bench.where())

        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        async with AsyncExitStack() as stack:
            await bench.add(stack, "b", calls=2)
            await trio.testing.wait_all_tasks_blocked()
        assert answers == ["b", "b", "b"]
        bench.services[0].release.set()


async def test_no_more_calls_than_the_deployment_says() -> None:
    settings = DeploymentSettings(concurrency=2)
    async with open_bench(1, calls=100, settings=settings) as bench, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(bench.function, OCCUPY)
        await trio.testing.wait_all_tasks_blocked()
        load = bench.pool.load()
        assert (load.in_flight, load.waiting, load.concurrency) == (2, 3, 2)
        bench.services[0].release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.replicas[0].channel.statistics().most_calls_in_flight == 2


async def test_a_stream_waits_in_line_as_well() -> None:
    async with open_bench(2, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0, 1)

        @nursery.start_soon
        async def free_the_last() -> None:
            await trio.testing.wait_all_tasks_blocked()
            bench.services[1].release.set()

        async with bench.stream.stream() as stream:
            assert str(stream.instance) == "memory:b#1"
        bench.services[0].release.set()


@pytest.mark.slow
async def test_r10_a_killed_worker_fails_only_its_own_calls() -> None:
    """8 workers with 8 calls each: 56 complete, 8 raise WorkerDied, and the worker is replaced."""
    with nothing_left():
        async with deployed(WORKERS, replicas=8) as deployment:
            holders: Counter[object] = Counter()
            all_hold = trio.Event()

            def count(process: object) -> None:
                holders[process] += 1
                if holders.total() == 64:
                    all_hold.set()

            hold = deployment.hold.options(on_progress=count)
            running = {number: hold.submit(number) for number in range(64)}
            with trio.fail_after(PATIENCE_SECONDS):
                await all_hold.wait()
            assert set(holders.values()) == {8}
            victim = instance(deployment.replicas[3])
            os.kill(pid(victim), signal.SIGKILL)
            killed = trio.current_time()
            theirs = [number for number, each in running.items() if each.instance == victim.id]
            assert len(theirs) == 8
            for number in theirs:
                with pytest.raises(WorkerDied, match="was killed by SIGKILL") as caught:
                    await running[number].result()
                assert caught.value.exit_status == -signal.SIGKILL
                assert caught.value.delivered == "yes"  # it has reported progress
            assert trio.current_time() - killed < 0.25 + NOISE_SECONDS
            assert victim not in deployment.replicas
            with trio.fail_after(PATIENCE_SECONDS):
                while deployment.statistics().ready < 8:
                    await trio.sleep(0.01)
            assert str(deployment.replicas[3].id) == "process:workers-4#2"
            released = {await deployment.release() for _ in range(8)}
            assert len(released) == 8
            assert victim.pid not in released
            for number in running.keys() - set(theirs):
                assert await running[number].result() == number
            statistics = deployment.statistics()
            assert (statistics.ready, statistics.started, statistics.lost) == (8, 9, 1)
            assert (statistics.restarts, statistics.calls_in_flight) == (1, 0)


async def test_a_stream_of_a_dead_worker_says_how_it_died() -> None:
    async with deployed(WORKERS) as deployment, deployment.fountain.stream() as stream:
        assert await anext(stream) == 0
        os.kill(pid(deployment.replicas[0]), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            async for _ in stream:
                pass


@pytest.mark.slow
async def test_r14_nothing_runs_twice(tmp_path: Path, seed: random.Random) -> None:
    """10^4 calls, and workers that are killed at random: each call runs at most once."""
    calls, at_once = 10_000, 32
    book = tmp_path / "book"
    failures: dict[int, WorkerDied] = {}
    done: set[int] = set()
    killed: set[InstanceId] = set()
    # Calls that have ended in any way are counted, so every number up to the total is reached.
    kills = sorted(seed.sample(range(calls // 10, calls), 3))

    async with deployed(WORKERS, replicas=4) as deployment:

        async def work(numbers: range) -> None:
            for number in numbers:
                try:
                    await deployment.note(str(book), str(number))
                except WorkerDied as error:
                    failures[number] = error
                else:
                    done.add(number)
                if kills and len(done) + len(failures) >= kills[0]:
                    kills.pop(0)
                    # At least one of the first four is left, because replicas die only here.
                    alive = [each for each in deployment.replicas if each.id not in killed]
                    victim = seed.choice(alive)
                    killed.add(victim.id)
                    os.kill(pid(victim), signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            for first in range(at_once):
                nursery.start_soon(work, range(first, calls, at_once))

    executions = Counter(map(int, book.read_text().split()))
    assert max(executions.values()) == 1
    assert done <= executions.keys()
    assert len(done) + len(failures) == calls
    assert len(killed) == 3
    not_run = {number for number, error in failures.items() if error.delivered == "no"}
    assert not not_run & executions.keys()
    assert len(failures) <= 3 * at_once


@pytest.mark.slow
async def test_r15_a_worker_that_leaves_under_load_fails_no_call(tmp_path: Path) -> None:
    """SIGTERM makes it drain: it finishes its calls, and calls that come too late go to the others."""
    book = tmp_path / "book"
    calls, at_once = 3000, 32
    done: set[int] = set()
    async with deployed(WORKERS, replicas=3) as deployment:
        victims = [pid(each) for each in deployment.replicas[:2]]

        async def work(numbers: range) -> None:
            for number in numbers:
                assert await deployment.note(str(book), str(number)) == str(number)
                done.add(number)
                if victims and len(done) >= (3 - len(victims)) * calls // 4:
                    os.kill(victims.pop(), signal.SIGTERM)

        async with trio.open_nursery() as nursery:
            for first in range(at_once):
                nursery.start_soon(work, range(first, calls, at_once))
        assert not victims
        with trio.fail_after(PATIENCE_SECONDS):  # the second one may still be shutting down
            while deployment.statistics().lost < 2:
                await trio.sleep(0.01)
        assert deployment.statistics().lost == 2
    assert Counter(map(int, book.read_text().split())) == dict.fromkeys(range(calls), 1)
