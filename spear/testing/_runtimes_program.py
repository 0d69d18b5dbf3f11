"""The program of the conformance suite for runtimes."""

from __future__ import annotations

import trio

import spear

app = spear.Agent("conformance")


@app.function
async def echo(value: object) -> object:
    """Return the value."""
    return value


@app.function
async def nap(seconds: float) -> str:
    """Return after ``seconds``."""
    await trio.sleep(seconds)
    return "rested"


@app.function
async def wait() -> None:
    """Never return."""
    await trio.sleep_forever()


@app.function
async def fail() -> None:
    """Raise ValueError."""
    raise ValueError("on purpose")
