"""Functions that take and give values with codecs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import spear
from spear._codecs import CodedValue

from .money import Money

app = spear.Agent("coded")


@app.function
async def doubled(price):  # type: ignore[no-untyped-def]  # without annotations
    return {"twice": [Money(2 * price.cents, price.currency)]}


@app.function
async def tipped(price: Money, *, tip: Money | None = None) -> Money:
    spear.context().progress(price)
    return Money(price.cents + (tip.cents if tip else 0), price.currency)


@app.function
def halved(price: Money) -> Money:
    return Money(price.cents // 2, price.currency)


@app.function
async def priced(cents: int) -> Money:
    return Money(cents, "XXX" if cents % 50 == 49 else "EUR")


@app.function
async def running(prices: spear.Items[Money]) -> AsyncIterator[Money]:
    total = 0
    async for price in prices:
        total += price.cents
        yield Money(total, price.currency)


@app.function
async def foreign() -> object:
    return CodedValue("tests.Nowhere", 1)


@app.function
async def nested() -> list[str]:
    codes = []
    try:
        await spear.call("priced", 49)
    except spear.SpearError as error:
        codes.append(error.code)
    async with spear.context().stream("worthless") as items:
        try:
            async for _ in items:
                pass
        except spear.SpearError as error:
            codes.append(error.code)
    return codes


@app.function
async def worthless() -> AsyncIterator[Money]:
    yield Money(1, "XXX")
