"""Settings of a deployment: how many replicas, how calls are spread, what happens after crashes.

Values only: other modules act on them. Each object checks its values when it is made.
"""

from __future__ import annotations

from math import inf
from typing import Final, TypeGuard, final

import attrs

from spear._errors import ConfigurationError
from spear._host_limits import InstanceTimeouts
from spear._limits import MAX_WHOLE, expect_whole, shown
from spear._retry_policy import RetryPolicy
from spear.calls import POLICIES, PolicyFactory, SchedulingPolicy

MAX_REPLICAS: Final = 1024
"""Replicas of one deployment: each costs a process, three descriptors and 3 to 15 MiB."""

MAX_QUEUE: Final = 100_000
"""Queued calls of one deployment: each holds its arguments."""


@final
@attrs.frozen(kw_only=True)
class Scale:
    """A range for the number of replicas of a deployment.

    Between ``min`` and ``max`` the number follows the load. It rises at once when calls wait or the
    replicas are filled beyond ``target``. It falls when it was not needed for ``idle_seconds``.

    Attributes:
        min: the lowest number. With 0, the last replica ends after ``idle_seconds`` without a call, and
            the next call starts one.
        max: the highest number.
        spare: replicas beyond the need of the present load, so that a higher load finds them ready.
        idle_seconds: seconds for which a lower number must have been enough.
        target: the share of each replica's call slots that should be in use, above 0 and at most 1.

    Raises:
        ConfigurationError: a number is out of its range, or the numbers contradict each other.
    """

    min: int = 1
    max: int = 1
    spare: int = 0
    idle_seconds: float = 300.0
    target: float = 0.7

    def __attrs_post_init__(self) -> None:
        for name in ("min", "max", "spare"):
            expect_whole(f"replicas.{name}", getattr(self, name), 0, MAX_REPLICAS)
        if self.max < 1:
            raise ConfigurationError.about(
                "replicas.max", "must be at least 1: with 0 replicas, no call would be answered"
            )
        if self.min > self.max:
            raise ConfigurationError.about(
                "replicas.min",
                f"is {self.min}, above replicas.max ({self.max}): increase replicas.max",
            )
        _expect_seconds("replicas.idle_seconds", self.idle_seconds, least=0.0)
        if not _is_number(self.target) or not 0 < self.target <= 1:
            raise ConfigurationError.about(
                "replicas.target", f"must be above 0 and at most 1, not {shown(self.target)}"
            )

    @property
    def is_several(self) -> bool:
        """Whether instances come and go, or there may be more than one."""
        return self.max > 1 or self.min == 0

    @property
    def is_fixed(self) -> bool:
        """Whether the number does not follow the load."""
        return self.min == self.max


def as_scale(replicas: int | Scale) -> Scale:
    """Return the scale for an argument ``replicas=``; a number means a fixed number of replicas.

    Raises:
        ConfigurationError: ``replicas`` is no number of replicas.
    """
    if isinstance(replicas, Scale):
        return replicas
    if type(replicas) is not int:
        raise ConfigurationError.about(
            "replicas", f"must be a whole number or spear.Scale(...), not {shown(replicas)}"
        )
    expect_whole("replicas", replicas, 1, MAX_REPLICAS)
    return Scale(min=replicas, max=replicas)


