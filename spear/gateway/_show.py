"""Objects of a spearlet as JSON: functions, executions, deployments, instances, log lines.

These functions change nothing. They read snapshots, except that the resource usage of instances is
requested from their runtimes, which may take a moment; several instances are asked concurrently.
"""

from __future__ import annotations

import time
from itertools import chain
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ._errors import describe

if TYPE_CHECKING:
    from spear.calls import Execution, FunctionDescription
    from spear.channels import LatencyHistogram
    from spear.spearlet import (
        Deployment,
        FunctionStatistics,
        InstanceLine,
        Replica,
        ReplicaFailure,
    )

_ASKED_AT_A_TIME: Final = 8
"""Instances whose resource usage is requested at a time. For processes that is a millisecond of work, for
which calls have to wait."""

QUANTILES = {"p50_seconds": 0.5, "p90_seconds": 0.9, "p99_seconds": 0.99}


def wall_clock(seconds: float) -> float:
    """Convert a time of Trio's clock to seconds since 1970."""
    return round(time.time() - (trio.current_time() - seconds), 3)


def show_statistics(statistics: FunctionStatistics | None) -> dict[str, object]:
    """Return the calls, failures and latencies of a function."""
    if statistics is None:
        return {"calls": 0, "failures": {}, "latency": {"count": 0, "mean_seconds": None}}
    shown = _show_latency(statistics.latency)
    if statistics.latency.count:
        shown["buckets"] = list(statistics.latency.counts)
    return {"calls": statistics.calls, "failures": dict(statistics.failures), "latency": shown}


def _show_latency(latency: LatencyHistogram) -> dict[str, object]:
    shown: dict[str, object] = {"count": latency.count, "mean_seconds": None}
    if latency.count:
        shown["mean_seconds"] = latency.mean_seconds
        shown |= {name: latency.quantile_seconds(each) for name, each in QUANTILES.items()}
    return shown


def show_function(
    deployment: Deployment,
    name: str,
    description: FunctionDescription | None,
    statistics: FunctionStatistics | None,
) -> dict[str, object]:
    """Return a function's kind, signature, retry policy and statistics."""
    retry = deployment.settings.retry or deployment.retry_policies.get(name)
    return {
        "name": name,
        "deployment": deployment.name,
        "kind": "stream" if name in deployment.streams else "function",
        "signature": description.signature if description else None,
        "summary": description.summary if description else None,
        "retry": None if retry is None else attrs.asdict(retry),
        "timeout_seconds": deployment.function(name).timeout,
        "statistics": show_statistics(statistics),
    }


def show_execution(execution: Execution, *, tell_all: bool = False) -> dict[str, object]:
    """Return the state of a submitted call."""
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


async def ask_usage(
    *deployments: Deployment,
) -> list[list[tuple[Replica, dict[str, object]]]]:
    """Return the instances of each deployment, each with its resource usage. A checkpoint."""
    usage: dict[int, dict[str, object]] = {}
    await trio.lowlevel.checkpoint()
    found = [each.instances for each in deployments]
    pending = chain.from_iterable(found)

    async def ask() -> None:
        for replica in pending:
            metrics = await replica.metrics()
            usage[id(replica)] = {} if metrics is None else attrs.asdict(metrics, recurse=False)

    async with trio.open_nursery() as nursery:
        for _ in range(_ASKED_AT_A_TIME):
            nursery.start_soon(ask)
    return [[(each, usage[id(each)]) for each in replicas] for replicas in found]


async def show_instances(
    *deployments: Deployment,
) -> list[list[dict[str, object]]]:
    """Return the instances of each deployment. A checkpoint."""
    found = await ask_usage(*deployments)
    return [
        [_show_instance(deployment.name, *each) for each in replicas]
        for deployment, replicas in zip(deployments, found, strict=True)
    ]


def _show_instance(
    deployment: str, replica: Replica, usage: dict[str, object]
) -> dict[str, object]:
    health = replica.health()
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
        "cpu_seconds": usage.get("cpu_seconds"),
        "memory_bytes": usage.get("memory_bytes"),
        "descriptors": usage.get("descriptors"),
        "threads": usage.get("threads"),
        "metrics": usage.get("others", {}),
    }


async def show_deployments(*deployments: Deployment, tell_all: bool) -> list[dict[str, object]]:
    """Return deployments with their instances. A checkpoint."""
    instances = await show_instances(*deployments)
    return [
        _show_deployment(each, its_instances, tell_all=tell_all)
        for each, its_instances in zip(deployments, instances, strict=True)
    ]


def _show_deployment(
    deployment: Deployment, instances: list[dict[str, object]], *, tell_all: bool
) -> dict[str, object]:
    health = deployment.health()
    statistics = attrs.asdict(deployment.statistics(), recurse=False)
    functions = statistics.pop("functions")
    statistics["start_latency"] = _show_latency(statistics["start_latency"])
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
        "instances": instances,
    }


def show_failure(failure: ReplicaFailure) -> dict[str, object]:
    """Return a failure of a replica, with the last lines that it wrote to stderr."""
    return {
        "time": wall_clock(failure.time),
        "instance": None if failure.instance is None else str(failure.instance),
        "reason": failure.reason,
        "code": failure.code,
        "exit_status": failure.exit_status,
        "stderr_tail": failure.stderr_tail,
    }


def show_line(entry: InstanceLine) -> dict[str, object]:
    """Return a log line of an instance."""
    line = entry.line
    return {
        "deployment": entry.deployment,
        "instance": str(entry.instance),
        "number": line.number,
        "stream": line.stream,
        "time": round(line.time, 3),
        "text": line.text,
    }
