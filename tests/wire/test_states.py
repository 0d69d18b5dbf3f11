"""Every cell of the state tables: the tables are sound, and a Connection follows them.

A cell is a role, a state and a kind of frame. If the table names a next state, the move must succeed
and lead there; if not, it must be refused and leave the state unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from spear import ChannelClosed, FunctionRaised, LocalProtocolError, RemoteProtocolError
from spear._limits import KIB
from spear.testing import WireEnd
from spear.wire import (
    LAST,
    REPLY_STREAM,
    STREAM,
    Call,
    CalleeSide,
    CallerSide,
    CallState,
    ConnectionState,
    FrameType,
    Kind,
    Role,
)
from spear.wire._states import (
    CALL_RECEIVES,
    CALL_SENDS,
    CONNECTION_RECEIVES,
    CONNECTION_SENDS,
    CallTable,
    ConnectionTable,
    kind_of,
)

from .helpers import BOTH_STREAMS, SMALL, Memory, called, frame, open_end, request, start

CONNECTION_ROLES = [Role.HOST, Role.AGENT]
CALL_ROLES = [Role.CALLER, Role.CALLEE]

HANDSHAKE = {Kind.CHALLENGE, Kind.AUTH_REQUEST, Kind.AUTH_ACCEPTED, Kind.AUTH_REFUSED}
CONNECTION_KINDS = {
    *HANDSHAKE, Kind.ANNOUNCE, Kind.HEALTH_CHECK, Kind.HEALTH_RESPONSE, Kind.CLOSE, Kind.LEND,
    Kind.RELEASE,
}  # fmt: skip
CALL_KINDS = set(Kind) - CONNECTION_KINDS

OPENED = set(ConnectionState) - {
    ConnectionState.START, ConnectionState.CHALLENGED, ConnectionState.PROVING, ConnectionState.CLOSED,
}  # fmt: skip


# -- the tables themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("table", [CONNECTION_SENDS, CONNECTION_RECEIVES])
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_connection_tables_are_complete(table: dict[Role, ConnectionTable], role: Role) -> None:
    assert set(table) == set(CONNECTION_ROLES)
    assert set(table[role]) == set(ConnectionState)
    for moves in table[role].values():
        assert set(moves) <= set(Kind)
        assert set(moves.values()) <= set(ConnectionState)
    assert table[role][ConnectionState.CLOSED] == {}


@pytest.mark.parametrize("table", [CALL_SENDS, CALL_RECEIVES])
@pytest.mark.parametrize("role", CALL_ROLES)
def test_r2_call_tables_are_complete(table: dict[Role, CallTable], role: Role) -> None:
    assert set(table) == set(CALL_ROLES)
    assert set(table[role]) == set(CallState)
    for moves in table[role].values():
        assert set(moves) <= CALL_KINDS
        assert set(moves.values()) <= set(CallState)
    assert table[role][CallState.DONE] == {}


def test_r2_every_kind_is_sent_and_received_by_somebody() -> None:
    for sends, receives in ((CONNECTION_SENDS, CONNECTION_RECEIVES), (CALL_SENDS, CALL_RECEIVES)):
        sent = {kind for table in sends.values() for moves in table.values() for kind in moves}
        received = {
            kind for table in receives.values() for moves in table.values() for kind in moves
        }
        assert sent == received
        assert sent == (set(Kind) if sends is CONNECTION_SENDS else CALL_KINDS)


def test_r2_states_only_move_forward() -> None:
    for table in (*CONNECTION_SENDS.values(), *CONNECTION_RECEIVES.values()):
        for state, moves in table.items():
            assert all(after >= state for after in moves.values())
    for calls in (*CALL_SENDS.values(), *CALL_RECEIVES.values()):
        for call_state, call_moves in calls.items():
            assert all(after >= call_state for after in call_moves.values())


def test_kinds_are_frame_types_and_their_variants() -> None:
    assert {kind & 0xFF for kind in Kind} == set(FrameType) - {FrameType.BODY}
    assert kind_of(FrameType.EXECUTION_REQUEST, 0) == Kind.REQUEST
    assert kind_of(FrameType.EXECUTION_REQUEST, REPLY_STREAM) == Kind.REQUEST
    assert kind_of(FrameType.EXECUTION_REQUEST, STREAM) == Kind.STREAM_REQUEST
    assert kind_of(FrameType.STREAM_DATA, 0) == Kind.ITEM
    assert kind_of(FrameType.STREAM_DATA, LAST) == Kind.LAST_ITEM
    assert kind_of(FrameType.CREDIT, LAST | STREAM) == Kind.CREDIT
    assert kind_of(0x55, STREAM) == 0x55


# -- connections, through the object --------------------------------------------------------------


def reach(role: Role, state: ConnectionState) -> WireEnd:
    """Return an end that has reached ``state`` by moves of the table, with open calls if possible."""
    end = WireEnd(role, SMALL)
    connection = end.connection
    if state is ConnectionState.START:
        return end
    if role is Role.HOST:
        steps: list[Callable[[], None]] = [
            lambda: connection.send_control(Kind.CHALLENGE),
            lambda: connection.receive_control_untrusted(Kind.AUTH_REQUEST),
            lambda: connection.send_control(Kind.AUTH_ACCEPTED),
        ]
    else:
        steps = [
            lambda: connection.receive_control_untrusted(Kind.CHALLENGE),
            lambda: connection.send_control(Kind.AUTH_REQUEST),
            lambda: connection.receive_control_untrusted(Kind.AUTH_ACCEPTED),
        ]
    for step in steps[: min(state, ConnectionState.OPEN)]:
        step()
    if state < ConnectionState.OPEN:
        return end
    connection.open(SMALL)
    if state in (ConnectionState.DRAINING, ConnectionState.CLOSING):
        connection.send_control(Kind.CLOSE)
    if state in (ConnectionState.PEER_DRAINING, ConnectionState.CLOSING):
        end.feed(frame(FrameType.CLOSE))
    if state is ConnectionState.CLOSED:
        connection.lose()
    assert connection.state is state
    return end


@attrs.frozen
class Calls:
    """A call in each direction, both streaming both ways, with credit spent in both."""

    end: WireEnd
    ours: CallerSide
    theirs: CalleeSide

    @classmethod
    def of(cls, end: WireEnd) -> Calls:
        ours = start(end, flags=BOTH_STREAMS)
        end.feed(request(cls.peer_id(end), flags=BOTH_STREAMS))
        theirs = called(end)
        exchange_items(end, ours, theirs)
        end.take_events()
        return cls(end, ours, theirs)

    @staticmethod
    def peer_id(end: WireEnd) -> int:
        return 2 if end.role is Role.HOST else 1


def reach_with_calls(role: Role, state: ConnectionState) -> Calls:
    """Reach ``state`` like :func:`reach`, with calls that were opened while the state was OPEN."""
    end = open_end(role, SMALL)
    calls = Calls.of(end)
    if state in (ConnectionState.DRAINING, ConnectionState.CLOSING):
        end.connection.send_control(Kind.CLOSE)
    if state in (ConnectionState.PEER_DRAINING, ConnectionState.CLOSING):
        end.feed(frame(FrameType.CLOSE))
    if state is ConnectionState.CLOSED:
        end.connection.lose()
    while end.outbox:
        end.take_bytes()
    assert end.connection.state is state
    return calls


def send_call_frame(calls: Calls, kind: Kind) -> None:
    """Make the connection send a frame of this kind."""
    connection = calls.end.connection
    if kind is Kind.REQUEST:
        start(calls.end)
    elif kind is Kind.STREAM_REQUEST:
        start(calls.end, flags=STREAM)
    elif kind is Kind.RESPONSE:
        connection.respond(calls.theirs, b"", 0, 0)
    elif kind is Kind.ERROR:
        connection.fail(calls.theirs, FunctionRaised("no"))
    elif kind is Kind.CANCEL:
        connection.cancel(calls.ours)
    elif kind is Kind.ITEM:
        connection.send_item(calls.ours, b"item", 0)
    elif kind is Kind.LAST_ITEM:
        connection.end_items(calls.ours)
    elif kind is Kind.CREDIT:
        connection.consumed(calls.ours, 40 * KIB)
    else:
        assert kind is Kind.SIGNAL
        connection.signal(calls.theirs, b"half", 0, 0.0)


@pytest.mark.parametrize("kind", sorted(CONNECTION_KINDS))
@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_sending_connection_frames(role: Role, state: ConnectionState, kind: Kind) -> None:
    end = reach(role, state)
    while end.outbox:
        end.take_bytes()
    after = CONNECTION_SENDS[role][state].get(kind)
    if after is None:
        with pytest.raises(
            LocalProtocolError, match=f"cannot send {kind.name} in state {state.name}"
        ):
            end.connection.send_control(kind)
        assert end.connection.state is state
        assert not end.outbox
    else:
        end.connection.send_control(kind)
        assert end.connection.state is after
        assert end.take_bytes() == frame(kind & 0xFF)


NEW_CALLS = {Kind.REQUEST, Kind.STREAM_REQUEST}


@pytest.mark.parametrize("kind", sorted(CALL_KINDS))
@pytest.mark.parametrize("state", sorted(OPENED | {ConnectionState.CLOSED}))
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_sending_call_frames(role: Role, state: ConnectionState, kind: Kind) -> None:
    calls = reach_with_calls(role, state)
    end = calls.end
    if kind in NEW_CALLS and state is not ConnectionState.OPEN:
        # The table allows call frames while either side shuts down; a new call is refused here.
        with pytest.raises(ChannelClosed):
            send_call_frame(calls, kind)
        assert not end.outbox
    elif CONNECTION_SENDS[role][state].get(kind) is None:
        states = calls.ours.state, calls.theirs.state
        try:
            send_call_frame(calls, kind)
        except LocalProtocolError:
            assert kind not in (Kind.CANCEL, Kind.CREDIT)
        else:  # these two do nothing when there is nothing to send
            assert kind in (Kind.CANCEL, Kind.CREDIT)
        assert (calls.ours.state, calls.theirs.state) == states
        assert not end.outbox
    else:
        send_call_frame(calls, kind)
        assert end.take_bytes()[10] == kind & 0xFF
    assert end.connection.state is state


@pytest.mark.parametrize("kind", sorted(CALL_KINDS))
@pytest.mark.parametrize("state", sorted(set(ConnectionState) - OPENED))
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_no_call_is_sent_before_the_connection_is_open_or_after(
    role: Role, state: ConnectionState, kind: Kind
) -> None:
    assert kind not in CONNECTION_SENDS[role][state]
    end = reach(role, state)
    while end.outbox:
        end.take_bytes()
    with pytest.raises(ChannelClosed):
        start(end)
    assert end.connection.calls.keys() <= {end.connection.messages.id}
    assert not end.outbox
    assert end.connection.state is state


def frame_for(calls: Calls, kind: Kind) -> bytes:
    """Return a frame of this kind that is valid for its call."""
    ours, theirs = calls.ours.id, calls.theirs.id
    item = FrameType.STREAM_DATA
    frames = {
        Kind.REQUEST: request(theirs + 2),
        Kind.STREAM_REQUEST: request(theirs + 2, flags=STREAM),
        Kind.RESPONSE: frame(FrameType.EXECUTION_RESPONSE, 0, ours),
        Kind.ERROR: frame(FrameType.ERROR, 0, ours, 1),
        Kind.CANCEL: frame(FrameType.CANCEL, 0, theirs),
        Kind.ITEM: frame(item, 0, ours, 1),
        Kind.LAST_ITEM: frame(item, LAST, theirs, 1),
        Kind.CREDIT: frame(FrameType.CREDIT, 0, ours, 1),
        Kind.SIGNAL: frame(FrameType.SIGNAL, 0, ours),
    }
    return frames.get(kind) or frame(kind & 0xFF)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("state", sorted(OPENED))
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_receiving_while_open(role: Role, state: ConnectionState, kind: Kind) -> None:
    calls = reach_with_calls(role, state)
    end = calls.end
    end.take_events()
    end.outbox.lend_through(memory := Memory())
    assert memory.lend(b"") is not None  # gives RELEASE a number
    end.feed(frame_for(calls, kind))
    after = CONNECTION_RECEIVES[role][state].get(kind)
    if after is None:
        assert str(end.error) == f"frame {kind & 0xFF:#x} in state {state.name}"
        assert end.connection.state is state
        assert end.events == []
        assert calls.ours.state is calls.theirs.state is CallState.STREAMING
    else:
        assert end.error is None
        assert end.connection.state is after


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("state", sorted(set(ConnectionState) - OPENED))
@pytest.mark.parametrize("role", CONNECTION_ROLES)
def test_r2_receiving_before_the_connection_is_open_and_after(
    role: Role, state: ConnectionState, kind: Kind
) -> None:
    end = reach(role, state)
    after = CONNECTION_RECEIVES[role][state].get(kind)
    if after is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.name} in state {state.name}"):
            end.connection.receive_control_untrusted(kind)
        assert end.connection.state is state
    else:
        end.connection.receive_control_untrusted(kind)
        assert end.connection.state is after
    # Traffic frames are always refused.
    end = reach(role, state)
    end.feed(frame(kind & 0xFF, call_id=1))
    assert str(end.error) == f"received frames in state {state.name}"
    assert end.connection.state is state
    assert end.events == []


# -- calls, through the object --------------------------------------------------------------------

PEER_ID = 2


def reach_call(role: Role, state: CallState) -> tuple[WireEnd, Call]:
    """Return a host, and a call in this role that has reached this state by moves of the table.

    Items have gone both ways, so that there is credit to return.
    """
    end = open_end(Role.HOST, SMALL)
    if state is CallState.IDLE:
        return end, CallerSide() if role is Role.CALLER else CalleeSide()
    if role is Role.CALLER:
        ours = start(end, flags=BOTH_STREAMS)
        exchange_items(end, ours)
        if state is CallState.RUNNING:
            end.connection.end_items(ours)
        elif state is CallState.CANCELLING:
            end.connection.cancel(ours)
        elif state is CallState.DONE:
            end.feed(frame(FrameType.EXECUTION_RESPONSE, 0, ours.id))
        call: Call = ours
    else:
        end.feed(request(PEER_ID, flags=BOTH_STREAMS))
        theirs = called(end)
        exchange_items(end, theirs)
        if state is CallState.RUNNING:
            end.feed(frame(FrameType.STREAM_DATA, LAST, theirs.id))
        elif state is CallState.CANCELLING:
            end.feed(frame(FrameType.CANCEL, 0, theirs.id))
        elif state is CallState.DONE:
            end.connection.respond(theirs, b"", 0, 0)
        call = theirs
    assert call.state is state
    assert end.error is None
    while end.outbox:
        end.take_bytes()
    end.take_events()
    return end, call


def exchange_items(end: WireEnd, *calls: Call) -> None:
    """Send 40 KiB in each direction of each call."""
    for call in calls:
        end.connection.send_item(call, bytes(40 * KIB), 0)
        end.feed(frame(FrameType.STREAM_DATA, 0, call.id, 1, 0, bytes(40 * KIB)))
    while end.outbox:
        end.take_bytes()
    assert end.error is None


Act: TypeAlias = Callable[[WireEnd, Call], object]


def as_caller(call: Call) -> CallerSide:
    """Return the call with the type of a caller's side, although its role may be the other one."""
    return call  # type: ignore[return-value]  # see above


