"""The record of a replica that has failed, which outlives the replica and its successors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import SpawnFailed, WorkerDied
from spear._failures import first_line

if TYPE_CHECKING:
    from spear._errors import SpearError
    from spear._ids import InstanceId

MAX_FAILURES: Final = 16
"""Failures of a deployment that are remembered. Each holds at most ``error_message_bytes`` of stderr."""


@final
@attrs.frozen(kw_only=True)
class ReplicaFailure:
    """A replica that ended without being asked to, or that could not be started.

    Attributes:
        time: the time of the failure, by Trio's clock.
        instance: the instance; None if there was none yet.
        reason: the reason, for people.
        code: the code of the error.
        exit_status: the exit status as in ``subprocess``, negative for a signal; None if unknown.
        stderr_tail: the last lines that the instance wrote to stderr.
    """

    time: float
    instance: InstanceId | None
    reason: str
    code: str
    exit_status: int | None
    stderr_tail: str


def record_failure(time: float, instance: InstanceId | None, error: SpearError) -> ReplicaFailure:
    """Return the record of a failure, without the error, whose traceback holds frames."""
    return ReplicaFailure(
        time=time,
        instance=instance,
        reason=first_line(error),
        code=error.code,
        exit_status=error.exit_status if isinstance(error, WorkerDied) else None,
        stderr_tail=error.stderr_tail if isinstance(error, SpawnFailed | WorkerDied) else "",
    )
