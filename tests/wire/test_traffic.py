"""Both ends of a connection under random traffic that follows the rules.

Invariants:

* neither end ever finds that the other broke a rule, whatever frames cross on the way;
* items arrive in the order in which they were sent, and none is lost in a call that was not cancelled;
* no end holds more than a window and one item, nor more calls than it allows;
* when everything has ended and been consumed, all credit is returned and nothing is left over.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TypeVar

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from spear import FunctionRaised
from spear._limits import KIB
from spear.testing import ConnectionPair, WireEnd
from spear.wire import (
    ITEM_OVERHEAD_BYTES,
    LAST,
    MESSAGES_ID,
    REPLY_STREAM,
    STREAM,
    Call,
    CalleeSide,
    CallerSide,
    CallState,
    FrameType,
    Head,
    Kind,
    Role,
)

from .helpers import SMALL, start

ENDS = st.sampled_from([0, 1])
INDEX = st.integers(0, 63)
SIZES_OF_ITEMS = [0, 1, 900, 5 * KIB, 20 * KIB, 33 * KIB, 70 * KIB, 120 * KIB, 250 * KIB]
SIZES = st.sampled_from(SIZES_OF_ITEMS)
STREAMS = st.sampled_from([0, STREAM, REPLY_STREAM, STREAM | REPLY_STREAM])


@attrs.define
class Application:
    """The user of one end, with its calls and the items that it has not taken yet."""

    end: WireEnd
    outbound: list[CallerSide] = attrs.Factory(list)
    inbound: list[CalleeSide] = attrs.Factory(list)
    unread: list[tuple[Call, int]] = attrs.Factory(list)
    sent: defaultdict[int, list[bytes]] = attrs.Factory(lambda: defaultdict(list))
    received: defaultdict[int, list[bytes]] = attrs.Factory(lambda: defaultdict(list))
    cancelled: set[int] = attrs.Factory(set)
    seen: Counter[int] = attrs.Factory(Counter)

    def see(self) -> None:
        """Process the events that have arrived."""
        for call, type_, _, _, _, _, payload in self.end.take_events():
            self.seen[type_] += 1
            if type_ == FrameType.EXECUTION_REQUEST:
                assert isinstance(call, CalleeSide)
                self.inbound.append(call)
            elif type_ in (FrameType.EXECUTION_RESPONSE, FrameType.ERROR):
                assert isinstance(call, CallerSide)
                assert call.state is CallState.DONE
                self.outbound.remove(call)
            elif type_ == FrameType.STREAM_DATA:
                assert call is not None
                assert isinstance(payload, list)
                for item in payload:
                    assert isinstance(item, bytes)
                    self.received[call.id].append(item)
                    self.unread.append((call, len(item) + ITEM_OVERHEAD_BYTES))
            elif type_ == FrameType.CANCEL:
                assert call is not None
                assert call.state is CallState.CANCELLING
                self.cancelled.add(call.id)

    def consume(self, count: int) -> None:
        taken, self.unread = self.unread[:count], self.unread[count:]
        for call, cost in taken:
            self.end.connection.consumed(call, cost)

    def finish(self, call: CalleeSide, size: int, *, is_failure: bool) -> None:
        self.inbound.remove(call)
        if is_failure:
            self.end.connection.fail(call, FunctionRaised("no"))
        else:
            self.end.connection.respond(call, bytes(size), 0, 1)


T = TypeVar("T")


def chosen(calls: list[T], index: int) -> list[T]:
    """Return one of the calls, or none if there is none.

    Used instead of preconditions, with which Hypothesis would sometimes find too few rules to choose
    from, and report a failure.
    """
    return [calls[index % len(calls)]] if calls else []


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pair = ConnectionPair(host_limits=SMALL, agent_limits=SMALL, is_policed=False)
        self.apps = [Application(end) for end in self.pair.ends]
        self.items = 0

    @property
    def outbound(self) -> list[tuple[Application, CallerSide]]:
        return [(app, call) for app in self.apps for call in app.outbound]

    @property
    def inbound(self) -> list[tuple[Application, CalleeSide]]:
        return [(app, call) for app in self.apps for call in app.inbound]

    @rule(who=ENDS, size=SIZES, flags=STREAMS, has_head=st.booleans())
    def call(self, who: int, size: int, flags: int, has_head: bool) -> None:
        app = self.apps[who]
        if app.end.connection.outbound_open < SMALL.max_calls:
            head: Head | None = {"meta": {"of": "ours"}} if has_head else None
            app.outbound.append(start(app.end, bytes(size), flags, head))

    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        for app, call in chosen(self.outbound, index):
            app.cancelled.add(call.id)
            if app.end.connection.cancel(call):
                app.outbound.remove(call)

    @rule(index=INDEX, size=SIZES, is_failure=st.booleans())
    def answer(self, index: int, size: int, is_failure: bool) -> None:
        for app, call in chosen(self.inbound, index):
            app.finish(call, size, is_failure=is_failure)

    @rule(index=INDEX, size=SIZES, count=st.integers(1, 6), is_last=st.booleans())
    def send_from_caller(self, index: int, size: int, count: int, is_last: bool) -> None:
        for app, call in chosen(self.outbound, index):
            self.send(app, call, size, count, is_last=is_last)

    @rule(index=INDEX, size=SIZES, count=st.integers(1, 6))
    def send_from_callee(self, index: int, size: int, count: int) -> None:
        for app, call in chosen(self.inbound, index):
            self.send(app, call, size, count)

    @rule(who=ENDS, size=SIZES, count=st.integers(1, 6))
    def send_messages(self, who: int, size: int, count: int) -> None:
        app = self.apps[who]
        self.send(app, app.end.connection.messages, size, count)

    def send(
        self, app: Application, call: Call, size: int, count: int, *, is_last: bool = False
    ) -> None:
        connection = app.end.connection
        for n in range(count):
            flags = LAST if is_last and n == count - 1 else 0
            kind = Kind.LAST_ITEM if flags else Kind.ITEM
            if kind not in call.sends[call.state] or not connection.may_send_item(call):
                return
            self.items += 1
            item = bytes([self.items % 251]) * size
            connection.send_item(call, item, flags)
            app.sent[call.id].append(item)

    @rule(index=INDEX)
    def end_items(self, index: int) -> None:
        for app, call in chosen(self.outbound, index):
            if call.state is CallState.STREAMING:
                app.end.connection.end_items(call)

    @rule(count=st.integers(1, 20))
    def consume(self, count: int) -> None:
        for app in self.apps:
            app.consume(count)

    @rule(who=ENDS)
    def transmit(self, who: int) -> None:
        self.pair.transmit(self.pair.ends[who])

    @rule(who=ENDS, takes=st.integers(0, 3), count=st.sampled_from([None, 30, 700, 3000, 40 * KIB]))
    def arrive(self, who: int, takes: int, count: int | None) -> None:
        end = self.pair.ends[who]
        for _ in range(takes):
            self.pair.transmit(self.pair.peer_of(end))
        end.receive_incoming(count)
        assert end.error is None
        self.apps[who].see()

    @invariant()
    def nobody_holds_too_much(self) -> None:
        for app in self.apps:
            here, there = app.end.connection, self.pair.peer_of(app.end).connection
            assert here.inbound_open <= SMALL.max_calls
            assert here.outbound_open <= SMALL.max_calls
            receiving = here.windows.receive
            assert receiving.size >= receiving.available >= there.windows.send.available
            most = SMALL.connection_window_bytes + SMALL.max_message_bytes
            assert sum(cost - ITEM_OVERHEAD_BYTES for _, cost in app.unread) <= most

    def settle(self) -> None:
        """Deliver everything in flight, and take all items."""
        for _ in range(2):  # items taken return credit
            self.pair.pump()
            for app in self.apps:
                app.see()
                app.consume(len(app.unread))

    def teardown(self) -> None:
        self.settle()
        while self.inbound or self.outbound:
            for app, call in self.inbound:
                app.finish(call, 0, is_failure=False)
            self.settle()
        for app, other in (self.apps, self.apps[::-1]):
            self.nothing_is_left(app)
            for call_id, items in other.sent.items():
                got = app.received[call_id]
                assert got == items[: len(got)]
                # The callee's items all come before its answer, unless the caller did not want them. The
                # caller's items may cross the answer; then the rest is not sent.
                is_callers = call_id % 2 == (other.end.role is Role.HOST)
                if call_id == MESSAGES_ID or not (is_callers or call_id in app.cancelled):
                    assert got == items

    @staticmethod
    def nothing_is_left(app: Application) -> None:
        end, connection = app.end, app.end.connection
        assert (app.inbound, app.outbound, app.unread) == ([], [], [])
        assert (connection.inbound_open, connection.outbound_open) == (0, 0)
        assert connection.request_bytes == 0
        assert list(connection.calls.values()) == [connection.messages]
        assert connection.incomplete == {}
        windows = connection.windows
        assert windows.receive.available + windows.receive.consumed == windows.receive.size
        assert not end.outbox
        assert end.outbox.pending_bytes == 0
        assert end.receiver.buffered_bytes == 0
        assert end.receiver.assembling_bytes == 0


def drive(rng: random.Random, steps: int) -> Counter[int]:
    """Run the same machine with an ordinary generator: longer runs, and no time for shrinking.

    Return how often each type of frame was seen.
    """
    machine = Traffic()
    for _ in range(steps):
        what = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        who, count = rng.randrange(2), rng.randint(1, 6)
        index, size = rng.randrange(64), rng.choice(SIZES_OF_ITEMS)
        if what == "call":
            flags = rng.choice([0, STREAM, REPLY_STREAM, STREAM | REPLY_STREAM])
            machine.call(who, size, flags, rng.random() < 0.5)
        elif what == "arrive":
            machine.arrive(who, rng.randint(0, 3), rng.choice([None, None, 30, 700, 40 * KIB]))
        elif what == "consume":
            machine.consume(count)
        elif what == "message":
            machine.send_messages(who, size, count)
        elif what == "answer":
            machine.answer(index, size, rng.random() < 0.3)
        elif what == "callee's item":
            machine.send_from_callee(index, size, count)
        elif what == "cancel":
            machine.cancel(index)
        elif what == "end":
            machine.end_items(index)
        else:
            machine.send_from_caller(index, size, count, rng.random() < 0.1)
        machine.nobody_holds_too_much()
    machine.teardown()
    return machine.apps[0].seen + machine.apps[1].seen


WEIGHTS = {
    "call": 10, "cancel": 3, "answer": 6, "caller's item": 10, "callee's item": 10, "message": 2,
    "end": 2, "consume": 6, "arrive": 30,
}  # fmt: skip


SEEN = {
    FrameType.EXECUTION_REQUEST, FrameType.EXECUTION_RESPONSE, FrameType.ERROR, FrameType.CANCEL,
    FrameType.STREAM_DATA, FrameType.CREDIT,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.repetitive
def test_random_traffic_loses_no_credit() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=50, stateful_step_count=50))


@pytest.mark.repetitive
@pytest.mark.slow
def test_long_random_traffic_loses_no_credit(seed: random.Random) -> None:
    seen: Counter[int] = Counter()
    for _ in range(100):
        seen += drive(seed, 300)
    assert set(seen) == SEEN, "the traffic does not cover the expected cases"


@pytest.mark.soak
def test_random_traffic_for_a_long_time(seed: random.Random) -> None:
    for _ in range(20_000):
        assert set(drive(seed, 1000)) <= SEEN
