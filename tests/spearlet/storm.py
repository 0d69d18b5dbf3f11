"""A program that is interrupted every few milliseconds, catches the interrupts, and continues to call.

Prints the results as JSON. Run as ``python -m tests.spearlet.storm CALLS INTERRUPTS``. It ends after so
many calls and so many interrupts.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

import spear

if TYPE_CHECKING:
    from spear.spearlet import Deployment

PAUSE_SECONDS = 0.005
CALLERS = 16
REPLICAS = 2
SLOTS = 4
"""Concurrent calls of a replica."""

app = spear.Agent(concurrency=SLOTS)


@app.function
async def echo(value: int) -> int:
    await trio.lowlevel.checkpoint()
    return value


@app.function
async def repeat(items: spear.Items[int]):  # type: ignore[no-untyped-def]  # a stream of ints
    async for item in items:
        yield item


@attrs.define
class Story:
    """The events of the run."""

    calls: int = 0
    wrong: int = 0
    interrupts: int = 0


@disable_ki_protection  # like user code
async def call(deployment: Deployment, story: Story, numbers: count[int]) -> None:
    while True:
        number = next(numbers)
        if number % 4:
            result = await deployment.echo(number)
        else:
            async with deployment.repeat.stream(sends_items=True) as items:
                await items.send(number)
                result = await anext(items)
        story.wrong += result != number
        story.calls += 1


async def call_until_interrupted(deployment: Deployment, story: Story) -> None:
    # Spawned with protection: a half-spawned task of Trio would keep its nursery open for ever.
    numbers = count()
    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(call, deployment, story, numbers)


@enable_ki_protection
async def run(calls: int, interrupts: int) -> Story:
    story = Story()
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(__file__, replicas=REPLICAS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while story.calls < calls or story.interrupts < interrupts:
            try:
                await call_until_interrupted(deployment, story)
            except* KeyboardInterrupt:
                story.interrupts += 1
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with suppress(KeyboardInterrupt):
            await trio.lowlevel.checkpoint()
        await expect_all_slots(deployment)
    with suppress(KeyboardInterrupt):
        await trio.lowlevel.checkpoint()
    return story


async def expect_all_slots(deployment: Deployment) -> None:
    """Wait until no call is open; then assert that all slots can be used at a time."""
    with trio.fail_after(10):
        while deployment.statistics().calls_in_flight:
            await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:
            for _ in range(REPLICAS * SLOTS):
                nursery.start_soon(hold_a_slot, deployment)
            while deployment.statistics().calls_in_flight < REPLICAS * SLOTS:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()


async def hold_a_slot(deployment: Deployment) -> None:
    async with deployment.repeat.stream(sends_items=True):
        await trio.sleep_forever()


def interrupt(thread: int, ended: threading.Event) -> None:
    while not ended.wait(PAUSE_SECONDS):
        signal.pthread_kill(thread, signal.SIGINT)


def children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def main() -> None:
    # Blocked except during the calls: other code of this program cannot handle an interrupt.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    ended = threading.Event()
    storm = threading.Thread(target=interrupt, args=(threading.get_ident(), ended))
    storm.start()
    try:
        story = trio.run(run, int(sys.argv[1]), int(sys.argv[2]))
    finally:
        ended.set()
        storm.join()
    json.dump({**attrs.asdict(story), "children": children()}, sys.stdout)


if __name__ == "__main__":
    main()
