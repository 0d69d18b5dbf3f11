"""Makes the dashboard's pictures for the documents: ``python -m tests.gateway.picture``."""

from __future__ import annotations

import random
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import spear
from spear.gateway import GatewaySettings, open_gateway

from .browser import open_page

if TYPE_CHECKING:
    from .browser import Page

IMAGES: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "images"
SECONDS: Final = 60.0

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


MAILER: Final = '''
import os
import sys

import spear

app = spear.Agent("mailer")


@app.function
async def send(to: str) -> None:
    """Sends a receipt."""
    print("sending to", to, flush=True)
    if to == "Bob":
        print("OSError: [Errno 113] smtp.example: no route to host", file=sys.stderr, flush=True)
        os._exit(3)
'''

RESIZE: Final = '''
import trio

import spear

app = spear.Agent("resize", concurrency=2)


@app.function
async def image(name: str) -> str:
    """Makes a picture smaller."""
    await trio.sleep(0.9)
    return name
'''


async def attempt(function: spear.Function, *arguments: object) -> None:
    """Call a function that may fail."""
    with suppress(spear.SpearError):
        await function(*arguments)


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


async def crowd(resize: spear.Deployment) -> None:
    """Send more pictures than one instance can resize."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(attempt, resize.image, "tea.png")
            await trio.sleep(0.35)


async def send_receipts(mailer: spear.Deployment) -> None:
    """Send receipts; those to Bob end their instance."""
    while True:
        for name in ("Ada", "Bob"):
            await attempt(mailer.send, name)
        await trio.sleep(3)


async def take(page: Page, name: str, size: tuple[int, int], scheme: str) -> None:
    """Take a picture of the page."""
    await page.use_scheme(scheme)
    await page.resize(*size)
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 1500))")
    (IMAGES / f"{name}.webp").write_bytes(await page.picture(*size, kind="webp"))


async def main() -> None:
    """Run a host on a bad day for a while, and take pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, text in (("shop", SHOP), ("mailer", MAILER), ("resize", RESIZE)):
            (place / f"{name}.py").write_text(text, encoding="utf-8")
        async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
            shop = await spearlet.deploy(place / "shop.py", replicas=2)
            nursery.start_soon(keep_busy, shop)
            nursery.start_soon(crowd, await spearlet.deploy(place / "resize.py"))
            nursery.start_soon(send_receipts, await spearlet.deploy(place / "mailer.py"))
            shop.price.submit("cocoa")
            shop.total.submit({"tea": 2, "scone": 1})
            settings = GatewaySettings(port=0, name="evening", allow_control=True)
            async with (
                open_gateway(spearlet, settings) as gateway,
                open_page(gateway.urls[0]) as page,
            ):
                await trio.sleep(SECONDS)
                await take(page, "dashboard", (1280, 1080), "light")
                await take(page, "dashboard-phone", (390, 844), "dark")
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
