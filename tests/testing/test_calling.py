"""Direct calls of functions with a context."""

from __future__ import annotations

import asyncio
import datetime
import logging
import math
import threading
import time
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear.testing import NestedCall, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.testing import StandIn


def describe() -> dict[str, object]:
    context = spear.context()
    return {
        "key": context.key,
        "caller": context.caller,
        "metadata": context.metadata,
        "left": context.remaining_seconds(),
        "cancelled": context.is_cancelled,
    }


def test_a_plain_function_gets_the_context_that_the_test_describes() -> None:
    with calling(key="k", metadata={"caller": "me", "x": 1}) as call:
        assert describe() == {
            "key": "k",
            "caller": "me",
            "metadata": {"caller": "me", "x": 1},
            "left": math.inf,
            "cancelled": False,
        }
        assert call.context is spear.context()
        assert repr(call.context) == (
            f"<CallContext function, call {call.context.call_id} of memory:direct-1#1>"
        )
        assert str(call.context.deadline) == "inf"
        call.cancel()
        assert describe()["cancelled"]
        assert call.context.remaining_seconds() == 0
    with pytest.raises(spear.NotInCall):
        spear.context()


def test_time_passes_outside_of_trio() -> None:
    with calling(timeout=1000):
        assert 0 < spear.context().remaining_seconds() <= 1000
        assert spear.context().deadline > time.monotonic()
    with calling(timeout=0):
        assert spear.context().is_cancelled
    with pytest.raises(spear.InvalidArguments), calling(timeout=math.nan):
        pass


def test_reports_are_recorded_as_they_are_sent_and_logs_of_this_call_alone() -> None:
    def work() -> None:
        spear.context().progress((1, 2))
        thread = threading.Thread(target=spear.context().progress, args=({"x"},))
        thread.start()
        thread.join()
        with pytest.raises(TypeError, match="cannot send"):
            spear.context().progress(object())
        spear.context().logger.debug("%d of it", 1)
        logging.getLogger("spear.function.work").warning("of no call")

    logger = logging.getLogger("spear.function.work")
    before = logger.level, list(logger.handlers)
    with calling(function="work") as call:
        work()
    assert call.progress == [[1, 2], {"x"}]
    assert [each.getMessage() for each in call.logs] == ["1 of it"]
    assert (logger.level, list(logger.handlers)) == before


async def test_cancellation_and_deadline_end_an_async_function_as_in_a_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            done.append("begun")
            await trio.sleep(10)
            done.append("ended")
        finally:
            done.append(f"cancelled: {spear.context().is_cancelled}")

    with calling(cancelled=True):
        await work()
    assert done == ["begun", "cancelled: True"]
    done.clear()
    with (
        pytest.raises(spear.DeadlineExceeded, match="work took longer than 5 s") as caught,
        calling(function="work", timeout=5),
    ):
        await work()
    assert caught.value.delivered == "yes"
    assert done == ["begun", "cancelled: True"]
    done.clear()
    with calling(timeout=20) as call:
        await work()
        assert call.context.remaining_seconds() == pytest.approx(10)
    assert done == ["begun", "ended", "cancelled: False"]


@attrs.frozen
class Line:
    item: str
    when: datetime.date


async def test_calls_of_other_functions_go_to_stand_ins() -> None:
    today = datetime.date(2026, 1, 31)

    async def cheapest(items: list[str]) -> Line:
        return Line(min(items), today)

    def fail() -> None:
        raise ValueError("no")

    def refuse() -> None:
        raise spear.Overloaded("busy")

    functions: dict[str, StandIn] = {"cheapest": cheapest, "fail": fail, "refuse": refuse}
    with calling(functions=functions) as call:
        assert await spear.call("cheapest", ["b", "a"]) == {"item": "a", "when": today}
        line = await spear.call("shop.cheapest", items=["b"], timeout=3, returns=Line)
        assert line == Line("b", today)
        assert await spear.call_once("k", "cheapest", ["c"]) == {"item": "c", "when": today}
        with pytest.raises(spear.FunctionRaised) as caught:
            await spear.call("fail")
        assert caught.value.type_name == "ValueError"
        with pytest.raises(spear.Overloaded):
            await spear.call("refuse")
        with pytest.raises(spear.NotFound, match="no stand-in for 'chepest'; did you mean"):
            await spear.call("chepest")
        with pytest.raises(spear.InvalidArguments):
            await spear.call("cheapest", object())
        with pytest.raises(spear.UnexpectedResult):
            await spear.call("cheapest", ["a"], returns=int)
    assert call.calls[:3] == [
        NestedCall("cheapest", (["b", "a"],), {}),
        NestedCall("shop.cheapest", (), {"items": ["b"]}, timeout=3),
        NestedCall("cheapest", (["c"],), {}, key="k"),
    ]


def test_plain_functions_call_plain_stand_ins() -> None:
    async def wrong() -> None: ...

    with calling(functions={"half": lambda number: number / 2, "wrong": wrong}) as call:
        assert spear.context().call_sync("half", 3, returns=float) == 1.5
        with pytest.raises(spear.LocalProtocolError, match="needs a plain one"):
            spear.context().call_sync("wrong")
    assert [each.function for each in call.calls] == ["half", "wrong"]


async def test_streams_come_from_the_test_and_from_stand_ins() -> None:
    async def letters(word: str) -> AsyncIterator[str]:
        for each in word:
            yield each
        raise ValueError("no more")

    def numbers() -> Iterator[int]:
        yield from range(3)

    async def collect(name: str, *arguments: object) -> list[object]:
        async with spear.context().stream(name, *arguments) as items:
            return [each async for each in items]

    with calling(items=[1, "two"], functions={"letters": letters, "numbers": numbers, "one": int}):
        assert [each async for each in spear.context().items] == [1, "two"]
        assert await collect("numbers") == [0, 1, 2]
        async with spear.context().stream("letters", "ab", returns=str) as items:
            assert await items.receive() == "a"
        with pytest.raises(spear.FunctionRaised, match="no more"):
            await collect("letters", "ab")
        with pytest.raises(spear.Rejected, match=r"use call\(\)"):
            await collect("one")


def test_functions_for_asyncio_have_a_context_too() -> None:
    async def work() -> float:
        await asyncio.sleep(0)
        spear.context().progress(0.5)
        return await spear.call("half", 3, returns=float)

    async def half(number: int) -> float:
        await asyncio.sleep(0)
        return number / 2

    with calling(cancelled=True, functions={"half": half}) as call:
        assert asyncio.run(work()) == 1.5
    assert call.progress == [0.5]
    assert call.context.is_cancelled
