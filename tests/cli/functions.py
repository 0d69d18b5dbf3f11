"""Functions for the tests of the command line: shop.py there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import spear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = spear.Agent("shop")


@app.lifespan
async def life() -> AsyncIterator[None]:
    yield
    if "FAREWELL" in os.environ:
        print(os.environ["FAREWELL"])  # noqa: T201  # as users do


@app.function
async def echo(*values: object, **named: object) -> object:
    """Return the arguments unchanged."""
    return [*values, named] if named else values[0] if len(values) == 1 else list(values)


@app.function
async def kinds(*values: object) -> list[str]:
    return [type(value).__name__ for value in values]


@app.function
async def price(item: str, *, currency: str = "EUR", timeout: int = 0, replicas: int = 0) -> str:
    return f"{item} {currency} {timeout} {replicas}"


@app.function
def size(data: bytes) -> int:
    return len(data)


@app.function
async def flag(*, loud: bool = False) -> bool:
    return loud


@app.function
async def needs(timeout: int) -> int:
    return timeout


@app.function
def reverse(data: bytes) -> bytes:
    return data[::-1]


@app.function
async def odd() -> object:
    return {"bytes": b"\xff\x00", b"key": [None, 1.5, "größe"], "nan": float("nan")}


@app.function
async def huge() -> int:
    return 10**5000


@app.function
async def count(number: int) -> AsyncIterator[int]:
    for each in range(number):
        yield each


@app.function
async def pieces(number: int) -> AsyncIterator[bytes]:
    for each in range(number):
        yield b"%d;" % each


@app.function
async def one_and_wait() -> AsyncIterator[str]:
    yield "first"
    await trio.sleep_forever()


@app.function
async def complain(lines: int) -> AsyncIterator[str]:
    sys.stderr.write("so it goes on and on\n" * lines)
    yield "said"
    await trio.sleep_forever()


@app.function
async def one_and_fail() -> AsyncIterator[str]:
    yield "first"
    raise ValueError("no second")


@app.function
async def fountain() -> AsyncIterator[str]:
    while True:
        yield "water " * 1000


@app.function
async def wait() -> None:
    print("waiting in", os.getpid())  # noqa: T201  # as users do
    await trio.sleep_forever()


@app.function
async def speak(text: str) -> str:
    print(f"out {text}")  # noqa: T201  # as users do
    print(f"err {text}", file=sys.stderr)  # noqa: T201  # as users do
    spear.context().logger.info("log %s", text)
    return "said"


@app.function
async def boom(text: str = "it broke") -> None:
    raise ValueError(text)


@app.function
async def crash() -> None:
    print("last words", file=sys.stderr)  # noqa: T201  # as users do
    os._exit(3)


@app.function
async def full() -> None:
    raise spear.Overloaded("no room")


@app.function
async def too_large() -> bytes:
    return bytes(
        spear.WireLimits().max_segment_bytes + 1
    )  # zeros take no memory before they are read


@app.function
def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


@app.function
async def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@app.function
def chatter(lines: int) -> int:
    for line in range(lines):
        print("line", line)  # noqa: T201  # as users do
    return lines


@app.function
def write_everywhere() -> str:
    """Write to standard output in several ways."""
    sys.stdout.write("written without an end of line")
    os.write(1, b"by the system\n")
    subprocess.run(["echo", "by a child"], check=True)
    return "said"


@app.function(name="trig.sine")
async def sine() -> int:
    return 0


@app.function
def measure(text: str, *, unit: str = "chars") -> str:
    if text.startswith("bad"):
        raise ValueError(f"{text} is bad")
    if text.startswith("fatal"):
        os._exit(3)
    return f"{len(text)} {unit}"


@app.function
def third_time(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    attempts = Path(path).stat().st_size
    if attempts < 3:
        raise ConnectionError("not yet")
    return attempts


@app.function
async def dawdle(text: str, *, alone: bool = False) -> str:
    """Wait for ever if the text begins with "wait". Calls with a keyword do not travel in batches."""
    if text.startswith("wait"):
        print("waiting")  # noqa: T201  # as users do
        await trio.sleep_forever()
    return text


@app.function
async def once_more(text: str, *, alone: bool = False) -> str:
    """Fail for the first call with "first"."""
    if text == "first" and text not in failed:
        failed.append(text)
        raise ConnectionError("not yet")
    return await dawdle_or_fail(text)


failed: list[str] = []


async def dawdle_or_fail(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError(f"{text} is bad")
    return await dawdle(text)


@app.function
async def opposite(number: int) -> int:
    """Give the answers to 0, 1 and 2 in the opposite order."""
    global answered
    while answered != 2 - number:
        await trio.sleep(0.01)
    answered += 1
    return number


answered = 0


@app.function
async def twice_the_key(key: bytes) -> object:
    return {key: 1, '{"$bytes": "a2V5"}': 2}


@app.function
async def menu_ahead(share: float) -> AsyncIterator[str]:
    """Yield an item, and report a share of progress; wait for ever."""
    yield "tea"
    spear.context().progress(share)
    await trio.sleep_forever()


@app.function
async def ahead(reports: list[object]) -> None:
    """Report progress, and wait."""
    for each in reports:
        spear.context().progress(each)
        await trio.sleep(0.05)
    await trio.sleep_forever()


@app.function
async def redraw() -> None:
    for state in ("10%", "20%"):
        sys.stderr.write(f"\r {state}")
        sys.stderr.flush()
    await trio.sleep_forever()


@app.function
async def redraw_and_end() -> str:
    sys.stderr.write("\r 10%\r 20%\n")
    return "done"
