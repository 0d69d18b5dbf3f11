"""The reasons why a connection is refused, under which refusals are counted."""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class Reason(StrEnum):
    """A reason of the accept loop for a refusal. Handlers use more reasons, as plain strings.

    Only Spear's code chooses reasons, never a peer, so that a table by reason stays small.
    """

    TOO_MANY = "too_many_connections"
    """The number of open connections has reached ``HostLimits.max_connections``."""

    CROWDED_OUT = "crowded_out"
    """The connection was the oldest of too many unauthenticated ones, and a newer one replaced it."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The peer did not authenticate within ``WireLimits.handshake_seconds``."""

    WRONG_USER = "wrong_user"
    """The peer is a process of another user (Unix sockets)."""

    WRONG_PROCESS = "wrong_process"
    """The peer is a process of the same user, but not the expected one (Unix sockets)."""

    PLAINTEXT_ON_TLS = "plaintext_on_tls"
    """The first byte was not TLS."""

    TLS_FAILED = "tls_failed"
    """The TLS handshake failed: no common version, or no acceptable certificate."""

    GARBAGE = "garbage"
    """The handler raised RemoteProtocolError before it had authenticated the peer."""

    OVERSIZED = "oversized"
    """The peer began a frame larger than an unauthenticated peer may send. (Reported by handlers.)"""

    CUT_SHORT = "cut_short"
    """The connection ended in the middle of its first frame. (Reported by handlers.)"""

    NOT_AUTHENTICATED = "not_authenticated"
    """The handler raised AuthenticationFailed."""

    LEFT = "left"
    """The connection ended, from either side, before it was authenticated."""

    CRASHED = "crashed"
    """A bug: the handler raised an unexpected exception before it had authenticated the peer."""
