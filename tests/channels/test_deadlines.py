"""Deadlines (R8): exact in virtual time, propagated, and applied to every kind of waiting."""

from __future__ import annotations

from functools import partial
from math import inf
from statistics import median
from typing import TYPE_CHECKING

import pytest
import trio

from spear import DeadlineExceeded, WireLimits
from spear.channels import CallStream, CommunicationChannel, open_timers
from spear.testing import Functions
from spear.wire import FAILURE_NUMBERS, NO_DEADLINE, FrameType

from .helpers import MEMORY_STREAM, echo, open_in_memory, park, sleep

if TYPE_CHECKING:
    import random

    from trio.testing import MockClock

    from spear.channels import InboundCall
    from spear.testing import OpenPair

    from .helpers import Carrier

FRAGMENT_MORE = 0x03


@pytest.fixture(params=["memory_stream", "in_memory"])
def open_pair(request: pytest.FixtureRequest) -> OpenPair:
    """Kinds of channels that work in virtual time."""
    return open_in_memory if request.param == "in_memory" else MEMORY_STREAM.open_pair


async def expect_timeout(channel: CommunicationChannel, seconds: float) -> float:
    """Call a function that never returns; return how long the call took."""
    started = trio.current_time()
    with pytest.raises(DeadlineExceeded):
        await channel.request("sleep", timeout=seconds)
    return trio.current_time() - started


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r8_a_thousand_deadlines_are_exact_in_virtual_time(
    open_pair: OpenPair, autojump_clock: MockClock, seed: random.Random
) -> None:
    ended: list[float] = []

    async def sleep_until_cancelled(call: InboundCall) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time() - call.started)
        raise AssertionError

    functions = Functions({"sleep": sleep_until_cancelled})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        for _ in range(10):
            wanted = [round(seed.uniform(0.001, 5), 4) for _ in range(100)]

            async def expect(seconds: float) -> None:
                assert await expect_timeout(host, seconds) == pytest.approx(seconds, abs=1e-9)

            async with trio.open_nursery() as nursery:
                for seconds in wanted:
                    nursery.start_soon(expect, seconds)
            await trio.sleep(0.1)
            assert functions.running == 0
            assert host.connection.outbound_open == agent.connection.inbound_open == 0
            for took, seconds in zip(sorted(ended), sorted(wanted), strict=True):
                assert seconds - 1e-9 <= took <= seconds + 0.1
            ended.clear()
        assert host.statistics().failures == {"DeadlineExceeded": 1000}


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r8_a_thousand_deadlines_in_real_time(unix: Carrier) -> None:
    """Half of the calls end within 50 ms of the deadline even on a busy machine, and 99 of 100 end within
    50 ms of a bare timer beside them."""
    functions = Functions({"sleep": sleep})
    late: list[float] = []
    later: list[float] = []  # seconds after the timer

    async def expect(number: int) -> None:
        seconds = 0.001 * (1 + number)
        begun = woken = trio.current_time()

        async def wake() -> None:
            nonlocal woken
            await trio.sleep(seconds)
            woken = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            took = await expect_timeout(host, seconds)
        assert took >= seconds
        late.append(took - seconds)
        later.append(begun + took - woken)

    async with unix.open_pair(agent_service=functions, functions=functions.names) as (host, agent):
        for _ in range(100):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(expect, number)
        while agent.connection.inbound_open:
            await trio.sleep(0.001)
        assert functions.running == 0
        assert len(late) == 1000
        assert median(late) <= 0.05
        assert sorted(later)[989] <= 0.05