def as_callee(call: Call) -> CalleeSide:
    return call  # type: ignore[return-value]  # see as_caller


SENDING: dict[Kind, Act] = {
    Kind.REQUEST: lambda end, call: start(end, call=as_caller(call)),
    Kind.STREAM_REQUEST: lambda end, call: start(end, flags=STREAM, call=as_caller(call)),
    Kind.RESPONSE: lambda end, call: end.connection.respond(as_callee(call), b"", 0, 0),
    Kind.ERROR: lambda end, call: end.connection.fail(as_callee(call), FunctionRaised("no")),
    Kind.CANCEL: lambda end, call: end.connection.cancel(as_caller(call)),
    Kind.ITEM: lambda end, call: end.connection.send_item(call, b"", 0),
    Kind.LAST_ITEM: lambda end, call: end.connection.end_items(call),
    Kind.CREDIT: lambda end, call: end.connection.consumed(call, 40 * KIB),
    Kind.SIGNAL: lambda end, call: end.connection.signal(as_callee(call), b"", 0, 0.0),
}

ASKS_NOTHING = {Kind.CANCEL, Kind.CREDIT}
"""Kinds that do nothing, instead of raising, when there is nothing to cancel or to return."""


@pytest.mark.parametrize("kind", sorted(CALL_KINDS))
@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize("role", CALL_ROLES)
def test_r2_sending_frames_of_a_call(role: Role, state: CallState, kind: Kind) -> None:
    if role is Role.CALLEE and state is CallState.IDLE and kind in NEW_CALLS:
        # No method starts a call of the peer.
        assert kind not in CALL_SENDS[role][state]
        return
    end, call = reach_call(role, state)
    after = CALL_SENDS[role][state].get(kind)
    if after is None:
        try:
            SENDING[kind](end, call)
        except LocalProtocolError:
            assert kind not in ASKS_NOTHING
        else:
            assert kind in ASKS_NOTHING
        assert call.state is state
        sent = end.take_bytes()
        # The connection's own credit is returned in every state of the call.
        assert sent in (b"", frame(FrameType.CREDIT, 0, 0, 40 * KIB))
    else:
        SENDING[kind](end, call)
        assert call.state is after
        sent = end.take_bytes()
        assert sent[10] == kind & 0xFF
        assert int.from_bytes(sent[13:21], "big") == call.id
        assert (call.id in end.connection.calls) == (after is not CallState.DONE)


