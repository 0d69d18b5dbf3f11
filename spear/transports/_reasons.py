"""Why a connection was not let in: the names under which refusals are counted."""

from __future__ import annotations

from enum import StrEnum
from typing import final


@final
class Reason(StrEnum):
    """The accept loop's own reasons. Handlers add theirs as plain strings.

    Only our code chooses reasons, never a peer, so a table of them stays small.
    """

    TOO_MANY = "too_many_connections"
    """``WireLimits.max_connections`` are open."""

    CROWDED_OUT = "crowded_out"
    """The oldest of too many that had not authenticated; a newer one got its place."""

    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """Not authenticated within ``WireLimits.handshake_seconds``."""

    WRONG_USER = "wrong_user"
    """A process of another user (Unix sockets)."""

    WRONG_PROCESS = "wrong_process"
    """A process of ours, but not the one that was meant (Unix sockets)."""

    PLAINTEXT_ON_TLS = "plaintext_on_tls"
    """The first byte was not TLS."""

    TLS_FAILED = "tls_failed"
    """No common version, or no certificate that we accept."""

    GARBAGE = "garbage"
    """The handler raised RemoteProtocolError before it had authenticated the peer."""

    OVERSIZED = "oversized"
    """It began a frame larger than a stranger may send. (Handlers say so.)"""

    CUT_SHORT = "cut_short"
    """The connection ended in the middle of its first frame. (Handlers say so.)"""

    NOT_AUTHENTICATED = "not_authenticated"
    """The handler raised AuthenticationFailed."""

    LEFT = "left"
    """The connection ended, from either side, before it was authenticated."""

    CRASHED = "crashed"
    """A bug of ours: the handler raised something unexpected before it had authenticated."""
