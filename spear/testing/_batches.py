"""Batches of response frames that contain one frame that breaks the protocol.

A channel handles all frames of one read together. It ignores the frames after a bad one, but it must not
lose the calls that these frames answer: each call has to end by its deadline, whatever the peer sends
after its login.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._errors import (
    CallFailed,
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    SpearError,
)
from spear.channels import CommunicationChannel
from spear.wire import FrameType, Head

from ._conformance import HANG_SECONDS, echo
from ._misbehaviour import UNKNOWN_MANDATORY_TYPE, UNKNOWN_TYPE, OpenRaw
from ._raw import BATCH, FRAGMENT, MESSAGES_ID, MORE, RawPeer
from ._services import Functions
from ._wire import Cut, byte_cuts, random_cuts, uncut

if TYPE_CHECKING:
    from random import Random

TIMEOUT_SECONDS: Final = 1.0
"""Timeout of each call. A call that fails with the connection ends well before this timeout."""

MAX_CALLS: Final = 6

REJECTED: Final = 7
"""A failure code of ERROR frames; see `docs/wire.md`."""

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
"""Frames that an agent may send at any time. Each function gets the id of an open call."""

BAD_FRAMES: Final[dict[str, MakeFrame]] = {
    "announces nothing": lambda _: _encode(
        FrameType.ANNOUNCE, head={"functions": [], "last": True}
    ),
    "announces again": lambda _: _encode(
        FrameType.ANNOUNCE, head={"functions": ["f", "f"], "streams": [], "last": True}
    ),
    "announces without a head": lambda _: _encode(FrameType.ANNOUNCE),
    "asks to pass descriptors": lambda _: _encode(FrameType.LEND),
    "grants passing descriptors": lambda _: _encode(FrameType.LEND, a=1),
    "releases an unknown segment": lambda _: _encode(FrameType.RELEASE, a=7),
    "answers an unknown call": lambda _: _encode(FrameType.EXECUTION_RESPONSE, call_id=1001),
    "answers without a call's id": lambda _: _encode(FrameType.EXECUTION_RESPONSE),
    "fails an unknown call": lambda _: _encode(FrameType.ERROR, call_id=1001, a=1),
    "grants credit that was not spent": lambda id_: _encode(
        FrameType.CREDIT, call_id=id_, a=0xFFFF_FFFF
    ),
    "sends items of an unknown call": lambda _: _encode(
        FrameType.STREAM_DATA, call_id=1001, a=1, payload=b"item"
    ),
    "sends an invalid batch": lambda id_: _encode(
        FrameType.STREAM_DATA, flags=BATCH, call_id=id_, a=2, payload=b"\x00\x01\x02"
    ),
    "cancels a call that is not its own": lambda id_: _encode(FrameType.CANCEL, call_id=id_),
    "begins a call with one of our ids": lambda id_: _encode(
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
    "sends an unknown mandatory frame": lambda _: _encode(UNKNOWN_MANDATORY_TYPE),
    "sends bytes that are no frame": lambda _: b"GET / HTTP/1.1\r\nHost: spear\r\n\r\n",
    "sends frames of length 0": lambda _: bytes(64),
}
"""Frames that break the protocol. Each function gets the id of an open call."""


@final
class _SentCall:
    """A call in flight, and later its outcome."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = 0
        self.outcome: bytes | SpearError | None = None
        self.answer = b""  # the result, or the message of the failure, that the peer sends

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
        """Return the frames of an answer: items or a progress report first, if any, then the outcome."""
        frames = []
        if self.kind == "stream":
            frames += [
                _encode(FrameType.STREAM_DATA, call_id=self.id, a=1, payload=b"item")
                for _ in range(rng.randrange(3))
            ]
        if self.kind == "reported":
            frames += [_encode(FrameType.SIGNAL, call_id=self.id, payload=b"half")]
        if rng.random() < 0.2:
            self.answer = b"failure of %d" % self.id
            head: Head = {"message": self.answer.decode()}
            frames.append(_encode(FrameType.ERROR, call_id=self.id, a=REJECTED, head=head))
        else:
            self.answer = b"answer to %d" % self.id
            response = FrameType.EXECUTION_RESPONSE
            frames.append(_encode(response, call_id=self.id, payload=self.answer))
        return frames

    def check(self, *, was_answered: bool, may_be_late: bool) -> None:
        """Raise AssertionError if the call's outcome is not an allowed one."""
        outcome = self.outcome
        got = outcome if isinstance(outcome, bytes) else str(outcome).encode()
        if was_answered and not (may_be_late and isinstance(outcome, DeadlineExceeded)):
            assert got == self.answer, (
                f"call {self.id} lost its answer {self.answer!r}, got {got!r}"
            )
        elif isinstance(outcome, bytes):
            assert got == self.answer, f"call {self.id} got {got!r} instead of {self.answer!r}"
        else:
            failures = CallFailed, ChannelBroken, ChannelClosed
            assert isinstance(outcome, failures), f"call {self.id} ended with {outcome!r}"


