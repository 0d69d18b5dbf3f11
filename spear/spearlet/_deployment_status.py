"""What is said about a deployment: how it is, and what it has done."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import attrs

from spear._failures import first_line
from spear.telemetry import InstanceState

if TYPE_CHECKING:
    from spear._errors import SpearError

    from ._counters import FunctionStatistics
    from ._supervisor import Supervisor


class DeploymentState(enum.Enum):
    """How a deployment is, in a word."""

    STARTING = "starting"  # replicas are being started, and none is in trouble
    READY = "ready"  # all replicas that are wanted take calls
    DEGRADED = "degraded"  # some do not: they ended, and are being replaced
    IDLE = "idle"  # there is no replica, because there is no call; the next one starts one
    UNHEALTHY = "unhealthy"  # there is none, and starting it has failed too often
    STOPPING = "stopping"  # what runs may finish
    STOPPED = "stopped"


@final
@attrs.frozen(kw_only=True)
class DeploymentHealth:
    """How a deployment is.

    Attributes:
        state: in a word.
        reason: why, if something is wrong.
        code: the code of the failure that is to blame; empty if none is.
        stderr_tail: what the instance that is to blame wrote last.
    """

    state: DeploymentState
    reason: str = ""
    code: str = ""
    stderr_tail: str = ""


@final
@attrs.frozen(kw_only=True)
class DeploymentStatistics:
    """How a deployment is doing.

    Attributes:
        ready: replicas that take calls now.
        wanted: replicas that there are to be.
        started: replicas that were started.
        lost: replicas that ended without being asked to.
        restarts: replicas that were started in the place of one that ended or did not start.
        calls_in_flight: calls that its replicas are working on, those that are leaving among them.
        waiting: calls that wait for a replica.
        refused: calls for which there was no room in the queue.
        spawned_because: why its processes are spawned one by one, as the end of "it ..."; empty if they
            are forked from one that has loaded the program, or are none.
        functions: what became of the calls of each function that was called.
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
    functions: Mapping[str, FunctionStatistics]


def health_of(
    supervisor: Supervisor, takes_calls: int, failure: SpearError | None
) -> DeploymentHealth:
    """Return how a deployment is that runs.

    Args:
        supervisor: keeps its replicas.
        takes_calls: how many of these take calls now.
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
                reason = f"{each.id} is being ended, because {each.health().reason}"
        return DeploymentHealth(state=DeploymentState.DEGRADED, reason=reason)
    return DeploymentHealth(state=DeploymentState.STARTING)
