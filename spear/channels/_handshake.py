"""Logging in: the handshake of ``spear.wire`` over a pipe, from both sides.

:func:`admit_agent` (host) and :func:`log_in` (agent) leave the connection open, or raise.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import AuthenticationFailed, DeadlineExceeded, RemoteProtocolError
from spear._ids import InstanceId, Secret
from spear._limits import WireLimits
from spear.wire import (
    NONCE_BYTES,
    REFUSAL,
    SEGMENTS,
    TYPES,
    VERSION,
    AuthAccepted,
    AuthRequest,
    Challenge,
    Connection,
    FrameType,
    Head,
    Kind,
    agent_text,
    choose_version,
    derive_session,
    host_text,
)

if TYPE_CHECKING:
    from ._pipes import Pipe

Judge: TypeAlias = Callable[[AuthRequest], tuple[tuple[Secret, ...], str]]
"""Returns the keys of which one must have signed a login. For a refusal: no keys, and the reason."""

# Verifying with this key takes as long as with a real one, so the time of a refusal does not reveal
# whether the instance is unknown or the proof is wrong.
_NOBODY: Final = Secret(bytes(32))


@final
@attrs.frozen
class Login:
    """A handshake that succeeded.

    Attributes:
        request: the request that the agent sent.
        key: the key that signed the request.
        session: the key that resumes the session after this connection has broken.
    """

    request: AuthRequest
    key: Secret
    session: Secret


class LoginRefused(AuthenticationFailed):
    """The host refused a login.

    Attributes:
        reason: the reason, for our log and counters; never sent to the peer.
        instance: the instance that the peer claimed to be, if any.
    """

    def __init__(self, reason: str, instance: InstanceId | None) -> None:
        super().__init__("authentication failed")
        self.reason = reason
        self.instance = instance


async def admit_agent(
    pipe: Pipe, connection: Connection, limits: WireLimits, judge: Judge
) -> Login:
    """Challenge an agent, check its proof, and answer (the host's side). The caller sets a deadline.

    If cancelled, the connection is unusable.

    Raises:
        LoginRefused: the login was refused, and the refusal was sent if the peer still reads.
        RemoteProtocolError: the peer does not speak our protocol.
        ChannelBroken: the connection was lost.
    """
    nonce = urandom(NONCE_BYTES)
    features = _features(pipe)
    connection.send_control(Kind.CHALLENGE, head=Challenge(nonce, features=features).to_head())
    pipe.flush()
    request = AuthRequest.from_head_untrusted(
        await _receive(pipe, connection, FrameType.AUTH_REQUEST, Kind.AUTH_REQUEST)
    )
    keys, reason = judge(request)
    text = agent_text(request.version, request.instance, nonce, request.nonce)
    proven = [key for key in keys or (_NOBODY,) if key.verify(text, request.proof)]
    if keys and not proven:
        reason = "bad_proof"
    elif keys and request.version != VERSION:
        reason = "wrong_version"
    elif keys:
        reply = host_text(request.version, request.instance, nonce, request.nonce)
        features = tuple(name for name in features if name in request.features)
        accepted = AuthAccepted(proven[0].prove(reply), limits, features)
        connection.send_control(Kind.AUTH_ACCEPTED, head=accepted.to_head())
        pipe.flush()
        connection.open(request.limits, takes_types=TYPES in features)
        if SEGMENTS in features:
            pipe.segments.agree(request.limits, trusts=False, copies=TYPES in features)
        return Login(request, proven[0], derive_session(proven[0], nonce, request.nonce))
    connection.send_control(Kind.AUTH_REFUSED, head=REFUSAL)
    await pipe.drain()
    raise LoginRefused(reason, request.instance)


async def log_in(
    pipe: Pipe,
    connection: Connection,
    limits: WireLimits,
    instance: InstanceId,
    secret: Secret,
    *,
    resumes: bool = False,
) -> Login:
    """Answer the host's challenge, and check that the host knows the secret, too (the agent's side).

    If cancelled, the connection is unusable.

    Raises:
        DeadlineExceeded: the handshake took longer than ``handshake_seconds``.
        AuthenticationFailed: the host refused the login, or does not know the secret.
        RemoteProtocolError: the peer does not speak our protocol.
        ChannelBroken: the connection was lost.
    """
    with trio.move_on_after(limits.handshake_seconds):
        return await _log_in(pipe, connection, limits, instance, secret, resumes=resumes)
    seconds = limits.handshake_seconds
    raise DeadlineExceeded(
        f"the host did not finish the handshake within {seconds:g} s", delivered="no"
    )


async def _log_in(
    pipe: Pipe,
    connection: Connection,
    limits: WireLimits,
    instance: InstanceId,
    secret: Secret,
    *,
    resumes: bool,
) -> Login:
    challenge = Challenge.from_head_untrusted(
        await _receive(pipe, connection, FrameType.CHALLENGE, Kind.CHALLENGE)
    )
    version = choose_version(challenge)
    if version is None:
        raise RemoteProtocolError(
            f"the host supports versions {challenge.oldest} to {challenge.newest} of the protocol; this "
            f"agent supports version {VERSION}"
        )
    nonce = urandom(NONCE_BYTES)
    text = agent_text(version, instance, challenge.nonce, nonce)
    request = AuthRequest(
        version,
        instance,
        nonce,
        secret.prove(text),
        resumes,
        limits,
        client="spear-python",
        features=_features(pipe),
    )
    connection.send_control(Kind.AUTH_REQUEST, head=request.to_head())
    pipe.flush()
    head = await _receive(pipe, connection, FrameType.AUTH_RESPONSE, None)
    accepted = AuthAccepted.from_head_untrusted(head)
    if accepted is None:
        connection.receive_control_untrusted(Kind.AUTH_REFUSED)
        raise AuthenticationFailed("the host refused this instance; the host's log has the reason")
    reply = host_text(version, instance, challenge.nonce, nonce)
    if not secret.verify(reply, accepted.proof):
        raise AuthenticationFailed("the peer is not the expected host: it does not know the secret")
    connection.receive_control_untrusted(Kind.AUTH_ACCEPTED)
    connection.open(accepted.limits, takes_types=TYPES in accepted.features)
    if SEGMENTS in accepted.features and SEGMENTS in request.features:
        pipe.segments.agree(accepted.limits, trusts=True, copies=TYPES in accepted.features)
    return Login(request, secret, derive_session(secret, challenge.nonce, nonce))


def _features(pipe: Pipe) -> tuple[str, ...]:
    """Return the optional features of the protocol that this end can use on the pipe."""
    return (SEGMENTS, TYPES) if pipe.segments.is_possible else (TYPES,)


async def _receive(
    pipe: Pipe, connection: Connection, type_: FrameType, kind: Kind | None
) -> Head | None:
    """Wait for the one frame that must come next; return its head."""
    frames = await pipe.receive()
    if pipe.receiver is not None and pipe.receiver.error is not None:
        raise pipe.receiver.error
    received, _, call_id, _, _, head, payload = frames[0]
    if len(frames) != 1 or received != type_ or call_id or payload:
        raise RemoteProtocolError(f"expected a frame {type_.name}")
    if kind is not None:
        connection.receive_control_untrusted(kind)
    return head
