"""Functions in this process, which the tests of both doors call."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from typing import final

import attrs
import trio

import spear


@final
class Kitchen:
    """An agent and what its functions have seen.

    Attributes:
        agent: the agent.
        begun: set while ``hang`` runs.
        cancelled: set when ``hang`` was cancelled.
    """

    def __init__(self) -> None:
        self.agent = spear.Agent("kitchen")
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        for function in (
            self.echo, self.fail, self.hang, self.interrupt, self.count, self.total, self.double,
            self.cook, self.thread,
        ):  # fmt: skip
            self.agent.function(function)

    async def echo(self, value: object) -> object:
        """Return the value."""
        return value

    async def fail(self, text: str) -> None:
        """Raise ValueError."""
        raise ValueError(text)

    async def hang(self) -> None:
        """Wait until cancelled."""
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.begun.clear()
            self.cancelled.set()

    async def interrupt(self) -> None:
        """Press Ctrl-C, and wait until cancelled."""
        os.kill(os.getpid(), signal.SIGINT)
        await self.hang()

    async def count(self, to: int) -> AsyncIterator[int]:
        """Send numbers; a negative one fails after as many."""
        for number in range(abs(to)):
            yield number
        if to < 0:
            raise ValueError(f"cannot count to {to}")

    async def total(self, items: spear.Items[int]) -> int:
        """Return the sum of the items."""
        return sum([each async for each in items])

    async def double(self, items: spear.Items[int]) -> AsyncIterator[int]:
        """Send twice each item."""
        async for each in items:
            yield 2 * each

    async def cook(self, minutes: int) -> str:
        """Report progress for each minute."""
        for minute in range(minutes):
            spear.context().progress(minute)
            await trio.sleep(0)
        return "done"

    async def thread(self) -> int:
        """Return the number of the thread in which it runs."""
        return threading.get_ident()


@attrs.frozen
class Dish:
    """A result of a class."""

    name: str
