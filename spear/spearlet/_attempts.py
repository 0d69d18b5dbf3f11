"""Attempts to make a call: waiting for a replica, and what a caller is told when one has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    DeadlineExceeded,
    LocalProtocolError,
    Rejected,
    SpearError,
)
from spear.channels import call_unprotected, protected_class

from ._arguments import Result, decode_result_untrusted
from ._options import cannot_be_sent
from ._replicas import explain_loss
from ._streams import leave_it_to_scope

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.channels import CommunicationChannel

    from ._policies import Choice
    from ._pool import ReplicaPool
    from ._replicas import ServingReplica

MAX_ATTEMPTS: Final = 3
"""Attempts of a call that certainly was not executed, or has a key; each at another replica, if there is
one."""


async def wait_for_room(
    pool: ReplicaPool,
    function: str,
    session: str | None,
    begun: float,
    deadline: float,
    *,
    is_promised: bool = False,
) -> Choice:
    """:meth:`ReplicaPool.wait_for_room`, with errors that name the function."""
    try:
        return await pool.wait_for_room(deadline, session, is_promised=is_promised)
    except DeadlineExceeded as error:
        await leave_it_to_scope(deadline)
        late = pool.stalls.late(function, begun, deadline, "no")
        if deadline > begun:
            late = DeadlineExceeded(f"{late}: {error}", code=late.code, delivered="no")
        raise late from None


def may_try_again(error: SpearError, channel: CommunicationChannel, attempts: int) -> bool:
    """Whether a call that certainly was not executed goes to another replica."""
    if channel.is_connected or attempts >= MAX_ATTEMPTS or error.delivered != "no":
        return False
    # Rejected: it has crossed the message that the replica is leaving.
    return isinstance(error, ChannelBroken | ChannelClosed | Rejected)


async def explain(
    pool: ReplicaPool,
    function: str,
    error: SpearError,
    replica: ServingReplica,
    begun: float,
    deadline: float,
    *,
    has_reported: bool = False,
) -> None:
    """Raise ``error`` as a failure that does not mention channels; return if it already is one.

    Args:
        pool: of the deployment.
        function: which was called.
        error: how the attempt failed.
        replica: where.
        begun: when the call began, in Trio's time.
        deadline: when its time is up.
        has_reported: whether a report of progress has arrived, so that the function has certainly begun.
    """
    if isinstance(error, LocalProtocolError):
        raise cannot_be_sent(function, error) from error
    delivered: Delivered = "yes" if has_reported else error.delivered
    if isinstance(error, DeadlineExceeded):
        await leave_it_to_scope(deadline)
        raise pool.stalls.late(function, begun, deadline, delivered) from error
    if isinstance(error, ChannelBroken | ChannelClosed):
        raise await explain_loss(replica, error, delivered) from error


@final
@protected_class
class Reports:
    """Hands on progress reports, and remembers whether there was one.

    Attributes:
        arrived: whether there was.
    """

    def __init__(self, on_progress: Callable[[Result], None]) -> None:
        self._on_progress = on_progress
        self.arrived = False

    def __call__(self, payload: bytes, is_cbor: bool) -> None:
        """Hand on one report."""
        self.arrived = True
        call_unprotected(self._on_progress, decode_result_untrusted(payload, is_cbor))
