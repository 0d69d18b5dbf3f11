"""Memory that calls and executions hold: what is counted is what is held."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import ref

import pytest
import trio
import trio.testing

import spear
from spear import (
    ExecutionStatus,
    Rejected,
    RemoteProtocolError,
    SpearError,
)

from .helpers import HERE, Probe, deployed

if TYPE_CHECKING:
    pass

MIB = 1024 * 1024


@contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the bytes that were allocated since, and are still in use."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]

        def held() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield held
    finally:
        tracemalloc.stop()


# -- results --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_result_that_is_kept_takes_its_encoded_size_not_that_of_its_objects() -> None:
    agent = spear.Agent("shop")

    @agent.function
    async def lists(count: int) -> list[list[object]]:
        return [[] for _ in range(count)]

    async with deployed(agent) as deployment:
        await deployment.lists.submit(1).result()
        with allocated() as held:
            made = [deployment.lists.submit(20_000) for _ in range(5)]
            for each in made:
                assert await each.result() == [[]] * 20_000
            await trio.testing.wait_all_tasks_blocked()
            counted = sum(each.result_bytes for each in made)
            assert counted == pytest.approx(5 * 20_000, rel=0.01)
            assert held() < 5 * counted  # as objects, it is 64 times that much


async def test_each_caller_gets_a_result_of_its_own() -> None:
    async with deployed(Probe().agent) as deployment:
        execution = deployment.echo.submit([1])
        first = await execution.result()
        assert isinstance(first, list)
        first.append(2)
        assert await execution.result() == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "error"),
    [(b"\xf7", RemoteProtocolError), (b"\x9a\x00\x20\x00\x00" + b"\x80" * 2 * MIB, Rejected)],
    ids=["no CBOR", "too many items"],
)
async def test_a_result_that_cannot_be_decoded_fails_the_execution_before_anyone_asks(
    payload: bytes, error: type[SpearError]
) -> None:
    async with deployed(HERE / "hostile.py") as deployment:
        execution = deployment.give.submit(payload)
        for _ in range(2):
            with pytest.raises(error) as caught:
                await execution.result()
            assert caught.value.delivered == "yes"
        assert execution.status is ExecutionStatus.FAILED
        assert execution.result_bytes == len(payload)


@pytest.mark.parametrize("key", [None, "one"])
async def test_a_failure_of_a_callback_keeps_its_lines_and_none_of_its_locals(
    key: str | None,
) -> None:
    class Large:
        pass

    alive: list[ref[Large]] = []

    def fails(_: object) -> None:
        large = Large()
        alive.append(ref(large))
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("both", [ValueError("then")]) from error

    agent = spear.Agent("shop")

    @agent.function
    async def step() -> None:
        spear.context().progress("one")

    async with deployed(agent) as deployment:
        execution = deployment.step.options(on_progress=fails, key=key).submit()
        for _ in range(3):
            with pytest.raises(ExceptionGroup, match="both") as caught:
                await execution.result()
        await trio.testing.wait_all_tasks_blocked()
        assert len(alive) == 1
        assert alive[0]() is None
        names = [each.name for each in caught.traceback]
        assert names[-1] == "fails"
        assert names.count("result") == 1  # nor does it grow with each that is told
