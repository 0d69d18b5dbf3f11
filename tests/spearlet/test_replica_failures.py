"""What a deployment remembers of replicas that have failed, and whom it notifies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import DeploymentSettings, RestartPolicy, SpawnFailed, WorkerDied, open_spearlet
from spear.runtimes import MemoryRuntime
from spear.telemetry import DeploymentEvent

from .helpers import PATIENCE_SECONDS, WORKERS, Probe, instance, shared

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAILURES = 16
QUICKLY = RestartPolicy(
    first_delay_seconds=0.001, longest_delay_seconds=0.002, intensity=MAX_FAILURES + 9
)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.002)


async def test_the_last_failures_of_replicas_outlive_them() -> None:
    async with open_spearlet() as spearlet:
        settings = DeploymentSettings(restart=QUICKLY)
        deployment = await spearlet.deploy(shared(Probe().agent), settings=settings)
        assert not deployment.failures
        for number in range(MAX_FAILURES + 1):
            await until(lambda: deployment.statistics().ready == 1)
            await instance(deployment.replicas[0]).kill(f"of blow {number}")
            await until(lambda: deployment.statistics().lost == number + 1)  # noqa: B023  # awaited
        await until(lambda: deployment.statistics().ready == 1)
        assert deployment.health().reason == ""  # all is well again
        failures = deployment.failures
        assert len(failures) == MAX_FAILURES
        assert [str(each.instance) for each in failures] == [
            f"memory:probe-1#{number}" for number in range(2, MAX_FAILURES + 2)
        ]
        assert "of blow 1" in failures[0].reason
        assert f"of blow {MAX_FAILURES}" in failures[-1].reason
        assert failures[0].time <= failures[-1].time <= trio.current_time()
        assert {each.code for each in failures} == {"worker_died"}


async def test_a_replica_that_cannot_be_started_is_a_failure_without_an_instance() -> None:
    async with open_spearlet(runtimes=[MemoryRuntime(max_instances=1)]) as spearlet:
        deployment = await spearlet.deploy(shared(Probe().agent))
        with pytest.raises(SpawnFailed):
            await deployment.scale(2)
        failure = deployment.failures[0]
        assert (failure.instance, failure.code) == (None, "max_instances")
        assert (failure.exit_status, failure.stderr_tail) == (None, "")


@pytest.mark.slow
async def test_a_failure_has_the_last_lines_on_stderr() -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS, settings=DeploymentSettings(restart=QUICKLY))
        with pytest.raises(WorkerDied):
            await deployment.die(4)
        await until(lambda: len(deployment.failures) == 1)
        (failure,) = deployment.failures
        assert (failure.exit_status, failure.stderr_tail) == (4, "so long")


async def test_instruments_receive_that_a_replica_was_given_up() -> None:
    events: list[DeploymentEvent] = []

    class Watcher(spear.Instrument):
        def deployment_changed(self, event: DeploymentEvent) -> None:
            events.append(event)

    never = DeploymentSettings(restart=RestartPolicy(intensity=0))
    async with open_spearlet(instruments=[Watcher()]) as spearlet:
        deployment = await spearlet.deploy(shared(Probe().agent), settings=never)
        await instance(deployment.replicas[0]).kill("a test says so")
        await until(lambda: events[-1].kind == "given_up")
        assert (events[-1].deployment, events[-1].replicas) == ("probe", 1)
        assert "a test says so" in events[-1].reason
