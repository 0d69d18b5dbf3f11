"""The simulation itself: a seed repeats a run, and each fault has its documented effect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import TYPE_CHECKING

import pytest
import trio
from trio.lowlevel import Abort, wait_task_rescheduled
from trio.testing import wait_all_tasks_blocked

import spear
from spear import Agent, ConfigurationError, InstanceId, SpawnFailed, WorkerDied
from spear.runtimes import InstanceSpec, RuntimeSettings
from spear.telemetry import InstanceState
from spear.testing import SimulatedSettings, Simulation, SimulationReport, simulate
from spear.testing._simulated_network import Network, Site
from spear.testing._simulation import FAULTS
from spear.testing._trio_scheduling import FILL, FLAG, GENERATOR, SETS, STATUS
from spear.transports import MemoryAddress, connect_memory

from .programs import LIMITS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from spear.spearlet import Deployment

ROOT = Path(__file__).resolve().parent.parent.parent
LATENCY = (0.001, 0.001)
"""A constant latency, so that the times of events can be computed."""


def run(program: Callable[[Simulation], Awaitable[object]], seed: int = 1) -> SimulationReport:
    return simulate(program, seed, limits=LIMITS, latency_seconds=LATENCY)


def sleeper(simulation: Simulation) -> Callable[[], Agent]:
    """Return a factory of agents that sleep, and note it."""

    def make() -> Agent:
        app = Agent("shop")

        @app.function
        async def nap(seconds: float) -> float:
            simulation.note("begin")
            await trio.sleep(seconds)
            simulation.note("done")
            return seconds

        return app

    return make


async def deploy(simulation: Simulation, replicas: int = 1) -> Deployment:
    return await simulation.deploy(sleeper(simulation), name="shop", replicas=replicas)


def kinds(report: SimulationReport, subject: str) -> list[str]:
    return [each.kind for each in report.events if each.subject == subject]


# -- one seed, one run ----------------------------------------------------------------------------

DIGESTS = """
from tests.testing.programs import LIMITS, kills, pays_at_most_once
from spear.testing import simulate

async def pays(simulation):
    await pays_at_most_once(simulation, "cut", "partition", "freeze", "crash")

for program in kills, pays:
    for seed in range(3):
        print(simulate(program, seed, limits=LIMITS, loss=0.01).digest)
