"""Functions that call functions, through their host."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

import spear
from spear import (
    DeadlineExceeded,
    DeploymentSettings,
    FunctionRaised,
    NotFound,
    RestartPolicy,
    WorkerDied,
    open_spearlet,
)
from spear.wire import decode_result, encode_arguments

from . import workers
from .helpers import PATIENCE_SECONDS, WORKERS, Probe, deployed, instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.agent import Agent


def relay() -> Agent:
    """Return an agent whose functions call others."""
    app = spear.Agent("relay")

    @app.function
    async def ask(function: str, *arguments: object, timeout: float | None = None) -> object:
        return await spear.call(function, *arguments, timeout=timeout)

    @app.function
    def ask_from_a_thread(function: str, *arguments: object) -> object:
        return spear.context().call_sync(function, *arguments)

    @app.function
    async def follow(function: str, *arguments: object) -> AsyncIterator[object]:
        async with spear.context().stream(function, *arguments) as items:
            async for item in items:
                yield item

    return app


async def test_a_function_calls_one_of_its_own_deployment() -> None:
    async with deployed(relay()) as deployment:
        with pytest.raises(FunctionRaised, match="NotFound"):
            await deployment.ask("nobody")
    async with deployed(WORKERS) as deployment:
        budgets = await deployment.budget(1)
        assert isinstance(budgets, list)
        assert len(budgets) == 2


async def test_a_function_calls_one_of_another_deployment() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        asking = await spearlet.deploy(relay())
        assert await asking.ask("add", 1, 2) == 3
        assert await asking.ask("probe.add", 1, 2) == 3
        assert await asking.ask_from_a_thread("add", 3, 4) == 7
        data = b"not copied"
        assert await asking.ask("echo", data) == data
        assert await asking.ask("echo", None) is None


async def test_the_host_says_who_calls() -> None:
    async with open_spearlet() as spearlet:
        await spearlet.deploy(Probe().agent)
        asking = await spearlet.deploy(relay())
        assert await asking.ask("context") == {
            "caller": "memory:relay-1#1",
            "metadata": {"caller": "memory:relay-1#1"},
        }


async def test_who_calls_is_not_for_the_caller_to_say() -> None:
    app = spear.Agent("liar")

    @app.function
    async def lie() -> object:
        channel = spear.context()._call.channel
        metadata = {"caller": "host", "colour": "blue"}
        payload, is_cbor = encode_arguments((), {})
        response = await channel.request("context", payload, is_cbor=is_cbor, metadata=metadata)
        return decode_result(response.payload, response.is_cbor)

    async with open_spearlet() as spearlet:
        await spearlet.deploy(Probe().agent)
        lying = await spearlet.deploy(app)
        assert await lying.lie() == {
            "caller": "memory:liar-1#1",
            "metadata": {"caller": "memory:liar-1#1", "colour": "blue"},
        }


async def test_a_name_that_several_deployments_have_needs_theirs() -> None:
    async with open_spearlet() as spearlet:
        one, two = Probe(), Probe()
        await spearlet.deploy(one.agent, name="one")
        await spearlet.deploy(two.agent, name="two")
        asking = await spearlet.deploy(relay())
        with pytest.raises(FunctionRaised, match=r"several .*: use one of one\.add, two\.add"):
            await asking.ask("add", 1)
        await asking.ask("two.echo", 2)
        assert (one.seen, two.seen) == ([], [2])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ad", "did you mean 'add'?"), ("probe.ad", "did you mean 'probe.add'?"),
        ("prob.add", "did you mean 'probe.add'?"), ("xyz", ""), ("", ""), (".", ""),
    ],
)  # fmt: skip
async def test_a_name_that_nobody_has_is_refused(name: str, hint: str) -> None:
    async with open_spearlet() as spearlet:
        await spearlet.deploy(Probe().agent)
        asking = await spearlet.deploy(relay())
        with pytest.raises(FunctionRaised) as caught:
            await asking.ask(name, 1)
    said = f"no deployment has a function {name!r}" + (hint and f"; {hint}")
    assert (caught.value.type_name, caught.value.remote_message) == ("NotFound", said)


async def test_dots_may_be_part_of_names() -> None:
    app = spear.Agent("math")

    @app.function(name="trig.sine")
    async def sine() -> int:
        return 0

    @app.function(name="math.one")
    async def one() -> int:
        return 1

    async with open_spearlet() as spearlet:
        await spearlet.deploy(app)
        for name, result in [("trig.sine", 0), ("math.trig.sine", 0), ("math.one", 1)]:
            assert await spearlet.find_function(name)() == result


async def test_a_host_has_no_numbers() -> None:
    app = spear.Agent()

    @app.function
    async def rude() -> object:
        channel = spear.context()._call.channel
        channel.functions["by number"] = 1
        return (await channel.request("by number")).payload

    async with deployed(app) as deployment:
        with pytest.raises(FunctionRaised, match="NotFound: functions of a host have no numbers"):
            await deployment.rude()


async def test_failures_come_through() -> None:
    async with open_spearlet() as spearlet:
        await spearlet.deploy(Probe().agent)
        asking = await spearlet.deploy(relay())
        with pytest.raises(FunctionRaised) as raised:
            await asking.ask("boom")
        assert (raised.value.type_name, raised.value.remote_message) == (
            "KeyError",
            "'nothing there'",
        )
        with pytest.raises(FunctionRaised, match=r"InvalidArguments: .*expected int") as invalid:
            await asking.ask("add", "one")
        assert invalid.value.delivered == "yes"  # the call of `ask`


async def test_a_deployment_without_replicas_is_still_known() -> None:
    never = RestartPolicy(intensity=0, retry_seconds=math.inf)
    async with open_spearlet() as spearlet:
        probes = await spearlet.deploy(Probe().agent, settings=DeploymentSettings(restart=never))
        asking = await spearlet.deploy(relay())
        channel = probes.replicas[0].channel
        assert channel is not None
        await channel.aclose()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(FunctionRaised, match="WorkerDied: probe has no replica"):
            await asking.ask("add", 1)
        with pytest.raises(WorkerDied, match="probe has no replica"):
            await probes.add(1)
        await probes.stop()
        with pytest.raises(FunctionRaised, match="NotFound: no deployment has"):
            await asking.ask("add", 1)


# -- streams ----------------------------------------------------------------------------------


async def test_items_come_through() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        asking = await spearlet.deploy(relay())
        probe.release.set()
        async with asking.follow.stream("ticks", 500) as stream:
            assert [item async for item in stream] == list(range(500))


async def test_leaving_early_cancels_at_the_far_end() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        asking = await spearlet.deploy(relay())
        async with asking.follow.stream("ticks", 1) as stream:
            assert await anext(stream) == 0
        with trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()


async def test_an_error_comes_through_behind_the_items() -> None:
    async with open_spearlet() as spearlet:
        probes = await spearlet.deploy(Probe().agent)
        asking = await spearlet.deploy(relay())
        async with asking.follow.stream("probe.echo", 1) as stream:
            with pytest.raises(FunctionRaised, match=r"Rejected: .*returns one result"):
                await anext(stream)
        with pytest.raises(FunctionRaised, match=r"Rejected: .*returns a stream"):
            await asking.ask("ticks", 1)
        assert probes.statistics().calls_in_flight == 0


# -- time and cancellation --------------------------------------------------------------------


async def test_cancellation_crosses_two_hops() -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        asking = await spearlet.deploy(relay())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.ask, "wait")
            await probe.begun.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()
        assert await asking.ask("add", 1) == 2


async def test_a_deadline_crosses_two_hops(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe()
    async with open_spearlet() as spearlet:
        await spearlet.deploy(probe.agent)
        asking = await spearlet.deploy(relay())
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded, match=r"^ask took longer than 2 s$"):
            await asking.ask("wait", timeout=2)
        assert trio.current_time() - begun == pytest.approx(2, abs=0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert probe.cancelled.is_set()
        with pytest.raises(FunctionRaised) as caught:  # `ask` itself has time left
            await asking.ask.options(keywords={"timeout": 1})("wait", timeout=9)
        assert caught.value.type_name == "DeadlineExceeded"
        assert caught.value.remote_message == "wait took longer than 1 s"
        assert caught.value.delivered == "yes"


async def test_infinity_crosses_two_hops() -> None:
    async with open_spearlet() as spearlet:
        await spearlet.deploy(Probe().agent)
        asking = await spearlet.deploy(relay())
        endless = asking.ask.options(timeout=float("inf"))
        assert await endless.options(keywords={"timeout": float("inf")})("remaining") == float(
            "inf"
        )
        assert await endless("remaining") == pytest.approx(60, abs=0.01)


async def test_r8_the_budget_strictly_decreases_over_3_hops(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The budget decreases although no time passes between the hops."""
    async with deployed(workers.app) as deployment:
        for timeout in (0.02, 1.0, 1.0005, 1000.25):
            budgets = cast("list[float]", await deployment.budget(3, timeout=timeout))
            assert len(budgets) == 4
            assert timeout + 0.001 >= budgets[0]
            assert all(later < earlier for earlier, later in pairwise(budgets)), budgets


@pytest.mark.slow
async def test_r8_the_budget_strictly_decreases_over_3_real_hops() -> None:
    async with deployed(WORKERS, replicas=2) as deployment:
        for timeout in (20.0, 60.0, 86_400.0):
            budgets = cast("list[float]", await deployment.budget(3, timeout=timeout))
            assert all(later < earlier for earlier, later in pairwise(budgets)), budgets
        assert [instance(each).exit_status for each in deployment.replicas] == [None, None]


def test_what_is_refused_is_refused_before_the_arguments_are_read() -> None:
    from spear.spearlet._callbacks import Callbacks

    def find(name: str) -> object:
        raise NotFound(name)

    service = Callbacks(find)  # type: ignore[arg-type]  # it always raises
    for head in (None, {}, {"function": 7}, {"function": "x"}):
        assert isinstance(service.refuse(0, head), NotFound)
