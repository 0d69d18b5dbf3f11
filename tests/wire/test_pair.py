"""ConnectionPair itself, on which users' tests depend."""

from __future__ import annotations

import random

import pytest

from spear import AuthenticationFailed, RemoteProtocolError
from spear._ids import Secret
from spear.testing import ConnectionPair, byte_cuts, random_cuts, uncut
from spear.wire import FrameType, Kind

from .conftest import bytewise
from .helpers import SMALL, call_between, frame, request, start, types


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 300_000])
def test_cuts_lose_nothing(size: int, seed: random.Random) -> None:
    data = seed.randbytes(size)
    for pieces in (uncut(data), byte_cuts(data[:1000]), random_cuts(data, seed)):
        assert b"".join(pieces) in (data, data[:1000])
        assert b"" not in pieces


@pytest.mark.parametrize("size", [0, 1, 399, 400, 449, 450, 451, 500, 1000, 5000])
def test_bytewise_cuts_lose_nothing(size: int, seed: random.Random) -> None:
    data = frame(0x91, payload=seed.randbytes(size)) * 3
    pieces = bytewise(data + b"\xff" * 600)
    assert b"".join(pieces) == data + b"\xff" * 600
    assert b"" not in pieces


def test_random_cuts_are_those_of_the_seed() -> None:
    data = bytes(10_000)
    first, second = (random_cuts(data, random.Random(5)) for _ in range(2))
    assert first == second
    assert len(first) > 1


@pytest.mark.parametrize("how", ["whole", "bytewise", "randomly"])
@pytest.mark.parametrize("is_direct", [True, False])
def test_bytes_move_until_none_are_left(how: str, is_direct: bool, seed: random.Random) -> None:
    pair = ConnectionPair(host_limits=SMALL, agent_limits=SMALL, is_direct=is_direct)
    payload = seed.randbytes(70_000)
    start(pair.host, payload)
    start(pair.agent, b"the other way")
    if how == "whole":
        pair.pump()
    elif how == "bytewise":
        pair.pump_bytewise()
    else:
        pair.pump_randomly(seed)
    assert [event[6] for event in pair.agent.take_events()] == [payload]
    assert [event[6] for event in pair.host.take_events()] == [b"the other way"]
    assert pair.host.events == []
    assert not pair.host.incoming
    assert not pair.agent.outbox


def test_a_test_can_move_them_itself() -> None:
    pair = ConnectionPair()
    start(pair.host, b"x")
    size = pair.transmit(pair.host)
    assert len(pair.agent.incoming) == size
    assert pair.agent.receive_incoming(size - 1) == []
    assert types(pair.agent.receive_incoming()) == [FrameType.EXECUTION_REQUEST]


def test_a_violation_is_raised_where_it_is_pumped() -> None:
    pair = ConnectionPair()
    pair.agent.incoming.extend(frame(0xD5))
    with pytest.raises(RemoteProtocolError, match="frame 0xd5"):
        pair.pump()


def test_nothing_is_read_behind_a_violation() -> None:
    pair = ConnectionPair()
    pair.host.feed(request(2) + frame(0xD5) + request(4))
    assert [event[1] for event in pair.host.feed(request(6))] == []
    assert len(pair.host.events) == 1


def test_both_ends_see_one_clock() -> None:
    pair = ConnectionPair()
    _, inbound = call_between(pair)
    for n in range(3000):  # a hundred cancels per second are allowed, one at a time
        pair.now = n / 100
        pair.host.connection.send_control(Kind.HEALTH_CHECK, a=n)
        pair.pump()
    assert inbound.id == 1
    assert pair.host.error is None


def test_what_was_sent_can_be_kept() -> None:
    pair = ConnectionPair(records=True)
    start(pair.host, b"x")
    pair.pump()
    assert pair.host.sent is not None
    assert pair.host.sent.endswith(frame(0x90, 0, 1, 1, 0xFFFF_FFFF, b"x"))
    assert ConnectionPair().host.sent is None


class TestHandshake:
    """A failing handshake raises the same error as a real one."""

    def test_a_wrong_secret(self) -> None:
        with pytest.raises(AuthenticationFailed, match="the agent does not know"):
            ConnectionPair(agent_secret=Secret(bytes(32)))

    def test_bytes_that_are_no_frame(self) -> None:
        pair = ConnectionPair(is_connected=False)
        pair.agent.receiver.receive_data(b"\xff" * 7)
        with pytest.raises(RemoteProtocolError, match="a frame has"):
            pair.connect()

    def test_another_frame_than_must_come_now(self) -> None:
        pair = ConnectionPair(is_connected=False)
        pair.host.outbox.push(FrameType.CLOSE, 0, 0, 0, 0)
        with pytest.raises(RemoteProtocolError, match="expected a frame CHALLENGE"):
            pair.connect()
