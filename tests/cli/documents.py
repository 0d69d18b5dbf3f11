"""Made-up documents of a host, for output that depends on numbers that no real host has."""

from __future__ import annotations


def function(calls: int, *, failures: int = 0, mean: float = 0.001) -> dict[str, object]:
    """Return the statistics of a function."""
    return {
        "calls": calls,
        "failures": {"FunctionRaised": failures} if failures else {},
        "latency": {
            "count": calls,
            "mean_seconds": mean,
            "p50_seconds": mean * 0.9,
            "p90_seconds": mean * 1.5,
            "p99_seconds": mean * 4,
        },
    }


def instance(
    deployment: str,
    number: int,
    *,
    state: str = "ready",
    cpu: float = 1.0,
    memory: int | None = 32 << 20,
) -> dict[str, object]:
    """Return the document of an instance."""
    return {
        "id": f"process:{deployment}-{number}#1",
        "deployment": deployment,
        "state": state,
        "reason": "",
        "pid": 4710 + number,
        "calls_in_flight": number,
        "age_seconds": 60.0 * number,
        "cpu_seconds": cpu,
        "memory_bytes": memory,
        "threads": 2,
    }


def deployment(
    name: str,
    functions: dict[str, dict[str, object]],
    instances: list[dict[str, object]],
    *,
    state: str = "ready",
    reason: str = "",
    tail: str = "",
) -> dict[str, object]:
    """Return the document of a deployment."""
    return {
        "name": name,
        "state": state,
        "reason": reason,
        "stderr_tail": tail,
        "functions": [*functions, "unused"],
        "statistics": {
            "ready": len(instances),
            "wanted": 2,
            "restarts": 1,
            "calls_in_flight": 3,
            "waiting": 4,
        },
        "function_statistics": functions,
        "instances": instances,
    }


def snapshot(time: float, *deployments: dict[str, object]) -> dict[str, object]:
    """Return the documents of a host at a time."""
    return {
        "time": time,
        "name": "default",
        "pid": 4700,
        "state": "running",
        "uptime_seconds": 3720.0 + time,
        "executions": 5,
        "gateway": {"connections": 2},
        "deployments": list(deployments),
    }
