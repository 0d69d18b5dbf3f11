"""Running a function over many items: laziness, order, limits, failures of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from spear import InvalidArguments
from spear.calls import Mapper, open_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from spear.calls import AnyIterable


class Work:
    """A runner whose batches end when the test says so, with the counts of what runs."""

    def __init__(self) -> None:
        self.begun: list[list[int]] = []
        self.ends: dict[int, trio.Event] = {}
        self.running = 0
        self.is_gated = False

    async def run(self, first: int, items: list[int]) -> list[int]:
        self.begun.append(items)
        self.running += 1
        self.ends[first] = trio.Event()
        if self.is_gated:
            await self.ends[first].wait()
        await trio.lowlevel.checkpoint()
        self.running -= 1
        return [-each for each in items]


def mapper(
    items: AnyIterable[int],
    work: Work,
    nursery: trio.Nursery,
    *,
    limit: Callable[[], int] = lambda: 2,
    size: int = 1,
    ordered: bool = True,
) -> Mapper[int, int]:
    source = open_source(items, nursery)
    made = Mapper(source, work.run, limit, lambda: size, ordered=ordered)
    nursery.start_soon(made.run)
    return made


async def take_all(mapper: Mapper[int, int]) -> list[int]:
    taken: list[int] = []
    try:
        while True:
            taken.append(await mapper.take())
    except StopAsyncIteration:
        return taken


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await trio.lowlevel.checkpoint()
        yield number


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("make", [lambda: range(100), lambda: numbers(100)], ids=["sync", "async"])
async def test_every_item_has_one_outcome(
    make: Callable[[], AnyIterable[int]], ordered: bool, size: int
) -> None:
    async with trio.open_nursery() as nursery:
        outcomes = await take_all(mapper(make(), Work(), nursery, size=size, ordered=ordered))
    assert sorted(outcomes, reverse=True) == [-each for each in range(100)]
    if ordered:
        assert outcomes == [-each for each in range(100)]


async def test_no_items_give_no_outcomes() -> None:
    async with trio.open_nursery() as nursery:
        assert await take_all(mapper((), Work(), nursery)) == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_no_more_batches_run_than_allowed_and_no_more_items_are_pulled_than_taken(
    ordered: bool,
) -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for each in range(1000):
            pulled.append(each)
            yield each

    work = Work()
    async with trio.open_nursery() as nursery:
        made = mapper(items(), work, nursery, limit=lambda: 3, size=2, ordered=ordered)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pulled) == 12  # twice the limit, in batches of 2
        for _ in range(5):
            await made.take()
        await trio.testing.wait_all_tasks_blocked()
        assert 12 < len(pulled) <= 18
        work.is_gated = True
        assert await made.take() is not None
        await trio.testing.wait_all_tasks_blocked()
        assert work.running <= 3
        nursery.cancel_scope.cancel()


async def test_a_slow_item_does_not_hold_up_the_others_unless_the_order_counts() -> None:
    for ordered in (True, False):
        work = Work()
        work.is_gated = True
        async with trio.open_nursery() as nursery:
            made = mapper(range(4), work, nursery, limit=lambda: 4, ordered=ordered)
            await trio.testing.wait_all_tasks_blocked()
            for first in (3, 1, 2):
                work.ends[first].set()
                await trio.testing.wait_all_tasks_blocked()
            if not ordered:
                assert [await made.take() for _ in range(3)] == [-3, -1, -2]
            work.ends[0].set()
            assert await take_all(made) == ([0, -1, -2, -3] if ordered else [0])


async def test_a_limit_that_grows_starts_further_batches() -> None:
    work, limit = Work(), 1
    work.is_gated = True
    async with trio.open_nursery() as nursery:
        made = mapper(range(9), work, nursery, limit=lambda: limit)
        await trio.testing.wait_all_tasks_blocked()
        assert work.running == 1
        limit = 4
        made.look_again()
        await trio.testing.wait_all_tasks_blocked()
        assert work.running == 4
        nursery.cancel_scope.cancel()


async def test_a_stopped_mapper_ends_with_the_batches_that_run() -> None:
    work = Work()
    work.is_gated = True
    async with trio.open_nursery() as nursery:
        made = mapper(range(9), work, nursery)
        await trio.testing.wait_all_tasks_blocked()
        made.stop()
        for end in work.ends.values():
            end.set()
        assert await take_all(made) == [0, -1]


def failing() -> Iterator[int]:
    yield from range(5)
    raise OSError("the disk is gone")


async def failing_async() -> AsyncIterator[int]:
    async for each in numbers(5):
        yield each
    raise OSError("the disk is gone")


@pytest.mark.parametrize("make", [failing, failing_async], ids=["sync", "async"])
async def test_a_source_that_fails_raises_after_the_outcomes_of_its_items(
    make: Callable[[], AnyIterable[int]],
) -> None:
    async with trio.open_nursery() as nursery:
        made = mapper(make(), Work(), nursery, size=2)
        assert [await made.take() for _ in range(5)] == [0, -1, -2, -3, -4]
        with pytest.raises(OSError, match="the disk is gone"):
            await made.take()
        with pytest.raises(StopAsyncIteration):
            await made.take()


class Endless:
    """Asynchronous generators of numbers.

    Attributes:
        closed: how many have been closed.
    """

    def __init__(self, *, fails: bool = False) -> None:
        self.closed = 0
        self._fails = fails

    async def items(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
            await trio.sleep_forever()
        finally:
            self.closed += 1
            if self._fails:
                raise OSError("cannot close")


@pytest.mark.parametrize("count", [3, 10**6], ids=["waiting for an item", "waiting for room"])
async def test_an_asynchronous_generator_is_closed_when_it_is_not_needed(count: int) -> None:
    source = Endless()
    async with trio.open_nursery() as nursery:
        made = mapper(source.items(count), Work(), nursery)
        assert await made.take() == 0
        await trio.testing.wait_all_tasks_blocked()
        assert source.closed == 0
        nursery.cancel_scope.cancel()
    assert source.closed == 1


@pytest.mark.parametrize("count", [3, 10**6], ids=["waiting for an item", "waiting for room"])
async def test_a_failure_of_closing_a_generator_is_not_lost(count: int) -> None:
    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            made = mapper(Endless(fails=True).items(count), Work(), nursery)
            assert await made.take() == 0
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_channel_of_items_stays_open() -> None:
    send, receive = trio.open_memory_channel[int](10)
    async with trio.open_nursery() as nursery:
        made = mapper(receive, Work(), nursery)
        await send.send(1)
        assert await made.take() == -1
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await send.send(2)
    assert await receive.receive() == 2


async def test_a_batch_does_not_wait_for_items_that_are_not_there() -> None:
    send, receive = trio.open_memory_channel[int](10)
    work = Work()
    async with trio.open_nursery() as nursery:
        made = mapper(receive, work, nursery, size=100)
        await send.send(1)
        assert await made.take() == -1
        await send.send(2)
        await send.send(3)
        send.close()
        assert await take_all(made) == [-2, -3]
    assert [each for batch in work.begun for each in batch] == [1, 2, 3]


async def test_a_cancelled_take_loses_no_outcome() -> None:
    work = Work()
    work.is_gated = True
    async with trio.open_nursery() as nursery:
        made = mapper(range(2), work, nursery)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.take()
        assert scope.cancelled_caught
        for end in work.ends.values():
            end.set()
        assert await take_all(made) == [0, -1]


async def test_taking_many_outcomes_lets_other_tasks_run() -> None:
    steps = 0

    async def other() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    async with trio.open_nursery() as nursery:
        made = mapper(range(1000), Work(), nursery, limit=lambda: 1, size=1000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(other)
        assert len(await take_all(made)) == 1000
        assert steps >= 1000 // 64 - 2  # the first steps may be those of other tasks
        nursery.cancel_scope.cancel()


async def test_what_is_no_iterable_is_refused() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(InvalidArguments, match="items must be an iterable or an asynchronous"):
            open_source(17, nursery)  # type: ignore[arg-type]  # the mistake
