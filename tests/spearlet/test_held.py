"""Memory that calls and executions hold: the counters agree with the memory in use."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import ref

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import (
    ConfigurationError,
    ExecutionStatus,
    HostLimits,
    InstanceTimeouts,
    InvalidArguments,
    Overloaded,
    Rejected,
    RemoteProtocolError,
    SpearError,
    open_spearlet,
)
from spear.calls import FunctionStream
from spear.wire import encode_arguments

from .helpers import HERE, Probe, deployed

if TYPE_CHECKING:
    from spear.calls import Execution, Function

MIB = 1024 * 1024


@contextmanager
def allocated() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the bytes allocated since then and still in use."""
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
        assert names.count("result") == 1  # not one for each caller


# -- arguments ------------------------------------------------------------------------------------


@attrs.frozen
class Large:
    """An argument whose deallocation a test can see."""

    text: str = "large"


Make: TypeAlias = Callable[[], Large]


async def items_of(block: AbstractAsyncContextManager[FunctionStream]) -> list[object]:
    async with block as stream:
        return [item async for item in stream]


CALLS: Final[dict[str, Callable[[Function, Make], Awaitable[object]]]] = {
    "call": lambda hold, large: hold(large()),
    "by name": lambda hold, large: hold(value=large()),
    "with a key": lambda hold, large: hold.options(key="one")(large()),
    "ask": lambda hold, large: hold.ask(large()),
    "submit": lambda hold, large: hold.submit(large()).result(),
    "submit with keywords": (
        lambda hold, large: hold.options(keywords={"value": large()}).submit().result()
    ),
    "bind": lambda hold, large: hold.bind(large()).ask(),
    "bind with keywords": (
        lambda hold, large: hold.options(keywords={"value": large()}).bind().ask()
    ),
    "bind and submit": lambda hold, large: hold.bind(value=large()).submit().result(),
}
STREAMS: Final[dict[str, Callable[[Function, Make], Awaitable[object]]]] = {
    "stream": lambda items, large: items_of(items.stream(large())),
    "stream by name": lambda items, large: items_of(items.stream(value=large())),
    "bind and stream": lambda items, large: items_of(items.bind(large()).stream()),
}


@pytest.mark.parametrize("way", CALLS | STREAMS)
async def test_arguments_are_freed_while_a_call_waits_and_while_it_runs(way: str) -> None:
    begun, release = trio.Event(), trio.Event()
    agent = spear.Agent("shop")

    @agent.function
    async def hold(value: object) -> None:
        begun.set()
        await release.wait()

    @agent.function
    async def items(value: object) -> AsyncIterator[object]:
        await hold(value)
        yield value

    alive: list[ref[Large]] = []

    def large() -> Large:
        made = Large()
        alive.append(ref(made))
        return made

    first = Probe("first")
    settings = spear.DeploymentSettings(concurrency=1)
    agent.function(first.wait)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(agent, settings=settings)
        before = deployment.wait.submit()
        await first.begun.wait()
        async with trio.open_nursery() as nursery:
            if way in CALLS:
                nursery.start_soon(CALLS[way], deployment.hold, large)
            else:
                nursery.start_soon(STREAMS[way], deployment.function("items"), large)
            await trio.testing.wait_all_tasks_blocked()
            assert deployment.statistics().waiting == 1
            assert [each() for each in alive] == [None]  # while the call waits
            first.release.set()
            await begun.wait()
            assert [each() for each in alive] == [None]  # while the function runs
            release.set()
        assert await before.result() == "released"


async def test_a_bound_call_can_be_made_several_times() -> None:
    async with deployed(Probe().agent) as deployment:
        add = deployment.add.options(timeout=5).bind(1, timeout=10)  # the second is an argument
        answer = await add.ask()
        assert (answer.result, answer.instance) == (12, deployment.replicas[0].id)
        assert await add.submit().result() == 12
        assert repr(add) == f"<BoundCall of add with {add.argument_bytes} bytes>"
        assert add.argument_bytes == len(encode_arguments((1,), {"timeout": 10})[0])


async def test_a_bound_call_is_refused_as_the_call_would_be() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match="echo"):
            deployment.echo.bind(object())
        ticks = deployment.ticks.bind(1)
        with pytest.raises(Rejected, match="returns a stream"):
            await ticks.ask()
        with pytest.raises(Rejected, match="returns a stream"):
            ticks.submit()
        with pytest.raises(Rejected, match="returns one result"):
            await items_of(deployment.echo.bind(1).stream())
        with pytest.raises(ConfigurationError, match="option key"):
            await items_of(deployment.ticks.options(key="one").bind(1).stream())


async def test_a_bound_call_streams_both_ways() -> None:
    async with deployed(Probe().agent) as deployment:
        double = deployment.double.bind()
        async with double.stream(sends_items=True) as stream:
            await stream.send(4)
            await stream.send_eof()
            assert [item async for item in stream] == [8]


