"""Replicas with health checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import ConfigurationError, DeploymentSettings, HealthPolicy, open_spearlet

from .helpers import PATIENCE_SECONDS, pid, write

if TYPE_CHECKING:
    from pathlib import Path

QUICK = HealthPolicy(interval_seconds=10, timeout_seconds=2, failures=3)


@attrs.define
class Patient:
    """An agent whose health check a test controls."""

    fails: bool = False
    hangs: bool = False
    asked: int = 0

    def agent(self, concurrency: int | None = None) -> spear.Agent:
        app = spear.Agent("patient", concurrency=concurrency)
        app.function(self.nap)
        app.health(self.health)
        return app

    async def nap(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def health(self) -> None:
        self.asked += 1
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise ConnectionError("the database is away")


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_who_is_not_well_is_replaced(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    patient = Patient()
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(health=QUICK)
        deployment = await spearlet.deploy(patient.agent(), settings=settings)
        await trio.sleep(95)
        assert patient.asked == 9
        assert deployment.statistics().lost == 0
        setattr(patient, how, True)
        await trio.sleep(20)
        assert deployment.statistics().lost == 0
        await trio.sleep(30)
        assert deployment.statistics().lost == 1
        setattr(patient, how, False)
        assert str(deployment.replicas[0].id) == "memory:patient-1#2"
        await trio.sleep(100)
        assert deployment.statistics().lost == 1


async def test_a_moment_of_weakness_is_forgiven(autojump_clock: trio.testing.MockClock) -> None:
    patient = Patient(fails=True)
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(health=QUICK)
        deployment = await spearlet.deploy(patient.agent(), settings=settings)
        for _ in range(5):
            await trio.sleep(20.5)
            patient.fails = not patient.fails
        assert deployment.statistics().lost == 0


async def test_who_is_busy_is_not_asked(autojump_clock: trio.testing.MockClock) -> None:
    patient = Patient(fails=True)
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(health=QUICK)
        deployment = await spearlet.deploy(patient.agent(concurrency=1), settings=settings)
        await deployment.nap(300, timeout=1000)
        assert patient.asked == 0
        assert deployment.statistics().lost == 0


async def test_questions_are_no_load(autojump_clock: trio.testing.MockClock) -> None:
    patient = Patient(hangs=True)
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(
            replicas=spear.Scale(min=0, idle_seconds=25),
            health=HealthPolicy(interval_seconds=5, timeout_seconds=4, failures=100),
        )
        deployment = await spearlet.deploy(patient.agent(), settings=settings)
        await trio.sleep(30)
        assert patient.asked > 2
        assert deployment.replicas == ()


async def test_it_is_no_function_like_others() -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Patient().agent())
        assert deployment.functions == ("nap",)
        assert list(await deployment.descriptions()) == ["nap"]


def test_health_checks_that_cannot_be() -> None:
    app = spear.Agent()
    with pytest.raises(ConfigurationError, match="is not a function"):
        app.health(5)  # type: ignore[arg-type]  # the mistake

    async def stream():  # type: ignore[no-untyped-def]  # as users write them
        yield 1

    with pytest.raises(ConfigurationError, match="has a `yield`"):
        app.health(stream)
    app.health(Patient().health)
    with pytest.raises(ConfigurationError, match="the agent has a health check already"):
        app.health(Patient().health)
    for values in ({"failures": 0}, {"interval_seconds": 0}, {"timeout_seconds": -1}):
        with pytest.raises(ConfigurationError, match=f"health.{next(iter(values))} must be"):
            HealthPolicy(**values)
    with pytest.raises(ConfigurationError, match="health must be HealthPolicy"):
        DeploymentSettings(health=5)  # type: ignore[arg-type]  # the mistake


SICK = """
import os, spear
app = spear.Agent()
is_well = True

@app.health
def health():
    if not is_well:
        raise RuntimeError("the model is gone")

@app.function
async def sicken() -> int:
    global is_well
    is_well = False
    return os.getpid()
"""


@pytest.mark.slow
async def test_a_process_that_is_not_well_is_killed_and_the_reason_is_told(tmp_path: Path) -> None:
    health = HealthPolicy(interval_seconds=0.1, failures=2)
    policy = spear.RestartPolicy(intensity=0)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(
            write(tmp_path, "sick.py", SICK),
            settings=DeploymentSettings(health=health, restart=policy),
        )
        process = pid(deployment.replicas[0])
        assert await deployment.sicken() == process
        with trio.fail_after(PATIENCE_SECONDS):
            while deployment.replicas:
                await trio.sleep(0.01)
            with pytest.raises(
                spear.WorkerDied, match="health check failed 2 times in a row"
            ) as caught:
                await deployment.sicken()
        assert "the model is gone" in str(caught.value)
        assert "the model is gone" in deployment.health().reason
