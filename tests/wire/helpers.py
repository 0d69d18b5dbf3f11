"""Frames made by hand, ends of connections without a handshake, and events that can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from spear import WireLimits
from spear._limits import KIB
from spear._segments import Loan, Segment, SharedBytes
from spear.testing import ConnectionPair, WireEnd
from spear.wire import (
    FRAGMENT,
    MORE,
    NO_DEADLINE,
    REPLY_STREAM,
    STREAM,
    Buffer,
    Call,
    CalleeSide,
    CallerSide,
    ConnectionState,
    Event,
    Frame,
    FrameType,
    Head,
    HeadValue,
    Payload,
    Receiver,
    Role,
    encode_head,
    pack_prefix,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

BOTH_STREAMS = STREAM | REPLY_STREAM

SMALL = WireLimits(
    fragment_bytes=32 * KIB,
    max_message_bytes=256 * KIB,
    assembly_bytes=128 * KIB,
    stream_window_bytes=64 * KIB,
    connection_window_bytes=128 * KIB,
    request_bytes_in_flight=512 * KIB,
    max_calls=8,
)
"""Limits that a test reaches with few bytes."""


class Lent:
    """A payload that has been lent to the peer."""

    def __init__(self, memory: Memory, number: int, payload: bytes) -> None:
        self._memory = memory
        self.number = number
        self.payload = payload

    def withdraw(self) -> None:
        self._memory.released(self.number)


class Memory:
    """A lender of large payloads, as long as there are numbers, without the kernel.

    Attributes:
        lent: payloads that the peer has, by number.
    """

    def __init__(self, least_bytes: int = 1024, most: int = 4) -> None:
        self.least_bytes = least_bytes
        self._most = most
        self.lent: dict[int, Lent] = {}

    def may_lend(self, segment: Segment) -> bool:
        return len(segment) >= self.least_bytes and len(self.lent) < self._most

    def lend(self, payload: Buffer | Segment) -> Loan | None:
        if len(self.lent) == self._most:
            return None
        number = min(set(range(self._most)) - set(self.lent))
        self.lent[number] = lent = Lent(self, number, bytes(payload))
        return lent

    def released(self, number: int) -> bool:
        return self.lent.pop(number, None) is not None


class Passed:
    """A payload that was passed beside the bytes of its frame, and the number it was claimed as."""

    def __init__(self, payload: bytes, problem: str = "") -> None:
        self.payload = payload
        self._problem = problem
        self.claimed_as: int | None = None

    def claim(self, number: int, size: int) -> Segment:
        if self._problem:
            raise ValueError(self._problem)
        if size > len(self.payload):
            raise ValueError("it is not so large")
        self.claimed_as = number
        return SharedBytes(self.payload)


def frame(
    type_: int,
    flags: int = 0,
    call_id: int = 0,
    a: int = 0,
    b: int = 0,
    payload: bytes = b"",
    head: Head | None = None,
) -> bytes:
    """Return the bytes of one frame."""
    encoded = None if head is None else encode_head(head)
    return pack_prefix(type_, flags, call_id, a, b, encoded, len(payload)) + payload


def raw_frame(
    head: bytes, payload: bytes = b"", *, type_: int = FrameType.SIGNAL, flags: int = 0
) -> bytes:
    """Return a frame whose head is any bytes."""
    return pack_prefix(type_, flags, 0, 0, 0, head, len(payload)) + payload


def request(call_id: int, payload: bytes = b"", flags: int = 0, head: Head | None = None) -> bytes:
    return frame(FrameType.EXECUTION_REQUEST, flags, call_id, 1, NO_DEADLINE, payload, head)


def first_fragment(
    type_: int, call_id: int, size: int, payload: bytes, flags: int = 0, a: int = 1
) -> bytes:
    """Return the first fragment of a payload of ``size`` bytes."""
    head: dict[str, HeadValue] = {"size": size}
    return frame(type_, flags | FRAGMENT | MORE, call_id, a, 0, payload, head)


def further_fragment(call_id: int, payload: bytes, *, is_last: bool) -> bytes:
    flags = FRAGMENT if is_last else FRAGMENT | MORE
    return frame(FrameType.BODY, flags, call_id, 0, 0, payload)


def in_parts(type_: int, call_id: int, payload: bytes, *sizes: int, flags: int = 0) -> list[bytes]:
    """Return a payload as frames with so many bytes each; the last one has the rest."""
    parts = []
    start = 0
    for size in sizes:
        part = payload[start : start + size]
        if start == 0:
            parts.append(first_fragment(type_, call_id, len(payload), part, flags))
        else:
            parts.append(further_fragment(call_id, part, is_last=False))
        start += size
    parts.append(further_fragment(call_id, payload[start:], is_last=True))
    return parts


def split_frames(data: bytes) -> list[bytes]:
    """Split data into whole frames, each with its length prefix."""
    frames = []
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        frames.append(data[:end])
        data = data[end:]
    return frames


def open_end(
    role: Role = Role.HOST,
    limits: WireLimits | None = None,
    peer: WireLimits | None = None,
    *,
    is_trusting: bool = False,
) -> WireEnd:
    """Return one end of a connection in the state after the handshake."""
    limits = limits or WireLimits()
    end = WireEnd(role, limits, is_trusting=is_trusting)
    end.connection.state = ConnectionState.OPEN
    end.connection.open(peer or limits)
    return end


def open_receiver(limits: WireLimits | None = None) -> Receiver:
    """Return a receiver that admits every fragmented payload."""
    receiver = Receiver(limits or WireLimits())
    receiver.open(lambda *_: True)
    return receiver


def receive(receiver: Receiver, pieces: Iterable[bytes]) -> list[Frame]:
    """Feed pieces until all are used or one is refused; return the frames."""
    frames: list[Frame] = []
    for piece in pieces:
        if receiver.error is not None:
            break
        frames += receiver.receive_data(piece)
        while receiver.paused:
            frames += receiver.resume()
    return frames


def start(
    end: WireEnd,
    payload: Payload = b"",
    flags: int = 0,
    head: Head | None = None,
    call: CallerSide | None = None,
) -> CallerSide:
    """Call function 1 of the other end."""
    call = call or CallerSide()
    end.connection.start_call(call, 1, NO_DEADLINE, flags, payload, head)
    return call


def called(end: WireEnd) -> CalleeSide:
    """Return the one call that has come in since events were last taken."""
    (event,) = end.take_events()
    assert event[1] == FrameType.EXECUTION_REQUEST
    assert isinstance(event[0], CalleeSide)
    return event[0]


def call_between(
    pair: ConnectionPair,
    flags: int = 0,
    *,
    caller: WireEnd | None = None,
    payload: Payload = b"",
) -> tuple[CallerSide, CalleeSide]:
    """Start a call; return both ends after its request has arrived."""
    caller = caller or pair.host
    outbound = start(caller, payload, flags)
    pair.pump()
    return outbound, called(pair.peer_of(caller))


Plain: TypeAlias = tuple[int | None, int, int, int, int, Head | None, bytes | list[bytes]]


def plain(events: Iterable[Event]) -> list[Plain]:
    """Return events with the call's id in place of the call."""
    return [(None if call is None else call.id, *rest) for call, *rest in events]  # type: ignore[misc]  # mypy loses a tuple's length in an unpacking


def types(events: Iterable[Event]) -> list[int]:
    """Return the types of frames of these events."""
    return [event[1] for event in events]


def call_of(event: Event) -> Call:
    """Return the call of an event."""
    assert event[0] is not None
    return event[0]
