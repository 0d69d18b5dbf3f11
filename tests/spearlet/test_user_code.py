"""Users' callbacks and lifespans may do anything: the host and all other calls go on."""

from __future__ import annotations

import logging
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing

import spear
from spear import Agent, CallFailed, SpawnFailed, open_spearlet
from spear.calls import ExecutionStatus

from .helpers import Probe, deployed, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class Loud(BaseException):
    def __str__(self) -> str:
        sys.exit(5)


def exits(*_: object) -> NoReturn:
    sys.exit(4)


def shouts(*_: object) -> NoReturn:
    raise Loud


def fails(*_: object) -> NoReturn:
    raise ValueError("in the middle of it")


WAYS = [exits, shouts, fails]


@pytest.mark.parametrize("way", WAYS)
async def test_what_on_call_raises_is_logged_and_costs_no_call(
    way: Callable[[object], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe()
    async with open_spearlet(on_call=way) as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        assert await deployment.echo(1) == 1
        assert await deployment.echo.submit(2).result() == 2
        assert await deployment.echo.options(key="3")(3) == 3
        with pytest.raises(spear.FunctionRaised):
            await deployment.boom()
        async with deployment.ticks.stream(1) as ticks:
            probe.release.set()
            async for _ in ticks:
                pass
    records = [each for each in caplog.records if each.message == "the callback on_call raised"]
    assert len(records) == 5


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_what_on_event_raises_is_logged_and_costs_no_instance(
    way: Callable[[object], NoReturn], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "said.py", "import spear\napp = spear.Agent()\nprint('said')\n")
    async with open_spearlet() as spearlet:
        await spearlet.deploy(path, on_event=way)
    assert "the callback on_event raised" in caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_what_on_progress_raises_ends_its_own_call(way: Callable[[object], NoReturn]) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        steps = deployment.steps.options(on_progress=way)
        with pytest.raises((SystemExit, Loud, ValueError)):  # the caller's own exception
            await steps(2)
        execution = steps.submit(2)
        with pytest.raises((CallFailed, ValueError)) as raised:
            await execution.result()
        assert execution.status is ExecutionStatus.FAILED
        if way is exits:
            assert str(raised.value) == "on_progress raised SystemExit: 4"
        with pytest.raises((SystemExit, Loud, ValueError)):
            await deployment.steps.options(on_progress=way, key="one")(2)
        assert await deployment.echo("still here") == "still here"


async def test_ctrl_c_in_a_callback_is_the_operators() -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    async def main() -> None:
        async with open_spearlet(on_call=interrupt) as spearlet:
            deployment = await spearlet.deploy(Probe().agent)
            with pytest.raises(KeyboardInterrupt):
                await deployment.echo(1)
        async with deployed(Probe().agent) as deployment:
            execution = deployment.steps.options(on_progress=interrupt).submit(2)
            await execution.result()

    with pytest.raises(KeyboardInterrupt):
        await main()


# -- lifespans ------------------------------------------------------------------------------------------


def living(way: Callable[[object], NoReturn], when: str) -> tuple[Agent, trio.Event]:
    """Return an agent whose lifespan fails so, and an event that makes its background task fail."""
    app, now = Agent("living"), trio.Event()
    lives = 0

    async def in_background() -> None:
        await now.wait()
        way(None)

    @app.lifespan
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        nonlocal lives
        lives += 1
        if when == "start":
            way(None)
        async with trio.open_nursery() as nursery:
            if when == "between" and lives == 1:
                nursery.start_soon(in_background)
            yield
        if when == "end":
            way(None)

    @app.function
    async def echo(value: int) -> int:
        return value

    return app, now


@pytest.mark.parametrize("way", WAYS)
async def test_a_lifespan_that_exits_at_the_start_does_not_end_the_host(
    way: Callable[[object], NoReturn],
) -> None:
    app, _ = living(way, "start")
    async with deployed(Probe().agent) as other:
        with pytest.raises(SpawnFailed, match="living-1#1 did not start: ") as raised:
            async with deployed(app):
                raise AssertionError
        assert await other.echo(1) == 1
    if way is shouts:
        assert str(raised.value).endswith("Loud: <exception str() failed>")


@pytest.mark.parametrize("way", WAYS)
async def test_a_lifespan_that_exits_at_the_end_does_not_end_the_host(
    way: Callable[[object], NoReturn],
) -> None:
    app, _ = living(way, "end")
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(app)
        assert await deployment.echo(1) == 1
        await deployment.stop()
        other = await spearlet.deploy(Probe().agent)
        assert await other.echo(2) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_of_a_lifespan_that_exits_ends_its_replica_not_the_host(
    way: Callable[[object], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    app, now = living(way, "between")
    async with deployed(app) as deployment:
        assert await deployment.echo(1) == 1
        now.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await deployment.echo(2) == 2
    assert any("living-1#1 has failed: " in each for each in caplog.messages)


@pytest.mark.slow
@pytest.mark.parametrize("raised", ["sys.exit(0)", "KeyboardInterrupt()", "ValueError('why')"])
@pytest.mark.parametrize("when", ["start", "between", "end"])
async def test_a_lifespan_that_exits_ends_its_process_with_a_reason(
    tmp_path: Path, raised: str, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = write(
        tmp_path,
        "living.py",
        f"""
import sys, spear, trio
app = spear.Agent()
now = trio.Event()

async def in_background():
    await now.wait()
    raise {raised}

@app.lifespan
async def lifespan():
    if {when!r} == "start":
        raise {raised}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_background)
        yield
        nursery.cancel_scope.cancel()
    if {when!r} == "end":
        raise {raised}

@app.function
async def fail():
    now.set()
""",
    )
    if when == "start":
        with pytest.raises(SpawnFailed, match="exited with status 2"):
            async with deployed(path):
                raise AssertionError
    else:
        async with deployed(path) as deployment:
            if when == "between":
                await deployment.fail()
                while not deployment.statistics().lost:
                    await trio.sleep(0.01)
    name = raised.partition("(")[0].replace("sys.exit", "SystemExit")
    written = [each for each in caplog.messages if "living-1#1 stderr" in each]
    assert any(f" {name}" in each for each in written)
    assert not any("spear/agent" in each for each in written if when != "between")
