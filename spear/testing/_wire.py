"""Two ends of the wire protocol, driven against each other without a socket, a task or a clock.

Bytes that one end sends are kept until the test moves them to the other end. So the test decides which
bytes are in flight, in which pieces they arrive, and what time it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, final

from spear._errors import AuthenticationFailed, RemoteProtocolError
from spear._ids import InstanceId, Secret
from spear._limits import WireLimits
from spear.wire import (
    NONCE_BYTES,
    AuthAccepted,
    AuthRequest,
    Challenge,
    Connection,
    Event,
    Frame,
    FrameType,
    Head,
    Kind,
    Outbox,
    Receiver,
    Role,
    agent_text,
    choose_version,
    host_text,
)

if TYPE_CHECKING:
    import random

Cut: TypeAlias = Callable[[bytes], list[bytes]]
"""A function that cuts bytes into the pieces in which they arrive."""

EXAMPLE_SECRET: Final = Secret(bytes(range(32)))
EXAMPLE_INSTANCE: Final = InstanceId("process", "example", 1)
HOST_NONCE: Final = b"\xa0" * NONCE_BYTES
AGENT_NONCE: Final = b"\xb0" * NONCE_BYTES


def uncut(data: bytes) -> list[bytes]:
    """Return the data in one piece."""
    return [data] if data else []


def byte_cuts(data: bytes) -> list[bytes]:
    """Return each byte as a piece of its own."""
    return [data[at : at + 1] for at in range(len(data))]


def random_cuts(data: bytes, rng: random.Random) -> list[bytes]:
    """Return pieces as a network might make them: often a few bytes, sometimes many.

    No piece is empty, and joined they are ``data``.
    """
    pieces = []
    start = 0
    while start < len(data):
        # The exponent is drawn, so that all orders of magnitude are equally likely.
        size = rng.randrange(1, 2 ** rng.randint(1, 17))
        pieces.append(data[start : start + size])
        start += size
    return pieces


@final
class WireEnd:
    """An end of a :class:`ConnectionPair`: a connection with its receiver and its outbox.

    Attributes:
        connection, receiver, outbox: the objects that a real channel uses.
        incoming: bytes in flight to this end.
        events: events of the connection that :meth:`take_events` has not returned yet.
        sent: all bytes that this end has sent if the pair records, else None.
    """

    __slots__ = (
        "_clock", "_is_direct", "connection", "events", "incoming", "limits", "outbox", "receiver",
        "role", "sent",
    )  # fmt: skip

    def __init__(
        self,
        role: Role,
        limits: WireLimits,
        clock: Callable[[], float] = lambda: 0.0,
        *,
        is_trusting: bool = False,
        is_direct: bool = True,
        records: bool = False,
    ) -> None:
        self.role = role
        self.limits = limits
        self.receiver = Receiver(limits)
        self.outbox = Outbox(limits, lambda: None)
        self.connection = Connection(
            role, limits, self.outbox, receiver=self.receiver, trusted=is_trusting
        )
        self.incoming = bytearray()
        self.events: list[Event] = []
        self.sent = bytearray() if records else None
        self._clock = clock
        self._is_direct = is_direct

    @property
    def error(self) -> RemoteProtocolError | None:
        """The error for the rule that the other end has broken, or None."""
        return self.connection.error or self.receiver.error

    def take_bytes(self) -> bytes:
        """Remove and return the bytes that this end would write to its socket now."""
        data = b"".join(self.outbox.take())
        if self.sent is not None:
            self.sent += data
        return data

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self.events = self.events, []
        return events

    def feed(self, data: bytes) -> list[Event]:
        """Receive bytes, append the resulting events to :attr:`events`, and return these events.

        Large payloads are received directly into their final buffer, as from a socket. After the peer
        has broken a rule, no further byte is read.
        """
        caused: list[Event] = []
        while data and self.error is None:
            frames, data = self._receive(data)
            # Frames before the violation are still handled.
            if frames:
                caused += self.connection.receive(frames, self._clock())
        self.events += caused
        return caused

    def _receive(self, data: bytes) -> tuple[list[Frame], bytes]:
        receiver = self.receiver
        if receiver.direct is None or not self._is_direct:
            return receiver.receive_data(data), b""
        target = receiver.direct
        count = min(len(target), len(data))
        target[:count] = data[:count]
        del target  # a view that lives on would make the finished payload a copy
        return receiver.received_direct(count), data[count:]

    def receive_incoming(self, count: int | None = None) -> list[Event]:
        """Receive the first ``count`` bytes in flight, or all of them; return the events."""
        data = bytes(self.incoming if count is None else self.incoming[:count])
        del self.incoming[: len(data)]
        return self.feed(data)


@final
class ConnectionPair:
    """A host and an agent that exchange bytes in memory, after a completed handshake.

    Bytes move only when the test moves them: call methods of ``pair.host.connection`` and
    ``pair.agent.connection``, then :meth:`pump`, and look at the :attr:`WireEnd.events` of both ends.
    Frames are really encoded and parsed.

    Args:
        host_limits, agent_limits: the limits that each end announces and enforces.
        secret: the secret of the host.
        agent_secret: the secret of the agent; None for the host's.
        instance: the instance id with which the agent logs in.
        cut: the pieces in which the bytes of the handshake arrive.
        is_connected: whether the handshake is done; False leaves it to the test, see :meth:`connect`.
        is_policed: whether the host counts the agent's strikes, as it does by default.
        is_direct: whether large payloads are received directly into their final buffer.
        records: whether both ends keep all bytes that they send.

    Attributes:
        host, agent: the two ends.
        now: the clock of both ends, in seconds.
    """

    __slots__ = ("_agent_secret", "_instance", "_secret", "agent", "host", "now")

    def __init__(
        self,
        *,
        host_limits: WireLimits | None = None,
        agent_limits: WireLimits | None = None,
        secret: Secret = EXAMPLE_SECRET,
        agent_secret: Secret | None = None,
        instance: InstanceId = EXAMPLE_INSTANCE,
        cut: Cut = uncut,
        is_connected: bool = True,
        is_policed: bool = True,
        is_direct: bool = True,
        records: bool = False,
    ) -> None:
        self.now = 0.0
        make = partial(WireEnd, clock=lambda: self.now, is_direct=is_direct, records=records)
        self.host = make(Role.HOST, host_limits or WireLimits(), is_trusting=not is_policed)
        self.agent = make(Role.AGENT, agent_limits or WireLimits(), is_trusting=True)
        self._secret = secret
        self._agent_secret = agent_secret or secret
        self._instance = instance
        if is_connected:
            self.connect(cut)

    @property
    def ends(self) -> tuple[WireEnd, WireEnd]:
        """The host's and the agent's end."""
        return self.host, self.agent

    def peer_of(self, end: WireEnd) -> WireEnd:
        """Return the other end of the pair."""
        return self.agent if end is self.host else self.host

    # -- the handshake ------------------------------------------------------------------------

    def connect(self, cut: Cut = uncut) -> None:
        """Perform the handshake, with constant nonces.

        Raises:
            AuthenticationFailed: the agent does not know the secret.
            RemoteProtocolError: frames other than those of the handshake are in flight.
        """
        host, agent = self.host.connection, self.agent.connection
        host.send_control(Kind.CHALLENGE, head=Challenge(HOST_NONCE).to_head())
        challenge = Challenge.from_head_untrusted(self._carry(self.host, FrameType.CHALLENGE, cut))
        agent.receive_control_untrusted(Kind.CHALLENGE)
        version = choose_version(challenge)
        assert version is not None  # both ends have the same release
        said = agent_text(version, self._instance, challenge.nonce, AGENT_NONCE)
        request = AuthRequest(
            version,
            self._instance,
            AGENT_NONCE,
            self._agent_secret.prove(said),
            limits=self.agent.limits,
        )
        agent.send_control(Kind.AUTH_REQUEST, head=request.to_head())
        request = AuthRequest.from_head_untrusted(
            self._carry(self.agent, FrameType.AUTH_REQUEST, cut)
        )
        host.receive_control_untrusted(Kind.AUTH_REQUEST)
        expected = agent_text(request.version, request.instance, HOST_NONCE, request.nonce)
        if not self._secret.verify(expected, request.proof):
            raise AuthenticationFailed("the agent does not know the secret")
        answer = host_text(request.version, request.instance, HOST_NONCE, request.nonce)
        welcome = AuthAccepted(self._secret.prove(answer), self.host.limits)
        host.send_control(Kind.AUTH_ACCEPTED, head=welcome.to_head())
        accepted = AuthAccepted.from_head_untrusted(
            self._carry(self.host, FrameType.AUTH_RESPONSE, cut)
        )
        host.open(request.limits)
        expected = host_text(version, self._instance, challenge.nonce, AGENT_NONCE)
        assert accepted is not None
        assert self._agent_secret.verify(expected, accepted.proof)  # as the host has checked above
        agent.receive_control_untrusted(Kind.AUTH_ACCEPTED)
        agent.open(accepted.limits)

    def _carry(self, sender: WireEnd, type_: FrameType, cut: Cut) -> Head | None:
        """Move the one frame that must come next to the other end, and return its head."""
        receiver = self.peer_of(sender).receiver
        frames = [
            frame for piece in cut(sender.take_bytes()) for frame in receiver.receive_data(piece)
        ]
        if receiver.error is not None:
            raise receiver.error
        if [frame[0] for frame in frames] != [type_]:
            raise RemoteProtocolError(f"expected a frame {type_.name}")
        return frames[0][5]

    # -- moving bytes -------------------------------------------------------------------------

    def transmit(self, sender: WireEnd) -> int:
        """Move what ``sender`` would write now to the peer's ``incoming``; return the number of bytes."""
        data = sender.take_bytes()
        self.peer_of(sender).incoming.extend(data)
        return len(data)

    def pump(self, cut: Cut = uncut) -> None:
        """Move bytes in both directions until none are in flight.

        Args:
            cut: the pieces in which the bytes arrive.

        Raises:
            RemoteProtocolError: an end has found that the other one broke a rule.
        """
        moved = True
        while moved:
            moved = False
            for end in self.ends:
                self.transmit(self.peer_of(end))
                pieces = cut(bytes(end.incoming))
                end.incoming.clear()
                for piece in pieces:
                    moved = True
                    end.feed(piece)
                    if end.error is not None:
                        raise end.error

    def pump_bytewise(self) -> None:
        """Move bytes like :meth:`pump`; each byte arrives on its own."""
        self.pump(byte_cuts)

    def pump_randomly(self, rng: random.Random) -> None:
        """Move bytes like :meth:`pump`, in pieces drawn from ``rng``."""
        self.pump(lambda data: random_cuts(data, rng))
