"""What there is, as JSON: functions, executions, deployments, instances, lines.

Takes snapshots of objects, and neither waits nor changes anything.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import trio

from ._errors import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear.spearlet import (
        Deployment,
        Execution,
        FunctionDescription,
        FunctionStatistics,
        InstanceLine,
        Replica,
    )

QUANTILES = {"p50_seconds": 0.5, "p90_seconds": 0.9, "p99_seconds": 0.99}


def wall_clock(seconds: float) -> float:
    """A time of Trio's, in seconds since 1970."""
    return round(time.time() - (trio.current_time() - seconds), 3)


def show_statistics(statistics: FunctionStatistics | None) -> dict[str, object]:
    """How the calls of a function went."""
    if statistics is None:
        return {"calls": 0, "failures": {}, "latency": {"count": 0, "mean_seconds": None}}
    latency = statistics.latency
    shown: dict[str, object] = {"count": latency.count, "mean_seconds": None}
    if latency.count:
        shown["mean_seconds"] = latency.mean_seconds
        shown |= {name: latency.quantile_seconds(each) for name, each in QUANTILES.items()}
        shown["buckets"] = list(latency.counts)
    return {"calls": statistics.calls, "failures": dict(statistics.failures), "latency": shown}


def show_function(
    deployment: Deployment,
    name: str,
    description: FunctionDescription | None,
    statistics: FunctionStatistics | None,
) -> dict[str, object]:
    """A function."""
    return {
        "name": name,
        "deployment": deployment.name,
        "kind": "stream" if name in deployment.streams else "function",
        "signature": description.signature if description else None,
        "summary": description.summary if description else None,
        "statistics": show_statistics(statistics),
    }


def show_execution(execution: Execution, *, tell_all: bool = False) -> dict[str, object]:
    """A submitted call."""
    failure = execution.failure
    return {
        "id": execution.id,
        "function": execution.function,
        "deployment": execution.deployment,
        "status": execution.status.value,
        "instance": None if execution.instance is None else str(execution.instance),
        "submitted": wall_clock(execution.submitted),
        "duration_seconds": execution.duration_seconds,
        "execution_seconds": execution.execution_seconds,
        "error": None if failure is None else describe(failure, tell_all=tell_all),
    }


def show_instance(deployment: str, replica: Replica) -> dict[str, object]:
    """An instance."""
    health = replica.health()
    usage = replica.metrics()
    return {
        "id": str(replica.id),
        "deployment": deployment,
        "name": replica.id.name,
        "incarnation": replica.id.incarnation,
        "state": replica.state.value,
        "reason": health.reason,
        "pid": replica.pid,
        "exit_status": replica.exit_status,
        "is_connected": health.is_connected,
        "heartbeats_missed": health.heartbeats_missed,
        "calls_in_flight": health.calls_in_flight,
        "age_seconds": health.age_seconds,
        "cpu_seconds": usage and usage.cpu_seconds,
        "memory_bytes": usage and usage.memory_bytes,
        "descriptors": usage and usage.descriptors,
        "threads": usage and usage.threads,
    }


def show_instances(deployments: Mapping[str, Deployment]) -> list[object]:
    """All of them."""
    return [
        show_instance(name, replica)
        for name, deployment in deployments.items()
        for replica in deployment.instances
    ]


def show_deployment(deployment: Deployment, *, tell_all: bool) -> dict[str, object]:
    """A deployment with its instances."""
    health = deployment.health()
    statistics = attrs.asdict(deployment.statistics(), recurse=False)
    functions = statistics.pop("functions")
    return {
        "name": deployment.name,
        "target": deployment.target,
        "state": health.state.value,
        "reason": health.reason,
        "code": health.code,
        "stderr_tail": health.stderr_tail if tell_all else "",
        "functions": list(deployment.functions),
        "streams": sorted(deployment.streams),
        "settings": attrs.asdict(deployment.settings),
        "statistics": statistics,
        "function_statistics": {
            name: show_statistics(each) for name, each in sorted(functions.items())
        },
        "decisions": [
            {**attrs.asdict(each), "time": wall_clock(each.time)} for each in deployment.decisions
        ],
        "instances": [show_instance(deployment.name, replica) for replica in deployment.instances],
    }


def show_line(entry: InstanceLine) -> dict[str, object]:
    """A line that an instance wrote."""
    line = entry.line
    return {
        "instance": str(entry.instance),
        "number": line.number,
        "stream": line.stream,
        "time": round(line.time, 3),
        "text": line.text,
    }
