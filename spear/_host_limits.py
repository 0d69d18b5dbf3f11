"""All limits of a host: of its connections, of its instances' lives, of what it keeps.

A leaf beside ``_limits``, which has what both ends of a connection accept. Times are seconds, sizes are
bytes.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from ._errors import ConfigurationError
from ._limits import DEFAULT_WIRE_LIMITS, DRAIN_SECONDS, KIB, MIB, WireLimits, check_limits, shown


@final
@attrs.frozen(kw_only=True)
class InstanceTimeouts:
    """How long each step of an instance's life may take.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    startup_seconds: float = 10.0
    """From its start to ready (AWS Lambda: 10 s). The secret is void afterwards."""

    drain_seconds: float = DRAIN_SECONDS
    """Stop ladder, first step: running calls may finish."""

    farewell_seconds: float = 0.2
    """From our CLOSE to the CLOSE of an idle instance: a round trip and some work. An instance that sends
    no CLOSE in this time gets SIGTERM."""

    terminate_seconds: float = 2.0
    """Stop ladder, second step: from being asked to end (SIGTERM) to being killed (SIGKILL)."""

    kill_seconds: float = 2.0
    """How long a runtime may take to kill an instance, and after that how long the instance may take to
    end. Only a process that the kernel keeps (a dead disk) takes longer; a Pod is deleted by an API
    server that may be busy. A host then goes on without waiting, and logs an error."""

    exit_seconds: float = 0.2
    """How long an error about a lost instance waits for its exit status, which usually takes a
    millisecond. Also added to ``startup_seconds`` for ``launch`` and ``wait_ready``."""

    def __attrs_post_init__(self) -> None:
        check_limits(self)


DEFAULT_TIMEOUTS: Final = InstanceTimeouts()


@final
@attrs.frozen(kw_only=True)
class HostLimits:
    """All limits of a host.

    Attributes:
        wire: of the connections with its instances; these get the same.
        timeouts: of its instances.

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
    this size. A single larger call is allowed while it is alone. Segments do not count: their memory is
    not copied, and has limits of its own."""

    max_executions: int = 10_000
    """Ended executions that are kept; the oldest are forgotten first."""

    execution_seconds: float = 3600.0
    """How long an ended execution is kept."""

    execution_bytes: int = 256 * MIB
    """Encoded results and failures of all ended executions that are kept. A single larger one is
    forgotten at once, and can be read only through an ``Execution`` that the caller holds; earlier ones
    are kept. Each execution costs about 1 KiB more, which is not counted."""

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
    """One line that an instance writes. A longer line is cut, and says how many bytes are missing."""

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
