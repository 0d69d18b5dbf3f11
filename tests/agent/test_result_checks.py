"""Results and items that do not fit the annotation of their function."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING

import attrs
import pytest

import spear
from spear import Agent, FunctionRaised
from spear.wire import decode_result

from .helpers import calling

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # that is the point


@attrs.frozen
class Line:
    item: str
    count: int = 1


app = Agent()


@app.function
async def price(item: str) -> float:
    prices: dict[str, object] = {"tea": 3.5, "air": 1}
    return prices.get(item, "none")  # type: ignore[return-value]  # that is the point


@app.function
def lines(count: object) -> list[Line]:
    return [Line("tea"), Line("milk", count)]  # type: ignore[arg-type]  # that is the point


@app.function
async def echo(data: bytes) -> str:
    return data  # type: ignore[return-value]  # that is the point


@app.function
async def raw(data: bytes) -> bytes:
    return data


@app.function
async def nothing() -> None:
    return 3  # type: ignore[return-value]  # that is the point


@app.function
async def unresolved() -> Missing:
    return 3


def as_text(function):  # type: ignore[no-untyped-def]  # as users write them
    @functools.wraps(function)
    async def wrapper(*args):  # type: ignore[no-untyped-def]  # likewise
        return str(await function(*args))

    return wrapper


@app.function
@as_text  # type: ignore[untyped-decorator]  # likewise
async def wrapped() -> int:
    return 3


@app.function
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number
    yield "end"  # type: ignore[misc]  # that is the point


@app.function
def words(to: int) -> Iterator[str]:
    yield from ["a", "b"][:to]
    yield to  # type: ignore[misc]  # that is the point


@app.function
async def untyped(to: int) -> AsyncGenerator:  # type: ignore[type-arg]  # likewise
    yield "x"


@app.batched(max_size=8)
async def doubled(numbers: list[int]) -> list[int | ValueError]:
    return [2 * each if each < 9 else "many" for each in numbers]  # type: ignore[misc]  # likewise


@app.function(asyncio=True)
async def bridged() -> int:
    return "x"  # type: ignore[return-value]  # that is the point


@pytest.mark.parametrize(
    ("name", "argument", "result"),
    [
        ("price", "tea", 3.5),
        ("price", "air", 1),
        ("lines", 2, [{"item": "tea", "count": 1}, {"item": "milk", "count": 2}]),
        ("raw", b"x", b"x"),
    ],
)
async def test_what_fits_arrives(name: str, argument: object, result: object) -> None:
    async with calling(app) as caller:
        for _ in range(2):  # at the second call, the check is there already
            assert await caller.call(name, argument) == result


@pytest.mark.parametrize("name", ["nothing", "unresolved", "wrapped"])
async def test_nothing_is_checked_without_a_certain_annotation(name: str) -> None:
    async with calling(app) as caller:
        assert await caller.call(name) in (3, "3")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("price", "gold", ": expected float, got str"),
        ("lines", "two", " at [1].count: expected int, got str"),
        ("echo", b"x", ": expected str, got bytes"),
    ],
)
async def test_a_wrong_result_is_the_functions_failure(
    name: str, argument: object, message: str
) -> None:
    async with calling(app) as caller:
        for _ in range(2):
            with pytest.raises(FunctionRaised) as caught:
                await caller.call(name, argument)
            assert caught.value.type_name == "TypeError"
            what = f"{name}() returned a value that does not fit the annotation{message}"
            assert what in str(caught.value)
            assert caught.value.delivered == "yes"


async def test_a_wrong_result_of_an_asyncio_function_is_found() -> None:
    async with calling(app) as caller:
        with pytest.raises(FunctionRaised, match=r"bridged\(\) returned .* expected int, got str"):
            await caller.call("bridged")


async def test_each_result_of_a_batched_function_is_checked() -> None:
    async with calling(app) as caller:
        assert await caller.call("doubled", 2) == 4
        with pytest.raises(FunctionRaised, match=r"doubled\(\) returned .* expected int, got str"):
            await caller.call("doubled", 9)


@pytest.mark.parametrize(
    ("name", "items", "message"),
    [
        ("count", [0, 1], "expected int, got str"),
        ("words", ["a", "b"], "expected str, got int"),
    ],
)
async def test_a_wrong_item_ends_its_stream(name: str, items: list[object], message: str) -> None:
    async with calling(app) as caller:
        async with caller.stream(name, 2) as stream:
            found = [decode_result(*await stream.receive_item()) for _ in items]
            assert found == items
            what = f"{name}() yielded a value that does not fit the annotation: {message}"
            with pytest.raises(FunctionRaised, match=re.escape(what)):
                await stream.receive_item()
        assert await caller.items("untyped", 1) == ["x"]


@pytest.mark.slow
async def test_a_wrong_result_in_a_batch_is_that_items_failure() -> None:
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        async with deployment.price.map(["tea", "gold"] * 300, on_error="keep") as outcomes:
            found = [(each.result, each.error) async for each in outcomes]
    assert [result for result, error in found if error is None] == [3.5] * 300
    errors = [error for _, error in found if error is not None]
    assert len(errors) == 300
    for error in errors:
        assert isinstance(error, FunctionRaised)
        assert error.type_name == "TypeError"
        assert "expected float, got str" in str(error)
