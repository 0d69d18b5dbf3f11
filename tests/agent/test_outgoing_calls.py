"""Results of other functions as classes of the calling function: ``spear.call(..., returns=...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import attrs
import pytest

import spear
from spear import FunctionRaised, InvalidArguments, UnexpectedResult
from spear.wire import Value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.frozen
class Line:
    item: str
    count: int


app = spear.Agent("orders")


@app.function
async def line(item: str, count: object = 1) -> object:
    return {"item": item, "count": count}


@app.function
async def lines(*counts: object) -> AsyncIterator[object]:
    for count in counts:
        yield {"item": "tea", "count": count}


@app.function
async def tell(how: str) -> object:
    """Call ``line`` in one of the ways; return what came."""
    context, key = spear.context(), f"key of {how}"
    if how == "plainly":
        plain = await spear.call("line", "tea")
        assert_type(plain, Value)
        return plain
    if how == "by the short form":
        found = await spear.call("line", "tea", count=2, returns=Line)
    elif how == "by the context":
        found = await context.call("line", "tea", 2, returns=Line)
    elif how == "with a key":
        found = await spear.call_once(key, "line", "tea", 2, returns=Line)
        assert await spear.call_once(key, "line", "tea", 2) == {"item": "tea", "count": 2}
    else:
        maybe = await spear.call("line", "tea", 2, returns=Line | None)
        assert_type(maybe, object)
        assert isinstance(maybe, Line)
        found = maybe
    assert_type(found, Line)
    return [type(found).__name__, found.item, found.count]


@app.function
def tell_from_a_thread() -> object:
    found = spear.context().call_sync("line", "tea", 2, returns=Line)
    assert_type(found, Line)
    return [type(found).__name__, found.item, found.count]


@app.function(asyncio=True)
async def tell_from_asyncio() -> object:
    found = await spear.call("line", "tea", 2, returns=Line)
    return [type(found).__name__, found.item, found.count]


@app.function
async def follow(*counts: object) -> list[int]:
    async with spear.context().stream("lines", *counts, returns=Line) as found:
        assert_type(found, spear.Items[Line])
        return [each.count async for each in found]


@app.function
async def misjudge(returns: str) -> object:
    """Expect a type that the result does not have; return what the error says."""
    try:
        if returns == "text":
            return await spear.call("line", "tea", returns="Line")
        if returns == "class":
            return await spear.call("line", "tea", returns=spear.Agent)
        return await spear.call("line", "tea", "two", returns=Line)
    except InvalidArguments as error:
        return str(error)
    except UnexpectedResult as error:
        return [error.path, error.expected, error.got, error.delivered, str(error)]


@app.function
async def misjudge_items() -> list[Line]:
    async with spear.context().stream("lines", "two", returns=Line) as found:
        return [each async for each in found]


@pytest.fixture
async def orders() -> AsyncIterator[spear.Deployment]:
    async with spear.open_spearlet() as spearlet:
        yield await spearlet.deploy(app)


@pytest.mark.parametrize("how", ["by the short form", "by the context", "with a key", "as a union"])
async def test_a_result_is_built_in_the_calling_function(
    orders: spear.Deployment, how: str
) -> None:
    assert await orders.tell(how) == ["Line", "tea", 2]


async def test_threads_and_asyncio_get_objects_as_well(orders: spear.Deployment) -> None:
    assert await orders.tell_from_a_thread() == ["Line", "tea", 2]
    assert await orders.tell_from_asyncio() == ["Line", "tea", 2]


async def test_without_the_option_a_result_stays_as_it_arrives(orders: spear.Deployment) -> None:
    assert await orders.tell("plainly") == {"item": "tea", "count": 1}


async def test_items_of_another_function_are_built_one_by_one(orders: spear.Deployment) -> None:
    assert await orders.follow(1, 2, 3) == [1, 2, 3]


async def test_a_result_that_does_not_fit_is_an_error_of_the_calling_function(
    orders: spear.Deployment,
) -> None:
    said = "line() returned a value that does not fit the option returns at .count: "
    assert await orders.misjudge("result") == [
        ".count", "int", "str", "yes", f"{said}expected int, got str",
    ]  # fmt: skip
    with pytest.raises(FunctionRaised, match=r"lines\(\) returned .* at \.count: ") as caught:
        await orders.misjudge_items()
    assert caught.value.type_name == "UnexpectedResult"
    assert caught.value.remote_code == "unexpected_result"


async def test_a_type_that_no_result_can_have_is_refused_before_the_call(
    orders: spear.Deployment,
) -> None:
    assert await orders.misjudge("text") == "returns must be a type, not the text 'Line'"
    refused = await orders.misjudge("class")
    assert str(refused).startswith("returns=Agent: no result can be a Agent; use a data class")
    assert "line" not in orders.statistics().functions
