"""Helpers of the spearlet's tests: an agent whose state a test can see, and a file of functions."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import spear
from spear.agent import Items
from spear.runtimes import Instance, MemorySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.calls import Result
    from spear.spearlet import Deployment, Replica

HERE = Path(__file__).parent
WORKERS = HERE / "workers.py"

PATIENCE_SECONDS = 15.0
"""Seconds within which an event must happen, on a busy machine."""

CRASHING = """
import os, spear
file = os.open({book!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
app = spear.Agent()

@app.lifespan
async def lifespan():
    os.write(file, b"x")
    if os.path.exists({flag!r}):
        os._exit(9)
    yield

@app.function
async def die() -> None:
    os._exit(9)
"""
"""A program that cannot start while there is a file `flag`, and notes each start in `book`."""


class Probe:
    """An agent that runs in the test's own process.

    Attributes:
        begun: set when ``wait`` has begun.
        cancelled: set when ``wait`` was cancelled.
        release: set by a test to let ``wait`` and ``ticks`` continue.
        calls: number of calls of ``echo`` and ``wait`` so far.
        seen: the arguments of ``echo``.
    """

    def __init__(self, name: str = "probe") -> None:
        self.begun = trio.Event()
        self.cancelled = trio.Event()
        self.release = trio.Event()
        self.calls = 0
        self.seen: list[object] = []
        self.agent = spear.Agent(name)
        for function in (
            self.echo, self.add, self.remaining, self.wait, self.context, self.steps, self.boom,
            self.ticks, self.double, self.total, self.twice,
        ):  # fmt: skip
            self.agent.function(function)

    async def echo(self, value: object) -> object:
        self.calls += 1
        self.seen.append(value)
        return value

    async def add(self, a: int, b: int = 1, *, timeout: int = 0, metadata: int = 0) -> int:
        return a + b + timeout + metadata

    async def remaining(self) -> float:
        return spear.context().remaining_seconds()

    async def wait(self) -> str:
        self.calls += 1
        self.begun.set()
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return "released"

    async def context(self) -> dict[str, object]:
        here = spear.context()
        return {"caller": here.caller, "metadata": dict(here.metadata)}

    async def steps(self, count: int) -> str:
        for step in range(count):
            spear.context().progress({"step": step})
            await trio.sleep(1)
        return "done"

    async def boom(self) -> None:
        raise KeyError("nothing there")

    async def ticks(self, count: int, *, fails: bool = False) -> AsyncIterator[int]:
        self.begun.set()
        try:
            for number in range(count):
                yield number
            if fails:
                raise ValueError("no more ticks")
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def double(self, numbers: Items[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    async def total(self, numbers: Items[int]) -> int:
        return sum([number async for number in numbers])

    def twice(self, data: bytes) -> bytes:
        return data + data


@asynccontextmanager
async def deployed(
    target: str | Path | spear.Agent, *, replicas: int = 1, limits: spear.HostLimits | None = None
) -> AsyncIterator[Deployment]:
    """Open a deployment with a spearlet of its own."""
    async with spear.open_spearlet(limits=limits or spear.HostLimits()) as spearlet:
        yield await spearlet.deploy(shared(target), replicas=replicas)


def shared(target: str | Path | spear.Agent) -> str | Path | MemorySettings:
    """Return a target for :func:`deployed` with which several replicas of an agent share this process."""
    if isinstance(target, spear.Agent):
        return MemorySettings(agent=target, shares_process=True)
    return target


def instance(replica: Replica) -> Instance:
    """Return a replica that is a process."""
    assert isinstance(replica, Instance)
    return replica


def pid(replica: Replica) -> int:
    number = instance(replica).pid
    assert number is not None
    return number


def number(result: Result) -> float:
    """Return a result that is a number."""
    assert isinstance(result, int | float)
    return result


def write(place: Path, name: str, code: str) -> Path:
    """Write a file of functions; return its path."""
    path = place / name
    path.write_text(code, encoding="utf-8")
    return path
