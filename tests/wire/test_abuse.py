"""Cheap attacks by a peer: churn, floods, and never reading.

Rows S8 and S9 of the guarantees. Time is a number here, so floods take none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from spear import CallCancelled, NotFound, WireLimits
from spear._limits import KIB
from spear.testing import ConnectionPair, WireEnd
from spear.wire import LAST, CalleeSide, FrameType, Kind, Role

from .helpers import (
    BOTH_STREAMS,
    call_between,
    first_fragment,
    frame,
    in_parts,
    open_end,
    request,
    split_frames,
    start,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

LIMITS = WireLimits(fragment_bytes=256 * KIB)
CANCEL = FrameType.CANCEL


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def policing(limits: WireLimits = LIMITS, *, is_trusting: bool = False) -> tuple[WireEnd, Clock]:
    """Return a host and its clock."""
    clock = Clock()
    end = WireEnd(Role.HOST, limits, clock, is_trusting=is_trusting)
    opened = open_end(Role.HOST, limits)
    end.connection.state = opened.connection.state
    end.connection.open(limits)
    return end, clock


def handled(end: WireEnd) -> list[CalleeSide]:
    """Return the calls that have come in since events were last taken."""
    return [event[0] for event in end.take_events() if isinstance(event[0], CalleeSide)]


class Handlers:
    """Handlers that run until they are cancelled."""

    def __init__(self, end: WireEnd) -> None:
        self._end = end
        self.running: list[CalleeSide] = []
        self.most = 0

    def see(self) -> None:
        for event in self._end.take_events():
            if event[1] == FrameType.EXECUTION_REQUEST:
                assert isinstance(event[0], CalleeSide)
                self.running.append(event[0])
        self.most = max(self.most, len(self.running))

    def end_one(self, index: int) -> None:
        call = self.running.pop(index % len(self.running))
        self._end.connection.fail(call, CallCancelled("stopped"))


class TestChurn:
    """S8: calls that are opened and cancelled at once."""

    @pytest.mark.repetitive
    @pytest.mark.slow
    def test_s8_a_hundred_thousand_opened_and_cancelled_never_exceed_the_limit(
        self, seed: random.Random
    ) -> None:
        end, _ = policing(is_trusting=True)
        handlers = Handlers(end)
        for n in range(10**5):
            call_id = 2 * (n + 1)
            end.feed(request(call_id) + frame(CANCEL, 0, call_id))
            handlers.see()
            assert end.connection.inbound_open == len(handlers.running) <= LIMITS.max_calls
            if handlers.running and seed.random() < 0.3:
                handlers.end_one(seed.randrange(100))
            end.take_bytes()
        assert end.error is None
        assert handlers.most == LIMITS.max_calls
        while handlers.running:
            handlers.end_one(0)
        assert end.connection.inbound_open == 0
        assert list(end.connection.calls) == [end.connection.messages.id]

    def test_s8_a_handler_that_does_not_end_keeps_its_place(self) -> None:
        end, _ = policing(is_trusting=True)
        for n in range(1, 1001):
            end.feed(request(2 * n) + frame(CANCEL, 0, 2 * n))
            end.take_bytes()
        begun = [event for event in end.events if event[1] == FrameType.EXECUTION_REQUEST]
        assert len(begun) == end.connection.inbound_open == LIMITS.max_calls

    def churn(
        self, rate: float, seconds: int, *, is_trusting: bool = False
    ) -> tuple[WireEnd, float]:
        """Open and cancel calls at this rate, with handlers that stop at once."""
        end, clock = policing(is_trusting=is_trusting)
        handlers = Handlers(end)
        for n in range(int(rate * seconds)):
            clock.now = n / rate
            end.feed(request(2 * (n + 1)) + frame(CANCEL, 0, 2 * (n + 1)))
            handlers.see()
            handlers.end_one(0)
            end.take_bytes()
            if end.error is not None:
                break
        return end, clock.now

    @pytest.mark.repetitive
    @pytest.mark.slow
    def test_s8_a_hundred_cancels_a_second_are_taken_for_ever(self) -> None:
        end, _ = self.churn(100, 300)
        assert end.error is None

    @pytest.mark.slow
    @pytest.mark.parametrize("rate", [200, 1000, 100_000])
    def test_s8_more_than_that_is_cut_off(self, rate: int) -> None:
        end, when = self.churn(rate, 60)
        assert str(end.error) == "too many cancelled calls"
        # The burst, then the second strike after another second above the rate.
        assert when <= (LIMITS.cancel_burst + 2 * LIMITS.cancels_per_second) / (rate - 100) + 0.1

    @pytest.mark.repetitive
    @pytest.mark.slow
    def test_s8_whom_we_trust_is_not_counted(self) -> None:
        end, _ = self.churn(10_000, 2, is_trusting=True)
        assert end.error is None

    @pytest.mark.parametrize("size", [0, 1])
    def test_s8_refused_calls_do_not_run(self, size: int) -> None:
        end, _ = policing()
        end.connection.serve(CalleeSide, lambda *_: NotFound("no"))
        for n in range(1, 5000):
            end.feed(request(2 * n, bytes(size)))
            end.take_bytes()
        assert end.error is None
        assert end.events == []
        assert end.connection.inbound_open == 0


def heartbeats(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(FrameType.HEALTH_CHECK, 0, 0, 1)


def heartbeat_responses(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(FrameType.HEALTH_RESPONSE, 0, 0, 1)


def announcements(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(FrameType.ANNOUNCE, head={"functions": []})


def unknown_frames(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(0x33)


def signals_of_no_call(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(FrameType.SIGNAL)


def small_change(end: WireEnd) -> Iterator[bytes]:
    call = start(end, flags=BOTH_STREAMS)
    end.connection.send_item(call, bytes(200 * KIB), 0)
    end.take_bytes()
    while True:
        yield frame(FrameType.CREDIT, 0, call.id, 1)


def small_change_of_the_connection(end: WireEnd) -> Iterator[bytes]:
    end.connection.send_item(end.connection.messages, bytes(200 * KIB), 0)
    end.take_bytes()
    while True:
        yield frame(FrameType.CREDIT, 0, 0, 1)


def no_change(end: WireEnd) -> Iterator[bytes]:
    while True:
        yield frame(FrameType.CREDIT, 0, 0, 0)


def finished_call(end: WireEnd) -> int:
    end.feed(request(2))
    call = end.take_events()[0][0]
    assert isinstance(call, CalleeSide)
    end.connection.respond(call, b"", 0, 0)
    return call.id


def late_credits(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield frame(FrameType.CREDIT, 0, call_id, 1000)


def late_signals(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield frame(FrameType.SIGNAL, 0, call_id)


def late_items(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield frame(FrameType.STREAM_DATA, 0, call_id, 1, payload=b"x")


def late_ends_of_items(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield frame(FrameType.STREAM_DATA, LAST, call_id)


def late_items_in_parts(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield b"".join(in_parts(FrameType.STREAM_DATA, call_id, b"xx", 1))


def items_behind_an_answer(end: WireEnd) -> Iterator[bytes]:
    call = start(end, flags=BOTH_STREAMS)
    end.take_bytes()
    end.feed(frame(FrameType.EXECUTION_RESPONSE, 0, call.id))
    while True:
        yield frame(FrameType.STREAM_DATA, 0, call.id, 1, payload=b"x")


def signals(end: WireEnd) -> Iterator[bytes]:
    call = start(end)
    end.take_bytes()
    while True:
        yield frame(FrameType.SIGNAL, 0, call.id)


def signals_of_a_cancelled_call(end: WireEnd) -> Iterator[bytes]:
    call = start(end)
    end.connection.cancel(call)
    end.take_bytes()
    while True:
        yield frame(FrameType.SIGNAL, 0, call.id)


def late_cancels(end: WireEnd) -> Iterator[bytes]:
    call_id = finished_call(end)
    while True:
        yield frame(CANCEL, 0, call_id)


CONTROL_FLOODS = [
    heartbeats, heartbeat_responses, announcements, unknown_frames, signals_of_no_call, small_change,
    small_change_of_the_connection, no_change, late_credits, late_signals, signals,
    signals_of_a_cancelled_call, late_items, late_ends_of_items, late_items_in_parts,
    items_behind_an_answer,
]  # fmt: skip


class TestFloods:
    """S9: frames that cost this side more than the peer."""

    @pytest.mark.parametrize("flood", CONTROL_FLOODS)
    def test_s9_each_kind_of_control_frame_is_counted(
        self, flood: Callable[[WireEnd], Iterator[bytes]]
    ) -> None:
        limits = attrs.evolve(LIMITS, control_frame_burst=100, control_frames_per_second=10.0)
        end, _ = policing(limits)
        frames = flood(end)
        count = 0
        while end.error is None:
            end.feed(next(frames))
            end.take_bytes()
            count += 1
        assert str(end.error) == "too many control frames"
        assert count == 100 + 10 + 1  # the burst, and the second strike

    # Refused fragments have no time of their own: the time of the last whole frame counts.
    @pytest.mark.parametrize(
        "flood", [each for each in CONTROL_FLOODS if each is not late_items_in_parts]
    )
    def test_s9_at_the_rate_itself_none_is_an_offence(
        self, flood: Callable[[WireEnd], Iterator[bytes]]
    ) -> None:
        limits = attrs.evolve(LIMITS, control_frame_burst=100, control_frames_per_second=10.0)
        end, clock = policing(limits)
        frames = flood(end)
        for n in range(2000):
            clock.now = n / 10
            end.feed(next(frames))
            end.take_bytes()
        assert end.error is None

    @pytest.mark.parametrize("flood", [*CONTROL_FLOODS, late_cancels])
    def test_s9_whom_we_trust_is_not_counted(
        self, flood: Callable[[WireEnd], Iterator[bytes]]
    ) -> None:
        limits = attrs.evolve(LIMITS, control_frame_burst=1, control_frames_per_second=1.0)
        end, _ = policing(limits, is_trusting=True)
        frames = flood(end)
        for _ in range(1000):
            end.feed(next(frames))
        assert end.error is None

    def test_s9_a_large_signal_counts_as_many_small_ones(self) -> None:
        for size, most in (4095, 11_001), (4096, 5_501), (256 * KIB, 170):
            end, _ = policing()
            call = start(end)
            flood = frame(FrameType.SIGNAL, 0, call.id, payload=bytes(size))
            count = 0
            while end.error is None:
                end.feed(flood)
                count += 1
            assert str(end.error) == "too many control frames"
            assert count == pytest.approx(most, abs=1)

    def test_s9_each_call_of_ours_allows_one_signal_at_whatever_rate(self) -> None:
        end, _ = policing(attrs.evolve(LIMITS, control_frame_burst=100))
        for _ in range(5_000):
            call = start(end)
            end.feed(
                frame(FrameType.SIGNAL, 0, call.id)
                + frame(FrameType.EXECUTION_RESPONSE, 0, call.id)
            )
            end.take_bytes()
        assert end.error is None
        # Unused tokens are saved only up to a burst.
        for _ in range(5_000):
            call = start(end)
            end.feed(frame(FrameType.EXECUTION_RESPONSE, 0, call.id))
            end.take_bytes()
        call = start(end)
        count = 0
        while end.error is None:
            end.feed(frame(FrameType.SIGNAL, 0, call.id))
            count += 1
        assert count == 100 + 1000 + 1

    @pytest.mark.repetitive
    @pytest.mark.slow
    def test_s9_an_honest_end_that_reports_all_the_time_is_never_cut(
        self, seed: random.Random
    ) -> None:
        """Five minutes of small and large reports of twenty calls, which end and begin, while the host
        stops reading for seconds."""
        pair = ConnectionPair(host_limits=LIMITS, agent_limits=LIMITS)
        agent = pair.agent.connection
        calls = [call_between(pair)[1] for _ in range(20)]
        stands_still_until = 0.0
        arrived = 0
        for _ in range(30_000):
            pair.now += 0.01
            for _ in range(seed.randrange(20)):
                size = seed.choice([0, 10, 10, 10, 5000, 100_000])
                agent.signal(seed.choice(calls), bytes(size), 0, pair.now)
            agent.send_signals(pair.now)
            pair.transmit(pair.agent)
            if pair.now >= stands_still_until:
                pair.pump()
                arrived += len(pair.host.take_events())
                index = seed.randrange(20)
                agent.respond(calls[index], b"", 0, 0)
                pair.pump()
                calls[index] = call_between(pair)[1]
                if seed.random() < 0.01:
                    stands_still_until = pair.now + seed.choice([1, 5])
            assert (pair.host.error, pair.agent.error) == (None, None)
        assert arrived > 30_000

    def test_s9_items_that_were_under_way_when_a_call_ended_are_no_offence(self) -> None:
        limits = attrs.evolve(LIMITS, control_frame_burst=1, control_frames_per_second=1.0)
        end, _ = policing(limits)
        end.feed(request(2, flags=BOTH_STREAMS))
        (call,) = handled(end)
        end.connection.respond(call, b"", 0, 0)
        end.take_bytes()
        item = frame(FrameType.STREAM_DATA, 0, call.id, 1, payload=b"x")
        for _ in range(LIMITS.stream_window_bytes // 65):
            end.feed(item)
        end.feed(frame(FrameType.STREAM_DATA, LAST, call.id))
        assert end.error is None
        assert end.connection._conduct.controls.tokens == 1
        end.feed(item * 4)
        assert str(end.error) == "too many control frames"

    def test_s9_late_cancels_are_counted_twice(self) -> None:
        end, _ = policing(attrs.evolve(LIMITS, cancel_burst=10**6, control_frame_burst=100))
        frames = late_cancels(end)
        while end.error is None:
            end.feed(next(frames))
        assert str(end.error) == "too many control frames"
        end, _ = policing(attrs.evolve(LIMITS, cancel_burst=100))
        frames = late_cancels(end)
        while end.error is None:
            end.feed(next(frames))
        assert str(end.error) == "too many cancelled calls"

    def test_s9_the_default_is_two_strikes(self) -> None:
        assert LIMITS.max_strikes == 2
        end, _ = policing()
        count = 0
        while end.error is None:
            end.feed(frame(FrameType.HEALTH_CHECK))
            count += 1
        assert count == 10_000 + 1000 + 1

    def test_s9_one_offence_is_forgiven(self) -> None:
        end, clock = policing(attrs.evolve(LIMITS, control_frame_burst=100))
        for _ in range(101):
            end.feed(frame(FrameType.HEALTH_CHECK))
        clock.now = 10.0
        for _ in range(100):
            end.feed(frame(FrameType.HEALTH_CHECK))
        assert end.error is None


class Churn:
    """Attackers that read nothing that this side sends."""

    @staticmethod
    def refused_calls(end: WireEnd) -> Iterator[bytes]:
        end.connection.serve(CalleeSide, lambda *_: NotFound("no" * 100))
        n = 0
        while True:
            n += 2
            yield request(n)

    @staticmethod
    def too_many_calls(end: WireEnd) -> Iterator[bytes]:
        n = 0
        while True:
            n += 2
            yield request(n)

    @staticmethod
    def answered_calls(end: WireEnd) -> Iterator[bytes]:
        n = 0
        while True:
            n += 2
            yield request(n)
            for call in handled(end):
                end.connection.respond(call, b"small", 0, 0)

    @staticmethod
    def half_requests(end: WireEnd) -> Iterator[bytes]:
        n = 0
        while True:
            n += 2
            yield first_fragment(FrameType.EXECUTION_REQUEST, n, 2, b"x")
            yield frame(CANCEL, 0, n)

    @staticmethod
    def half_refused_requests(end: WireEnd) -> Iterator[bytes]:
        end.connection.serve(CalleeSide, lambda *_: NotFound("no"))
        yield from Churn.half_requests(end)


NEVER_READING = [
    *CONTROL_FLOODS, late_cancels, Churn.refused_calls, Churn.too_many_calls, Churn.answered_calls,
    Churn.half_requests, Churn.half_refused_requests,
]  # fmt: skip


@pytest.mark.parametrize("flood", NEVER_READING)
def test_s9_a_peer_that_never_reads_cannot_grow_our_output(
    flood: Callable[[WireEnd], Iterator[bytes]],
) -> None:
    """The rate earns no strike. The peer is either cut off, or its unsent data stays small."""
    end, clock = policing()
    frames = flood(end)
    for n in range(20_000):
        clock.now = n / 100
        end.feed(next(frames))
        if end.error is not None:
            break
    waiting = end.take_bytes()
    assert len(waiting) <= 64 * KIB
    assert len(split_frames(waiting)) <= 2 * LIMITS.max_calls + 2


def test_s9_who_reads_may_have_as_many_calls_refused_as_it_likes() -> None:
    end, _ = policing()
    frames = Churn.refused_calls(end)
    for n in range(20_000):
        end.feed(next(frames))
        if n % LIMITS.max_calls == 0:  # as much as an honest caller leaves unread
            end.take_bytes()
    assert end.error is None


@pytest.mark.slow
def test_s9_large_answers_that_nobody_reads_stop_further_calls() -> None:
    end, _ = policing()
    n = 0
    while end.error is None and n < 20_000:
        n += 2
        end.feed(request(n))
        for call in handled(end):
            end.connection.respond(call, bytes(4 * 1024 * KIB), 0, 0)
        assert end.outbox.pending_bytes <= LIMITS.request_bytes_in_flight + 4 * 1024 * KIB
    assert str(end.error) == "the peer starts calls and does not read the responses"


def test_the_kinds_that_are_counted_are_those_that_nothing_else_bounds() -> None:
    counted = {next(flood(policing()[0]))[10] for flood in CONTROL_FLOODS}
    assert counted == {
        Kind.HEALTH_CHECK, Kind.HEALTH_RESPONSE, Kind.ANNOUNCE, 0x33, Kind.SIGNAL, Kind.CREDIT,
        Kind.ITEM,
    }  # fmt: skip