"""


@pytest.mark.slow
def test_r29_a_seed_gives_one_digest_in_processes_with_other_hashes_and_heaps() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONMALLOC": allocator},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout.split()
        for hash_seed, allocator in (("1", "default"), ("4711", "malloc"))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 6


def test_a_seed_gives_one_report_and_another_seed_another_one() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation, 2)
        assert await shop.nap(0.1) == 0.1

    one, again, other = run(program, 1), run(program, 1), run(program, 2)
    assert one == again
    assert one.digest != other.digest
    assert one.seed == 1
    assert one.seconds > 0.1
    assert re.fullmatch(r" +0.000000 created memory:shop-[12]#1", str(one.events[0]))
    assert [note for _, note in one.notes] == [("begin",), ("done",)]


def test_the_programs_own_draws_repeat_and_change_nothing_else() -> None:
    drawn: list[float] = []

    async def program(simulation: Simulation) -> None:
        drawn.append(simulation.rng.random())
        await deploy(simulation)

    async def silent(simulation: Simulation) -> None:
        await deploy(simulation)

    assert run(program).digest == run(program).digest == run(silent).digest
    assert drawn[0] == drawn[1]


def test_r29_a_failure_says_its_seed_and_what_happened_last() -> None:
    async def program(simulation: Simulation) -> None:
        await deploy(simulation)
        simulation.note("here")
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        run(program, 4711)
    (note,) = caught.value.__notes__
    assert "seed 4711" in note
    assert note.endswith("deleted memory:shop-1#1")
    assert "note  ('here',)" in note


def test_a_program_that_hangs_ends() -> None:
    async def program(simulation: Simulation) -> None:
        await deploy(simulation)
        await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError) as caught:
        simulate(program, 1, seconds=60)
    assert "seed 1" in caught.value.__notes__[0]


# -- Trio's private names -------------------------------------------------------------------------


async def nothing(_: Simulation) -> None:
    await trio.lowlevel.checkpoint()


async def abort_orders(simulation: Simulation) -> None:
    """Note the order in which tasks are aborted: in one scope, in a scope each, at one deadline."""

    async def wait(kind: str, number: int, deadline: float) -> None:
        def abort(_: object) -> Abort:
            simulation.note(kind, number)
            return Abort.SUCCEEDED

        with trio.CancelScope(deadline=deadline) if deadline else nullcontext():
            await wait_task_rescheduled(abort)

    at = trio.current_time() + 1
    for kind, deadline in (("siblings", 0.0), ("children", at + 9), ("one deadline", at)):
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(wait, kind, number, deadline)
                await wait_all_tasks_blocked()
            if kind != "one deadline":
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["siblings", "children", "one deadline"])
def test_r29_what_is_cancelled_first_does_not_depend_on_addresses(kind: str) -> None:
    notes = run(abort_orders).notes
    aborted = [int(str(values[1])) for _, values in notes if values[0] == kind]
    order = sorted(aborted, reverse=kind == "children")
    assert (aborted, len(aborted)) == (order, 40)


@pytest.mark.parametrize("name", [GENERATOR, FLAG, STATUS])
def test_a_trio_without_a_private_name_is_refused_by_its_version(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"trio._core._run.{name}")
    with pytest.raises(ConfigurationError, match=f"^Trio {trio.__version__} .*_run.{name} "):
        run(nothing)


def test_a_trio_with_another_kind_of_generator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"trio._core._run.{GENERATOR}", object())
    with pytest.raises(ConfigurationError, match="cannot be simulated"):
        run(nothing)


@pytest.mark.parametrize("name", [*SETS, FILL])
def test_a_trio_with_other_cancel_scopes_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"trio._core._run.{STATUS}.{name}")
    with pytest.raises(ConfigurationError, match=f"no trio._core._run.{STATUS}.{name} of"):
        run(nothing)


def test_a_trio_without_the_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("trio._core._run")
    monkeypatch.setitem(sys.modules, "trio._core._run", None)
    with pytest.raises(ConfigurationError, match=r"no trio\._core\._run of"):
        run(nothing)


@pytest.mark.parametrize("fails", [False, True])
def test_trio_gets_its_own_scheduling_back(fails: bool) -> None:
    from trio._core import _run

    before = dict(vars(_run))

    async def program(_: Simulation) -> None:
        await trio.lowlevel.checkpoint()
        assert getattr(_run, GENERATOR) is not before[GENERATOR]
        if fails:
            raise KeyError

    if fails:
        with pytest.raises(KeyError):
            run(program)
    else:
        run(program)
    assert vars(_run) == before


# -- instances ------------------------------------------------------------------------------------


def test_each_incarnation_has_an_agent_of_its_own() -> None:
    made: list[Agent] = []

    async def program(simulation: Simulation) -> None:
        def make() -> Agent:
            made.append(Agent("shop"))
            return made[-1]

        await simulation.deploy(make, name="shop", replicas=2)
        simulation.crash(simulation.instances[0])
        while len(simulation.instances) < 2:
            await trio.sleep(0.1)
        assert sorted(each.incarnation for each in simulation.instances) == [1, 2]

    run(program)
    assert len(made) == 3


def test_plain_functions_run_inline_and_async_streams_run() -> None:
    def make() -> Agent:
        app = Agent("shop")

        @app.function
        def where() -> int:
            return threading.get_ident()

        @app.function
        async def count(most: int) -> AsyncIterator[int]:
            for number in range(most):
                yield number

        return app

    async def program(simulation: Simulation) -> None:
        shop = await simulation.deploy(make, name="shop")
        assert await shop.where() == threading.get_ident()
        async with shop.count.stream(3) as numbers:
            assert [each async for each in numbers] == [0, 1, 2]

    run(program)


def plain_stream() -> Agent:
    app = Agent("shop")

    @app.function
    def count() -> Iterator[int]:
        yield 1

    return app


def of_asyncio() -> Agent:
    app = Agent("shop")

    @app.function(asyncio=True)
    async def nap() -> None:
        """Never run."""

    return app


def broken() -> Agent:
    raise KeyError("no such shop")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (plain_stream, "count\\(\\) needs a thread"),
        (of_asyncio, "nap\\(\\) needs a thread"),
        (broken, "no such shop"),
    ],
)
def test_an_agent_that_cannot_be_simulated_does_not_start(
    make: Callable[[], Agent], message: str
) -> None:
    async def program(simulation: Simulation) -> None:
        with pytest.raises(SpawnFailed, match=message):
            await simulation.deploy(make, name="shop")

    run(program)


def test_an_instance_can_be_told_to_end_before_it_has_started() -> None:
    async def program(simulation: Simulation) -> None:
        async with trio.open_nursery() as nursery:

            async def deploy_late() -> None:
                await simulation.deploy(sleeper(simulation), name="shop", start_seconds=(1.0, 1.0))

            nursery.start_soon(deploy_late)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()

    assert "ready" not in kinds(run(program), "memory:shop-1#1")


# -- faults ---------------------------------------------------------------------------------------


def test_what_a_crashed_instance_does_in_finally_blocks_reaches_nothing() -> None:
    unwound: list[str] = []

    async def program(simulation: Simulation) -> None:
        def make() -> Agent:
            app = Agent("shop")

            @app.function
            async def pay() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        simulation.note("paid")
                        with pytest.raises(spear.SpearError):
                            await spear.call("log", "paid")
                        await trio.sleep(5)
                        simulation.note("late")
                        unwound.append("pay")

            @app.function
            async def log(text: str) -> None:
                simulation.note("logged", text)

            return app

        shop = await simulation.deploy(make, name="shop", replicas=2)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def pay() -> None:
                with pytest.raises(WorkerDied, match="SIGKILL") as caught:
                    await shop.pay()
                assert caught.value.delivered == "maybe"

            await trio.sleep(0.1)
            (busy,) = (each.id for each in shop.replicas if each.health().calls_in_flight)
            simulation.crash(busy)
            assert busy not in simulation.instances
            with pytest.raises(ConfigurationError, match="is not running"):
                simulation.crash(busy)
        await trio.sleep(10)

    report = run(program)
    assert unwound == ["pay"]
    assert report.notes == ()


def test_tasks_of_a_crashed_instance_connect_to_nothing() -> None:
    async def program(_: Simulation) -> None:
        async with trio.open_nursery() as nursery:
            network = Network(Random(1), nursery, lambda *_: None, LATENCY, 0.0)
            site = Site(network, InstanceId("memory", "shop"))
            async with site.listen() as listener:
                assert isinstance(listener.bound, MemoryAddress)
                stream = await connect_memory(listener.bound.name)
                site.crash()
                nursery.start_soon(listener.accept)
                assert await stream.receive_some() == b""
                nursery.cancel_scope.cancel()

    run(program)


def test_a_frozen_instance_says_nothing_and_goes_on_after_the_thaw() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        (instance,) = simulation.instances
        simulation.freeze(instance)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shop.nap, 0.01)
            await trio.sleep(0.3)
            assert simulation.notes == []
            simulation.thaw(instance)
        assert trio.current_time() - begun < 0.33

    report = run(program)
    assert report.notes[-1][1] == ("done",)
    assert "unhealthy" not in kinds(report, "memory:shop-1#1")


@pytest.mark.parametrize("fault", ["freeze", "partition"])
def test_an_instance_that_is_silent_for_too_long_is_killed(fault: str) -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        getattr(simulation, fault)(simulation.instances[0])
        with pytest.raises(WorkerDied, match="no heartbeat"):
            await shop.nap(10)

    run(program)


def test_a_frozen_instance_is_asked_to_end_and_ends_when_it_goes_on() -> None:
    states: list[InstanceState] = []

    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        (instance,) = simulation.instances
        async with trio.open_nursery() as nursery:
            simulation.freeze(instance)
            nursery.start_soon(shop.stop, 0)
            await trio.sleep(0.5)
            (replica,) = shop.instances
            states.append(replica.state)
            simulation.thaw(instance)

    report = run(program)
    assert states == [InstanceState.STOPPING]
    assert any("exited with status 0" in each.detail for each in report.events)


def test_bytes_wait_for_the_end_of_a_partition() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        (instance,) = simulation.instances
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shop.nap, 0.1)
            await trio.sleep(0.05)
            simulation.partition(instance)
            await trio.sleep(0.3)
            simulation.heal(instance)
        assert trio.current_time() - begun == pytest.approx(0.35, abs=0.01)

    run(program)


def test_an_instance_that_is_cut_off_comes_back_as_the_same_incarnation() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        (instance,) = simulation.instances
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def nap() -> None:
                with pytest.raises(WorkerDied):
                    await shop.nap(10)

            await trio.sleep(0.1)
            simulation.cut(instance)
        assert await shop.nap(0.1) == 0.1
        assert simulation.instances == (instance,)

    report = run(program)
    life = [each for each in kinds(report, "memory:shop-1#1") if each in ("unhealthy", "ready")]
    assert life == ["ready", "unhealthy", "ready"]


def test_lost_chunks_are_late_and_in_order() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        assert [await shop.nap(each / 1000) for each in range(20)] == [
            each / 1000 for each in range(20)
        ]

    slow = simulate(program, 1, latency_seconds=LATENCY, loss=0.3)
    assert slow.seconds > run(program).seconds + 1


def test_one_instance_can_be_late_and_lose_chunks_until_it_is_restored() -> None:
    async def program(simulation: Simulation) -> None:
        shop = await deploy(simulation)
        (instance,) = simulation.instances

        async def seconds() -> float:
            begun = trio.current_time()
            for _ in range(10):
                await shop.nap(0)
            return trio.current_time() - begun

        usual = await seconds()
        simulation.delay(instance, 0.05)
        assert await seconds() >= usual + 0.99
        simulation.restore(instance)
        assert await seconds() < usual + 0.1
        simulation.drop(instance)
        assert await seconds() > usual + 0.2
        with pytest.raises(ConfigurationError, match="seconds must be a number"):
            simulation.delay(instance, -1)
        with pytest.raises(ConfigurationError, match="probability must be from 0"):
            simulation.drop(instance, 1)

    simulate(program, 3, latency_seconds=LATENCY)  # with limits that tolerate the delay


def test_another_version_is_rolled_out() -> None:
    def version(number: int) -> Callable[[], Agent]:
        def make() -> Agent:
            app = Agent("shop")

            @app.function
            async def version() -> int:
                await trio.lowlevel.checkpoint()
                return number

            return app

        return make

    async def program(simulation: Simulation) -> None:
        shop = await simulation.deploy(version(1), name="shop", replicas=2)
        assert await shop.version() == 1
        await shop.restart(SimulatedSettings(make_agent=version(2)))
        assert [await shop.version() for _ in range(2)] == [2, 2]

    run(program)


@pytest.mark.slow
def test_drawn_faults_come_one_after_the_other() -> None:
    async def program(simulation: Simulation) -> None:
        await deploy(simulation, 2)
        with trio.move_on_after(10):
            await simulation.disturb(pause_seconds=(0.01, 0.2))

    seen = {each.kind for seed in range(10) for each in run(program, seed).events}
    assert {*FAULTS, "restore", "heal", "thaw"} <= seen


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_instance_that_ends_before_its_fault_is_ignored(seed: int) -> None:
    async def program(simulation: Simulation) -> None:
        await deploy(simulation, 1)
        (instance,) = simulation.instances

        async def crash() -> None:
            await trio.sleep(0.1)  # wakes up with the task that draws
            simulation.crash(instance)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            with trio.move_on_after(0.15):
                await simulation.disturb(faults=("cut",), pause_seconds=(0.1, 0.1))

    run(program, seed)  # raises nothing


# -- refused arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [(), ("cut", "flood")])
def test_a_fault_that_is_none_is_refused(faults: tuple[str, ...]) -> None:
    async def program(simulation: Simulation) -> None:
        with pytest.raises(ConfigurationError, match="faults must be one or more of delay,"):
            await simulation.disturb(faults=faults)

    run(program)


def test_networks_that_cannot_be_are_refused() -> None:
    for latency in ((-1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ConfigurationError, match="latency_seconds"):
            simulate(nothing, 1, latency_seconds=latency)
    for loss in (-0.1, 1.0):
        with pytest.raises(ConfigurationError, match="loss"):
            simulate(nothing, 1, loss=loss)
    with pytest.raises(ConfigurationError, match="start_seconds"):
        SimulatedSettings(make_agent=Agent, start_seconds=(2.0, 1.0))


def test_the_runtime_tells_what_it_can_and_counts() -> None:
    async def program(simulation: Simulation) -> None:
        await deploy(simulation, 2)
        simulation.crash(simulation.instances[0])
        await trio.sleep(1)
        runtime = simulation._runtime
        assert runtime.capabilities().can_drain
        statistics = runtime.statistics()
        assert (statistics.instances, statistics.started, statistics.exited) == (2, 3, 1)
        assert statistics.failed == 0
        with pytest.raises(ConfigurationError, match="needs SimulatedSettings"):
            runtime.validate(RuntimeSettings())

    run(program)


def test_the_runtime_starts_instances_without_a_deployment() -> None:
    async def program(simulation: Simulation) -> None:
        runtime, instance = simulation._runtime, InstanceId("memory", "alone")
        settings = SimulatedSettings(make_agent=sleeper(simulation))
        spec = InstanceSpec(instance_id=instance)
        factory = simulation.spearlet._factory
        async with (
            runtime.open_template(settings, factory) as template,
            template.open_instance(spec) as opened,
        ):
            channel = await opened.wait_ready()
            assert list(channel.functions) == ["nap"]
            body = runtime.bodies[instance]
            await body.kill()
            await body.kill()
            assert await opened.wait_exited() == -SIGKILL

    run(program)


async def test_settings_of_a_runtime_that_the_spearlet_does_not_have_are_refused() -> None:
    async with spear.open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match="cannot be deployed"):
            await spearlet.deploy(SimulatedSettings(make_agent=Agent))
