"""Bugs in foreign runtimes and transports cost a deployment or an instance, not the host."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
from gadgets import (
    ClumsyTemplate,
    GadgetBody,
    GadgetListener,
    GadgetRuntime,
    GadgetSettings,
    GadgetTemplate,
    GadgetTransport,
    Launch,
    Listen,
    Prepare,
    launches,
    listens,
    prepares,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from spear import (
    ChannelCreationFailed,
    ConfigurationError,
    HostLimits,
    InstanceTimeouts,
    Instrument,
    InvalidArguments,
    SpawnFailed,
    UnsupportedRuntime,
    WorkerDied,
    open_spearlet,
)
from spear.channels import CommunicationStrategy
from spear.runtimes import Instance
from spear.spearlet import DeploymentState
from spear.telemetry import InstanceState
from spear.testing import Functions
from spear.transports import UnixTransport

from .helpers import Probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.channels import Endpoint, InboundCall
    from spear.runtimes import InstanceBody, InstanceTemplate
    from spear.spearlet import Spearlet
    from spear.telemetry import InstanceEvent
    from spear.transports import ByteStream, Listener, ListenOptions

# -- arguments of a host ----------------------------------------------------------------------------


async def test_a_strategy_for_an_unknown_runtime_is_refused_with_a_hint() -> None:
    strategies = {"proces": CommunicationStrategy(("unix",))}
    with pytest.raises(UnsupportedRuntime, match="did you mean 'process'") as caught:
        async with open_spearlet(strategies=strategies):
            pass
    assert caught.value.runtime == "proces"


async def test_a_strategy_that_is_none_is_refused_at_once() -> None:
    strategies = {"process": ("unix", "tcp")}
    with pytest.raises(
        ConfigurationError, match="the strategy of 'process' must be a strategy, such as"
    ):
        async with open_spearlet(strategies=strategies):  # type: ignore[arg-type]  # the mistake
            pass


async def test_strategies_that_are_no_mapping_are_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="strategies must be a map with names of runtimes"):
        async with open_spearlet(strategies=3):  # type: ignore[arg-type]  # the mistake
            pass


# -- runtimes ---------------------------------------------------------------------------------------


@asynccontextmanager
async def host(runtime: GadgetRuntime, limits: HostLimits | None = None) -> AsyncIterator[Spearlet]:
    """Open a host with that runtime; at the end of the block, assert that it still works."""
    async with open_spearlet(runtimes=[runtime], limits=limits or HostLimits()) as spearlet:
        yield spearlet
        probe = Probe()
        other = await spearlet.deploy(probe.agent)
        assert await other.echo("still here") == "still here"


@asynccontextmanager
async def yields_none(_: object) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def cannot_open(_: object) -> AsyncIterator[NoReturn]:
    raise ValueError("out of springs")
    yield


@asynccontextmanager
async def opens_in_vain(_: object) -> AsyncIterator[NoReturn]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_a_spring)
        await trio.sleep_forever()
    yield


@asynccontextmanager
async def hangs(_: object) -> AsyncIterator[NoReturn]:
    await trio.sleep_forever()
    yield


async def break_a_spring() -> None:
    raise ValueError("out of springs")


FAULTS = [
    (yields_none, "the runtime 'gadget' failed: TypeError: expected an .*, not None"),
    (lambda _: None, "the runtime 'gadget' failed: (TypeError|AttributeError): .*NoneType"),
    (cannot_open, "the runtime 'gadget' failed: ValueError: out of springs"),
    (opens_in_vain, "the runtime 'gadget' failed: ValueError: out of springs"),
    (hangs, "the runtime 'gadget' failed: .*did not open within .* s"),
]
NAMES = ["yields none", "no block", "raises", "a task of it raises", "awaits for ever"]


@pytest.mark.parametrize(("way", "complaint"), FAULTS, ids=NAMES)
async def test_a_launch_that_fails_is_a_failure_of_its_deployment(
    way: Launch, complaint: str, autojump_clock: MockClock
) -> None:
    async with host(GadgetRuntime(how_launched=way)) as spearlet:
        with pytest.raises(SpawnFailed, match=complaint):
            await spearlet.deploy(GadgetSettings())
        assert spearlet.deployments == {}


@pytest.mark.parametrize(("way", "complaint"), FAULTS, ids=NAMES)
async def test_a_preparation_that_fails_is_a_failure_of_its_deployment(
    way: Prepare, complaint: str, autojump_clock: MockClock
) -> None:
    async with host(GadgetRuntime(how_prepared=way)) as spearlet:
        with pytest.raises(SpawnFailed, match=complaint):
            await spearlet.deploy(GadgetSettings())
        assert spearlet.deployments == {}


@pytest.mark.parametrize("step", ["how_prepared", "how_launched"])
async def test_a_runtime_that_awaits_for_ever_has_startup_seconds(
    step: str, autojump_clock: MockClock
) -> None:
    timeouts = InstanceTimeouts(startup_seconds=3, exit_seconds=0.5)
    runtime = GadgetRuntime(**{step: hangs})  # type: ignore[arg-type]  # either is a block
    async with host(runtime, HostLimits(timeouts=timeouts)) as spearlet:
        begun = trio.current_time()
        with pytest.raises(SpawnFailed, match="did not open within 3"):
            await spearlet.deploy(GadgetSettings())
        assert 3 <= trio.current_time() - begun <= 3.5


async def test_a_channel_that_cannot_be_configured_is_a_failure_of_its_deployment(
    autojump_clock: MockClock,
) -> None:
    async with host(GadgetRuntime(template_class=ClumsyTemplate)) as spearlet:
        with pytest.raises(ConfigurationError, match="its configure_channel has raised ZeroDiv"):
            await spearlet.deploy(GadgetSettings())


def failing_at_the_end(fails: trio.Event) -> Prepare:
    """Return a preparation that fails at the end of its block, or whose task fails at the event."""

    @asynccontextmanager
    async def fails_at_the_end(template: InstanceTemplate) -> AsyncIterator[InstanceTemplate]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_later)
            yield template
            raise ValueError("out of springs")

    async def fail_later() -> None:
        await fails.wait()
        raise ValueError("out of springs")

    return fails_at_the_end


async def test_a_preparation_that_fails_when_it_is_left_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with host(GadgetRuntime(how_prepared=failing_at_the_end(trio.Event()))) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        await deployment.restart()
        assert await deployment.echo(b"x") == b"x"
        await deployment.stop()
    told = "gadget: the runtime 'gadget' failed: ValueError: out of springs"
    assert caplog.messages.count(told) == 2


async def test_a_template_that_fails_while_it_is_used_starts_no_more_replicas(
    autojump_clock: MockClock,
) -> None:
    breaks = trio.Event()
    runtime = GadgetRuntime(how_prepared=failing_at_the_end(breaks))
    async with host(runtime) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings(), replicas=2)
        breaks.set()
        await wait_all_tasks_blocked()
        health = deployment.health()
        assert health.state is DeploymentState.DEGRADED
        assert health.reason == "the runtime 'gadget' failed: ValueError: out of springs"
        assert await deployment.echo(b"x") == b"x"  # running instances go on
        with pytest.raises(
            SpawnFailed, match="gadget-3#1 did not start: the runtime 'gadget' failed"
        ):
            await deployment.scale(3)
        await deployment.scale(2)
        runtime.how_prepared = prepares
        await deployment.restart()
        assert deployment.health().state is DeploymentState.READY


async def test_a_launch_whose_task_fails_later_costs_its_instance(
    autojump_clock: MockClock,
) -> None:
    breaks = trio.Event()
    lives: list[Endpoint] = []

    @asynccontextmanager
    async def breaks_later(endpoint: Endpoint) -> AsyncIterator[InstanceBody]:
        lives.append(endpoint)
        async with trio.open_nursery() as nursery:
            if len(lives) == 1:
                nursery.start_soon(break_later)
            async with launches(endpoint) as body:
                yield body
            nursery.cancel_scope.cancel()

    async def break_later() -> None:
        await breaks.wait()
        raise ValueError("out of springs")

    async with host(GadgetRuntime(how_launched=breaks_later)) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        breaks.set()
        while not (health := deployment.health()).code:
            await trio.sleep(0.01)
        assert health.state is DeploymentState.DEGRADED
        assert health.reason == "the runtime 'gadget' failed: ValueError: out of springs"
        assert await deployment.echo(b"x") == b"x"  # by the replacement
        assert [each.id.incarnation for each in deployment.replicas] == [2]


@pytest.mark.parametrize("step", ["how_prepared", "how_launched"])
async def test_a_block_of_a_runtime_that_is_never_left_does_not_hold_up_a_stop(
    step: str, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def never_leaves(argument: object) -> AsyncIterator[object]:
        way = {"how_prepared": prepares, "how_launched": launches}[step]
        async with way(argument) as opened:  # type: ignore[operator]  # each takes its own arguments
            yield opened
            await trio.sleep_forever()

    runtime = GadgetRuntime(**{step: never_leaves})  # type: ignore[arg-type]  # either is a block
    async with host(runtime) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        begun = trio.current_time()
        await deployment.stop()
        assert trio.current_time() - begun < 2 * HostLimits().timeouts.startup_seconds


async def test_an_obstacle_that_cannot_be_told_is_a_line_of_the_statistics(
    autojump_clock: MockClock,
) -> None:
    class Speechless(GadgetTemplate):
        @property
        def obstacle(self) -> str:
            raise ZeroDivisionError("no beads")

    async with host(GadgetRuntime(template_class=Speechless)) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        told = deployment.statistics().spawned_because
        assert told == "has a runtime whose obstacle property raised ZeroDivisionError: no beads"


# -- arguments of open_spearlet -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["runtimes", "transports", "instruments"])
async def test_one_thing_in_place_of_a_list_is_refused(name: str) -> None:
    single = {
        "runtimes": GadgetRuntime(), "transports": UnixTransport(), "instruments": Instrument(),
    }[name]  # fmt: skip
    for given in None, single, "process":
        with pytest.raises(ConfigurationError, match=f"{name} must be a list, such as") as caught:
            async with open_spearlet(**{name: given}):  # type: ignore[arg-type]  # the mistake
                pass
        assert caught.value.key == name


async def test_a_generator_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rng must be a random\.Random, not 17"):
        async with open_spearlet(rng=17):  # type: ignore[arg-type]  # the mistake
            pass


async def test_functions_that_would_have_to_be_awaited_are_refused() -> None:
    async def told(_: object) -> None:
        """Never run."""

    probe = Probe()
    for given in told, 17:
        with pytest.raises(ConfigurationError, match="on_call must be a plain function") as caught:
            async with open_spearlet(on_call=given):  # type: ignore[arg-type]  # the mistake
                pass
        assert caught.value.key == "on_call"
        async with open_spearlet() as spearlet:
            with pytest.raises(ConfigurationError, match="on_event must be a plain function"):
                await spearlet.deploy(probe.agent, on_event=given)  # type: ignore[arg-type]  # the mistake
            deployment = await spearlet.deploy(probe.agent)
            with pytest.raises(InvalidArguments, match="on_end must be a plain function"):
                deployment.wait.bind().submit(on_end=given)  # type: ignore[arg-type]  # the mistake
            assert spearlet.statistics().executions == 0


def test_a_runtime_whose_strategy_is_none_is_refused() -> None:
    class Unreachable(GadgetRuntime):
        strategy = ("unix",)  # type: ignore[assignment]  # the mistake

    with pytest.raises(
        ConfigurationError, match="the strategy of 'gadget' must be a strategy, such as"
    ):
        Unreachable()


# -- transports -------------------------------------------------------------------------------------

BY_GADGET = {"memory": CommunicationStrategy(("gadget",))}


class Deaf(GadgetListener):
    """A listener that cannot accept."""

    async def accept(self) -> ByteStream:
        raise ValueError("out of wire")


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        (yields_none, "gadget: the transport 'gadget' failed: TypeErr"),
        (cannot_open, "gadget: the transport 'gadget' failed: ValueErr"),
        (opens_in_vain, "'gadget' failed: ValueError: out of springs"),
        (hangs, "did not open within 30 s"),
    ],
    ids=["yields none", "raises", "a task of it raises", "awaits for ever"],
)
async def test_a_transport_that_cannot_listen_is_a_failure_of_its_deployment(
    way: Listen, complaint: str, autojump_clock: MockClock
) -> None:
    transports = [GadgetTransport(way)]
    probe = Probe()
    runtime = GadgetRuntime()
    async with open_spearlet(
        runtimes=[runtime], transports=transports, strategies=BY_GADGET
    ) as spearlet:
        with pytest.raises(ChannelCreationFailed, match=complaint):
            await spearlet.deploy(probe.agent)
        assert spearlet.deployments == {}
        other = await spearlet.deploy(GadgetSettings())
        assert await other.echo(b"still here") == b"still here"


async def test_an_instance_that_no_listener_accepts_fails_at_once(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def never_connects(_: Endpoint) -> AsyncIterator[InstanceBody]:
        yield GadgetBody()

    transports = [GadgetTransport(partial(listens, make_listener=Deaf))]
    async with open_spearlet(
        runtimes=[GadgetRuntime(how_launched=never_connects)],
        transports=transports,
        strategies={"gadget": CommunicationStrategy(("gadget",))},
    ) as spearlet:
        begun = trio.current_time()
        with pytest.raises(SpawnFailed, match=r"it cannot connect: no channel .*: out of wire"):
            await spearlet.deploy(GadgetSettings())
        assert trio.current_time() - begun < HostLimits().timeouts.startup_seconds
        probe = Probe()
        other = await spearlet.deploy(probe.agent)
        assert await other.echo("still here") == "still here"


async def test_a_task_of_a_listener_that_fails_later_costs_its_instance(
    autojump_clock: MockClock,
) -> None:
    breaks = trio.Event()
    lives: list[ListenOptions] = []

    @asynccontextmanager
    async def breaks_later(options: ListenOptions) -> AsyncIterator[Listener]:
        lives.append(options)
        async with trio.open_nursery() as nursery:
            if len(lives) == 1:
                nursery.start_soon(cut_later)
            async with listens(options) as listener:
                yield listener
            nursery.cancel_scope.cancel()

    async def cut_later() -> None:
        await breaks.wait()
        raise ValueError("out of wire")

    transports = [GadgetTransport(breaks_later)]
    async with open_spearlet(transports=transports, strategies=BY_GADGET) as spearlet:
        probe = Probe()
        deployment = await spearlet.deploy(probe.agent)
        breaks.set()
        while not (health := deployment.health()).code:
            await trio.sleep(0.01)
        assert health.reason == "the transport 'gadget' failed: ValueError: out of wire"
        assert await deployment.echo("again") == "again"
        assert [each.id.incarnation for each in deployment.replicas] == [2]


async def test_an_instance_whose_endpoint_was_closed_is_replaced(autojump_clock: MockClock) -> None:
    lives_on = partial(launches, make_body=lambda _: GadgetBody())
    async with host(GadgetRuntime(how_launched=lives_on)) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        (replica,) = deployment.replicas
        await spearlet._factory.close(replica.id)
        while not deployment.health().code:
            await trio.sleep(0.01)
        assert await deployment.echo(b"x") == b"x"


# -- bodies -----------------------------------------------------------------------------------------


class Immortal(GadgetBody):
    """A body whose runtime hangs when it has to kill it."""

    async def terminate(self) -> None:
        await trio.sleep_forever()

    async def kill(self) -> None:
        await trio.sleep_forever()


class Slippery(GadgetBody):
    """A body whose runtime raises at every request."""

    async def terminate(self) -> None:
        raise SystemExit("out of springs")

    async def kill(self) -> None:
        raise SystemExit("out of springs")


def living_in(kind: type[GadgetBody]) -> Launch:
    """Return a launch whose first body is of this kind, and lives on without a channel."""
    left = [1]

    @asynccontextmanager
    async def launch(endpoint: Endpoint) -> AsyncIterator[InstanceBody]:
        left[0] -= 1
        make_body = GadgetBody if left[0] < 0 else lambda _: kind()
        async with launches(endpoint, make_body) as body:
            yield body

    return launch


@pytest.mark.parametrize("kind", [Immortal, Slippery])
async def test_an_instance_that_cannot_be_killed_takes_no_calls_and_is_replaced(
    kind: type[GadgetBody], autojump_clock: MockClock
) -> None:
    events: list[InstanceEvent] = []
    async with host(GadgetRuntime(how_launched=living_in(kind))) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings(), on_event=events.append)
        (replica,) = deployment.replicas
        assert isinstance(replica, Instance)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replica.kill, "it is a test")
            await wait_all_tasks_blocked()
            assert not deployment.replicas
            health = deployment.health()
            assert health.state is DeploymentState.DEGRADED
            assert health.reason == "gadget:gadget-1#1 is being stopped, because it is a test"
            assert await deployment.echo(b"x") == b"x"  # by the replacement
        took = trio.current_time() - begun
        assert took < 2 * HostLimits().timeouts.kill_seconds + 0.5
        assert [each.id.incarnation for each in deployment.replicas] == [2]
        assert deployment.health().state is DeploymentState.READY
    told = [
        (event.state.value, event.reason) for event in events if event.instance_id == replica.id
    ]
    assert ("stopping", "it is a test") in told
    assert ("exited", "was killed, because it is a test, but is still running") in told


@pytest.mark.parametrize("kind", [Immortal, Slippery])
async def test_an_instance_that_cannot_be_killed_holds_up_no_stop(
    kind: type[GadgetBody], autojump_clock: MockClock
) -> None:
    async with host(GadgetRuntime(how_launched=living_in(kind))) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        begun = trio.current_time()
        await deployment.stop()
        timeouts = HostLimits().timeouts
        most = timeouts.drain_seconds + timeouts.terminate_seconds + 2 * timeouts.kill_seconds
        assert trio.current_time() - begun < most


async def test_r14_a_key_is_not_started_anew_beside_an_instance_that_cannot_be_killed(
    autojump_clock: MockClock,
) -> None:
    begun: list[bytes] = []

    async def pay(call: InboundCall) -> NoReturn:
        begun.append(call.payload)
        await trio.sleep_forever()

    @asynccontextmanager
    async def launch(endpoint: Endpoint) -> AsyncIterator[InstanceBody]:
        functions = Functions({"pay": pay})
        async with endpoint.attach(service=functions, functions=functions.names):
            yield Immortal()

    async def lose_the_instance(replica: Instance) -> None:
        await wait_all_tasks_blocked()
        assert replica.channel is not None
        await replica.channel.aclose()

    async with host(GadgetRuntime(how_launched=launch)) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        (replica,) = deployment.replicas
        assert isinstance(replica, Instance)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_the_instance, replica)
            with pytest.raises(WorkerDied) as caught:
                await deployment.pay.options(key="7")(b"", timeout=inf)
        assert caught.value.delivered == "maybe"
        assert replica.state is InstanceState.EXITED
        assert not replica.has_ended
        assert len(begun) == 1


async def test_an_instance_that_is_not_well_and_cannot_be_killed_is_replaced(
    autojump_clock: MockClock,
) -> None:
    """The instance has lost its connection, and does not reconnect."""
    async with host(GadgetRuntime(how_launched=living_in(Immortal))) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        (replica,) = deployment.replicas
        assert replica.channel is not None
        await replica.channel.aclose()
        assert await deployment.echo(b"x") == b"x"
        assert [each.id.incarnation for each in deployment.replicas] == [2]


async def test_a_body_that_exits_its_program_while_it_is_watched_costs_its_instance(
    autojump_clock: MockClock,
) -> None:
    class Exiting(GadgetBody):
        async def watch(self) -> None:
            await breaks.wait()
            raise SystemExit("out of springs")

    breaks = trio.Event()
    async with host(GadgetRuntime(how_launched=living_in(Exiting))) as spearlet:
        deployment = await spearlet.deploy(GadgetSettings())
        breaks.set()
        while not (health := deployment.health()).code:
            await trio.sleep(0.01)
        assert "its runtime failed: SystemExit: out of springs" in health.reason
        assert await deployment.echo(b"x") == b"x"
