"""Functions that call their own process until it has no slot left: the failure explains this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import Agent, DeadlineExceeded, open_spearlet
from spear.spearlet._stalls import Stalls

from .helpers import deployed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

THREADS = "all threads of memory:deep-1#1 wait for its own plain functions: increase spear.Agent("
CALLS = (
    "all call slots of memory:deep-1#1 are taken by calls that wait for its own functions: "
    "increase spear.Agent("
)


def deep(kind: str) -> Agent:
    """Return an agent whose functions call themselves down to a given depth."""
    app = Agent("deep", concurrency=None if kind == "mixed" else 3)

    def plain(levels: int) -> object:
        if levels:
            return spear.context().call_sync("deep.go", levels - 1)
        return "done" if "spear.stalled" not in spear.context().metadata else "metadata"

    async def in_trio(levels: int) -> object:
        if levels:
            return await spear.call("go", levels - 1)
        return "done" if "spear.stalled" not in spear.context().metadata else "metadata"

    app.function(name="go", asyncio=kind == "asyncio")(
        plain if kind in ("plain", "mixed") else in_trio
    )

    async def follow(levels: int) -> AsyncIterator[object]:
        if not levels:
            yield levels
            return
        async with spear.context().stream("follow", levels - 1) as items:
            async for item in items:
                yield item

    app.function(follow)
    return app


KINDS = {"plain": THREADS, "mixed": THREADS, "trio": CALLS, "asyncio": CALLS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_waits_for_threads_which_wait_for_it_says_so(kind: str) -> None:
    async with deployed(deep(kind)) as deployment:
        assert await deployment.go(2) == "done"
        with pytest.raises(DeadlineExceeded) as raised:
            await deployment.go(1000, timeout=1)
        assert str(raised.value).startswith(f"go took longer than 1 s: {KINDS[kind]}")
        assert raised.value.code == "stalled"
        assert await deployment.go(1) == "done"
        if kind in ("trio", "asyncio"):
            with pytest.raises(
                DeadlineExceeded, match="are taken by calls that wait for its own functions"
            ):
                async with deployment.follow.stream(1000, timeout=1) as items:
                    await items.__anext__()


@pytest.mark.slow
async def test_a_function_whose_call_waited_in_vain_is_told_why() -> None:
    app = Agent("deep", concurrency=2)

    @app.function
    def go(levels: int) -> str:
        """The inner call times out long before the outer one would."""
        try:
            timeout = 0.1 if levels == 1 else 60
            return str(spear.context().call_sync("go", levels - 1, timeout=timeout))
        except DeadlineExceeded as error:
            return str(error)

    async with deployed(app) as deployment:
        text = str(await deployment.go(2))
    assert text.startswith("go ")
    assert (
        " 0.1 s: all 2 threads of this process wait for plain functions of this process: increase"
        in text
    )


async def test_who_waits_for_others_is_not_told_of_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = Agent("gathers", concurrency=3)

    @app.function
    async def forever() -> None:
        await trio.sleep_forever()

    @app.function
    async def gather(name: str) -> None:
        """Make five concurrent calls: calls with a slot do not end, and the others wait."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(spear.call, name)
        except* DeadlineExceeded:  # a moment before the deadline of this call
            await trio.sleep_forever()

    @app.function
    async def ask(name: str) -> object:
        return await spear.call(name)

    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        await spearlet.deploy(app, name="others")
        with pytest.raises(DeadlineExceeded) as raised:
            await deployment.gather("gathers.forever", timeout=1)
        assert str(raised.value) == "gather took longer than 1 s"
        # All slots wait, but for another deployment.
        for each in [deployment.ask.submit("others.forever", timeout=1) for _ in range(3)]:
            with pytest.raises(DeadlineExceeded) as raised:
                await each.result()
            assert str(raised.value) == "ask took longer than 1 s"


async def test_a_stall_that_is_over_explains_nothing_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stalls = Stalls(trio.current_time)
    for nonsense in (None, 1, "", "everything", ["threads"]):
        assert stalls.begin("shop-1", nonsense) is None
    stall = stalls.begin("shop-1", "threads")
    assert stall is not None
    assert stalls.since(0) == ""
    with stall:
        assert stalls.since(5).startswith("all threads of shop-1 wait for its own plain functions")
    assert stalls.since(0) == ""  # it had a result
    await trio.sleep(1)
    begun = trio.current_time()
    with pytest.raises(ValueError, match="late"), stall:
        raise ValueError("late")
    assert stalls.since(begun).startswith("all threads of shop-1")
    await trio.sleep(1)
    assert stalls.since(trio.current_time()) == ""
