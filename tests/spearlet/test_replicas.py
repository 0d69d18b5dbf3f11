"""Whose turn it is, who is passed over, and what is tried again."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing
from runtimes.helpers import nothing_left

from spear import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    Rejected,
    WorkerDied,
)
from spear.channels import InboundCall
from spear.runtimes import InstanceState
from spear.spearlet._functions import MAX_ATTEMPTS
from spear.spearlet._replicas import ReplicaSet

from .bench import OCCUPY, Answering, Bench, open_bench
from .helpers import PATIENCE_SECONDS, WORKERS, deployed, instance, pid

if TYPE_CHECKING:
    from pathlib import Path

    from spear.spearlet._local import LocalReplica
    from spear.spearlet._replicas import ServingReplica


async def test_replicas_are_served_in_turn() -> None:
    async with open_bench(3) as bench:
        assert "".join([await bench.where() for _ in range(7)]) == "abcabca"


async def test_their_order_is_that_of_their_numbers() -> None:
    bench = Bench()
    async with AsyncExitStack() as stack:
        for name in ("r-10", "r-2", "r-1"):
            await bench.add(stack, name)
        assert [each.id.name for each in bench.set.ready] == ["r-1", "r-2", "r-10"]
        assert [await bench.where() for _ in range(4)] == ["r-1", "r-2", "r-10", "r-1"]


async def test_who_cannot_be_reached_is_passed_over() -> None:
    async with open_bench(3) as bench:
        await bench.agents[1].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert "".join([await bench.where() for _ in range(4)]) == "acac"
        assert [each.id.name for each in bench.set.ready] == ["a", "c"]
        bench.set.remove(bench.replicas[0], "gone")
        assert "".join([await bench.where() for _ in range(2)]) == "cc"
        assert [each.id.name for each in bench.set.ready] == ["c"]


async def test_without_a_replica_the_reason_is_told() -> None:
    async with open_bench(2) as bench:
        for agent in bench.agents:
            await agent.aclose()
        await trio.testing.wait_all_tasks_blocked()
        reason = r"takes calls: memory:a#1 is gone: .* closed; memory:b#1 is gone: .* closed$"
        with pytest.raises(WorkerDied, match=reason) as caught:
            await bench.where()
        assert caught.value.delivered == "no"
        bench.set.remove(bench.replicas[0], "a is gone")
        bench.set.remove(bench.replicas[1], "b is gone")
        bench.set.remove(bench.replicas[1], "b is gone again")
        with pytest.raises(WorkerDied, match=r"takes calls: b is gone$"):
            await bench.where()
        with pytest.raises(WorkerDied, match="takes calls: none was ready yet"):
            ReplicaSet("bench", 60.0).pick()


async def test_a_call_that_crossed_a_farewell_goes_to_the_next() -> None:
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


async def test_the_last_one_that_leaves_leaves_nobody() -> None:
    async with open_bench(1) as bench:
        bench.leave(0)
        with pytest.raises(WorkerDied, match="memory:a#1 is leaving") as caught:
            await bench.where()
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

    bench = Bench()
    async with AsyncExitStack() as stack:
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

    bench = Bench()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await bench.add(stack, "a", calls=1)
        await bench.add(stack, "b", Late("b"), calls=1)
        await bench.occupy(nursery, 0, 1)

        @nursery.start_soon
        async def leave_later() -> None:
            await trio.sleep(4)
            bench.services[1].release.set()
            bench.leave(0)  # where the call waits for a slot

        answer = await bench.function(timeout=10)
        assert isinstance(answer, bytes)
        assert float(answer) == pytest.approx(6, abs=0.01)
        bench.services[0].release.set()


async def test_time_that_is_up_is_told_in_the_same_words_whoever_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_bench(1, calls=1) as bench, trio.open_nursery() as nursery:
        bench.services[0].failure = DeadlineExceeded("the call's time is up", delivered="yes")
        with pytest.raises(DeadlineExceeded) as caught:  # the other side
            await bench.function(timeout=2)
        assert (str(caught.value), caught.value.delivered) == ("where took longer than 2 s", "yes")
        with pytest.raises(DeadlineExceeded) as caught:  # this side
            await bench.function(OCCUPY, timeout=2)
        assert (str(caught.value), caught.value.delivered) == (
            "where took longer than 2 s",
            "maybe",
        )
        await bench.occupy(nursery, 0)
        with pytest.raises(DeadlineExceeded) as caught:  # nobody but us
            await bench.function(timeout=2.5)
        assert (str(caught.value), caught.value.delivered) == (
            "where was not begun within 2.5 s",
            "no",
        )
        with pytest.raises(DeadlineExceeded, match=r"^items was not begun within 2.5 s$"):
            async with bench.stream.stream(timeout=2.5):
                raise AssertionError
        for call in (bench.function(timeout=0), bench.function(timeout=-1)):
            with pytest.raises(DeadlineExceeded, match=r"^there was no time left to call where$"):
                await call
        bench.services[0].release.set()


async def test_a_surrounding_scope_moves_on_though_the_other_side_noticed_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_bench(1) as bench:
        bench.services[0].failure = DeadlineExceeded("the call's time is up", delivered="yes")
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


async def test_without_room_anywhere_it_waits_where_the_turn_is() -> None:
    async with open_bench(3, calls=2) as bench, trio.open_nursery() as nursery:
        assert await bench.where() == "a"
        await bench.occupy(nursery, 0, 1, 2)
        answers: list[str] = []
        for _ in range(2):

            @nursery.start_soon
            async def ask() -> None:
                answers.append(await bench.where())

            await trio.testing.wait_all_tasks_blocked()
        waiting = [each.channel.statistics().callers_waiting for each in bench.replicas]
        assert (waiting, answers) == ([0, 1, 1], [])
        for service in bench.services:
            service.release.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(answers) == ["b", "c"]


async def close_one_by_one(bench: Bench, *numbers: int) -> None:
    """Closes channels on which somebody waits."""
    for number in numbers:
        await trio.testing.wait_all_tasks_blocked()
        await bench.replicas[number].channel.aclose()


async def test_a_stream_is_opened_at_the_next_if_it_cannot_be_at_the_first() -> None:
    async with open_bench(3, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0, 1, 2)

        @nursery.start_soon
        async def free_the_last() -> None:
            await close_one_by_one(bench, 0, 1)
            bench.services[2].release.set()

        async with bench.stream.stream() as stream:
            assert str(stream.instance) == "memory:c#1"


async def test_no_stream_is_tried_more_than_3_times() -> None:
    async with open_bench(4, calls=1) as bench, trio.open_nursery() as nursery:
        await bench.occupy(nursery, 0, 1, 2, 3)
        nursery.start_soon(close_one_by_one, bench, 0, 1, 2)
        with pytest.raises(WorkerDied, match="memory:c#1 is gone") as caught:
            async with bench.stream.stream():
                raise AssertionError
        assert caught.value.delivered == "no"
        assert bench.replicas[3].channel.is_connected
        bench.services[3].release.set()


async def test_a_loss_counts_as_soon_as_a_call_has_failed_for_it() -> None:
    async with open_bench(2, calls=1) as bench, trio.open_nursery() as nursery:
        replica = bench.replicas[0]

        @nursery.start_soon
        async def close() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await replica.channel.aclose()

        with pytest.raises(WorkerDied):
            await bench.function(OCCUPY)
        assert [bench.set.lost, *(each.id.name for each in bench.set.ready)] == [1, "b"]
        bench.set.lose(replica, "noticed by somebody else, too")
        assert bench.set.lost == 1
        bench.set.remove(bench.replicas[1], "stopped")
        assert bench.set.lost == 1


class Reconnecting:
    """A replica that has lost its connection, and may come back."""

    state = InstanceState.UNHEALTHY
    pid = exit_status = metrics = logs = None

    def __init__(self, replica: LocalReplica) -> None:
        self.id = replica.id
        self.channel = replica.channel
        self.health = replica.health
        self.explain_loss = replica.explain_loss


async def test_who_may_come_back_is_not_lost() -> None:
    async with open_bench(1) as bench, trio.open_nursery() as nursery:
        bench.set.remove(bench.replicas[0], "replaced")
        replica = cast("ServingReplica", Reconnecting(bench.replicas[0]))
        bench.set.add(replica)

        @nursery.start_soon
        async def close() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await bench.replicas[0].channel.aclose()

        with pytest.raises(WorkerDied):
            await bench.function(OCCUPY)
        assert (bench.set.lost, bench.set.ready) == (0, ())
        bench.set.lose(replica, "it did not come back")
        assert bench.set.lost == 1


# -- real processes ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_r10_a_killed_worker_fails_only_its_own_calls() -> None:
    """8 workers with 8 calls each: 56 complete, 8 raise WorkerDied, and nobody picks it again."""
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
                now = deployment.statistics()
                assert (now.ready, now.lost) == (7, 1)
            assert trio.current_time() - killed < 2.5  # 0.25 s, on a machine that is not busy
            assert victim not in deployment.replicas
            released = {await deployment.release() for _ in range(7)}
            assert len(released) == 7
            assert victim.pid not in released
            for number in running.keys() - set(theirs):
                assert await running[number].result() == number
            statistics = deployment.statistics()
            assert (statistics.ready, statistics.started, statistics.lost) == (7, 8, 1)
            assert statistics.calls_in_flight == 0


async def test_when_all_are_dead_the_reason_is_told() -> None:
    async with deployed(WORKERS) as deployment:
        with pytest.raises(WorkerDied, match="exited with status 7") as caught:
            await deployment.die(7)
        assert caught.value.exit_status == 7
        assert caught.value.stderr_tail == "so long"
        with pytest.raises(WorkerDied) as caught:
            await deployment.echo(1)
        assert caught.value.delivered == "no"
        assert "takes calls: process:workers-1#1 exited with status 7" in str(caught.value)
        with pytest.raises(WorkerDied, match=r"1#1 exited with status 7\n--- stderr ---\nso long"):
            await deployment.echo(1)
        assert repr(deployment) == "<Deployment workers: 0 replicas ready>"


async def test_a_stream_of_a_dead_worker_says_how_it_died() -> None:
    async with deployed(WORKERS) as deployment, deployment.fountain.stream() as stream:
        assert await anext(stream) == 0
        os.kill(pid(deployment.replicas[0]), signal.SIGKILL)
        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            async for _ in stream:
                pass


@pytest.mark.slow
async def test_r14_nothing_runs_twice(tmp_path: Path, seed: random.Random) -> None:
    """10^4 calls, and workers that are killed at random: each runs at most once."""
    calls, at_once = 10_000, 32
    book = tmp_path / "book"
    failures: dict[int, WorkerDied] = {}
    done: set[int] = set()
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
                if kills and len(done) >= kills[0]:
                    kills.pop(0)
                    os.kill(pid(seed.choice(deployment.replicas)), signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            for first in range(at_once):
                nursery.start_soon(work, range(first, calls, at_once))

    executions = Counter(map(int, book.read_text().split()))
    assert max(executions.values()) == 1
    assert done <= executions.keys()
    assert len(done) + len(failures) == calls
    assert not kills
    not_run = {number for number, error in failures.items() if error.delivered == "no"}
    assert not not_run & executions.keys()
    assert len(failures) <= 3 * at_once


@pytest.mark.slow
async def test_r15_a_worker_that_leaves_under_load_fails_no_call(tmp_path: Path) -> None:
    """SIGTERM makes it drain: what it has it finishes, what comes too late goes to the others."""
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
        assert deployment.statistics().ready == 1
    assert Counter(map(int, book.read_text().split())) == dict.fromkeys(range(calls), 1)
