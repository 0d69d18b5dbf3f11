"""All limits of a host: on its connections, on its instances' lives, and on the data that it keeps.

A leaf module beside ``_limits``, which has the limits of both ends of a connection. Times are seconds,
sizes are bytes.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from ._errors import ConfigurationError
from ._limits import DEFAULT_WIRE_LIMITS, DRAIN_SECONDS, KIB, MIB, WireLimits, check_limits, shown


@final
@attrs.frozen(kw_only=True)
class InstanceTimeouts:
    """Time limits for the steps of an instance's life, in seconds.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    startup_seconds: float = 60.0
    """From an instance's start to ready; after this time its secret is void. A program with a model or
    large libraries may need more than the 10 s of AWS Lambda. One that raises ends its start at once."""

    drain_seconds: float = DRAIN_SECONDS
    """First step of stopping an instance: time for its running calls to finish."""

    close_seconds: float = 0.2
    """Time for an idle instance to answer our CLOSE with its own: a round trip and some work. An instance
    that sends no CLOSE in this time gets SIGTERM."""

    terminate_seconds: float = 2.0
    """Second step of stopping an instance: from the request to end (SIGTERM) to the kill (SIGKILL)."""

    kill_seconds: float = 2.0
    """Time for a runtime to kill an instance, and the same time again for the instance to end. After that
    the host logs an error and stops waiting. A process that hangs in the kernel (a dead disk) takes
    longer, and so may a Pod, which an API server deletes."""

    exit_seconds: float = 0.2
    """Time that an error about a lost instance waits for the instance's exit status, which usually comes
    within a millisecond. Also added to ``startup_seconds`` for ``launch`` and ``wait_ready``."""

    def __attrs_post_init__(self) -> None:
        check_limits(self)


DEFAULT_TIMEOUTS: Final = InstanceTimeouts()


@final
@attrs.frozen(kw_only=True)
class HostLimits:
    """All limits of a host.

    Attributes:
        wire: limits of the connections with its instances, at both ends.
        timeouts: time limits for the lives of its instances.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    wire: WireLimits = DEFAULT_WIRE_LIMITS
    timeouts: InstanceTimeouts = DEFAULT_TIMEOUTS

    shutdown_seconds: float = 30.0
    """Seconds that a draining spearlet gives to running and queued calls (Dynamo, Kubernetes: 30 s)."""

    # -- what a spearlet keeps --------------------------------------------------------------------
    max_submitted: int = 10_000
    """Submitted calls that have not ended; each holds its arguments. Above it ``submit`` raises
    Overloaded."""

    submitted_bytes: int = 256 * MIB
    """Encoded arguments of all submitted calls that have not ended; above it ``submit`` raises
    Overloaded. Calls with keys, whose executions go on without their callers, have a second budget of
    this size. A single larger call is allowed while it is alone. Segments are excluded: their memory is
    not copied, and has limits of its own."""

    max_executions: int = 10_000
    """Ended executions that are kept; the oldest are forgotten first."""

    execution_seconds: float = 3600.0
    """Seconds that an ended execution is kept."""

    execution_bytes: int = 256 * MIB
    """Encoded results and failures of all ended executions that are kept. A single larger execution is
    forgotten at once, and earlier ones are kept; its result can be read only through an ``Execution``
    that the caller holds. Each execution costs about 1 KiB more, which is not counted."""

    max_outcomes: int = 10_000
    """Outcomes of calls with keys that are kept."""

    outcome_bytes: int = 64 * MIB
    """Encoded results and failures of all outcomes that are kept."""

    deployment_log_bytes: int = 256 * KIB
    """Bytes of output kept for each deployment, over all its instances."""

    # -- listeners ------------------------------------------------------------------------------
    max_connections: int = 16_384
    """Open connections of all instance listeners of a host together, authenticated or not; further ones
    are refused."""

    max_unauthenticated: int = 64
    """Unauthenticated connections, of all these listeners together; a new one closes the oldest."""

    # -- logs -----------------------------------------------------------------------------------
    log_line_bytes: int = 8 * KIB
    """Bytes of one line of output. A longer line is cut, and ends with the number of missing bytes."""

    log_tail_bytes: int = 64 * KIB
    """Bytes kept of stdout, and as many of stderr, for each instance."""

    def __attrs_post_init__(self) -> None:
        for name, kind in (("wire", WireLimits), ("timeouts", InstanceTimeouts)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigurationError.about(
                    name, f"must be spear.{kind.__name__}(...), not {shown(value)}"
                )
        check_limits(self)


DEFAULT_HOST_LIMITS: Final = HostLimits()
