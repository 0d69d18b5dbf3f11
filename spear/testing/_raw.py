"""A peer that a test drives by hand, and that can break every rule.

It logs in as an agent does, or lets an agent log in as a host does. From then on it sends what the test
says, frame by frame or byte by byte, and answers nothing by itself. The other end must get along with
that.
"""

from __future__ import annotations

import struct
from collections import deque
from os import urandom
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import AuthenticationFailed, ChannelBroken
from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.transports import SocketStream
from spear.wire import (
    NONCE_BYTES,
    VERSION,
    AuthAccepted,
    AuthRequest,
    Challenge,
    Frame,
    FrameType,
    Head,
    Receiver,
    agent_text,
    encode_head,
    host_text,
    pack_prefix,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spear._ids import InstanceId, Secret

READ_BYTES: Final = 64 * 1024

MESSAGES_ID: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The call id of one-way messages."""

# Flags of frames; the suites spell them out, because a peer in another language does.
FRAGMENT: Final = 0x01
MORE: Final = 0x02
BATCH: Final = 0x40


@final
class RawPeer:
    """The agent's end of a stream without an agent, or the host's end without a host.

    Args:
        stream: connected to the other end.
        limits: what the peer claims to accept, and its own bounds for what it receives.

    Attributes:
        stream: as given; to send bytes that are no frames.
        received: frames that have arrived and were not asked for yet.
    """

    def __init__(self, stream: trio.abc.Stream, limits: WireLimits = DEFAULT_WIRE_LIMITS) -> None:
        self.stream = stream
        self.received: deque[Frame] = deque()
        self._limits = limits
        self._receiver = Receiver(limits)

    # -- logging in ---------------------------------------------------------------------------

    async def receive_challenge(self) -> Challenge:
        """The host's first word."""
        return Challenge.from_head_untrusted((await self.receive(FrameType.CHALLENGE))[5])

    def prove(
        self,
        challenge: Challenge,
        instance: InstanceId,
        secret: Secret,
        *,
        nonce: bytes | None = None,
        resumes: bool = False,
        version: int = VERSION,
        features: Sequence[str] = (),
    ) -> AuthRequest:
        """A request that a host believes if ``secret`` is the right one."""
        nonce = urandom(NONCE_BYTES) if nonce is None else nonce
        proof = secret.prove(agent_text(version, instance, challenge.nonce, nonce))
        return AuthRequest(
            version, instance, nonce, proof, resumes, self._limits, "raw", tuple(features)
        )

    async def log_in(
        self,
        instance: InstanceId,
        secret: Secret,
        functions: Sequence[str] = (),
        *,
        resumes: bool = False,
        features: Sequence[str] = (),
    ) -> None:
        """Do all that an agent does until its channel is ready.

        Raises:
            AuthenticationFailed: the host says no.
            ChannelBroken: it closes the connection instead.
        """
        challenge = await self.receive_challenge()
        request = self.prove(challenge, instance, secret, resumes=resumes, features=features)
        await self.authenticate(request)
        await self.announce(functions)

    async def authenticate(self, request: AuthRequest) -> None:
        """Send the request and wait for the welcome; raises as :meth:`log_in` does."""
        await self.send(FrameType.AUTH_REQUEST, head=request.to_head())
        head = (await self.receive(FrameType.AUTH_RESPONSE))[5]
        if AuthAccepted.from_head_untrusted(head) is None:
            raise AuthenticationFailed("refused")
        self._receiver.open(lambda *_: True)

    async def announce(self, functions: Sequence[str]) -> None:
        """Say which functions there are."""
        head: Head = {"functions": list(functions), "streams": [], "last": True}
        await self.send(FrameType.ANNOUNCE, head=head)

    async def admit(self, secret: Secret) -> list[str]:
        """Do all that a host does until the agent's channel is ready; returns the announced functions.

        Raises:
            ChannelBroken: the agent closes the connection instead.
        """
        nonce = urandom(NONCE_BYTES)
        await self.send(FrameType.CHALLENGE, head=Challenge(nonce).to_head())
        request = AuthRequest.from_head_untrusted((await self.receive(FrameType.AUTH_REQUEST))[5])
        text = host_text(request.version, request.instance, nonce, request.nonce)
        accepted = AuthAccepted(secret.prove(text), self._limits)
        await self.send(FrameType.AUTH_RESPONSE, head=accepted.to_head())
        self._receiver.open(lambda *_: True)
        head = (await self.receive(FrameType.ANNOUNCE))[5]
        functions = (head or {}).get("functions")
        return [str(name) for name in functions] if isinstance(functions, list) else []

    # -- frames -------------------------------------------------------------------------------

    @staticmethod
    def encode(
        type_: int,
        *,
        flags: int = 0,
        call_id: int = 0,
        a: int = 0,
        b: int = 0,
        payload: bytes = b"",
        head: Head | None = None,
    ) -> bytes:
        """A frame's bytes, sensible or not."""
        encoded = None if head is None else encode_head(head)
        return pack_prefix(type_, flags, call_id, a, b, encoded, len(payload)) + payload

    async def send(
        self,
        type_: int,
        *,
        flags: int = 0,
        call_id: int = 0,
        a: int = 0,
        b: int = 0,
        payload: bytes = b"",
        head: Head | None = None,
    ) -> None:
        """Send a frame."""
        frame = self.encode(
            type_, flags=flags, call_id=call_id, a=a, b=b, payload=payload, head=head
        )
        await self.stream.send_all(frame)

    async def receive(self, type_: int | None = None) -> Frame:
        """The next frame, of the given type if one is given; those in front are dropped.

        Raises:
            ChannelBroken: the host has closed the connection.
            RemoteProtocolError: the host sent something that is no frame.
        """
        while True:
            while self.received:
                frame = self.received.popleft()
                if type_ is None or frame[0] == type_:
                    return frame
            try:
                data = await self.stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError as error:
                raise ChannelBroken(f"the host has cut the connection: {error}") from error
            if not data:
                raise ChannelBroken("the host has closed the connection")
            frames = self._receiver.receive_data(bytes(data))
            while self._receiver.paused:
                frames += self._receiver.resume()
            self.received.extend(frames)
            if self._receiver.error is not None:
                raise self._receiver.error

    async def wait_closed(self) -> list[Frame]:
        """Wait until the host has closed the connection; returns the frames it sent before."""
        frames = []
        try:
            while True:
                frames.append(await self.receive())
        except ChannelBroken:
            return frames

    async def reset(self) -> None:
        """Tear the connection down without a word, as a crash does."""
        if isinstance(self.stream, SocketStream):
            # TCP then says RST and drops what was under way; other sockets ignore it.
            self.stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)