@final
@attrs.frozen(kw_only=True)
class RestartPolicy:
    """A policy for restarting replicas that end without being asked to.

    Restarts of each replica are limited as by Erlang's supervisors. The delays double from one failure to
    the next, with jitter, and start over when a replica has lived for ``period_seconds``.

    Attributes:
        intensity: restarts of a replica within ``period_seconds``; one more, and it is given up.
        period_seconds: the period in which restarts are counted.
        first_delay_seconds: the longest delay before the first restart.
        longest_delay_seconds: the longest delay before any other restart.
        retry_seconds: seconds until a replica that was given up is tried again; ``math.inf`` for never.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    intensity: int = 5
    period_seconds: float = 10.0
    first_delay_seconds: float = 0.1
    longest_delay_seconds: float = 5.0
    retry_seconds: float = 60.0

    def __attrs_post_init__(self) -> None:
        expect_whole("restart.intensity", self.intensity, 0, 1000)
        for name in ("period_seconds", "first_delay_seconds", "longest_delay_seconds"):
            _expect_seconds(f"restart.{name}", getattr(self, name), least=0.0)
        if self.retry_seconds != inf:
            _expect_seconds("restart.retry_seconds", self.retry_seconds, least=1.0)


@final
@attrs.frozen(kw_only=True)
class HealthPolicy:
    """A policy for health checks of replicas, if their agent has a check (:meth:`Agent.health`).

    Heartbeats show in any case whether a replica is alive.

    Attributes:
        interval_seconds: seconds between two checks; a replica without a free slot is not checked.
        timeout_seconds: seconds that each check may take.
        failures: number of checks in a row that must fail before the replica is replaced.

    Raises:
        ConfigurationError: a number is out of its range.
    """

    interval_seconds: float = 10.0
    timeout_seconds: float = 5.0
    failures: int = 3

    def __attrs_post_init__(self) -> None:
        _expect_seconds("health.interval_seconds", self.interval_seconds, least=0.1)
        _expect_seconds("health.timeout_seconds", self.timeout_seconds, least=0.01)
        expect_whole("health.failures", self.failures, 1, 1000)


@final
@attrs.frozen(kw_only=True)
class DeploymentSettings:
    """The settings of a deployment.

    Attributes:
        replicas: the number of replicas, or a range in which the number follows the load.
        concurrency: calls that a replica gets at a time, if its agent does not want fewer; by default
            ``HostLimits.wire.max_calls``.
        queue: calls that may wait for a replica; the next one is refused with ``Overloaded``.
        policy: the policy that chooses a replica for each call: its name, or a function that makes it
            (:data:`spear.calls.PolicyFactory`).
        restart: the policy for restarting replicas that end.
        health: the policy for health checks of replicas.
        timeout: default timeout of a call, in seconds; by default ``HostLimits.wire.call_seconds``.
        queue_timeout: seconds that a call may wait for a replica, unless the call names others; by
            default the wait is part of ``timeout``. See :class:`spear.calls.CallOptions`.
        retry: the policy for failed calls that have no policy of their own; by default failed calls are
            not tried again.
        dedup_seconds: seconds that the outcome of a call with a key is remembered.
        abandoned_seconds: seconds for which a call may go on after its caller has given up, because a
            plain function cannot be stopped; then its replica is replaced. By default no replica is.
        timeouts: time limits for the lives of its instances; by default ``HostLimits.timeouts``.

    Raises:
        ConfigurationError: a value cannot be used; the message names it.
    """

    replicas: Scale = attrs.field(factory=Scale, converter=as_scale)
    concurrency: int | None = None
    queue: int = 1000
    policy: SchedulingPolicy | PolicyFactory = "round-robin"
    restart: RestartPolicy = attrs.field(factory=RestartPolicy)
    health: HealthPolicy = attrs.field(factory=HealthPolicy)
    timeout: float | None = None
    queue_timeout: float | None = None
    retry: RetryPolicy | None = None
    dedup_seconds: float = 600.0
    abandoned_seconds: float | None = None
    timeouts: InstanceTimeouts | None = None

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.restart, RestartPolicy):
            raise ConfigurationError.about(
                "restart", f"must be RestartPolicy(...), not {self.restart!r}"
            )
        if not isinstance(self.health, HealthPolicy):
            raise ConfigurationError.about(
                "health", f"must be HealthPolicy(...), not {self.health!r}"
            )
        if self.timeouts is not None and not isinstance(self.timeouts, InstanceTimeouts):
            raise ConfigurationError.about(
                "timeouts", f"must be InstanceTimeouts(...), not {self.timeouts!r}"
            )
        if self.concurrency is not None:
            expect_whole("concurrency", self.concurrency, 1, 1_000_000)
        expect_whole("queue", self.queue, 0, MAX_QUEUE)
        if self.policy not in POLICIES and not callable(self.policy):
            raise ConfigurationError.about(
                "policy",
                f"must be one of {', '.join(POLICIES)}, or a function that makes a policy, not "
                f"{self.policy!r}",
            )
        if self.timeout is not None and self.timeout != inf:
            _expect_seconds("timeout", self.timeout, least=0.001)
        if self.queue_timeout is not None and self.queue_timeout != inf:
            _expect_seconds("queue_timeout", self.queue_timeout, least=0.0)
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise ConfigurationError.about("retry", f"must be RetryPolicy(...), not {self.retry!r}")
        _expect_seconds("dedup_seconds", self.dedup_seconds, least=0.0)
        if self.abandoned_seconds is not None and self.abandoned_seconds != inf:
            _expect_seconds("abandoned_seconds", self.abandoned_seconds, least=0.1)


def _expect_seconds(name: str, value: object, least: float) -> None:
    # At most MAX_WHOLE, so that the value can be added to a time.
    if not _is_number(value) or not least <= value <= MAX_WHOLE:
        raise ConfigurationError.about(
            name, f"must be a number of seconds, at least {least:g}, not {shown(value)}"
        )


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
