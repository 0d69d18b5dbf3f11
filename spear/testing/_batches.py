"""Batches of answers with a frame among them that breaks the rules.

Frames that arrive together are handled together. A channel ignores the frames behind a bad one, but it
must not lose the calls that these frames answer: each call has to end by its deadline, whatever a peer
sends after its login.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import CallFailed, ChannelBroken, ChannelClosed, SpearError
from spear.channels import CommunicationChannel
from spear.wire import FrameType

from ._conformance import HANG_SECONDS, echo
from ._misbehaviour import UNKNOWN_MANDATORY_TYPE, UNKNOWN_TYPE, OpenRaw
from ._raw import RawPeer
from ._services import Functions
from ._wire import Cut, byte_cuts, random_cuts, uncut

if TYPE_CHECKING:
    from random import Random

TIMEOUT_SECONDS: Final = 2.0
"""The deadline of each call; longer than any of them takes when the connection ends."""

MAX_CALLS: Final = 6

MESSAGES_ID: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The call id of one-way messages."""

# Flags of frames, spelled out as in ``_misbehaviour``.
FRAGMENT: Final = 0x01
MORE: Final = 0x02
BATCH: Final = 0x40

KINDS: Final = ("request", "reported", "stream")

MakeFrame: TypeAlias = Callable[[int], bytes]

_encode: Final = RawPeer.encode

GOOD_FRAMES: Final[dict[str, MakeFrame]] = {
    "heartbeat": lambda _: _encode(FrameType.HEALTH_CHECK, a=1),
    "message": lambda _: _encode(
        FrameType.STREAM_DATA, call_id=MESSAGES_ID, a=1, payload=b"message"
    ),
    "request": lambda id_: _encode(
        FrameType.EXECUTION_REQUEST, call_id=id_ + 1, head={"function": "echo"}, b=1000
    ),
    "unknown frame": lambda id_: _encode(UNKNOWN_TYPE, call_id=id_, payload=b"?"),
}
"""Frames that an agent may send at any time; made for the id of an open call."""

BAD_FRAMES: Final[dict[str, MakeFrame]] = {
    "announces nothing": lambda _: _encode(
        FrameType.ANNOUNCE, head={"functions": [], "last": True}
    ),
    "announces again": lambda _: _encode(
        FrameType.ANNOUNCE, head={"functions": ["f", "f"], "streams": [], "last": True}
    ),
    "announces without a head": lambda _: _encode(FrameType.ANNOUNCE),
    "lends unasked": lambda _: _encode(FrameType.LEND),
    "says that it may be lent to": lambda _: _encode(FrameType.LEND, a=1),
    "releases what it does not have": lambda _: _encode(FrameType.RELEASE, a=7),
    "answers nobody": lambda _: _encode(FrameType.EXECUTION_RESPONSE, call_id=1001),
    "answers the connection": lambda _: _encode(FrameType.EXECUTION_RESPONSE),
    "fails a call of nobody": lambda _: _encode(FrameType.ERROR, call_id=1001, a=1),
    "grants credit that was not spent": lambda id_: _encode(
        FrameType.CREDIT, call_id=id_, a=0xFFFF_FFFF
    ),
    "sends items that nobody takes": lambda _: _encode(
        FrameType.STREAM_DATA, call_id=1001, a=1, payload=b"item"
    ),
    "sends a batch that is none": lambda id_: _encode(
        FrameType.STREAM_DATA, flags=BATCH, call_id=id_, a=2, payload=b"\x00\x01\x02"
    ),
    "cancels a call that is not its own": lambda id_: _encode(FrameType.CANCEL, call_id=id_),
    "begins a call with a number of ours": lambda id_: _encode(
        FrameType.EXECUTION_REQUEST, call_id=id_, head={"function": "echo"}
    ),
    "continues nothing": lambda id_: _encode(
        FrameType.BODY, flags=FRAGMENT, call_id=id_, payload=b"part"
    ),
    "begins an answer without its size": lambda id_: _encode(
        FrameType.EXECUTION_RESPONSE, flags=FRAGMENT | MORE, call_id=id_, payload=b"part"
    ),
    "logs in again": lambda _: _encode(FrameType.AUTH_REQUEST, head={"version": 1}),
    "challenges its host": lambda _: _encode(FrameType.CHALLENGE, head={"nonce": b"1"}),
    "must be understood": lambda _: _encode(UNKNOWN_MANDATORY_TYPE),
    "is no frame": lambda _: b"GET / HTTP/1.1\r\nHost: spear\r\n\r\n",
    "has no length": lambda _: bytes(64),
}
"""Frames that break a rule."""