RECEIVING: dict[Kind, Callable[[int], bytes]] = {
    Kind.REQUEST: request,
    Kind.STREAM_REQUEST: lambda call_id: request(call_id, flags=STREAM),
    Kind.RESPONSE: lambda call_id: frame(FrameType.EXECUTION_RESPONSE, 0, call_id),
    Kind.ERROR: lambda call_id: frame(FrameType.ERROR, 0, call_id, 1),
    Kind.CANCEL: lambda call_id: frame(FrameType.CANCEL, 0, call_id),
    Kind.ITEM: lambda call_id: frame(FrameType.STREAM_DATA, 0, call_id, 1),
    Kind.LAST_ITEM: lambda call_id: frame(FrameType.STREAM_DATA, LAST, call_id, 1),
    Kind.CREDIT: lambda call_id: frame(FrameType.CREDIT, 0, call_id, 1),
    Kind.SIGNAL: lambda call_id: frame(FrameType.SIGNAL, 0, call_id),
}

LATE = {Kind.ITEM, Kind.LAST_ITEM, Kind.CREDIT, Kind.SIGNAL, Kind.CANCEL}
"""Kinds that may arrive after a final frame, and are then ignored."""


@pytest.mark.parametrize("kind", sorted(CALL_KINDS))
@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize("role", CALL_ROLES)
def test_r2_receiving_frames_of_a_call(role: Role, state: CallState, kind: Kind) -> None:
    end, call = reach_call(role, state)
    # A call that does not exist yet has the number that it would get.
    call_id = call.id or (1 if role is Role.CALLER else PEER_ID)
    after = CALL_RECEIVES[role][state].get(kind)
    if role is Role.CALLEE and state is CallState.DONE and kind in NEW_CALLS:
        # Used ids are not remembered; this is a new call.
        end.feed(RECEIVING[kind](call_id))
        assert end.connection.calls[call_id] is not call
        assert call.state is CallState.DONE
        return
    end.feed(RECEIVING[kind](call_id))
    if after is not None:
        assert end.error is None
        found = end.connection.calls.get(call_id)
        assert (found is None) == (after is CallState.DONE)
        assert (found or call).state is after
    else:
        assert call.state is state
        assert end.events == []
        assert (end.error is None) == (state is CallState.DONE and kind in LATE)


