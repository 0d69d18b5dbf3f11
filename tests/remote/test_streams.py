"""Streams and reports of progress from a host: items, back-pressure, ends that can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from gateway.helpers import wait_until

import spear
from spear.wire import encode_alone

from .helpers import open_connected, open_relay, open_scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .helpers import Connected

MESSAGES = b"application/vnd.spear.messages+cbor-seq"


async def test_items_arrive_as_they_are_yielded_and_the_connection_is_kept() -> None:
    async with open_connected() as here:
        async with here.probe.ticks.stream(3) as items:
            assert str(items.instance) == "memory:probe-1#1"
            assert [await anext(items) for _ in range(3)] == [0, 1, 2]
            here.site.probe.release.set()
            with pytest.raises(StopAsyncIteration):
                await anext(items)
            assert items.has_ended
            assert await items.result() is None
        async with here.probe.blobs.stream(timeout=10) as items:
            assert [item async for item in items] == [b"\x00\xff", "text", {"a": 1}]
        assert here.connections == 1


async def test_a_result_waits_for_the_end_and_drops_the_items() -> None:
    async with open_connected() as here, here.probe.blobs.stream() as items:
        assert await items.result() is None
        assert items.has_ended


async def test_leaving_a_stream_cancels_its_function() -> None:
    async with open_connected() as here:
        async with here.probe.ticks.stream(1) as items:
            assert await anext(items) == 0
        await here.site.probe.cancelled.wait()
        with trio.CancelScope() as scope:
            async with here.probe.flood.stream() as items:
                async for _ in items:
                    scope.cancel()
        assert scope.cancelled_caught
        assert await here.probe.add(1) == 2


async def test_a_slow_consumer_slows_the_function_down() -> None:
    async with open_connected() as here:
        sent: list[int] = []

        async def count() -> AsyncIterator[bytes]:
            while True:
                sent.append(len(sent))
                yield bytes(1 << 20)

        agent = spear.Agent("counter")
        agent.function(count)
        await here.site.spearlet.deploy(agent)
        counter = await here.host.deployment("counter")
        async with counter.count.stream() as items:
            assert len(await anext(items)) == 1 << 20  # type: ignore[arg-type]  # bytes
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(sent) < 32


async def test_a_stream_that_fails_raises_as_in_the_same_process() -> None:
    async with open_connected() as here:
        with pytest.raises(spear.FunctionRaised, match="no more ticks") as caught:
            async with here.probe.ticks.stream(1, fails=True) as items:
                assert [item async for item in items] == [0]
        assert caught.value.delivered == "yes"
        assert caught.value.type_name == "ValueError"
        with pytest.raises(spear.Rejected) as refused:
            async with here.probe.add.stream(1):
                pytest.fail("a function that returns one result was streamed")
        assert refused.value.code == "gives_result"
        with pytest.raises(spear.InvalidArguments, match="count"):
            async with here.probe.ticks.stream("many") as items:
                await anext(items)
        with pytest.raises(spear.ConfigurationError, match="sends_items is not supported"):
            async with here.probe.double.stream(sends_items=True):
                pytest.fail("items cannot be sent")
        with pytest.raises(spear.ConfigurationError, match="key is not supported"):
            async with here.probe.ticks.options(key="k").stream(1):
                pytest.fail("a key makes no sense")
        assert await here.probe.add(1) == 2


async def test_a_stream_ends_at_its_deadline() -> None:
    async with open_connected() as here:
        with pytest.raises(spear.DeadlineExceeded):
            async with here.probe.ticks.stream(0, timeout=0.05) as items:
                await anext(items)
        await here.site.probe.cancelled.wait()
        with trio.move_on_after(0.05) as scope:
            async with here.probe.ticks.stream(0) as items:
                await anext(items)
        assert scope.cancelled_caught


async def test_the_items_of_option_returns_are_objects() -> None:
    async with open_connected() as here, here.probe.ticks.options(returns=float).stream(1) as items:
        assert isinstance(await anext(items), float)


async def test_a_stream_takes_no_items_and_ends_with_its_block() -> None:
    async with open_connected() as here:
        async with here.probe.ticks.stream(1) as items:
            with pytest.raises(spear.LocalProtocolError, match="takes no items"):
                await items.send(1)
            await items.send_eof()
        with pytest.raises(spear.CallCancelled, match="closed before its end"):
            await anext(items)
        ticks = here.probe.ticks
        await here.site.spearlet.deployments["probe"].stop()
        with pytest.raises(spear.NotFound):
            async with ticks.stream(1):
                pytest.fail("the deployment has stopped")


async def test_a_lost_connection_is_no_end_of_a_stream() -> None:
    async with open_relay() as relay, spear.connect(relay.url) as host:
        with pytest.raises(spear.HostLost, match="in the middle of its response") as caught:
            await take_two_and(relay.cut, host.find_function("ticks"))
        assert caught.value.delivered == "yes"


async def take_two_and(act: Callable[[], object], ticks: spear.Function) -> None:
    """Take two items, act, and take a third one."""
    async with ticks.stream(2) as items:
        assert [await anext(items), await anext(items)] == [0, 1]
        act()
        await anext(items)


async def test_two_tasks_cannot_read_one_stream() -> None:
    async with (
        open_connected() as here,
        here.probe.ticks.stream(0) as items,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_expect_end, items)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(items)
        here.site.probe.release.set()


async def _expect_end(items: spear.FunctionStream) -> None:
    with pytest.raises(StopAsyncIteration):
        await anext(items)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", spear.RemoteProtocolError, "has sent no end"),
        (b"\x82\x00\x01", spear.RemoteProtocolError, "has sent no end"),
        (b"\x01", spear.RemoteProtocolError, "has sent no message"),
        (b"\x82\x17\x01", spear.RemoteProtocolError, "has sent no message"),
        (b"\x82\x03\x01", spear.RemoteProtocolError, "has sent no error"),
        (b"\x82\x03\xc1\xff", spear.RemoteProtocolError, "indefinite"),
        (b"\x9f", spear.RemoteProtocolError, "indefinite"),
        (b"\x82\x03" + encode_alone({"kind": "Odd"}), spear.CallFailed, "without a message"),
        (b"\x82\x02\x9e", spear.RemoteProtocolError, "indefinite"),
    ],
)
async def test_what_is_no_message_is_refused(
    body: bytes, error: type[spear.SpearError], message: str
) -> None:
    async with open_scripted("stream", MESSAGES, body) as url, spear.connect(url) as host:
        with pytest.raises(error, match=message):
            await take_all(host.find_function("f"))


async def take_all(function: spear.Function) -> None:
    """Take all items of a stream."""
    async with function.stream() as items:
        async for _ in items:
            pass


async def test_a_response_that_is_no_stream_is_refused() -> None:
    async with open_scripted("stream", b"text/html", b"<html>") as url, spear.connect(url) as host:
        with pytest.raises(spear.RemoteProtocolError, match="has sent no result"):
            async with host.find_function("f").stream():
                pytest.fail("this is no stream")


# -- progress ---------------------------------------------------------------------------------


async def open_steps(here: Connected) -> spear.RemoteDeployment:
    """Deploy functions that report their progress."""
    agent = spear.Agent("steps")

    @agent.function
    async def work(count: int, *, fails: bool = False) -> str:
        for number in range(count):
            spear.context().progress({"step": number, "data": b"\x00"})
        if fails:
            raise ValueError("no more steps")
        return "done"

    @agent.function
    async def parts(count: int) -> AsyncIterator[int]:
        for number in range(count):
            spear.context().progress(f"part {number}")
            yield number

    await here.site.spearlet.deploy(agent)
    return await here.host.deployment("steps")


async def test_progress_is_reported_in_order() -> None:
    async with open_connected() as here:
        steps = await open_steps(here)
        told: list[object] = []
        work = steps.work.options(on_progress=told.append)
        assert await work(3) == "done"
        assert told == [{"step": number, "data": b"\x00"} for number in range(3)]
        answer = await work.ask(0)
        assert (answer.result, str(answer.instance)) == ("done", "memory:steps-1#1")
        assert answer.execution_seconds > 0
        with pytest.raises(spear.FunctionRaised, match="no more steps"):
            await work(1, fails=True)
        with pytest.raises(spear.InvalidArguments):
            await work("x")
        assert await work.options(key="k")(1) == "done"
        assert here.connections == 1


async def test_progress_of_a_stream_comes_between_its_items() -> None:
    async with open_connected() as here:
        steps = await open_steps(here)
        told: list[object] = []
        async with steps.parts.options(on_progress=told.append).stream(3) as items:
            told.extend([item async for item in items])
        assert told[-1] in (2, "part 2")  # earlier reports may be left out, items never are
        assert [each for each in told if each in (0, 1, 2)] == [0, 1, 2]
        assert "part 2" in told


async def test_a_handler_of_progress_that_raises_cancels_the_call() -> None:
    def stop(_: object) -> None:
        raise LookupError("enough")

    async with open_connected() as here:
        steps = await open_steps(here)
        with pytest.raises(LookupError, match="enough"):
            await steps.work.options(on_progress=stop)(3)
        await wait_until(lambda: here.connections == 0)


async def test_a_cancelled_call_with_progress_cancels_the_function() -> None:
    async with open_connected() as here:
        wait = here.probe.wait.options(on_progress=print)
        with pytest.raises(spear.DeadlineExceeded):
            await wait(timeout=0.05)
        await here.site.probe.cancelled.wait()


@pytest.mark.parametrize(
    "details", [b"\x82\x05\x01", b"\x82\x05\xa0", b"\x82\x05" + encode_alone({"instance": "x"})]
)
async def test_details_that_are_none_are_ignored(details: bytes) -> None:
    body = details + b"\x82\x01\xf6\x82\x02\x07"
    async with open_scripted("call", MESSAGES, body) as url, spear.connect(url) as host:
        function = host.find_function("f").options(on_progress=print)
        answer = await function.ask()
        assert (answer.result, answer.instance, answer.execution_seconds) == (7, None, 0)