@final
class _Call:
    """A call under way, and what became of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = 0
        self.outcome: bytes | SpearError | None = None
        self.answer: bytes | None = None  # what it was answered with in front of all that is bad

    async def run(self, channel: CommunicationChannel) -> None:
        try:
            if self.kind == "stream":
                async with channel.open_stream("f", timeout=TIMEOUT_SECONDS) as stream:
                    async for _ in stream:
                        pass
                    self.outcome = bytes((await stream.result()).payload)
            else:
                report = None if self.kind == "request" else lambda *_: None
                response = await channel.request("f", timeout=TIMEOUT_SECONDS, on_progress=report)
                self.outcome = bytes(response.payload)
        except SpearError as failure:
            self.outcome = failure

    def frames(self, rng: Random) -> list[bytes]:
        """An answer, with all that may stand in front of it."""
        frames = []
        if self.kind == "stream":
            frames += [
                _encode(FrameType.STREAM_DATA, call_id=self.id, a=1, payload=b"item")
                for _ in range(rng.randrange(3))
            ]
        if self.kind == "reported":
            frames += [_encode(FrameType.SIGNAL, call_id=self.id, payload=b"half")]
        if rng.random() < 0.2:
            frames.append(_encode(FrameType.ERROR, call_id=self.id, a=1, head={"message": "no"}))
        else:
            answer = b"answer to %d" % self.id
            frames.append(_encode(FrameType.EXECUTION_RESPONSE, call_id=self.id, payload=answer))
        return frames

    def check(self, *, was_answered: bool) -> None:
        """Raise AssertionError for an outcome that no call may have."""
        match self.outcome:
            case bytes(result):
                assert result == b"answer to %d" % self.id, f"call {self.id} got {result!r}"
            case CallFailed() | ChannelBroken() | ChannelClosed():
                assert not (was_answered and isinstance(self.outcome, ChannelBroken)), (
                    f"call {self.id} was answered in front of the bad frame: {self.outcome}"
                )
            case outcome:
                raise AssertionError(f"call {self.id} ended with {outcome!r}")


async def check_channel_with_bad_batches(
    open_raw: OpenRaw, rng: Random, *, lives: int = 100
) -> None:
    """Answer calls in one piece with a frame that breaks the rules, again and again.

    Each channel has a few calls of all kinds. The peer answers some of them in one batch of frames, which
    also holds a bad frame, and sends the batch whole, byte by byte or cut at random. Each call has to end
    by its deadline. A call that was answered in front of the bad frame has to end with its answer; any
    other call ends with its own answer or with a failure.

    Args:
        open_raw: opens the host's channel and the peer.
        rng: chooses the batches.
        lives: how many channels are opened.

    Raises:
        AssertionError: a call got an answer that is not its own, or lost one; a note tells the batch.
        trio.TooSlowError: a call did not end.
    """
    for life in range(lives):
        story: list[str] = []
        try:
            with trio.fail_after(TIMEOUT_SECONDS + HANG_SECONDS):
                await _live(open_raw, rng, story)
        except BaseException as error:
            error.add_note(f"in life {life}: {', '.join(story)}")
            raise


async def _live(open_raw: OpenRaw, rng: Random, story: list[str]) -> None:
    service = Functions({"echo": echo})
    calls = [_Call(rng.choice(KINDS)) for _ in range(rng.randint(1, MAX_CALLS))]
    async with open_raw(service=service) as (channel, peer):
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run, channel)
                call.id = (await peer.receive(FrameType.EXECUTION_REQUEST))[2]
            batch, answered = _batch(calls, rng, story)
            await _send(peer, batch, rng)
        for call in calls:
            call.check(was_answered=call in answered)


def _batch(calls: list[_Call], rng: Random, story: list[str]) -> tuple[bytes, list[_Call]]:
    """The bytes, and the calls that are answered in front of the bad frame."""
    steps: list[tuple[str, list[bytes], _Call | None]] = [
        (f"answer {call.kind} {call.id}", call.frames(rng), call)
        for call in calls
        if rng.random() < 0.8
    ]
    steps += [
        (name, [GOOD_FRAMES[name](rng.choice(calls).id)], None)
        for name in rng.sample(list(GOOD_FRAMES), rng.randrange(3))
    ]
    rng.shuffle(steps)
    bad = rng.choice(list(BAD_FRAMES))
    position = rng.randint(0, len(steps))
    steps.insert(position, (bad, [BAD_FRAMES[bad](rng.choice(calls).id)], None))
    story += [name for name, _, _ in steps]
    answered = [call for _, _, call in steps[:position] if call is not None]
    return b"".join(frame for _, frames, _ in steps for frame in frames), answered


async def _send(peer: RawPeer, batch: bytes, rng: Random) -> None:
    cuts: list[Cut] = [uncut, byte_cuts, partial(random_cuts, rng=rng)]
    cut = rng.choice(cuts)
    try:
        for part in cut(batch):
            await peer.stream.send_all(part)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the host has read enough
