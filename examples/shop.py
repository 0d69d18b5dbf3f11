"""A small shop: one function of each kind. Try it:

spear call examples/shop.py:price '"tea"' --currency GBP
spear call examples/shop.py:total '{"customer": "Ada", "lines": [{"item": "tea", "count": 2}]}'
spear call examples/shop.py:receipt '{"customer": "Ada", "lines": [{"item": "tea"}]}'
spear call examples/shop.py:fingerprint @README.md
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import attrs
import trio

import spear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = spear.Agent("shop")

PRICES = {"tea": 3.5, "coffee": 4.0, "scone": 2.75}
RATES = {"EUR": 1.0, "GBP": 0.86, "USD": 1.08}


@attrs.frozen
class Line:
    item: str
    count: int = 1


@attrs.frozen
class Order:
    customer: str
    lines: list[Line]


@app.function
async def price(item: str, *, currency: str = "EUR") -> float:
    """What one of an item costs."""
    if item not in PRICES:
        raise ValueError(f"we do not sell {item}")
    return round(PRICES[item] * RATES[currency], 2)


@app.function
async def total(order: Order, *, currency: str = "EUR") -> float:
    """The total price of an order. The argument arrives as a map and is checked before this runs."""
    costs = [line.count * await price(line.item, currency=currency) for line in order.lines]
    return round(sum(costs), 2)


@app.function
async def receipt(order: Order) -> AsyncIterator[str]:
    """Yield the lines of an order's receipt, one by one: a stream."""
    yield f"Thank you, {order.customer}!"
    for line in order.lines:
        await trio.sleep(0.1)  # stands for a slow printer
        yield f"{line.count} x {line.item}: {line.count * PRICES[line.item]:.2f}"


@app.function
def fingerprint(data: bytes, rounds: int = 200_000) -> str:
    """Return a hash that takes long to compute. A plain function runs in a thread."""
    return hashlib.pbkdf2_hmac("sha256", data, b"shop", rounds).hex()


@app.function
async def refund(order: Order) -> float:
    """Always fail, to show how a caller sees an error."""
    raise PermissionError(f"{order.customer}, please come to the counter")


if __name__ == "__main__":
    app.run()
