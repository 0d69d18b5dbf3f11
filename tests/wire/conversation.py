"""A conversation that shows every type of frame, for the document and for the corpus.

Each step is a message of one end. Two current ends can perform the steps, which gives the golden frames
of docs/wire.md. Either end can also be played against bytes that an earlier version has recorded.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from spear import CallCancelled, FunctionRaised, InstanceId, WireLimits
from spear._ids import Secret
from spear._limits import KIB, MIB
from spear._segments import SharedBytes
from spear.testing import WireEnd
from spear.wire import (
    CBOR,
    REFUSAL,
    SEGMENTS,
    AuthAccepted,
    AuthRequest,
    CalleeSide,
    CallerSide,
    Challenge,
    ConnectionState,
    FrameType,
    Head,
    Kind,
    Role,
    agent_text,
    derive_session,
    encode_value,
    host_text,
)

from .helpers import (
    BOTH_STREAMS,
    Memory,
    Passed,
    Plain,
    frame,
    in_parts,
    open_end,
    plain,
    split_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRET: Final = Secret(bytes(range(32)))
INSTANCE: Final = InstanceId("process", "example", 1)
HOST_NONCE: Final = b"\xa0" * 32
AGENT_NONCE: Final = b"\xb0" * 32

# Given in full, so that the frames do not depend on the defaults.
LIMITS: Final = WireLimits(
    fragment_bytes=256 * KIB,
    max_message_bytes=32 * MIB,
    assembly_bytes=4 * MIB,
    max_calls=100,
    stream_window_bytes=256 * KIB,
    connection_window_bytes=1 * MIB,
    heartbeat_seconds=1,
    max_segment_bytes=1024 * MIB,
    max_segments=32,
    mapped_segment_bytes=2048 * MIB,
)

AGENT_TEXT: Final = agent_text(1, INSTANCE, HOST_NONCE, AGENT_NONCE)
HOST_TEXT: Final = host_text(1, INSTANCE, HOST_NONCE, AGENT_NONCE)


def derived_session() -> Secret:
    """Return the key that resumes this session."""
    return derive_session(SECRET, HOST_NONCE, AGENT_NONCE)


PARTS: Final = b"0123456789"
"""A payload that is sent in three fragments, although it is small."""


@attrs.frozen
class Said:
    """A step: the sender, the frames, and their meaning for the other end."""

    who: str
    what: str
    frames: list[bytes]
    means: list[Plain]


Action: TypeAlias = Callable[[WireEnd], object]


def caller(end: WireEnd, call_id: int) -> CallerSide:
    call = end.connection.calls[call_id]
    assert isinstance(call, CallerSide)
    return call


def callee(end: WireEnd, call_id: int) -> CalleeSide:
    call = end.connection.calls[call_id]
    assert isinstance(call, CalleeSide)
    return call


def announce(end: WireEnd) -> None:
    head: Head = {"functions": ["add", "count"], "streams": ["count"], "last": True}
    end.connection.send_control(Kind.ANNOUNCE, head=head)


def call_add(end: WireEnd) -> None:
    payload = encode_value([[1, 2], {}])
    end.connection.start_call(CallerSide(), 1, 1500, CBOR, payload)


def call_by_name(end: WireEnd) -> None:
    head: Head = {"function": "divide", "meta": {"user": "ann"}, "key": "k-1"}
    end.connection.start_call(CallerSide(), 0, 0xFFFF_FFFF, CBOR, encode_value([[1, 0], {}]), head)


def call_with_streams(end: WireEnd) -> None:
    end.connection.start_call(CallerSide(), 2, 60_000, BOTH_STREAMS, b"")


def send_batch(end: WireEnd) -> None:
    for item in (b"a", b"bc", b""):
        end.connection.send_item(caller(end, 5), item, 0)


def cancel(end: WireEnd) -> None:
    end.connection.cancel(caller(end, 5))


def fail(call_id: int) -> Action:
    def act(end: WireEnd) -> None:
        raised = FunctionRaised("division by zero", type_name="ZeroDivisionError")
        failure = CallCancelled("cancelled") if call_id == 5 else raised
        end.connection.fail(callee(end, call_id), failure)

    return act


STEPS: Final[list[tuple[str, str, Action]]] = [
    ("agent", "announces two functions, add (number 1) and count (number 2, which streams)", announce),
    ("host", "calls function 1 with CBOR arguments, 1.5 s to go", call_add),
    ("agent", "responds to call 1 after 250 us",
     lambda end: end.connection.respond(callee(end, 1), encode_value(3), CBOR, 250)),
    ("host", "calls a function by name, with metadata and a key, no deadline", call_by_name),
    ("agent", "reports progress of call 3",
     lambda end: end.connection.signal(callee(end, 3), encode_value(50), CBOR, 0.0)),
    ("agent", "fails call 3, whose function raised", fail(3)),
    ("host", "calls function 2 with raw arguments (none) and streams in both directions",
     call_with_streams),
    ("host", "sends three items in one batch", send_batch),
    ("agent", "sends one CBOR item",
     lambda end: end.connection.send_item(callee(end, 5), encode_value({"n": 1}), CBOR)),
    ("host", "ends its items", lambda end: end.connection.end_items(caller(end, 5))),
    ("host", "cancels call 5", cancel),
    ("agent", "ends call 5, because its handler has stopped", fail(5)),
    ("host", "sends a message, which has no answer",
     lambda end: end.connection.send_item(end.connection.messages, b"hello", 0)),
    ("agent", "calls back: function 7 of the host, raw arguments",
     lambda end: end.connection.start_call(CallerSide(), 7, 200, 0, b"raw")),
    ("host", "responds to call 2 with raw bytes",
     lambda end: end.connection.respond(callee(end, 2), b"answer", 0, 99)),
    ("host", "sends a heartbeat",
     lambda end: end.connection.send_control(Kind.HEALTH_CHECK, a=7)),
    ("agent", "answers it", lambda end: None),
    ("host", "leaves, having taken calls up to 2",
     lambda end: end.connection.send_control(Kind.CLOSE, head={"reason": "drain", "last": 2})),
]  # fmt: skip
"""The steps after the connection is open."""


def handshake() -> list[Said]:
    """Return the steps of the handshake."""
    request = AuthRequest(
        1, INSTANCE, AGENT_NONCE, SECRET.prove(AGENT_TEXT), limits=LIMITS, client="example/1.0"
    )
    accepted = AuthAccepted(SECRET.prove(HOST_TEXT), LIMITS)
    said: list[tuple[str, str, int, Head]] = [
        ("host", "challenges", FrameType.CHALLENGE, Challenge(HOST_NONCE).to_head()),
        ("agent", "proves who it is", FrameType.AUTH_REQUEST, request.to_head()),
        ("host", "accepts, and proves who it is", FrameType.AUTH_RESPONSE, accepted.to_head()),
        ("host", "would refuse like this, whatever the reason", FrameType.AUTH_RESPONSE, REFUSAL),
    ]
    return [Said(who, what, [frame(type_, head=head)], []) for who, what, type_, head in said]


def in_other_shapes() -> list[Said]:
    """Return frames that would take too many bytes or too much time to provoke in the document."""
    parts = in_parts(FrameType.EXECUTION_REQUEST, 7, PARTS, 4, 4)
    credit = FrameType.CREDIT
    error = {"message": "100 calls are open"}
    return [
        Said("host", "sends the arguments of call 7 in three parts", parts, []),
        Said("agent", "returns credit for the items of call 5", [frame(credit, 0, 5, 131_072)], []),
        Said("agent", "returns credit of the connection", [frame(credit, 0, 0, 524_288)], []),
        Said("agent", "refuses call 7, to be tried again after 100 ms",
             [frame(FrameType.ERROR, 0, 7, 5, 100, b"", error)], []),
        Said("host", "sends something optional that is not known yet",
             [frame(0x42, 0, 0, 0, 0, b"", {"from": "the future"})], []),
    ]  # fmt: skip


def with_segments() -> list[Said]:
    """Return the steps between ends that have agreed on segments."""
    features = (SEGMENTS,)
    request = AuthRequest(
        1,
        INSTANCE,
        AGENT_NONCE,
        SECRET.prove(AGENT_TEXT),
        limits=LIMITS,
        client="example/1.0",
        features=features,
    )
    accepted = AuthAccepted(SECRET.prove(HOST_TEXT), LIMITS, features)
    host, agent = open_ends()
    memory = Memory()
    host.outbox.lend_through(memory)
    agent.receiver.attach(Passed(bytes(4 * MIB)))
    said = [
        Said("host", "challenges, and can pass segments",
             [frame(FrameType.CHALLENGE, head=Challenge(HOST_NONCE, features=features).to_head())],
             []),
        Said("agent", "can pass segments, too",
             [frame(FrameType.AUTH_REQUEST, head=request.to_head())], []),
        Said("host", "says that both will",
             [frame(FrameType.AUTH_RESPONSE, head=accepted.to_head())], []),
    ]  # fmt: skip
    for who, what, speaker, listener in (
        ("host", "asks whether it may pass descriptors", host, agent),
        ("agent", "will look for them from now on", agent, host),
    ):
        speaker.outbox.push_lend(is_answer=who == "agent")
        data = speaker.take_bytes()
        listener.feed(data)
        assert listener.error is None
        said.append(Said(who, what, split_frames(data), plain(listener.take_events())))
    host.connection.start_call(CallerSide(), 1, 1500, 0, SharedBytes(bytes(4 * MIB)))
    data = host.take_bytes()
    agent.feed(data)
    assert agent.error is None
    what = "calls function 1 with 4 MiB in segment 0, whose descriptor comes with the first byte"
    said.append(Said("host", what, split_frames(data), []))
    agent.outbox.push_release(0)
    data = agent.take_bytes()
    host.feed(data)
    assert host.error is None
    assert not memory.lent
    said.append(Said("agent", "does not use segment 0 any more", split_frames(data), []))
    return said


def open_ends() -> tuple[WireEnd, WireEnd]:
    return open_end(Role.HOST, LIMITS), open_end(Role.AGENT, LIMITS)


def converse() -> list[Said]:
    """Perform the steps with two current ends."""
    host, agent = open_ends()
    said = []
    for who, what, act in STEPS:
        speaker, listener = (host, agent) if who == "host" else (agent, host)
        act(speaker)
        data = speaker.take_bytes()
        listener.feed(data)
        assert listener.error is None
        said.append(Said(who, what, split_frames(data), plain(listener.take_events())))
    return said


def replay(role: Role, recorded: Iterable[Said]) -> None:
    """Play one end against the recorded messages of the other end."""
    host, agent = open_ends()
    end = host if role is Role.HOST else agent
    me = role.value
    for (who, _, act), said in zip(STEPS, recorded, strict=True):
        assert who == said.who
        if who == me:
            act(end)
            end.take_bytes()
        else:
            end.feed(b"".join(said.frames))
            assert end.error is None, said.what
            assert plain(end.take_events()) == said.means, said.what
    leaving = {Role.HOST: ConnectionState.DRAINING, Role.AGENT: ConnectionState.PEER_DRAINING}
    assert end.connection.state is leaving[role]
    assert not end.connection.outbound_open
    assert not end.connection.inbound_open


def to_text(conversation: Iterable[Said]) -> str:
    """Return a conversation as text: a line for each step, frame and meaning."""
    lines = []
    for said in conversation:
        lines.append(f"{said.who}: {said.what}")
        lines += [f"    {each.hex()}" for each in said.frames]
        lines += [f"    = {each!r}" for each in said.means]
    return "\n".join(lines) + "\n"


def from_text(text: str) -> list[Said]:
    """Parse the text of a conversation. Lines that begin with # are comments."""
    conversation: list[Said] = []
    for line in text.splitlines():
        if line.startswith("    = "):
            conversation[-1].means.append(ast.literal_eval(line[6:]))
        elif line.startswith("    "):
            conversation[-1].frames.append(bytes.fromhex(line))
        elif line and not line.startswith("#"):
            who, _, what = line.partition(": ")
            conversation.append(Said(who, what, [], []))
    return conversation
