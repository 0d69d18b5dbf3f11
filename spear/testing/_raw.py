"""A peer that a test drives by hand, and that can break every rule of the protocol.

The peer logs in like an agent, or admits an agent like a host. From then on it sends only what the test
sends, frame by frame or byte by byte: it answers nothing by itself.
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

# Flags of frames. Repeated here, because a peer in another language cannot import them from Spear.
FRAGMENT: Final = 0x01
MORE: Final = 0x02
BATCH: Final = 0x40


@final
class RawPeer:
    """A peer without an agent or a host behind it: a test sends and receives each frame.

    Args:
        stream: a stream that is connected to the other end.
        limits: the limits that the peer announces, and applies to received frames.

    Attributes:
        stream: the stream as given, for sending bytes that are no frames.
        received: frames that have arrived and that ``receive`` has not returned yet.
    """

    def __init__(self, stream: trio.abc.Stream, limits: WireLimits = DEFAULT_WIRE_LIMITS) -> None:
        self.stream = stream
        self.received: deque[Frame] = deque()
        self._limits = limits
        self._receiver = Receiver(limits)

    # -- logging in ---------------------------------------------------------------------------

    async def receive_challenge(self) -> Challenge:
        """Wait for the host's CHALLENGE, the first frame of a connection."""
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
        """Return a login request, which a host accepts if ``secret`` is the instance's secret."""
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
        """Log in as an agent, and announce the functions.

        Raises:
            AuthenticationFailed: the host refuses the login.
            ChannelBroken: the host closes the connection instead of answering.
        """
        challenge = await self.receive_challenge()
        request = self.prove(challenge, instance, secret, resumes=resumes, features=features)
        await self.authenticate(request)
        await self.announce(functions)

    async def authenticate(self, request: AuthRequest) -> None:
        """Send a login request and wait until it is accepted. Raises as :meth:`log_in` does."""
        await self.send(FrameType.AUTH_REQUEST, head=request.to_head())
        head = (await self.receive(FrameType.AUTH_RESPONSE))[5]
        if AuthAccepted.from_head_untrusted(head) is None:
            raise AuthenticationFailed("refused")
        self._receiver.open(lambda *_: True)

    async def announce(self, functions: Sequence[str]) -> None:
        """Announce the functions to the host, in one frame."""
        head: Head = {"functions": list(functions), "streams": [], "last": True}
        await self.send(FrameType.ANNOUNCE, head=head)

    async def admit(self, secret: Secret) -> list[str]:
        """Admit an agent as a host, without checking its proof, and return the announced functions.

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
        """Return the bytes of a frame, without checking that the frame makes sense."""
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
        """Return the next frame. With ``type_``, drop frames of other types in front of it.

        Raises:
            ChannelBroken: the host has closed the connection.
            RemoteProtocolError: the host sent bytes that are no frame.
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
        """Wait until the host has closed the connection, and return the frames received before."""
        frames = []
        try:
            while True:
                frames.append(await self.receive())
        except ChannelBroken:
            return frames

    async def reset(self) -> None:
        """Break the connection without a CLOSE frame, as a crash does."""
        if isinstance(self.stream, SocketStream):
            # TCP then sends RST and discards data in flight; other sockets ignore the option.
            self.stream.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(self.stream)