async def test_r8_the_time_left_decreases_from_hop_to_hop(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    left: list[float] = []

    async def hop(call: InboundCall) -> bytes:
        left.append(call.deadline - trio.current_time())
        await trio.sleep(0.01)
        if len(left) < 3:
            remaining = call.deadline - trio.current_time()
            await call.channel.request("hop", timeout=remaining)
        return b""

    functions = Functions({"hop": hop})
    async with open_pair(
        host_service=functions, agent_service=functions, functions=functions.names
    ) as (host, _):
        await host.request("hop", timeout=1)
    assert left == pytest.approx([1.0, 0.99, 0.98])


async def test_r8_handing_on_a_deadline_does_not_extend_it(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    """Passed on ten times without delay: rounding to milliseconds must not add up."""
    left: list[float] = []

    async def hop(call: InboundCall) -> bytes:
        left.append(call.deadline - trio.current_time())
        if len(left) < 10:
            await call.channel.request("hop", timeout=left[-1])
        return b""

    functions = Functions({"hop": hop})
    async with open_pair(
        host_service=functions, agent_service=functions, functions=functions.names
    ) as (host, _):
        await host.request("hop", timeout=0.1234567)
    assert left == pytest.approx([0.124] * 10)


async def test_r8_there_is_a_default_and_infinity_must_be_asked_for(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    deadlines: list[float] = []

    async def look(call: InboundCall) -> bytes:
        deadlines.append(call.deadline - trio.current_time())
        return b""

    functions = Functions({"look": look, "sleep": sleep})
    limits = WireLimits(call_seconds=7)
    async with open_pair(agent_service=functions, functions=functions.names, limits=limits) as (
        host,
        _,
    ):
        await host.request("look")
        await host.request("look", timeout=inf)
        await host.request("look", timeout=1e9)  # longer than the wire format can express
        async with host.open_stream("look") as stream:
            await stream.result()
        assert deadlines == [pytest.approx(7), inf, inf, pytest.approx(7)]
        assert await expect_timeout(host, 7) == pytest.approx(7)
        started = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            async with host.open_stream("sleep") as stream:
                await stream.receive()
        assert trio.current_time() - started == pytest.approx(7)


async def test_r8_waiting_for_a_slot_takes_time_from_the_call(
    autojump_clock: MockClock,
) -> None:
    deadlines: list[float] = []

    async def work(call: InboundCall) -> bytes:
        deadlines.append(call.deadline - trio.current_time())
        await trio.sleep(2)
        return b""

    functions = Functions({"work": work})
    async with (
        open_in_memory(
            agent_service=functions, functions=functions.names, limits=WireLimits(max_calls=1)
        ) as (host, _),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(partial(host.request, "work", timeout=3))
        await park()
        nursery.start_soon(partial(host.request, "work", timeout=5))
        await park()
        started = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="the peer had no free slot") as caught:
            await host.request("work", timeout=1.5)
        assert caught.value.delivered == "no"
        assert trio.current_time() - started == pytest.approx(1.5)
    assert deadlines == pytest.approx([3, 3])


async def test_r8_a_caller_that_is_woken_too_late_hands_its_turn_on(
    autojump_clock: MockClock,
) -> None:
    """A caller gets a slot at the moment of its deadline. The next caller must not starve."""

    async def work(call: InboundCall) -> bytes:
        await trio.sleep(1)
        return b""

    functions = Functions({"work": work, "echo": echo})
    results: list[str] = []

    async def call(name: str, seconds: float) -> None:
        try:
            await host.request(name, timeout=seconds)
        except DeadlineExceeded:
            results.append("too late")
        else:
            results.append(name)

    async with (
        open_in_memory(
            agent_service=functions, functions=functions.names, limits=WireLimits(max_calls=1)
        ) as (host, _),
        trio.open_nursery() as nursery,
    ):
        for name, seconds in (("work", 5), ("echo", 1), ("echo", 1.5)):
            nursery.start_soon(call, name, seconds)
            await park()
    assert "echo" in results


async def test_r8_a_refused_argument_hands_its_turn_on(autojump_clock: MockClock) -> None:
    """A caller that got its slot, and then finds its argument invalid, wakes the next caller."""
    gate = trio.Event()

    async def wait(call: InboundCall) -> bytes:
        await gate.wait()
        return b""

    functions = Functions({"wait": wait, "echo": echo})
    limits = WireLimits(max_calls=1, max_message_bytes=1000)

    async def too_large() -> None:
        with pytest.raises(Exception, match="1001 bytes"):
            await host.request("echo", bytes(1001))

    with trio.fail_after(5):
        async with (
            open_in_memory(agent_service=functions, functions=functions.names, limits=limits) as (
                host,
                _,
            ),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(host.request, "wait")
            await park()
            nursery.start_soon(too_large)
            await park()
            nursery.start_soon(host.request, "echo")
            await park()
            gate.set()


async def test_r8_a_sender_without_credit_hears_of_the_deadline(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    functions = Functions({"sleep": sleep})
    async with open_pair(agent_service=functions, functions=functions.names) as (host, _):
        started = trio.current_time()
        async with host.open_stream("sleep", sends_items=True, timeout=2) as stream:
            with pytest.raises(DeadlineExceeded):
                await flood(stream)
            assert trio.current_time() - started == pytest.approx(2)
            with pytest.raises(DeadlineExceeded):
                await stream.send(b"")
            with pytest.raises(DeadlineExceeded):
                await stream.result()
        with pytest.raises(DeadlineExceeded):
            await stream.send(b"")


async def flood(stream: CallStream) -> None:
    while True:
        await stream.send(bytes(50_000))


async def test_r8_items_that_came_in_time_are_there_after_the_deadline(
    open_pair: OpenPair, autojump_clock: MockClock
) -> None:
    async def trickle(call: InboundCall) -> bytes:
        for _ in range(100):
            await call.send(b"drop")
            await trio.sleep(1)
        return b""

    functions = Functions({"trickle": trickle})
    async with (
        open_pair(agent_service=functions, functions=functions.names) as (host, _),
        host.open_stream("trickle", timeout=4.5) as stream,
    ):
        await trio.sleep(10)
        for _ in range(5):
            assert await stream.receive() == b"drop"
        with pytest.raises(DeadlineExceeded):
            await stream.receive()


# -- requests that come in parts --------------------------------------------------------------------


async def test_r8_a_request_that_never_becomes_complete_expires(
    autojump_clock: MockClock,
) -> None:
    """The deadline counts from the first part; afterwards the request holds no memory and no slot."""
    functions = Functions({"f": echo})
    async with MEMORY_STREAM.open_raw(service=functions) as (channel, peer):
        await peer.send(
            FrameType.EXECUTION_REQUEST,
            flags=FRAGMENT_MORE,
            call_id=2,
            b=500,
            head={"function": "f", "size": 100_000},
            payload=bytes(1000),
        )
        started = trio.current_time()
        await park()
        assert channel.statistics().handlers_running == 1
        assert channel.statistics().buffered_bytes >= 100_000
        frame = await peer.receive(FrameType.ERROR)
        assert (frame[2], frame[3]) == (2, FAILURE_NUMBERS[DeadlineExceeded])
        assert trio.current_time() - started == pytest.approx(0.5)
        found = channel.statistics()
        assert (found.handlers_running, found.buffered_bytes, found.calls_refused) == (0, 0, 1)
        # Later parts are discarded, and the connection goes on.
        await peer.send(FrameType.BODY, flags=1, call_id=2, payload=bytes(99_000))
        await peer.send(FrameType.HEALTH_CHECK, a=1)
        await peer.receive(FrameType.HEALTH_RESPONSE)
        assert functions.started == 0
        assert channel.is_connected


@pytest.mark.parametrize(("milliseconds", "seconds"), [(500, 0.2), (NO_DEADLINE, inf)])
async def test_r8_the_time_of_a_request_runs_from_its_first_part(
    milliseconds: int, seconds: float, autojump_clock: MockClock
) -> None:
    left: list[float] = []

    async def look(call: InboundCall) -> bytes:
        left.append(call.deadline - trio.current_time())
        return b""

    functions = Functions({"f": look})
    async with MEMORY_STREAM.open_raw(service=functions) as (_, peer):
        await peer.send(
            FrameType.EXECUTION_REQUEST,
            flags=FRAGMENT_MORE,
            call_id=2,
            b=milliseconds,
            head={"function": "f", "size": 100_000},
            payload=bytes(1000),
        )
        await trio.sleep(0.3)
        await peer.send(FrameType.BODY, flags=1, call_id=2, payload=bytes(99_000))
        await peer.receive(FrameType.EXECUTION_RESPONSE)
        assert left == [pytest.approx(seconds)]


# -- the timers -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r18_deadlines_that_get_shorter_and_shorter_do_not_pile_up(
    autojump_clock: MockClock,
) -> None:
    """A peer chooses the deadlines of its calls; entries must not stay in the heap for weeks."""
    functions = Functions({"f": echo})
    async with MEMORY_STREAM.open_raw(service=functions) as (channel, peer):
        entries = channel._deadlines._timers
        for number in range(1, 3001):
            await peer.send(
                FrameType.EXECUTION_REQUEST,
                call_id=2 * number,
                b=4_000_000_000 - 1_000_000 * number,
                head={"function": "f"},
            )
            await peer.receive(FrameType.EXECUTION_RESPONSE)
        assert entries.entries < 200


async def test_timers_call_in_order_and_at_the_time(autojump_clock: MockClock) -> None:
    calls: list[tuple[str, float]] = []

    def note(name: str, now: float) -> None:
        calls.append((name, now - begun))

    async with open_timers() as timers:
        begun = trio.current_time()
        timers.call_at(begun + 3, partial(note, "third"))
        timers.call_at(begun + 1, partial(note, "first"))
        timers.call_at(begun + 2, partial(note, "second"))
        timers.call_at(begun + 2, partial(note, "second as well"))
        await trio.sleep(2.5)
        timers.call_at(begun - 1, partial(note, "overdue"))
        await trio.sleep(10)
    assert [name for name, _ in calls] == [
        "first", "second", "second as well", "overdue", "third",
    ]  # fmt: skip
    assert [when for _, when in calls] == pytest.approx([1, 2, 2, 2.5, 3])


async def test_a_timer_that_fails_silences_no_other(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def fail(now: float) -> None:
        raise ZeroDivisionError("in a timer")

    async with open_timers() as timers:
        timers.call_at(1, fail)
        timers.call_at(2, calls.append)
        await trio.sleep(3)
    assert calls == [2]
    assert "in a timer" in caplog.text
