"""The metric families of ``GET /metrics``, filled from the counters of a host while it is scraped.

Only ``_metrics`` imports this module, when the first scrape comes: it needs prometheus-client. It reads
snapshots and does not know how families are written. ``docs/operating.md`` has a table of all families.

Labels are bounded: agents have announced the functions, and this module lists the outcomes. A replica is
labelled with its name, which its successors share, and not with its incarnation.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector

from spear._version import __version__
from spear.spearlet import DeploymentState
from spear.telemetry import InstanceState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from spear.channels import LatencyHistogram
    from spear.spearlet import Deployment, DeploymentStatistics, FunctionStatistics, Replica

    from ._app import App

    Usage = Sequence[tuple[Replica, dict[str, object]]]

OK: Final = "ok"
OTHER: Final = "other"

OUTCOMES: Final = (
    OK, "FunctionRaised", "InvalidArguments", "Rejected", "NotFound", "Overloaded", "DeadlineExceeded",
    "WorkerDied", "CallCancelled", "Cancelled", "UnexpectedResult", "CallFailed", OTHER,
)  # fmt: skip
"""Values of the label ``outcome``. Each function has all of them from the beginning: ``rate()`` does not
see the first increase of a series that begins with it."""

MOST_FUNCTIONS: Final = 200
"""Functions of a deployment with series of their own; the others are counted together. An agent may
announce 10,000 functions, and each has 36 series."""

_INTERNAL: Final = "spear."
"""Prefix of Spear's own functions, which are left out."""

_EXPONENTS: Final = range(7, 27)
"""The buckets of histograms end at these powers of two in microseconds: from 128 us to 67 s. These are
also ends of buckets of a fine :class:`LatencyHistogram`, so that no count is estimated."""

_process: Final = ProcessCollector(registry=None)
"""The families of the host's process, which have the same names in all programs."""


def collect(app: App, deployments: Sequence[Deployment], usage: Sequence[Usage]) -> list[Metric]:
    """Return all families of a host, with their present values.

    Args:
        app: the gateway that is scraped.
        deployments: the deployments of its host.
        usage: the instances of each deployment, with their resource usage.
    """
    statistics = [(each.name, each.statistics()) for each in deployments]
    return [
        *_of_host(app),
        *_of_calls(deployments, statistics),
        *_of_queues(deployments, statistics),
        *_of_replicas(deployments, statistics, usage),
        *_of_usage(deployments, usage),
        *_of_gateway(app),
        *_process.collect(),
    ]


def _of_host(app: App) -> Iterator[Metric]:
    statistics = app.spearlet.statistics()
    about = {
        "host": app.settings.name,
        "version": __version__,
        "python_version": platform.python_version(),
    }
    yield InfoMetricFamily("spear_build", "The host's name, and its versions.", about)
    yield GaugeMetricFamily(
        "spear_draining", "Whether the host takes no new calls: 1 or 0.", float(app.is_draining)
    )
    yield GaugeMetricFamily(
        "spear_executions_unfinished",
        "Submitted calls that have not ended.",
        statistics.executions,
    )
    yield GaugeMetricFamily(
        "spear_execution_argument_bytes",
        "Encoded arguments of submitted calls and of calls with keys.",
        statistics.argument_bytes,
        unit="bytes",
    )
    refused = CounterMetricFamily(
        "spear_connections_refused",
        "Refused connections of instances, by reason.",
        labels=("reason",),
    )
    for reason, count in statistics.refused_connections.items():
        refused.add_metric((str(reason),), count)
    yield refused


# -- calls ------------------------------------------------------------------------------------------


def _of_calls(
    deployments: Iterable[Deployment], statistics: Iterable[tuple[str, DeploymentStatistics]]
) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "spear_calls",
        "Calls that have ended, by outcome: ok, or the kind of failure.",
        labels=("deployment", "function", "outcome"),
    )
    durations = HistogramMetricFamily(
        "spear_call_duration_seconds",
        "Durations of calls that succeeded, waiting in the queue included.",
        labels=("deployment", "function"),
        unit="seconds",
    )
    for deployment, (name, each) in zip(deployments, statistics, strict=True):
        for function, found in _by_label(deployment.functions, each.functions).items():
            outcomes: Counter[str] = Counter()
            latencies = [one.latency for one in found]
            for one in found:
                outcomes[OK] += one.latency.count
                for kind, count in one.failures.items():
                    outcomes[kind if kind in OUTCOMES else OTHER] += count
            for outcome in OUTCOMES:
                calls.add_metric((name, function, outcome), outcomes[outcome])
            durations.add_metric((name, function), *_buckets(latencies))
    yield calls
    yield durations


def _by_label(
    announced: Sequence[str], called: Mapping[str, FunctionStatistics]
) -> dict[str, list[FunctionStatistics]]:
    """Return the statistics to be added up for each value of the label ``function``."""
    found: dict[str, list[FunctionStatistics]] = {}
    names = [each for each in announced if not each.startswith(_INTERNAL)]
    for number, name in enumerate(names):
        together = found.setdefault(name if number < MOST_FUNCTIONS else OTHER, [])
        if name in called:
            together.append(called[name])
    return found