def test_r2_the_cells_are_counted() -> None:
    """No cell is missing: the parametrizations above cover the product."""
    cells = len(CALL_ROLES) * len(CallState) * len(CALL_KINDS)
    assert cells == 2 * 5 * 9
    cells = len(CONNECTION_ROLES) * len(ConnectionState) * len(Kind)
    assert cells == 2 * 8 * 19
    assert set(SENDING) == set(RECEIVING) == CALL_KINDS


# -- frames that cross on the way -----------------------------------------------------------------


class Crossing(RuleBasedStateMachine):
    """Two ends of one call, by the tables alone: each must accept all that the other may send."""

    def __init__(self) -> None:
        super().__init__()
        self.states = dict.fromkeys(CALL_ROLES, CallState.IDLE)
        self.under_way: dict[Role, deque[int]] = {role: deque() for role in CALL_ROLES}

    @rule(role=st.sampled_from(CALL_ROLES), data=st.data())
    def send(self, role: Role, data: st.DataObject) -> None:
        moves = CALL_SENDS[role][self.states[role]]
        if moves:
            kind = data.draw(st.sampled_from(sorted(moves)))
            self.states[role] = moves[kind]
            self.under_way[role].append(kind)

    @rule(role=st.sampled_from(CALL_ROLES))
    def arrive(self, role: Role) -> None:
        sender = Role.CALLEE if role is Role.CALLER else Role.CALLER
        if self.under_way[sender]:
            kind = self.under_way[sender].popleft()
            moves = CALL_RECEIVES[role][self.states[role]]
            if self.states[role] is CallState.DONE:
                # The final frame is the callee's last; the caller's frames may all be late.
                assert role is Role.CALLEE
                assert kind in LATE
            else:
                self.states[role] = moves[kind]

    @invariant()
    def agree(self) -> None:
        """Assert that with no frame in flight both ends have the same state."""
        assert any(self.under_way.values()) or len(set(self.states.values())) == 1


class CrossingConnections(RuleBasedStateMachine):
    """Two ends of a connection, by the tables alone."""

    def __init__(self) -> None:
        super().__init__()
        self.states = dict.fromkeys(CONNECTION_ROLES, ConnectionState.START)
        self.under_way: dict[Role, deque[int]] = {role: deque() for role in CONNECTION_ROLES}

    @rule(role=st.sampled_from(CONNECTION_ROLES), data=st.data())
    def send(self, role: Role, data: st.DataObject) -> None:
        moves = CONNECTION_SENDS[role][self.states[role]]
        if moves:
            kind = data.draw(st.sampled_from(sorted(moves)))
            self.states[role] = moves[kind]
            self.under_way[role].append(kind)

    @rule(role=st.sampled_from(CONNECTION_ROLES))
    def arrive(self, role: Role) -> None:
        sender = Role.AGENT if role is Role.HOST else Role.HOST
        if self.under_way[sender]:
            kind = self.under_way[sender].popleft()
            self.states[role] = CONNECTION_RECEIVES[role][self.states[role]][kind]


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Crossing, CrossingConnections])
def test_r2_what_one_end_may_send_the_other_understands(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40))
