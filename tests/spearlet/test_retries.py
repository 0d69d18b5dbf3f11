"""Retries and waits of single calls, as the deployment, the function and the call set them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import (
    ConfigurationError,
    DeadlineExceeded,
    DeploymentSettings,
    FunctionRaised,
    Overloaded,
    RetryPolicy,
    open_spearlet,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear.spearlet import Deployment

ONCE = RetryPolicy(max_attempts=1)
REFUSED = RetryPolicy(on=("ConnectionError",), idempotent=True, initial_seconds=0)


def slow() -> tuple[spear.Agent, list[str]]:
    """Return an agent that takes one call at a time, and the calls that it has begun."""
    app, begun = spear.Agent("slow", concurrency=1), list[str]()

    @app.function
    async def rest(seconds: float) -> float:
        begun.append("rest")
        await trio.sleep(seconds)
        return seconds

    @app.function
    async def refuse(times: int) -> float:
        begun.append("refuse")
        await trio.sleep(1)
        if begun.count("refuse") <= times:
            raise ConnectionError("refused")
        return spear.context().remaining_seconds()

    return app, begun


@asynccontextmanager
async def deployed(settings: DeploymentSettings) -> AsyncIterator[tuple[Deployment, list[str]]]:
    app, begun = slow()
    async with open_spearlet() as spearlet:
        yield await spearlet.deploy(app, settings=settings), begun


async def test_a_call_that_was_refused_is_tried_again_by_the_policy_of_the_deployment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = RetryPolicy(max_attempts=20, initial_seconds=1, max_seconds=1)
    settings = DeploymentSettings(queue=0, retry=policy)
    async with deployed(settings) as (deployment, _), trio.open_nursery() as nursery:
        nursery.start_soon(deployment.rest, 5)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await deployment.rest.options(retry=ONCE)(1)
        assert await deployment.rest(1) == 1


async def test_the_policy_of_the_call_comes_before_those_of_the_function_and_the_deployment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(DeploymentSettings(retry=REFUSED)) as (deployment, begun):
        assert await deployment.refuse(2) == pytest.approx(57)  # all attempts have one timeout
        begun.clear()
        once = deployment.refuse.options(retry=ONCE)
        with pytest.raises(FunctionRaised):
            await once(1)
        assert begun == ["refuse"]
        begun.clear()
        assert await once.options(retry=REFUSED)(1) == pytest.approx(58)
        begun.clear()
        with pytest.raises(FunctionRaised):  # after three attempts
            await deployment.refuse(5)
        assert begun == ["refuse"] * 3
        begun.clear()
        assert await deployment.refuse.submit(2).result() == pytest.approx(57)
        begun.clear()
        assert (await deployment.refuse.ask(2)).result == pytest.approx(57)


async def test_a_call_that_the_budget_keeps_from_a_retry_says_so(
    autojump_clock: trio.testing.MockClock,
) -> None:
    notes: list[str] = []
    async with deployed(DeploymentSettings(retry=REFUSED)) as (deployment, begun):
        for _ in range(60):
            with pytest.raises(FunctionRaised) as caught:
                await deployment.refuse(1000)
            notes += getattr(caught.value, "__notes__", [])
        # 100 retries, and a tenth for each of the calls; two for each call, as long as there are some.
        assert len(begun) == 60 + 105
    assert set(notes) == {"not tried again: the retry budget of slow is used up"}


async def test_settings_that_change_apply_to_the_next_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(DeploymentSettings()) as (deployment, begun):
        with pytest.raises(FunctionRaised):
            await deployment.refuse(1)
        await deployment.restart(settings=DeploymentSettings(retry=REFUSED))
        begun.clear()
        assert await deployment.refuse(1) == pytest.approx(58)


async def test_a_call_waits_as_long_as_the_deployment_or_the_call_says(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = DeploymentSettings(queue_timeout=3, timeout=60)
    async with deployed(settings) as (deployment, _), trio.open_nursery() as nursery:
        nursery.start_soon(deployment.rest, 50)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded) as caught:
            await deployment.rest(1)
        assert caught.value.delivered == "no"
        assert trio.current_time() - begun == pytest.approx(3)
        # The timeout counts from the slot, after 47 s in the queue.
        assert await deployment.rest.options(queue_timeout=inf)(59) == 59


async def test_a_retry_neither_extends_the_timeout_nor_takes_it_for_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = DeploymentSettings(queue_timeout=100, timeout=10, retry=REFUSED)
    async with deployed(settings) as (deployment, _), trio.open_nursery() as nursery:
        nursery.start_soon(deployment.rest.options(timeout=99), 50)
        await trio.testing.wait_all_tasks_blocked()
        assert await deployment.refuse(2) == pytest.approx(7)
        patient = RetryPolicy(
            max_attempts=50, on=("ConnectionError",), idempotent=True, initial_seconds=0
        )
        begun = trio.current_time()
        with pytest.raises((DeadlineExceeded, FunctionRaised)):
            await deployment.refuse.options(retry=patient)(99)
        assert trio.current_time() - begun == pytest.approx(10)


@pytest.mark.parametrize(
    ("mistake", "key"),
    [
        ({"retry": 3}, "retry"),
        ({"queue_timeout": -1}, "queue_timeout"),
        ({"queue_timeout": "5"}, "queue_timeout"),
    ],
)
def test_wrong_settings_are_refused(mistake: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DeploymentSettings(**mistake)  # type: ignore[arg-type]  # the mistake
    assert caught.value.key == key


# -- policies of functions ----------------------------------------------------------------------------


def unsteady(policy: RetryPolicy | None) -> tuple[spear.Agent, list[str]]:
    """Return an agent with functions that fail once in a while, and the calls that it has begun."""
    app, begun = spear.Agent("unsteady"), list[str]()

    @app.function(retry=policy)
    async def refuse(times: int) -> int:
        begun.append("refuse")
        await trio.lowlevel.checkpoint()
        if begun.count("refuse") <= times:
            raise ConnectionError("refused")
        return len(begun)

    @app.function
    async def ask(times: int) -> object:
        return await spear.call("unsteady.refuse", times)

    @app.function
    async def fail() -> None:
        begun.append("fail")
        raise ConnectionError("refused")

    return app, begun


async def test_a_function_brings_a_policy_of_its_own() -> None:
    app, begun = unsteady(REFUSED)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        assert deployment.retry_policies == {"refuse": REFUSED}
        assert await deployment.refuse(2) == 3
        begun.clear()
        assert await deployment.ask(2) == 3  # the host repeats the call of another function
        begun.clear()
        async with deployment.refuse.map([1]) as results:
            assert [each async for each in results] == [2]
        begun.clear()
        with pytest.raises(FunctionRaised):
            await deployment.refuse(3)
        with pytest.raises(FunctionRaised):
            await deployment.fail()
        assert begun == ["refuse"] * 3 + ["fail"]


async def test_the_policies_of_call_and_deployment_come_before_that_of_the_function() -> None:
    app, begun = unsteady(REFUSED)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        assert deployment.refuse.retry == REFUSED
        assert deployment.refuse.options(retry=ONCE).retry == ONCE
        with pytest.raises(FunctionRaised):
            await deployment.refuse.options(retry=ONCE)(1)
        await deployment.restart(settings=DeploymentSettings(retry=ONCE))
        assert deployment.refuse.retry == ONCE
        begun.clear()
        with pytest.raises(FunctionRaised):
            await deployment.refuse(1)
        begun.clear()
        assert await deployment.refuse.options(retry=REFUSED)(1) == 2
        assert deployment.fail.retry == ONCE


async def test_a_function_that_is_kept_follows_the_policy_of_the_new_program() -> None:
    (app, _), (changed, begun) = unsteady(REFUSED), unsteady(None)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        refuse = deployment.refuse
        assert await refuse(1) == 2
        await deployment.restart(changed)
        assert deployment.retry_policies == {}
        with pytest.raises(FunctionRaised):
            await refuse(1)
        assert begun == ["refuse"]


@pytest.mark.slow
async def test_a_function_in_a_process_announces_its_policy(tmp_path: Path) -> None:
    file = tmp_path / "unsteady.py"
    file.write_text(
        "import spear\n"
        "app = spear.Agent()\n"
        "policy = spear.RetryPolicy(on=('OSError',), idempotent=True, initial_seconds=0.001)\n"
        "calls = []\n"
        "@app.function(retry=policy)\n"
        "def open_twice() -> int:\n"
        "    calls.append(1)\n"
        "    if len(calls) < 3:\n"
        "        raise OSError('not yet')\n"
        "    return len(calls)\n"
    )
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(file)
        assert await deployment.open_twice() == 3