# -- the end of a submitted call ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["done", "raised", "cancelled", "late", "never begun"])
async def test_the_end_of_a_submitted_call_is_told_once_however_it_ends(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[str] = []
    probe = Probe()
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        bound = {
            "done": deployment.echo.bind(b"x"),
            "raised": deployment.boom.bind(),
            "cancelled": deployment.wait.bind(),
            "late": deployment.wait.options(timeout=1).bind(),
            "never begun": deployment.echo.bind(b"x"),
        }[way]
        execution = bound.submit(on_end=lambda: told.append(execution.status.value))
        if way == "cancelled":
            await probe.begun.wait()
        assert told == []
        if way in ("cancelled", "never begun"):
            execution.cancel()
        with suppress(SpearError):
            await execution.result()
        await trio.testing.wait_all_tasks_blocked()
        status = {"done": "completed", "raised": "failed", "late": "timeout"}
        assert told == [status.get(way, "cancelled")]
    assert len(told) == 1


@pytest.mark.parametrize("how", ["left", "cancelled", "raises"])
async def test_the_end_of_a_submitted_call_is_told_when_the_spearlet_ends(how: str) -> None:
    told: list[ExecutionStatus] = []
    probe = Probe()
    made: list[Execution] = []

    def note(index: int) -> None:
        told.append(made[index].status)

    with trio.CancelScope() as scope, suppress(KeyError):
        async with open_spearlet(
            limits=HostLimits(timeouts=InstanceTimeouts(drain_seconds=0.01))
        ) as spearlet:
            deployment = await spearlet.deploy(
                probe.agent, settings=spear.DeploymentSettings(concurrency=1)
            )
            wait = deployment.wait.bind()
            made += [wait.submit(on_end=partial(note, index)) for index in range(2)]
            await probe.begun.wait()  # the other call waits
            if how == "cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            if how == "raises":
                raise KeyError
    assert len(told) == 2
    assert not set(told) & {ExecutionStatus.PENDING, ExecutionStatus.RUNNING}


async def test_the_end_is_told_if_submit_itself_fails() -> None:
    told: list[int] = []
    probe = Probe()
    async with open_spearlet(limits=HostLimits(max_submitted=1)) as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        running = deployment.wait.submit()
        with pytest.raises(Overloaded):
            deployment.echo.bind(1).submit(on_end=lambda: told.append(1))
        with pytest.raises(Rejected):
            deployment.ticks.bind(1).submit(on_end=lambda: told.append(2))
        probe.release.set()
        await running.result()
    with pytest.raises(SpearError, match="ended"):
        deployment.echo.bind(1).submit(on_end=lambda: told.append(3))
    assert told == [1, 2, 3]


async def test_what_on_end_raises_is_logged_and_costs_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exits() -> None:
        raise SystemExit(3)

    async with open_spearlet(limits=HostLimits(max_submitted=1)) as spearlet:
        deployment = await spearlet.deploy(Probe().agent)
        assert await deployment.echo.bind(1).submit(on_end=exits).result() == 1
        await trio.testing.wait_all_tasks_blocked()
        assert caplog.messages == ["the callback on_end raised"]
        assert await deployment.echo.submit(2).result() == 2


# -- the total ------------------------------------------------------------------------------------


async def test_the_arguments_of_submitted_calls_are_bounded_in_bytes() -> None:
    probe = Probe()
    async with open_spearlet(limits=HostLimits(submitted_bytes=1000)) as spearlet:
        settings = spear.DeploymentSettings(concurrency=1)
        deployment = await spearlet.deploy(probe.agent, settings=settings)
        running = deployment.wait.submit()
        await probe.begun.wait()
        begun = spearlet.executions.argument_bytes
        assert begun == running.argument_bytes == deployment.wait.bind().argument_bytes
        held = [deployment.echo.submit(bytes(400)), deployment.echo.submit(bytes(600 - begun))]
        assert spearlet.executions.argument_bytes == 1000
        with pytest.raises(Overloaded, match=r"1000 bytes.*and 1 more.*submitted_bytes") as no:
            deployment.echo.submit(b"1")
        assert (no.value.delivered, no.value.retry_after_seconds) == ("no", 1.0)
        held[0].cancel()  # a cancelled waiter holds nothing either
        await trio.testing.wait_all_tasks_blocked()
        held[0] = deployment.echo.submit(bytes(400))
        probe.release.set()
        for each in held:
            await each.result()
        await trio.testing.wait_all_tasks_blocked()
        assert spearlet.executions.argument_bytes == 0
        assert await deployment.echo.submit(bytes(5000)).result() == bytes(5000)  # the only one


async def test_a_shared_buffer_is_no_memory_of_the_submitted_calls() -> None:
    async with open_spearlet(limits=HostLimits(submitted_bytes=1000)) as spearlet:
        deployment = await spearlet.deploy(Probe().agent)
        buffer = spear.SharedBuffer(5000)
        held = [deployment.twice.submit(buffer) for _ in range(3)]
        assert [each.argument_bytes for each in held] == [0, 0, 0]
        for each in held:
            await each.result()


async def test_the_arguments_of_calls_with_keys_are_bounded_though_their_callers_leave() -> None:
    probe = Probe()
    async with open_spearlet(limits=HostLimits(submitted_bytes=1000)) as spearlet:
        settings = spear.DeploymentSettings(concurrency=1)
        deployment = await spearlet.deploy(probe.agent, settings=settings)
        running = deployment.wait.submit()
        await probe.begun.wait()
        async with trio.open_nursery() as leaving:
            for key in ("one", "two"):
                leaving.start_soon(deployment.echo.options(key=key), bytes(500))
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        assert spearlet.statistics().argument_bytes == 1000 + running.argument_bytes
        three = deployment.echo.options(key="three")
        with pytest.raises(Overloaded, match=r"calls with keys.*1000 bytes.*submitted_bytes") as no:
            await three(b"3")
        assert no.value.delivered == "no"
        probe.release.set()
        assert await deployment.echo.options(key="two")(bytes(500)) == bytes(500)
        assert await three(b"3") == b"3"  # a refusal is no outcome of the key
        await running.result()
        await trio.testing.wait_all_tasks_blocked()
        assert spearlet.statistics().argument_bytes == 0
