"""Results as classes of the caller: ``options(returns=...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict, assert_type

import attrs
import pytest

import spear
from spear import InvalidArguments, UnexpectedResult
from spear.calls import (
    Answer,
    Execution,
    ExecutionStatus,
    Function,
    FunctionStream,
    MapItem,
    Result,
)

from .helpers import deployed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.frozen
class Line:
    item: str
    count: int = 1


@attrs.frozen
class Order:
    customer: str
    lines: list[Line]


class Point(NamedTuple):
    x: float
    y: float


class Options(TypedDict):
    depth: int


class Handle:
    """A class whose objects cannot be sent."""


app = spear.Agent("returns")


@app.function
async def order(customer: str, count: object = 1) -> object:
    return {"customer": customer, "lines": [{"item": "tea", "count": count}]}


@app.function
async def line(item: object) -> object:
    return {"item": item}


@app.function
async def point(data: bytes) -> object:
    return (len(data), 2)


@app.function
async def echo(data: bytes) -> bytes:
    return data


@app.function
async def lines(to: int) -> AsyncIterator[object]:
    for number in range(to):
        yield {"item": f"no. {number}"}
    yield 3


@app.function
async def total(prices: spear.Items[float]) -> object:
    return [sum([price async for price in prices]), 0]


ORDER = Order("Ada", [Line("tea", 1)])


async def test_a_result_is_built_at_the_caller() -> None:
    async with deployed(app) as deployment:
        function = deployment.order.options(returns=Order)
        assert_type(function, Function[Order])
        result = await function("Ada")
        assert_type(result, Order)
        assert result == ORDER
        answer = await function.ask("Ada")
        assert_type(answer, Answer[Order])
        assert answer.result == ORDER
        execution = function.submit("Ada")
        assert_type(execution, Execution[Order])
        assert await execution == await execution.result() == ORDER
        async for ended in spear.as_completed([execution]):
            assert_type(ended, Execution[Order])
            assert await ended == ORDER
        assert (await function.bind("Ada").ask()).result == ORDER
        plain = await deployment.order("Ada")
        assert_type(plain, Result)
        assert plain == {"customer": "Ada", "lines": [{"item": "tea", "count": 1}]}


async def test_other_options_keep_the_type() -> None:
    async with deployed(app) as deployment:
        function = deployment.order.options(returns=Order).options(timeout=9, key="k")
        assert_type(function, Function[Order])
        assert await function("Ada") == ORDER
        assert await function("Ada") == ORDER  # the outcome of the key, converted anew
        assert await deployment.order.options(key="k")("Ada") != ORDER


async def test_types_that_are_no_classes_are_converted_as_well() -> None:
    async with deployed(app) as deployment:
        assert await deployment.point.options(returns=Point)(b"xyz") == Point(3.0, 2.0)
        found = await deployment.point.options(returns=list[float])(b"xyz")
        assert_type(found, list[float])
        assert found == [3.0, 2.0]
        assert await deployment.order.options(returns=Order | None)("Ada") == ORDER
        assert await deployment.echo.options(returns=bytearray)(b"xyz") == bytearray(b"xyz")
        assert await deployment.order.options(returns=object)("Ada") != ORDER


async def test_a_result_that_does_not_fit_is_named() -> None:
    async with deployed(app) as deployment:
        function = deployment.order.options(returns=Order)
        with pytest.raises(UnexpectedResult) as caught:
            await function("Ada", "two")
        error = caught.value
        assert (error.path, error.expected, error.got) == (".lines[0].count", "int", "str")
        assert (error.code, error.delivered) == ("unexpected_result", "yes")
        assert str(error) == (
            "order() returned a value that does not fit the option returns at .lines[0].count: "
            "expected int, got str"
        )
        with pytest.raises(UnexpectedResult, match=r"option returns: expected int, got bytes"):
            await deployment.echo.options(returns=int)(b"x")
        with pytest.raises(UnexpectedResult, match="Options has no field 'customer'"):
            await function.options(returns=Options)("Ada")


async def test_an_execution_with_a_result_that_does_not_fit_has_failed() -> None:
    async with deployed(app) as deployment:
        execution = deployment.order.options(returns=Order).submit("Ada", "two")
        with pytest.raises(UnexpectedResult):
            await execution
        assert execution.status is ExecutionStatus.FAILED


async def test_items_of_a_stream_are_built_at_the_caller() -> None:
    async with deployed(app) as deployment:
        function = deployment.lines.options(returns=Line)
        async with function.stream(2) as stream:
            assert_type(stream, FunctionStream[Line])
            assert [await anext(stream), await anext(stream)] == [Line("no. 0"), Line("no. 1")]
            with pytest.raises(UnexpectedResult, match=r"expected a map \(Line\), got int"):
                await anext(stream)
        async with function.bind(1).stream() as stream:
            assert await anext(stream) == Line("no. 0")


async def test_the_result_of_a_function_that_takes_items_is_built_at_the_caller() -> None:
    async with deployed(app) as deployment:
        function = deployment.total.options(returns=Point)
        async with function.stream(sends_items=True) as stream:
            for price in 1.0, 2.0:
                await stream.send(price)
            await stream.send_eof()
            assert await stream.result() == Point(3.0, 0.0)


@pytest.mark.slow
async def test_a_map_builds_its_results() -> None:
    async with deployed(app) as deployment:
        function = deployment.line.options(returns=Line)
        names = [f"no. {number}" for number in range(500)]  # enough for batches
        async with function.map(names) as found:
            built = [each async for each in found]
        assert_type(built, list[Line])
        assert built == [Line(name) for name in names]
        async with function.map([*names, 3, *names], on_error="keep") as kept:
            items = [each async for each in kept]
        assert_type(items, list[MapItem[object, Line]])
        assert [each.result for each in items if each.error is None] == built * 2
        (error,) = [each.error for each in items if each.error is not None]
        assert isinstance(error, UnexpectedResult)
        assert error.path == ".item"
        with pytest.raises(UnexpectedResult):
            async with function.starmap([("x",), (3,)]) as found:
                assert [each async for each in found] == []


async def test_a_type_that_no_result_can_have_is_refused_at_once() -> None:
    async with deployed(app) as deployment:
        with pytest.raises(InvalidArguments, match="returns=Handle: no result can be a Handle"):
            deployment.order.options(returns=Handle)
        with pytest.raises(InvalidArguments, match="returns must be a type, not the text 'Order'"):
            deployment.order.options(returns="Order")
