"""Makes the dashboard's pictures for the documents: ``python -m tests.gateway.picture``."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Final

import trio

import spear
from spear.gateway import GatewaySettings, open_gateway

from .browser import open_page

IMAGES: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
SECONDS: Final = 45.0

SHOP: Final = '''
import hashlib
from collections.abc import AsyncIterator

import trio

import spear

app = spear.Agent("shop")
PRICES = {"tea": 3.5, "coffee": 4.0, "scone": 2.75}


@app.function
async def price(item: str, *, currency: str = "EUR") -> float:
    """What one of an item costs."""
    await trio.sleep(0.002)
    return round(PRICES[item] * {"EUR": 1.0, "GBP": 0.86}[currency], 2)


@app.function
async def total(lines: dict[str, int]) -> float:
    """What an order costs."""
    print("an order of", ", ".join(f"{count} {item}" for item, count in lines.items()))
    await trio.sleep(0.006)
    return sum(PRICES[item] * count for item, count in lines.items())


@app.function
async def receipt(lines: dict[str, int]) -> AsyncIterator[str]:
    """An order's lines, one after the other."""
    for item, count in lines.items():
        yield f"{count} x {item}"


@app.function
def fingerprint(data: bytes, rounds: int = 1000) -> str:
    """A hash that takes its time."""
    return hashlib.pbkdf2_hmac("sha256", data, b"shop", rounds).hex()


@app.function
async def refund(customer: str) -> float:
    """Always fails."""
    raise PermissionError(f"{customer}, please come to the counter")
'''


async def keep_busy(shop: spear.Deployment) -> None:
    """Run customers that come and go, sometimes many at once."""
    rng = random.Random(7)

    async def visit() -> None:
        items = rng.sample(["tea", "coffee", "scone"], 2)
        try:
            match rng.random():
                case chance if chance < 0.75:
                    await shop.price(items[0])
                case chance if chance < 0.97:
                    await shop.total({item: rng.randint(1, 3) for item in items})
                case chance if chance < 0.99:
                    await shop.fingerprint(b"some bytes")
                case _:
                    await shop.refund("Ada")
        except spear.FunctionRaised:
            pass

    async with trio.open_nursery() as nursery:
        while True:
            for _ in range(rng.randint(1, 4)):
                nursery.start_soon(visit)
            await trio.sleep(rng.random() * 0.08)


async def main() -> None:
    """Run a shop for a while, and take pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "shop.py"
        file.write_text(SHOP, encoding="utf-8")
        async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
            shop = await spearlet.deploy(file, replicas=3)
            nursery.start_soon(keep_busy, shop)
            settings = GatewaySettings(port=0, name="shop")
            async with (
                open_gateway(spearlet, settings) as gateway,
                open_page(gateway.urls[0]) as page,
            ):
                await trio.sleep(SECONDS)
                await page.evaluate(
                    'byId(\'arguments\').value = \'{"item": "tea", "currency": "GBP"}\';'
                    "byId('call').requestSubmit()"
                )
                await page.wait_for("byId('result').textContent")
                (IMAGES / "dashboard.png").write_bytes(await page.picture(1280, 960))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
