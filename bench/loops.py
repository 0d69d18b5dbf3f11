"""Event loops of asyncio: the standard library's, and uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

ASYNCIO = "asyncio"
UVLOOP = "uvloop"


def run(main: Coroutine[object, None, T], loop: str) -> T:
    """Run a coroutine as `asyncio.run` does, on the event loop with this name."""
    if loop == ASYNCIO:
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