def _buckets(latencies: Iterable[LatencyHistogram]) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets and the sum of fine histograms, added up."""
    counts = [sum(column) for column in zip(*(each.counts for each in latencies), strict=True)]
    ends = [(str(2**each / 1e6), sum(counts[: 4 * (each - 1)])) for each in _EXPONENTS]
    ends.append(("+Inf", sum(counts)))
    return ends, sum(each.total_seconds for each in latencies)


def _of_queues(
    deployments: Iterable[Deployment], statistics: Iterable[tuple[str, DeploymentStatistics]]
) -> Iterator[Metric]:
    labels = ("deployment",)
    in_flight = GaugeMetricFamily(
        "spear_calls_in_flight", "Calls on which replicas are working.", labels=labels
    )
    waiting = GaugeMetricFamily(
        "spear_queue_length", "Calls that wait for a replica.", labels=labels
    )
    limit = GaugeMetricFamily(
        "spear_queue_limit", "Calls that may wait; further ones are refused.", labels=labels
    )
    refused = CounterMetricFamily(
        "spear_calls_refused", "Calls refused because the queue was full.", labels=labels
    )
    for deployment, (name, each) in zip(deployments, statistics, strict=True):
        in_flight.add_metric((name,), each.calls_in_flight)
        waiting.add_metric((name,), each.waiting)
        limit.add_metric((name,), deployment.settings.queue)
        refused.add_metric((name,), each.refused)
    return iter((in_flight, waiting, limit, refused))


# -- replicas ---------------------------------------------------------------------------------------


def _of_replicas(
    deployments: Iterable[Deployment],
    statistics: Iterable[tuple[str, DeploymentStatistics]],
    usage: Iterable[Usage],
) -> Iterator[Metric]:
    labels = ("deployment",)
    states = GaugeMetricFamily(
        "spear_deployment_state",
        "The state of a deployment: 1 for the present one, otherwise 0.",
        labels=("deployment", "state"),
    )
    replicas = GaugeMetricFamily(
        "spear_replicas", "Replicas by their state.", labels=("deployment", "state")
    )
    wanted = GaugeMetricFamily("spear_replicas_wanted", "Replicas that are wanted.", labels=labels)
    most = GaugeMetricFamily(
        "spear_replicas_max", "The upper end of the range of replicas.", labels=labels
    )
    restarts = CounterMetricFamily(
        "spear_replica_restarts",
        "Starts that replaced a replica which had ended or had not started.",
        labels=labels,
    )
    losses = CounterMetricFamily(
        "spear_replica_losses", "Replicas that ended without being asked to.", labels=labels
    )
    starts = HistogramMetricFamily(
        "spear_replica_start_duration_seconds",
        "Durations of starts of replicas, up to their login.",
        labels=labels,
        unit="seconds",
    )
    for deployment, (name, each), instances in zip(deployments, statistics, usage, strict=True):
        present = deployment.health().state
        for state in DeploymentState:
            states.add_metric((name, state.value), float(state is present))
        counts = Counter(replica.state for replica, _ in instances)
        for condition in InstanceState:
            replicas.add_metric((name, condition.value), counts[condition])
        wanted.add_metric((name,), each.wanted)
        most.add_metric((name,), deployment.settings.replicas.max)
        restarts.add_metric((name,), each.restarts)
        losses.add_metric((name,), each.lost)
        starts.add_metric((name,), *_buckets([each.start_latency]))
    return iter((states, replicas, wanted, most, restarts, losses, starts))


def _of_usage(deployments: Iterable[Deployment], usage: Iterable[Usage]) -> Iterator[Metric]:
    labels = ("deployment", "replica")
    calls = GaugeMetricFamily(
        "spear_replica_calls_in_flight", "Calls on which the replica is working.", labels=labels
    )
    processor = CounterMetricFamily(
        "spear_replica_cpu_seconds", "CPU time of the replica.", labels=labels, unit="seconds"
    )
    memory = GaugeMetricFamily(
        "spear_replica_resident_memory_bytes",
        "Physical memory of the replica, shared pages included.",
        labels=labels,
        unit="bytes",
    )
    descriptors = GaugeMetricFamily(
        "spear_replica_open_fds", "Open file descriptors of the replica.", labels=labels
    )
    threads = GaugeMetricFamily("spear_replica_threads", "Threads of the replica.", labels=labels)
    of_process: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "cpu_seconds": processor,
        "memory_bytes": memory,
        "descriptors": descriptors,
        "threads": threads,
    }
    for deployment, instances in zip(deployments, usage, strict=True):
        for replica, figures in _newest(instances):
            names = (deployment.name, replica.id.name)
            calls.add_metric(names, replica.health().calls_in_flight)
            for key, family in of_process.items():
                value = figures.get(key)
                if isinstance(value, int | float):
                    family.add_metric(names, value)
    return iter((calls, *of_process.values()))


def _newest(instances: Usage) -> Usage:
    """Return the newest instance of each name."""
    newest: dict[str, int] = {}
    for replica, _ in instances:
        newest[replica.id.name] = max(replica.id.incarnation, newest.get(replica.id.name, 0))
    return [each for each in instances if each[0].id.incarnation == newest[each[0].id.name]]


# -- the gateway ------------------------------------------------------------------------------------


def _of_gateway(app: App) -> Iterator[Metric]:
    statistics = app.statistics()
    requests = CounterMetricFamily(
        "spear_http_requests",
        "Requests by the status of the response; 0 if the client left before.",
        labels=("code",),
    )
    for status, count in statistics.responses.items():
        requests.add_metric((str(status),), count)
    yield requests
    yield GaugeMetricFamily("spear_http_connections", "Open connections.", statistics.connections)
    yield GaugeMetricFamily(
        "spear_http_streams", "Open streams and WebSockets.", statistics.streams
    )
    refused = CounterMetricFamily(
        "spear_http_connections_refused", "Refused connections, by reason.", labels=("reason",)
    )
    for reason, count in statistics.refused.items():
        refused.add_metric((reason,), count)
    yield refused