async def check_channel_with_bad_batches(
    open_raw: OpenRaw, rng: Random, *, lives: int = 100, slack_seconds: float = HANG_SECONDS
) -> None:
    """Answer calls, on many channels, with batches of frames that contain a bad frame.

    Each channel has a few calls of all kinds. The peer answers some of them in one batch of frames, which
    also contains a bad frame, and sends the batch whole, byte by byte or cut at random. Each call has to
    end by its deadline. A call whose answer precedes the bad frame has to end with this answer; any other
    call ends with its own answer or with a failure. In a quarter of the batches the bad frame is a copy
    of another frame of the batch with some bits flipped; the answers are then not checked.

    Args:
        open_raw: opens a channel and its peer: a host's channel and an agent, or the other way around.
        rng: draws the batches.
        lives: number of channels to open.
        slack_seconds: seconds that a call may end after its deadline; near zero for a virtual clock.

    Raises:
        AssertionError: a call got another call's answer, or lost its own; a note on the exception
            lists the batch.
        trio.TooSlowError: a call did not end.
    """
    for life in range(lives):
        story: list[str] = []
        try:
            await _live(open_raw, rng, story, slack_seconds)
        except BaseException as error:
            error.add_note(f"on channel {life}: {', '.join(story)}")
            raise


async def _live(open_raw: OpenRaw, rng: Random, story: list[str], slack_seconds: float) -> None:
    calls = [_SentCall(rng.choice(KINDS)) for _ in range(rng.randint(1, MAX_CALLS))]
    async with open_raw(service=Functions({"echo": echo})) as (channel, peer):
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call.run, channel)
                call.id = (await peer.receive(FrameType.EXECUTION_REQUEST))[2]
            batch = _BadBatch(calls, rng)
            story += [name for name, _, _ in batch.steps]
            begun = trio.current_time()
            await _send(peer, batch.data, rng)
            may_be_late = trio.current_time() > begun  # only a virtual clock can stand still
            nursery.cancel_scope.deadline = trio.current_time() + TIMEOUT_SECONDS + slack_seconds
        if nursery.cancel_scope.cancelled_caught:
            missing = [call.id for call in calls if call.outcome is None]
            raise trio.TooSlowError(f"the calls {missing} have not ended")
        if not batch.is_flipped:
            for call in calls:
                call.check(was_answered=call in batch.answered, may_be_late=may_be_late)


@final
class _BadBatch:
    """A batch of frames that a peer sends at once: answers, other good frames, and a bad one.

    Attributes:
        steps: the frames: a name, the bytes, and the call that they answer, or None.
        data: the bytes of all frames.
        answered: the calls whose answers precede the bad frame.
        is_flipped: whether the bad frame is a good one with flipped bits.
    """

    def __init__(self, calls: list[_SentCall], rng: Random) -> None:
        self.steps: list[tuple[str, bytes, _SentCall | None]] = [
            (f"answer {call.kind} {call.id}", b"".join(call.frames(rng)), call)
            for call in calls
            if rng.random() < 0.8
        ]
        self.steps += [
            (name, GOOD_FRAMES[name](rng.choice(calls).id), None)
            for name in rng.sample(list(GOOD_FRAMES), rng.randrange(3))
        ]
        rng.shuffle(self.steps)
        position = rng.randint(0, len(self.steps))
        self.answered = [call for _, _, call in self.steps[:position] if call is not None]
        self.is_flipped = bool(self.steps) and rng.random() < 0.25
        if self.is_flipped:
            name, frame, _ = rng.choice(self.steps)
            self.steps.insert(position, (f"{name} with flipped bits", _flip(frame, rng), None))
        else:
            name = rng.choice(list(BAD_FRAMES))
            self.steps.insert(position, (name, BAD_FRAMES[name](rng.choice(calls).id), None))
        self.data = b"".join(frame for _, frame, _ in self.steps)


def _flip(frame: bytes, rng: Random) -> bytes:
    flipped = bytearray(frame)
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


async def _send(peer: RawPeer, batch: bytes, rng: Random) -> None:
    cuts: list[Cut] = [uncut, byte_cuts, partial(random_cuts, rng=rng)]
    cut = rng.choice(cuts)
    # The other end may close the connection as soon as it has read enough.
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for part in cut(batch):
            await peer.stream.send_all(part)
