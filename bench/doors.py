"""`python -m bench.doors`: calls of programs without Trio, beside Trio's and other ways between threads.

All ways are measured in turn, in each round, so that a change of the machine's speed meets all of them.
The table has medians of the rounds: calls per second with 1 and with 64 calls in flight, and what a call
takes more than a call of a Trio program in the same round.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeAlias

import anyio.from_thread
import trio

import spear
import spear.asyncio
import spear.blocking
from bench import machine

PROGRAM: Final = Path(__file__).parent / "functions.py"
BODY: Final = b"\0" * 1024
ROUNDS: Final = 7
SECONDS: Final = 0.7
MANY: Final = 64

Drive: TypeAlias = Callable[[int], float]
"""Makes calls, so many at a time, for :data:`SECONDS`; returns calls per second."""


class Rate:
    """The number of calls that ended in time."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.ended = 0

    def goes_on(self) -> bool:
        return time.perf_counter() - self.begun < SECONDS

    def result(self) -> float:
        return self.ended / (time.perf_counter() - self.begun)


def with_trio(at_a_time: int) -> float:
    """A Trio program: the call itself."""

    async def main() -> float:
        async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
            echo = (await spearlet.deploy(PROGRAM)).echo
            await echo(BODY)
            rate = Rate()

            async def work() -> None:
                while rate.goes_on():
                    await echo(BODY)
                    rate.ended += 1

            async with trio.open_nursery() as nursery:
                for _ in range(at_a_time):
                    nursery.start_soon(work)
            return rate.result()

    return trio.run(main)


def with_asyncio(call: Callable[[bytes], Awaitable[object]], runner: asyncio.Runner) -> Drive:
    """Tasks of asyncio."""

    def drive(at_a_time: int) -> float:
        async def main() -> float:
            await call(BODY)
            rate = Rate()

            async def work() -> None:
                while rate.goes_on():
                    await call(BODY)
                    rate.ended += 1

            await asyncio.gather(*(work() for _ in range(at_a_time)))
            return rate.result()

        return runner.run(main())

    return drive


def with_threads(call: Callable[[bytes], object]) -> Drive:
    """Threads, each of which waits for its call."""

    def drive(at_a_time: int) -> float:
        call(BODY)
        rate = Rate()
        ended = itertools.count()  # a single step of the interpreter, so no call is counted twice

        def work() -> None:
            while rate.goes_on():
                call(BODY)
                next(ended)

        threads = [threading.Thread(target=work) for _ in range(at_a_time)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        rate.ended = next(ended)
        return rate.result()

    return drive


def in_anyio(portal: anyio.from_thread.BlockingPortal, opened: ExitStack) -> spear.Function:
    """Return the function of a spearlet that runs in the Trio thread of anyio."""
    spearlet = opened.enter_context(portal.wrap_async_context_manager(spear.open_spearlet()))

    async def deploy() -> spear.Deployment:
        return await spearlet.deploy(PROGRAM)

    return portal.call(deploy).echo


def main() -> int:
    """Measure, and print the table."""
    rounds: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())
        pool = opened.enter_context(ThreadPoolExecutor(MANY))
        portal = opened.enter_context(anyio.from_thread.start_blocking_portal("trio"))
        foreign = in_anyio(portal, opened)
        ours = opened.enter_context(spear.blocking.open_spearlet()).deploy(PROGRAM).echo
        spearlet = runner.run(opened_in_loop())
        opened.callback(lambda: runner.run(spearlet.aclose()))
        echo = runner.run(spearlet.deploy(PROGRAM)).echo

        async def in_pool(body: bytes) -> bytes:
            return await asyncio.get_running_loop().run_in_executor(pool, same, body)

        ways: dict[str, Drive] = {
            "a Trio program": with_trio,
            "`spear.asyncio`": with_asyncio(echo, runner),
            "`spear.blocking`, a thread for each call": with_threads(ours),
            "`anyio.from_thread`, a thread for each call": with_threads(
                lambda body: portal.call(foreign.call, body)
            ),
            "a thread pool of asyncio's, without a process": with_asyncio(in_pool, runner),
        }
        for _ in range(ROUNDS):
            for name, drive in ways.items():
                rounds.setdefault(name, []).append((drive(1), drive(MANY)))
    show(rounds)
    return 0


async def opened_in_loop() -> spear.asyncio.Spearlet:
    return await spear.asyncio.open_spearlet()


def same(body: bytes) -> bytes:
    return body


def show(rounds: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table."""
    base = rounds["a Trio program"]
    print(f"{machine.describe()}\n1 KiB, median of {ROUNDS} rounds\n")
    print(
        "| way | calls/s, 1 in flight | more than Trio, µs a call | calls/s, 64 in flight | of Trio's |"
    )
    print("|---|---|---|---|---|")
    for name, found in rounds.items():
        alone = statistics.median(each[0] for each in found)
        many = statistics.median(each[1] for each in found)
        more = statistics.median(
            1e6 / each[0] - 1e6 / mine[0] for each, mine in zip(found, base, strict=True)
        )
        share = statistics.median(each[1] / mine[1] for each, mine in zip(found, base, strict=True))
        print(f"| {name} | {alone:,.0f} | {more:,.0f} | {many:,.0f} | {share:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
