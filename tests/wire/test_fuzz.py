"""Any bytes that arrive give only events and RemoteProtocolError.

Invariants (row R1 of the guarantees):

* any bytes, random or valid traffic with mutations, either give events or set an error of type
  RemoteProtocolError; no other exception leaves the receiver or the connection;
* whole, byte by byte and at random cuts, the same bytes give the same events, the same answers and the
  same error;
* memory does not grow with the number of refused connections;
* bytes are parsed as fast as they can arrive.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, TypeAlias

import pytest

from spear import FunctionRaised
from spear._limits import KIB, MIB
from spear.testing import ConnectionPair, Cut, WireEnd, byte_cuts, random_cuts, uncut
from spear.wire import (
    CalleeSide,
    FrameType,
    Kind,
    Role,
    encode_head,
)

from .helpers import (
    BOTH_STREAMS,
    SMALL,
    Plain,
    open_end,
    open_receiver,
    plain,
    request,
    split_frames,
    start,
)

if TYPE_CHECKING:
    import random

Outcome: TypeAlias = tuple[list[Plain], str | None, bytes]
"""Events, error, and the bytes that the end would send."""

RSS_GROWTH_BYTES = 16 * MIB
FRAMES_PER_SECOND = 20_000
"""Frames per CPU second, in the best of some rounds, on the slowest machine; others do six times more."""


def begin(end: WireEnd) -> None:
    """Start calls, items and messages of the victim, so that answers and credit can be valid."""
    connection = end.connection
    start(end)
    stream = start(end, flags=BOTH_STREAMS)
    connection.send_item(stream, b"i" * 33 * KIB, 0)
    start(end, b"x" * 40 * KIB)
    start(end)
    for _ in range(2):
        connection.send_item(connection.messages, b"m" * 33 * KIB, 0)


def victim(role: Role) -> WireEnd:
    """Return an open end that has begun, with two calls of its peer."""
    end = open_end(role, SMALL)
    begin(end)
    while end.outbox:
        end.take_bytes()
    theirs = 2 if role is Role.HOST else 1
    end.feed(request(theirs) + request(theirs + 2, flags=BOTH_STREAMS))
    end.take_events()
    return end


def outcome(role: Role, data: bytes, cut: Cut) -> Outcome:
    """Return the outcome of these bytes in these pieces. Any exception fails the test."""
    end = victim(role)
    for piece in cut(data):
        end.feed(piece)
    error = end.error
    return (
        plain(end.events),
        None if error is None else f"{type(error).__name__}: {error}",
        end.take_bytes(),
    )


@functools.cache
def valid_frames(receiver: Role) -> list[bytes]:
    """Return frames of every kind as an honest peer sends them to a :func:`victim`."""
    pair = ConnectionPair(host_limits=SMALL, agent_limits=SMALL)
    peer = pair.agent if receiver is Role.HOST else pair.host
    here = peer.connection
    data = bytearray()

    def say() -> None:
        data.extend(peer.take_bytes())

    begin(pair.peer_of(peer))
    pair.pump()
    begun = [event[0] for event in peer.take_events() if isinstance(event[0], CalleeSide)]
    plain_call, stream, large, failing = sorted(set(begun), key=lambda call: call.id)
    # Two calls that the victim has seen begin.
    start(peer)
    mine = start(peer, flags=BOTH_STREAMS)
    peer.take_bytes()
    for size in (0, 5, 300, 2000):
        here.send_item(mine, b"i" * size, 0)
        here.send_item(stream, b"j" * size, 4)
    say()
    here.signal(stream, b"half", 0, 0.0)
    here.send_item(here.messages, b"message", 0)
    say()
    start(peer, b"arguments", head={"function": "f", "meta": {"k": [1, 2.5, None, b"\0"]}})
    start(peer, b"L" * 33 * KIB, flags=4)
    here.send_item(stream, b"l" * 34 * KIB, 0)
    say()
    say()
    here.end_items(mine)
    here.cancel(mine)
    here.respond(plain_call, b"result", 4, 17)
    here.respond(large, b"R" * 33 * KIB, 0, 18)
    here.fail(failing, FunctionRaised("why", type_name="ValueError"))
    here.consumed(here.messages, 66 * KIB)
    here.consumed(stream, 33 * KIB)
    here.send_control(Kind.HEALTH_CHECK, a=7)
    say()
    here.send_control(Kind.HEALTH_RESPONSE, a=7, b=1)
    if receiver is Role.HOST:
        here.send_control(Kind.ANNOUNCE, head={"functions": ["f", "g"], "last": True})
    here.send_control(Kind.CLOSE, head={"reason": "drain", "last": 0})
    while peer.outbox:
        say()
    return split_frames(bytes(data))


def random_body(rng: random.Random) -> bytes:
    """Return bytes after a valid length: random, with some structure of a frame, or nearly valid."""
    shape = rng.randrange(4)
    if shape == 0:
        return rng.randbytes(rng.randrange(200))
    if shape == 1:
        return b"\x86\x19" + rng.randbytes(rng.randrange(28, 100))
    size = rng.randrange(40)
    fields = (
        b"\x86\x19" + bytes([rng.choice(list(FrameType)) if shape == 3 else rng.randrange(256)])
        + bytes([rng.choice([0, 1, 2, 3, 4, 0x20, 0x40, rng.randrange(256)])])
        + b"\x1b" + rng.choice([0, 1, 2, 3, 4, 5, 6, 2**64 - 1]).to_bytes(8, "big")
        + b"\x1a" + rng.choice([0, 1, 2, rng.randrange(2**32)]).to_bytes(4, "big")
        + b"\x1a" + rng.choice([0, rng.randrange(2**32)]).to_bytes(4, "big")
    )  # fmt: skip
    head = rng.choice(
        [b"\xf6", b"\xf6", encode_head({"size": rng.randrange(90)}), rng.randbytes(9)]
    )
    return fields + head + b"\x5a" + size.to_bytes(4, "big") + rng.randbytes(size)


def random_frame(rng: random.Random) -> bytes:
    if rng.random() < 0.02:  # not even a valid length
        return rng.randbytes(rng.randrange(1, 60))
    body = random_body(rng)
    return len(body).to_bytes(8, "little") + body


def mutate(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """Return the frames with one to eight changes to their order or to their bytes."""
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(frames))
        data = bytearray(frames[at])
        spot = rng.randrange(min(len(data), 60)) if data else 0
        change = rng.randrange(8)
        if change == 0 and data:
            data[spot] ^= 1 << rng.randrange(8)
        elif change == 1 and data:
            data[spot] = rng.randrange(256)
        elif change == 2:
            data[spot:spot] = rng.randbytes(rng.randint(1, 4))
        elif change == 3:
            del data[spot : spot + rng.randint(1, 4)]
        elif change == 4:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
            continue
        elif change == 5:
            frames.insert(at, frames[at])
            continue
        elif change == 6 and len(data) > 24:
            data[19] = rng.randrange(8)  # the call id's last byte
        else:
            del data[spot:]
        frames[at] = bytes(data)
    return frames


def case(role: Role, rng: random.Random) -> list[bytes]:
    """Return the input of one connection: random frames, or honest ones with mutations."""
    if rng.random() < 0.8:  # these are shorter, so half of all frames are random
        return [random_frame(rng) for _ in range(8)]
    honest = valid_frames(role)
    return mutate(honest[: rng.randint(8, len(honest))], rng)


def fuzz(frames: int, rng: random.Random, cuts: list[Cut]) -> float:
    """Check that all cuts agree; return the fraction of refused connections."""
    refused = connections = 0
    while frames > 0:
        role = rng.choice([Role.HOST, Role.AGENT])
        sent = case(role, rng)
        frames -= len(sent)
        data = b"".join(sent)
        expected = outcome(role, data, uncut)
        for cut in cuts:
            assert outcome(role, data, cut) == expected, data.hex()
        refused += expected[1] is not None
        connections += 1
    return refused / connections


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_fuzz(frames: int, rng: random.Random) -> None:
    cuts: list[Cut] = [functools.partial(random_cuts, rng=rng)]
    fuzz(5000, rng, cuts)  # warm up, so that any further growth is a leak
    before = resident_bytes()
    started = perf_counter()
    refused = fuzz(frames, rng, cuts)
    rate = frames * 2 / (perf_counter() - started)
    growth = resident_bytes() - before
    sys.stdout.write(f"{rate:.0f} frames/s, {growth / MIB:.1f} MiB, {refused:.1%} refused\n")
    assert growth <= RSS_GROWTH_BYTES
    assert 0.2 < refused < 0.9999, "the share of refused frames is unexpected"


@pytest.mark.repetitive
@pytest.mark.slow
def test_r1_a_hundred_thousand_frames(seed: random.Random) -> None:
    run_fuzz(10**5, seed)


@pytest.mark.repetitive
@pytest.mark.slow
def test_r1_byte_by_byte(seed: random.Random) -> None:
    fuzz(1500, seed, [byte_cuts])


@pytest.mark.repetitive
@pytest.mark.slow
def test_r1_frames_are_parsed_as_fast_as_they_come(seed: random.Random) -> None:
    streams = [b"".join(case(Role.HOST, seed)) for _ in range(500)]
    rates = []
    for _ in range(5):
        begun, parsed = thread_time(), 0
        for stream in streams:
            receiver = open_receiver(SMALL)
            parsed += len(receiver.receive_data(stream))
            while receiver.paused:
                parsed += len(receiver.resume())
            parsed += receiver.error is not None  # the refused frame, and the last
        rates.append(parsed / (thread_time() - begun))
    assert max(rates) >= FRAMES_PER_SECOND


@pytest.mark.soak
def test_r1_ten_million_frames(seed: random.Random) -> None:
    run_fuzz(10**7, seed)


@pytest.mark.parametrize("role", [Role.HOST, Role.AGENT])
def test_r1_the_honest_traffic_that_is_mutated_is_honest(role: Role, cut: Cut) -> None:
    events, error, _ = outcome(role, b"".join(valid_frames(role)), cut)
    assert error is None
    seen = {event[1] for event in events}
    assert seen >= set(FrameType) - {
        FrameType.CHALLENGE, FrameType.AUTH_REQUEST, FrameType.AUTH_RESPONSE, FrameType.BODY,
        FrameType.ANNOUNCE, FrameType.LEND, FrameType.RELEASE,
    }  # fmt: skip
