"""Streams through a deployment: items in both directions, and all kinds of ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import (
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    LocalProtocolError,
    NotFound,
    WorkerDied,
)
from spear.spearlet import Deployment
from spear.testing import cancel_sweep

from .helpers import PATIENCE_SECONDS, Probe, deployed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_items_come_in_order_and_end() -> None:
    probe = Probe()
    probe.release.set()
    async with deployed(probe.agent) as deployment, deployment.ticks.stream(1000) as stream:
        assert str(stream.instance) == "memory:probe-1#1"
        assert [item async for item in stream] == list(range(1000))
        assert [item async for item in stream] == []
        assert await stream.result() is None


async def test_bytes_are_items_too() -> None:
    app = spear.Agent()

    @app.function
    def pieces(data: bytes) -> object:
        for index in range(len(data)):
            yield data[index : index + 1]

    async with deployed(app) as deployment, deployment.pieces.stream(b"abc") as stream:
        assert [item async for item in stream] == [b"a", b"b", b"c"]


async def test_items_go_both_ways() -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.double.stream(sends_items=True) as stream,
    ):
        for number in range(3):
            await stream.send(number)
            assert await anext(stream) == 2 * number
        await stream.send_eof()
        assert [item async for item in stream] == []


async def test_a_function_may_take_items_and_give_one_result() -> None:
    async with deployed(Probe().agent) as deployment:
        assert not deployment.total.is_stream
        async with deployment.total.stream(sends_items=True) as stream:
            for number in range(10):
                await stream.send(number)
            await stream.send_eof()
            assert await stream.result() == 45


async def test_an_item_that_cannot_travel_is_refused_here() -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.total.stream(sends_items=True) as stream,
    ):
        with pytest.raises(
            InvalidArguments, match=r"total\(items\[0\]\): cannot send a value of type object"
        ):
            await stream.send(object())
        await stream.send(1)
        with pytest.raises(InvalidArguments, match=r"total\(items\[1\]\['x'\]\): .* not Unicode"):
            await stream.send({"x": "\ud800"})
        await stream.send_eof()
        assert await stream.result() == 1
        with pytest.raises(LocalProtocolError, match="total: cannot send more items"):
            await stream.send(2)


async def test_who_did_not_say_so_sends_no_items() -> None:
    async with deployed(Probe().agent) as deployment, deployment.ticks.stream(1) as stream:
        message = r"use ticks\.stream\(\.\.\., sends_items=True\)"
        with pytest.raises(LocalProtocolError, match=message):
            await stream.send(1)
        assert await anext(stream) == 0  # the stream itself goes on


async def test_an_item_of_the_wrong_kind_fails_the_function() -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.double.stream(sends_items=True) as stream,
    ):
        await stream.send("two")
        with pytest.raises(InvalidArguments, match=r"items\[0\]\): expected int, got str"):
            await anext(stream)


async def test_leaving_early_cancels_the_function() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        async with deployment.ticks.stream(5) as stream:
            async for item in stream:
                if item == 2:
                    break
        with trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()


async def test_an_exception_in_the_block_comes_out_as_it_is() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:

        async def fail() -> None:
            async with deployment.ticks.stream(5):
                await probe.begun.wait()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()


async def test_an_error_comes_behind_the_items() -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.ticks.stream(3, fails=True) as stream,
    ):
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(FunctionRaised, match="ValueError: no more ticks"):
            await anext(stream)
        with pytest.raises(FunctionRaised):
            await stream.result()


async def test_wrong_arguments_come_with_the_first_item() -> None:
    async with deployed(Probe().agent) as deployment:
        async with deployment.ticks.stream() as stream:
            with pytest.raises(InvalidArguments, match="requires the argument 'count'"):
                await anext(stream)
        with pytest.raises(
            InvalidArguments, match=r"ticks\(argument 1\): .* type object: send numbers"
        ):
            async with deployment.ticks.stream(object()):
                raise AssertionError


async def test_parameters_may_have_the_names_of_ours() -> None:
    app = spear.Agent()

    @app.function
    async def given(**keywords: object) -> object:
        yield keywords

    async with deployed(app) as deployment:
        named = deployment.given.options(keywords={"timeout": 1, "sends_items": 2})
        async with named.stream(other=3) as stream:
            assert await anext(stream) == {"timeout": 1, "sends_items": 2, "other": 3}


async def test_a_stream_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        begun = trio.current_time()
        async with deployment.ticks.stream(1, timeout=3) as stream:
            assert await anext(stream) == 0
            for use in (stream.__anext__, stream.result):
                with pytest.raises(
                    DeadlineExceeded, match=r"^ticks took longer than 3 s$"
                ) as caught:
                    await use()
                assert caught.value.delivered == "yes"  # it has sent an item
        assert trio.current_time() - begun == pytest.approx(3)
        with trio.move_on_after(2) as scope:
            async with deployment.ticks.stream(0) as stream:
                await anext(stream)
        assert scope.cancelled_caught


async def test_a_stream_without_an_item_may_not_have_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        deployed(Probe().agent) as deployment,
        deployment.double.stream(sends_items=True, timeout=3) as stream,
    ):
        with pytest.raises(DeadlineExceeded, match=r"^double took longer than 3 s$") as caught:
            await anext(stream)
        assert caught.value.delivered == "maybe"
        with pytest.raises(DeadlineExceeded, match=r"^double took longer than 3 s$"):
            await stream.send(1)


async def test_too_large_a_request_is_refused_here() -> None:
    async with deployed(
        Probe().agent, limits=spear.HostLimits(wire=spear.WireLimits(max_message_bytes=1000))
    ) as deployment:
        with pytest.raises(InvalidArguments, match=r"ticks\(\): .* bytes"):
            async with deployment.ticks.stream(bytes(2000)):
                raise AssertionError


async def test_too_large_an_item_is_refused_with_its_size() -> None:
    async with (
        deployed(
            Probe().agent, limits=spear.HostLimits(wire=spear.WireLimits(max_message_bytes=1000))
        ) as deployment,
        deployment.double.stream(sends_items=True) as stream,
    ):
        with pytest.raises(
            InvalidArguments, match=r"20\d\d bytes; .* at most 1000; send"
        ) as caught:
            await stream.send(bytes(2000))
        assert caught.value.code == "payload_too_large"
        await stream.send(2)
        assert await anext(stream) == 4


async def test_a_stream_that_is_lost_says_so() -> None:
    probe = Probe()
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        async with (
            deployment.ticks.stream(1) as stream,
            deployment.double.stream(sends_items=True) as other,
        ):
            assert await anext(stream) == 0
            channel = deployment.replicas[0].channel
            assert channel is not None
            await channel.aclose()
            for use in (stream.__anext__, stream.result, other.__anext__):
                with pytest.raises(WorkerDied, match="memory:probe-1#1 has ended"):
                    await use()
            with pytest.raises(WorkerDied, match="memory:probe-1#1 has ended"):
                await other.send(1)
            await other.send_eof()


async def test_streams_that_fail_are_counted_whatever_their_callers_make_of_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = spear.Agent("failing")

    @app.function
    async def items(*, fails: bool) -> object:
        yield 1
        if fails:
            raise ValueError("no more")
        await trio.sleep_forever()

    ends: list[str] = []
    async with spear.open_spearlet(
        on_call=lambda record: ends.append(type(record.failure).__name__)
    ) as spearlet:
        deployment = await spearlet.deploy(app)
        async with deployment.items.stream(fails=True) as stream:
            with pytest.raises(FunctionRaised, match="no more"):
                _ = [item async for item in stream]
            assert isinstance(stream.failure, FunctionRaised)
        async with deployment.items.stream(fails=False, timeout=1) as stream:
            with pytest.raises(DeadlineExceeded):
                _ = [item async for item in stream]
        with pytest.RaisesGroup(ZeroDivisionError):
            async with deployment.items.stream(fails=False), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise ZeroDivisionError
        with trio.move_on_after(1):
            async with deployment.items.stream(fails=False), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
        async with deployment.items.stream(fails=False) as stream:
            channel = deployment.replicas[0].channel
            assert channel is not None
            await channel.aclose()
            with pytest.raises(WorkerDied):
                _ = [item async for item in stream]
        counted = deployment.statistics().functions["items"]
        assert counted.failures == {
            "FunctionRaised": 1,
            "DeadlineExceeded": 1,
            "ZeroDivisionError": 1,
            "Cancelled": 1,
            "WorkerDied": 1,
        }
        assert counted.calls == 5
        assert ends == list(counted.failures)


async def test_an_unknown_function_is_found_out_at_once() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(NotFound):
            deployment.function("tick")


async def test_cancelled_anywhere_a_stream_leaves_nothing_behind() -> None:
    async def stream(deployment: Deployment) -> None:
        async with deployment.double.stream(sends_items=True) as stream:
            await stream.send(1)
            assert await anext(stream) == 2
            await stream.send_eof()
            assert [item async for item in stream] == []

    sweep = await cancel_sweep(lambda: deployed(Probe().agent), stream, stream)
    assert sweep.runs > 5


# -- progress -----------------------------------------------------------------------------------


def loading() -> spear.Agent:
    """An agent whose functions report progress every second."""
    app = spear.Agent("loading")

    @app.function
    async def rows(seconds: int, *, fails: bool = False) -> AsyncIterator[int]:
        for second in range(seconds):
            spear.context().progress(second)
            await trio.sleep(1)
        if fails:
            raise ValueError("no rows")
        yield seconds

    @app.function
    async def lines(seconds: int) -> AsyncIterator[int]:
        yield 0
        for second in range(seconds):
            await trio.sleep(1)
            spear.context().progress(second)
        yield 1

    @app.function
    async def total(items: spear.Items[int]) -> int:
        total = 0
        async for item in items:
            total += item
            spear.context().progress(total)
            await trio.sleep(1)
        return total

    return app


async def test_reports_of_a_generator_arrive_as_they_are_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reports: list[tuple[float, object]] = []
    async with deployed(loading()) as deployment:
        begun = trio.current_time()
        rows = deployment.rows.options(
            on_progress=lambda report: reports.append((trio.current_time() - begun, report))
        )
        async with rows.stream(3) as stream:
            assert [item async for item in stream] == [3]
    assert reports == [(0, 0), (1, 1), (2, 2)]


async def test_a_consumer_that_is_busy_gets_the_newest_report_before_its_next_item(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reports: list[object] = []
    async with (
        deployed(loading()) as deployment,
        deployment.lines.options(on_progress=reports.append).stream(3) as stream,
    ):
        assert await anext(stream) == 0
        await trio.sleep(9)
        assert reports == []
        assert await anext(stream) == 1
        assert reports == [2]


async def test_reports_arrive_while_the_result_of_items_is_awaited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reports: list[object] = []
    async with deployed(loading()) as deployment:
        total = deployment.total.options(on_progress=reports.append)
        async with total.stream(sends_items=True) as stream:
            for item in (1, 2, 3):
                await stream.send(item)
            await stream.send_eof()
            assert await stream.result() == 6
        assert reports == [1, 3, 6]


async def test_reports_may_be_awaited_by_two_tasks_of_a_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reports: list[object] = []
    results: list[object] = []

    async def take_result() -> None:
        results.append(await stream.result())

    async with deployed(loading()) as deployment:
        rows = deployment.rows.options(on_progress=reports.append)
        async with rows.stream(3) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(take_result)
            assert [item async for item in stream] == [3]
    assert reports == [0, 1, 2]
    assert results == [None]


async def test_a_stream_that_has_reported_progress_has_certainly_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(loading()) as deployment:
        rows = deployment.rows.options(on_progress=lambda _: None, timeout=1.5)
        with pytest.raises(DeadlineExceeded) as caught:
            async with rows.stream(9) as stream:
                await anext(stream)
        assert caught.value.delivered == "yes"
        assert stream.delivered == "yes"


async def test_a_failure_comes_behind_the_last_report(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reports: list[object] = []
    async with deployed(loading()) as deployment:
        rows = deployment.rows.options(on_progress=reports.append)
        async with rows.stream(2, fails=True) as stream:
            await trio.sleep(9)
            with pytest.raises(FunctionRaised, match="no rows"):
                await anext(stream)
    assert reports == [1]


async def test_a_progress_handler_that_fails_ends_its_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def fail(report: object) -> None:
        raise ZeroDivisionError

    async with deployed(loading()) as deployment:
        rows = deployment.rows.options(on_progress=fail)
        with pytest.raises(ZeroDivisionError):
            async with rows.stream(2) as stream:
                await anext(stream)
        async with deployment.rows.stream(1) as stream:
            assert [item async for item in stream] == [1]
