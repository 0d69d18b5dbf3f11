"""Mutual authentication of the two ends.

The secret itself never crosses the wire. Each side signs both nonces, so a recorded handshake cannot be
replayed. The two directions sign different texts, so a proof cannot be reflected to its sender.

After the first login the secret is spent: both sides derive a session key from it. A broken connection is
resumed with the session key and fresh nonces.

This module is pure: the caller supplies nonces and decides whether to accept a login.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from spear._errors import ConfigurationError, RemoteProtocolError
from spear._ids import InstanceId, Secret
from spear._limits import DEFAULT_WIRE_LIMITS, KIB, WireLimits

from ._heads import Head, HeadValue

VERSION: Final = 1
OLDEST_VERSION: Final = 1
NONCE_BYTES: Final = 32

LEAST_FRAGMENT_BYTES: Final = 32 * KIB
"""Smallest fragment size accepted: cutting 32 MiB into single bytes would cost the sender a minute."""

# Limits that the peer must know: name on the wire -> (field, multiplier to the wire's unit).
_ANNOUNCED: Final = {
    "fragment": ("fragment_bytes", 1),
    "message": ("max_message_bytes", 1),
    "assembly": ("assembly_bytes", 1),
    "calls": ("max_calls", 1),
    "stream": ("stream_window_bytes", 1),
    "connection": ("connection_window_bytes", 1),
    "heartbeat": ("heartbeat_seconds", 1000),
}
# Further limits, for ends that pass segments to each other.
_ANNOUNCED_SEGMENTS: Final = {
    "segment": ("max_segment_bytes", 1),
    "segments": ("max_segments", 1),
    "mapped": ("mapped_segment_bytes", 1),
}
_MOST: Final = 2**32 - 1

SEGMENTS: Final = "segments"
"""The feature of passing large payloads as file descriptors of sealed memory files."""

TYPES: Final = "types"
"""The feature of decoding the tags of ``spear._tagged`` and those of arrays. With segments, also that of
copying large payloads that are passed in memory which its sender writes to again."""


@final
@attrs.frozen
class Challenge:
    """The host's first message to the agent: the versions that it supports, and a fresh nonce."""

    nonce: bytes = attrs.field(repr=False)
    newest: int = VERSION
    oldest: int = OLDEST_VERSION
    features: tuple[str, ...] = ()

    def to_head(self) -> Head:
        """Return the head for this message."""
        return {
            "versions": [self.oldest, self.newest],
            "nonce": self.nonce,
            "features": list(self.features),
        }

    @classmethod
    def from_head_untrusted(cls, head: Head | None) -> Challenge:
        """Decode the message. Raises RemoteProtocolError."""
        head = head or {}
        versions = head.get("versions")
        if not isinstance(versions, list) or len(versions) != 2:
            raise RemoteProtocolError("a challenge must contain a range of versions")
        oldest, newest = versions
        if type(oldest) is not int or type(newest) is not int or not 0 < oldest <= newest:
            raise RemoteProtocolError("a challenge must contain a range of versions")
        return cls(_nonce_untrusted(head), newest, oldest, _features_untrusted(head))


@final
@attrs.frozen
class AuthRequest:
    """The agent's login to the host: its instance id, and a proof that it knows the secret."""

    version: int
    instance: InstanceId
    nonce: bytes = attrs.field(repr=False)
    proof: bytes = attrs.field(repr=False)
    resumes: bool = False  # signed with the session key of an earlier connection
    limits: WireLimits = attrs.field(factory=WireLimits, repr=False)
    client: str = ""
    features: tuple[str, ...] = ()

    def to_head(self) -> Head:
        """Return the head for this message."""
        return {
            "version": self.version,
            "runtime": self.instance.runtime,
            "instance": self.instance.name,
            "incarnation": self.instance.incarnation,
            "nonce": self.nonce,
            "proof": self.proof,
            "resumes": self.resumes,
            "limits": announce_limits(self.limits, self.features),
            "client": self.client,
            "features": list(self.features),
        }

    @classmethod
    def from_head_untrusted(cls, head: Head | None) -> AuthRequest:
        """Decode the message. Raises RemoteProtocolError."""
        head = head or {}
        version, proof = head.get("version"), head.get("proof")
        runtime, name, incarnation = (
            head.get(key) for key in ("runtime", "instance", "incarnation")
        )
        client = head.get("client", "")
        if (
            type(version) is not int
            or not 0 < version < 2**32
            or not isinstance(proof, bytes)
            or not isinstance(runtime, str)
            or not isinstance(name, str)
            or type(incarnation) is not int
            or not isinstance(client, str)
        ):
            raise RemoteProtocolError("an authentication request has a missing or invalid field")
        try:
            instance = InstanceId(runtime, name, incarnation)
        except ConfigurationError as error:
            raise RemoteProtocolError(
                "an authentication request has an invalid instance id"
            ) from error
        return cls(
            version,
            instance,
            _nonce_untrusted(head),
            proof,
            head.get("resumes") is True,
            learn_limits_untrusted(head.get("limits")),
            client,
            _features_untrusted(head),
        )


