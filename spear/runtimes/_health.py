"""How an instance is, and how one has ended."""

from __future__ import annotations

from signal import Signals
from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from spear.telemetry import InstanceState


@final
@attrs.frozen(kw_only=True)
class InstanceHealth:
    """How an instance is.

    Attributes:
        state: where it stands.
        reason: why it came there, if there is something to say.
        is_connected: whether it takes calls.
        heartbeats_missed: how many of the last it has not answered.
        calls_in_flight: that it has not finished.
        age_seconds: since it was asked for.
    """

    state: InstanceState
    reason: str
    is_connected: bool
    heartbeats_missed: int
    calls_in_flight: int
    age_seconds: float


def describe_exit(exit_status: int | None) -> str:
    """What an exit status says, as the end of a sentence."""
    if exit_status is None:
        return "ended, nobody knows how"
    if exit_status >= 0:
        return f"exited with status {exit_status}"
    try:
        return f"was killed by {Signals(-exit_status).name}"
    except ValueError:
        return f"was killed by signal {-exit_status}"
