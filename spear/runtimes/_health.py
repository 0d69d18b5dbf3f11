"""The health of an instance, and a description of its exit."""

from __future__ import annotations

from signal import Signals
from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from spear.telemetry import InstanceState


@final
@attrs.frozen(kw_only=True)
class InstanceHealth:
    """A snapshot of an instance's health, as the host sees it.

    Attributes:
        state: the current state.
        reason: the reason for the state; may be empty.
        is_connected: whether calls can be sent to the instance.
        heartbeats_missed: consecutive heartbeat intervals without a message from the instance.
        calls_in_flight: calls that the instance has not finished.
        age_seconds: seconds since the instance was requested.
    """

    state: InstanceState
    reason: str
    is_connected: bool
    heartbeats_missed: int
    calls_in_flight: int
    age_seconds: float


def describe_exit(exit_status: int | None) -> str:
    """Return a description of an exit status, as a predicate such as "exited with status 3"."""
    if exit_status is None:
        return "ended without a known exit status"
    if exit_status >= 0:
        return f"exited with status {exit_status}"
    try:
        return f"was killed by {Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"