@final
@attrs.frozen
class AuthAccepted:
    """The host's reply to a successful login, with a proof that the host knows the secret, too."""

    proof: bytes = attrs.field(repr=False)
    limits: WireLimits = attrs.field(factory=WireLimits, repr=False)
    features: tuple[str, ...] = ()

    def to_head(self) -> Head:
        """Return the head for this message."""
        return {
            "ok": True,
            "proof": self.proof,
            "limits": announce_limits(self.limits, self.features),
            "features": list(self.features),
        }

    @classmethod
    def from_head_untrusted(cls, head: Head | None) -> AuthAccepted | None:
        """Decode the message; return None for a refusal. Raises RemoteProtocolError."""
        head = head or {}
        ok, proof = head.get("ok"), head.get("proof")
        if ok is False:
            return None
        if ok is not True or not isinstance(proof, bytes):
            raise RemoteProtocolError("an authentication response has a missing or invalid field")
        return cls(proof, learn_limits_untrusted(head.get("limits")), _features_untrusted(head))


REFUSAL: Final[Head] = {"ok": False, "reason": "authentication failed"}
"""The head of every refusal; the actual reason is only in the host's log and counters."""


def choose_version(challenge: Challenge) -> int | None:
    """Return the newest version that both sides support, or None."""
    newest = min(VERSION, challenge.newest)
    return newest if newest >= max(OLDEST_VERSION, challenge.oldest) else None


def agent_text(version: int, instance: InstanceId, host_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return the bytes that the agent signs."""
    return _text(b"spear-agent", version, instance, host_nonce, agent_nonce)


def host_text(version: int, instance: InstanceId, host_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return the bytes that the host signs."""
    return _text(b"spear-host", version, instance, host_nonce, agent_nonce)


def derive_session(secret: Secret, host_nonce: bytes, agent_nonce: bytes) -> Secret:
    """Return the key that resumes this session after its first connection is lost."""
    return Secret(secret.prove(_join(b"spear-session", host_nonce, agent_nonce)))


def _text(
    purpose: bytes, version: int, instance: InstanceId, host_nonce: bytes, agent_nonce: bytes
) -> bytes:
    return _join(
        purpose,
        version.to_bytes(4, "big"),
        instance.runtime.encode(),
        instance.name.encode(),
        instance.incarnation.to_bytes(8, "big"),
        host_nonce,
        agent_nonce,
    )


def _join(*parts: bytes) -> bytes:
    """Join parts, each after its length, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def announce_limits(limits: WireLimits, features: tuple[str, ...] = ()) -> dict[str, HeadValue]:
    """Return the limits that the peer must keep, for the head of a handshake message."""
    announced = {**_ANNOUNCED, **_ANNOUNCED_SEGMENTS} if SEGMENTS in features else _ANNOUNCED
    return {
        name: int(min(max(getattr(limits, field) * unit, 1), _MOST))
        for name, (field, unit) in announced.items()
    }


def learn_limits_untrusted(announced: HeadValue) -> WireLimits:
    """Return the peer's limits, with defaults for those it omits. Raises RemoteProtocolError."""
    if announced is None:
        return DEFAULT_WIRE_LIMITS
    if not isinstance(announced, dict):
        raise RemoteProtocolError("limits must be a map")
    changes: dict[str, int] = {}
    for name, (field, unit) in {**_ANNOUNCED, **_ANNOUNCED_SEGMENTS}.items():
        value = announced.get(name)
        if value is None:
            continue
        if type(value) is not int or not 0 < value <= _MOST:
            raise RemoteProtocolError(f"limit {name!r} is not a positive number")
        if name == "fragment" and value < LEAST_FRAGMENT_BYTES:
            raise RemoteProtocolError(
                f"fragments of {value} bytes; at least {LEAST_FRAGMENT_BYTES} are required"
            )
        if value != getattr(DEFAULT_WIRE_LIMITS, field) * unit:
            changes[field] = value if unit == 1 else value / unit  # type: ignore[assignment]  # floats
    # Nearly all peers have the default limits: ten thousand of them can share one object.
    return attrs.evolve(DEFAULT_WIRE_LIMITS, **changes) if changes else DEFAULT_WIRE_LIMITS


def _nonce_untrusted(head: Head) -> bytes:
    nonce = head.get("nonce")
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise RemoteProtocolError(f"a nonce must have {NONCE_BYTES} bytes")
    return nonce


def _features_untrusted(head: Head) -> tuple[str, ...]:
    features = head.get("features", [])
    if not isinstance(features, list):
        raise RemoteProtocolError("features must be a list of names")
    names = tuple(name for name in features if isinstance(name, str))
    if len(names) != len(features):
        raise RemoteProtocolError("features must be a list of names")
    return names
