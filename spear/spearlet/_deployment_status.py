"""The health and the statistics of a deployment."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import attrs

from spear._failures import first_line
from spear.telemetry import InstanceState

if TYPE_CHECKING:
    from spear._errors import SpearError
    from spear.channels import LatencyHistogram

    from ._counters import FunctionStatistics
    from ._supervisor import Supervisor


class DeploymentState(enum.Enum):
    """The state of a deployment, in one word."""

    STARTING = "starting"  # replicas are being started, and none has failed
    READY = "ready"  # all wanted replicas take calls
    DEGRADED = "degraded"  # a wanted replica has failed, or takes no calls
    IDLE = "idle"  # no replica is wanted, because no call is made; the next call starts one
    UNHEALTHY = "unhealthy"  # no replica is ready, and one was given up after too many restarts
    STOPPING = "stopping"  # running and queued calls may finish
    STOPPED = "stopped"


@final
@attrs.frozen(kw_only=True)
class DeploymentHealth:
    """The health of a deployment.

    Attributes:
        state: the state, in one word.
        reason: the reason, if something is wrong; else empty.
        code: the code of the failure that is the reason; empty if no failure is.
        stderr_tail: the last lines on stderr of the instance that failed, if any.
    """

    state: DeploymentState
    reason: str = ""
    code: str = ""
    stderr_tail: str = ""


@final
@attrs.frozen(kw_only=True)
class DeploymentStatistics:
    """The counters of a deployment.

    Attributes:
        ready: replicas that take calls now.
        wanted: replicas that the deployment should have.
        started: replicas that have become ready.
        lost: replicas that ended without being asked to.
        restarts: starts that replaced a replica which had ended or had not started.
        calls_in_flight: calls that its replicas are working on, draining replicas included.
        waiting: calls that wait for a replica.
        refused: calls that were refused because the queue was full.
        spawned_because: the reason why processes are spawned one by one, as text to follow "it" ("runs
            Trio"); empty if they are forked from one that has loaded the program, or there are none.
        start_latency: durations of the starts that made a replica ready, from the start to the login.
        functions: statistics of each function that was called, by name.
    """

    ready: int
    wanted: int
    started: int
    lost: int
    restarts: int
    calls_in_flight: int
    waiting: int
    refused: int
    spawned_because: str
    start_latency: LatencyHistogram
    functions: Mapping[str, FunctionStatistics]


def health_of(
    supervisor: Supervisor, takes_calls: int, failure: SpearError | None
) -> DeploymentHealth:
    """Return the health of a deployment that runs.

    Args:
        supervisor: the deployment's supervisor.
        takes_calls: number of replicas that take calls now.
        failure: the error that has ended the template of its replicas, if any.
    """
    trouble = supervisor.trouble
    if trouble is None and failure is not None:
        trouble = failure, False
    if trouble is not None:
        blamed, is_given_up = trouble
        is_bad = is_given_up and not supervisor.ready
        return DeploymentHealth(
            state=DeploymentState.UNHEALTHY if is_bad else DeploymentState.DEGRADED,
            reason=first_line(blamed),
            code=blamed.code,
            stderr_tail=getattr(blamed, "stderr_tail", ""),
        )
    if not supervisor.wanted:
        return DeploymentHealth(state=DeploymentState.IDLE)
    if takes_calls >= supervisor.wanted:
        return DeploymentHealth(state=DeploymentState.READY)
    if supervisor.ready == supervisor.wanted:
        reason = "an instance has lost its connection"
        for each in supervisor.instances:
            if each.state is InstanceState.STOPPING:
                reason = f"{each.id} is being stopped, because {each.health().reason}"
        return DeploymentHealth(state=DeploymentState.DEGRADED, reason=reason)
    return DeploymentHealth(state=DeploymentState.STARTING)
