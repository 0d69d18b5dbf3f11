"""Spear's promises about its speed, row by row, and the cases that a run needs to check them.

The report on the terminal, the JSON and the page in the documentation are all made from `SUBJECTS`.
Every ratio is `ours / reference`, both measured in the same run: rates are promised as "at least",
costs as "at most". Where the promise is an absolute number, that number is the reference.
"""

from __future__ import annotations

import enum

import attrs

from bench.model import Case, Figure, Pattern, Peer, Workload
from bench.registry import PEERS

SIZES = (16, 1 << 10, 64 << 10, 1 << 20)
IN_FLIGHT = 64
CONNECTIONS = (1, 16, IN_FLIGHT)
HANDOVER_SIZES = tuple(1 << power for power in range(16, 26))  # 64 KiB to 32 MiB


class Bound(enum.StrEnum):
    """The kind of bound that a promised ratio is."""

    AT_LEAST = "≥"
    AT_MOST = "≤"

    def holds(self, ratio: float, promised: float) -> bool:
        return ratio >= promised if self is Bound.AT_LEAST else ratio <= promised


@attrs.frozen
class Point:
    """A figure of a case."""

    case: Case
    figure: Figure


@attrs.frozen
class Row:
    """A promise: a figure of Spear, its reference, and the bounds on their ratio."""

    metric: str  # unique name: the figure, "/", and the system or limit to compare with
    what: str
    ours: Point
    reference: Point | float
    bound: Bound
    must: float
    aim: float | None = None
    against: str = ""  # what the reference is, if that is not the title of its peer


def pipelined(size: int) -> Workload:
    return Workload(Pattern.PIPELINED, size, IN_FLIGHT)


def connections(count: int) -> Workload:
    return Workload(Pattern.CONNECTIONS, 1 << 10, count)


def sequential(size: int, *, pinned: bool = False) -> Workload:
    return Workload(Pattern.SEQUENTIAL, size, pinned=pinned)


_CALLS_1K = pipelined(1 << 10)
_CALLS_1M = pipelined(1 << 20)
_ONE_CORE_1K = sequential(1 << 10, pinned=True)
_UNPINNED_1K = sequential(1 << 10)
_HTTP_X1, _HTTP_X16, _HTTP_X64 = map(connections, CONNECTIONS)
_IN_MEMORY = pipelined(16)
_STREAM = Workload(Pattern.STREAM, 16)
_START = Workload(Pattern.START)
_BURST = Workload(Pattern.BURST, count=16)
_IDLE_INSTANCE = Workload(Pattern.IDLE_INSTANCE)
_IDLE = Workload(Pattern.IDLE, count=10_000)
REPLICAS = (100, 300)
_LIFE_OF_SOME, _LIFE_OF_MANY = Workload(Pattern.LIFE, count=16), Workload(Pattern.LIFE, count=300)

_BY_POLICY = {
    "round-robin": Figure.CPU_ROUND_ROBIN,
    "least-loaded": Figure.CPU_LEAST_LOADED,
    "random": Figure.CPU_RANDOM,
    "power-of-two": Figure.CPU_POWER_OF_TWO,
    "sticky": Figure.CPU_STICKY,
}


def _point(peer: str, load: Workload, figure: Figure) -> Point:
    return Point(Case(PEERS[peer], load), figure)


def _rate_row(peer: str, must: float, aim: float) -> Row:
    return Row(
        f"rate-1KiB-x64/{peer}",
        "rate",
        _point("spear-channel", _CALLS_1K, Figure.RATE),
        _point(peer, _CALLS_1K, Figure.RATE),
        Bound.AT_LEAST,
        must,
        aim,
    )


def _idle_row(metric: str, what: str, figure: Figure, ours: Case) -> Row:
    """Return the row that compares idle channels with as many connections served by Trio tasks."""
    return Row(
        f"{metric}/textbook-heartbeats",
        what,
        Point(ours, figure),
        _point("textbook-heartbeats", ours.load, figure),
        Bound.AT_MOST,
        must=1 / 3,
        aim=1 / 6,
    )


def _plain_row(peer: str, must: float, aim: float) -> Row:
    """Return the row that compares a function without `async` with another way to use threads."""
    return Row(
        f"plain-1KiB-x64/{peer}",
        "rate, plain function",
        _point("spear-plain", _CALLS_1K, Figure.RATE),
        _point(peer, _CALLS_1K, Figure.RATE),
        Bound.AT_LEAST,
        must,
        aim,
    )


_ARRAY_96M = Workload(Pattern.ARRAYS, 96_000_000)


def _handover(size: int) -> Workload:
    return Workload(Pattern.HANDOVER, size)


def _segments_row(size: int, label: str) -> Row:
    return Row(
        f"segments-{label.replace(' ', '')}/off",
        f"p50, {label}, segments unused",
        _point("spear-channel", sequential(size), Figure.P50),
        _point("spear-no-segments", sequential(size), Figure.P50),
        Bound.AT_MOST,
        must=1.1,
        aim=1.0,
        against="segments off",
    )


def _replicas(count: int) -> Workload:
    return Workload(Pattern.REPLICAS, 1 << 10, count)


def _replicas_rows() -> list[Row]:
    """Return the rows that compare the host's cost of a call with many replicas and with one."""
    return [
        Row(
            f"replicas-{count}-{policy}/1",
            f"CPU, {policy}, {count} replicas",
            _point("spear-replicas", _replicas(count), figure),
            _point("spear-replicas", _replicas(1), figure),
            Bound.AT_MOST,
            must=2,
            aim=1.5,
            against="1 replica",
        )
        for count in REPLICAS
        for policy, figure in _BY_POLICY.items()
    ]


def _life_row(what: str, figure: Figure) -> Row:
    return Row(
        f"replicas-{figure}-300/16",
        f"{what} 300, for each",
        _point("spear-life", _LIFE_OF_MANY, figure),
        _point("spear-life", _LIFE_OF_SOME, figure),
        Bound.AT_MOST,
        must=2,
        aim=1,
        against="16 replicas",
    )


def _map_rows() -> list[Row]:
    """Return the rows that compare a map with the standard library's pool."""
    many, deadly = Workload(Pattern.MAP, count=20_000), Workload(Pattern.MAP_WITH_DEATH, count=50)
    return [
        Row(
            "map-20000/process-pool",
            "20,000 no-op items",
            _point("spear-map", many, Figure.MAP),
            _point("process-pool-map", many, Figure.MAP),
            Bound.AT_MOST,
            must=3,
            aim=2,
        ),
        Row(
            "map-lost-50/process-pool",
            "lost of 50, 1 of 2 dies",
            _point("spear-map", deadly, Figure.LOST),
            _point("process-pool-map", deadly, Figure.LOST),
            Bound.AT_MOST,
            must=1 / 3,
            aim=1 / 6,
        ),
    ]


def handover_cases() -> list[Case]:
    """Return the cases that show from which size on a segment is faster than the socket."""
    return [
        Case(peer, _handover(size))
        for size in HANDOVER_SIZES
        for peer in PEERS.values()
        if Pattern.HANDOVER in peer.kinds
    ]


SUBJECTS: dict[str, tuple[Row, ...]] = {
    "Calls of 1 KiB, 64 in flight": (
        _rate_row("grpc-aio", must=8, aim=14),
        _rate_row("grpc-sync", must=8, aim=14),
        _rate_row("ray", must=15, aim=25),
        _rate_row("nats", must=2.5, aim=4),
        _rate_row("nats-uvloop", must=2, aim=3),
        _rate_row("textbook-trio", must=4, aim=6),
        _rate_row("asyncio-protocol", must=0.8, aim=1),
        _rate_row("asyncio-protocol-uvloop", must=0.4, aim=0.6),
        Row(
            "cpu-1KiB-x64/textbook-trio",
            "CPU of both sides",
            _point("spear-channel", _CALLS_1K, Figure.CPU),
            _point("textbook-trio", _CALLS_1K, Figure.CPU),
            Bound.AT_MOST,
            must=1 / 6,
            aim=1 / 9,
        ),
        Row(
            "p50-1KiB-one-core/trio-lowlevel",
            "p50, one at a time, one core",
            _point("spear-channel", _ONE_CORE_1K, Figure.P50),
            _point("trio-lowlevel", _ONE_CORE_1K, Figure.P50),
            Bound.AT_MOST,
            must=1.75,
            aim=1.6,
        ),
        Row(
            "p50-1KiB-one-core/c",
            "p50, one at a time, one core",
            _point("spear-channel", _ONE_CORE_1K, Figure.P50),
            _point("c", _ONE_CORE_1K, Figure.P50),
            Bound.AT_MOST,
            must=16,
            aim=10,
        ),
        Row(
            "p50-1KiB-low-latency/c-spinning",
            "p50, one at a time, low latency",
            _point("spear-low-latency", _UNPINNED_1K, Figure.P50),
            _point("c-spinning", _UNPINNED_1K, Figure.P50),
            Bound.AT_MOST,
            must=30,
            aim=15,
        ),
        Row(
            "rate-1MiB-x64/c",
            "rate, 1 MiB",
            _point("spear-channel", _CALLS_1M, Figure.RATE),
            _point("c", _CALLS_1M, Figure.RATE),
            Bound.AT_LEAST,
            must=0.7,
            aim=0.85,
        ),
        Row(
            "stream-16B/stream-naive",
            "rate of a stream, 16 B, one way",
            _point("spear-stream", _STREAM, Figure.RATE),
            _point("stream-naive", _STREAM, Figure.RATE),
            Bound.AT_LEAST,
            must=15,
            aim=30,
        ),
        Row(
            "in-memory-16B-x64/textbook-memory",
            "rate, 16 B, in memory",
            _point("spear-memory", _IN_MEMORY, Figure.RATE),
            _point("textbook-memory", _IN_MEMORY, Figure.RATE),
            Bound.AT_LEAST,
            must=10,
            aim=30,
        ),
        Row(
            "function-1KiB-x64/spear-channel",
            "rate of `Function.call`",
            _point("spear-function", _CALLS_1K, Figure.RATE),
            _point("spear-channel", _CALLS_1K, Figure.RATE),
            Bound.AT_LEAST,
            must=0.8,
            aim=0.85,
        ),
        Row(
            "function-1KiB-x64-watched/spear-channel",
            "the same, with an instrument",
            _point("spear-watched", _CALLS_1K, Figure.RATE),
            _point("spear-channel", _CALLS_1K, Figure.RATE),
            Bound.AT_LEAST,
            must=0.6,
            aim=0.75,
        ),
        Row(
            "function-1KiB-x64-crowded/spear-function",
            "the same, 1,000 functions",
            _point("spear-crowded", _CALLS_1K, Figure.RATE),
            _point("spear-function", _CALLS_1K, Figure.RATE),
            Bound.AT_LEAST,
            must=0.9,
            aim=1,
        ),
        _plain_row("grpc-sync", must=0.6, aim=1),
        _plain_row("process-pool", must=0.6, aim=1),
    ),
    "Large arguments": (
        Row(
            "handover-1GiB/bytes",
            "p50, 1 GiB, `SharedBuffer`",
            _point("spear-handover-shared", _handover(1 << 30), Figure.P50),
            _point("spear-handover-bytes", _handover(1 << 30), Figure.P50),
            Bound.AT_MOST,
            must=1 / 50,
            aim=1 / 500,
        ),
        Row(
            "arrays-96MB/pickled",
            "p50, 96 MB array, both ways",
            _point("spear-arrays", _ARRAY_96M, Figure.P50),
            _point("pickled-arrays", _ARRAY_96M, Figure.P50),
            Bound.AT_MOST,
            must=1 / 3,
            aim=1 / 10,
        ),
        _segments_row(1 << 10, "1 KiB"),
        _segments_row(64 << 10, "64 KiB"),
    ),
    "Calls of 1 KiB over HTTP": (
        Row(
            "gateway-1KiB/by-hand",
            "p50, 1 connection",
            _point("spear-gateway", _HTTP_X1, Figure.P50),
            _point("http-by-hand", _HTTP_X1, Figure.P50),
            Bound.AT_MOST,
            must=1,
            aim=0.8,
        ),
        Row(
            "gateway-1KiB-cpu/by-hand",
            "CPU of all, 1 connection",
            _point("spear-gateway", _HTTP_X1, Figure.CPU),
            _point("http-by-hand", _HTTP_X1, Figure.CPU),
            Bound.AT_MOST,
            must=1,
            aim=0.8,
        ),
        Row(
            "gateway-1KiB/bare",
            "p50, 1 connection",
            _point("spear-gateway", _HTTP_X1, Figure.P50),
            _point("http-bare", _HTTP_X1, Figure.P50),
            Bound.AT_MOST,
            must=1.5,
            aim=1,
        ),
        Row(
            "gateway-1KiB/h11-call",
            "p50, 1 connection",
            _point("spear-gateway", _HTTP_X1, Figure.P50),
            _point("http-h11-call", _HTTP_X1, Figure.P50),
            Bound.AT_MOST,
            must=1.1,
            aim=1,
        ),
        Row(
            "gateway-1KiB-x64/by-hand",
            "rate, 64 connections",
            _point("spear-gateway", _HTTP_X64, Figure.RATE),
            _point("http-by-hand", _HTTP_X64, Figure.RATE),
            Bound.AT_LEAST,
            must=1.8,
            aim=2.5,
        ),
        Row(
            "gateway-1KiB-x64/h11-call",
            "rate, 64 connections",
            _point("spear-gateway", _HTTP_X64, Figure.RATE),
            _point("http-h11-call", _HTTP_X64, Figure.RATE),
            Bound.AT_LEAST,
            must=0.94,
            aim=1.3,
        ),
        Row(
            "gateway-1KiB-p99-x16/p50",
            "p99, 16 connections",
            _point("spear-gateway", _HTTP_X16, Figure.P99),
            _point("spear-gateway", _HTTP_X16, Figure.P50),
            Bound.AT_MOST,
            must=10,
            against="its own p50",
        ),
    ),
    "Starts": (
        Row(
            "start/bare-interpreter",
            "spawned start",
            _point("spear-start", _START, Figure.START),
            _point("bare-interpreter", _START, Figure.START),
            Bound.AT_MOST,
            must=1.3,
            aim=1.1,
        ),
        Row(
            "cold-call/bare-interpreter",
            "first call, scaled to zero",
            _point("spear-cold-call", _START, Figure.START),
            _point("bare-interpreter", _START, Figure.START),
            Bound.AT_MOST,
            must=1 / 20,
            aim=1 / 30,
        ),
        Row(
            "cold-call/ray-cold",
            "first call, scaled to zero",
            _point("spear-cold-call", _START, Figure.START),
            _point("ray-cold", _START, Figure.START),
            Bound.AT_MOST,
            must=1 / 40,
        ),
        Row(
            "zygote-burst/zygote-start",
            "16 forked starts at once, each",
            _point("spear-zygote", _BURST, Figure.START),
            _point("spear-zygote", _START, Figure.START),
            Bound.AT_MOST,
            must=1,
            against="one forked start",
        ),
        Row(
            "zygote-burst/spear-start",
            "16 forked starts at once, each",
            _point("spear-zygote", _BURST, Figure.START),
            _point("spear-start", _BURST, Figure.START),
            Bound.AT_MOST,
            must=1 / 10,
            against="16 spawned starts, each",
        ),
        Row(
            "zygote-memory/spear-start",
            "private memory, forked",
            _point("spear-zygote", _IDLE_INSTANCE, Figure.UNIQUE_MEMORY),
            _point("spear-start", _IDLE_INSTANCE, Figure.UNIQUE_MEMORY),
            Bound.AT_MOST,
            must=1 / 4,
            aim=1 / 5,
            against="spawned",
        ),
    ),
    "Many items": (*_map_rows(),),
    "Many replicas": (
        *_replicas_rows(),
        _life_row("deploy", Figure.DEPLOY),
        _life_row("kill and replace", Figure.REPLACE),
        _life_row("restart", Figure.RESTART),
    ),
    "Idle connections": (
        Row(
            "idle-channel-memory/textbook-heartbeats",
            "memory of one channel",
            _point("spear-idle", _IDLE, Figure.CHANNEL_MEMORY),
            _point("textbook-heartbeats", _IDLE, Figure.CHANNEL_MEMORY),
            Bound.AT_MOST,
            must=2,
            aim=1,
        ),
        _idle_row(
            "heartbeat",
            "CPU of one heartbeat",
            Figure.HEARTBEAT_CPU,
            Case(PEERS["spear-idle"], _IDLE),
        ),
        _idle_row(
            "idle-cpu",
            "CPU of 10,000 channels",
            Figure.IDLE_CPU,
            Case(PEERS["spear-idle"], _IDLE),
        ),
        _idle_row(
            "idle-instances-cpu",
            "CPU of 1,000 instances",
            Figure.IDLE_CPU,
            Case(PEERS["spear-idle-instances"], Workload(Pattern.IDLE_INSTANCE, count=1000)),
        ),
    ),
}
"""All promises, by the heading under which the documentation shows them."""

ROWS = tuple(row for rows in SUBJECTS.values() for row in rows)


def row_cases(rows: tuple[Row, ...]) -> list[Case]:
    """Return the cases needed for `rows`; cases to be compared are adjacent."""
    points = [point for row in rows for point in (row.ours, row.reference)]
    return list(dict.fromkeys(point.case for point in points if isinstance(point, Point)))


def matrix_loads() -> list[Workload]:
    """Return the loads at which a full run compares all systems."""
    return [
        load
        for size in SIZES
        for load in (sequential(size), sequential(size, pinned=True), pipelined(size))
    ]


def matrix_cases() -> list[Case]:
    """Return every case of the full comparison."""
    return [
        Case(peer, load)
        for load in matrix_loads()
        for peer in PEERS.values()
        if peer.matrix and load.kind in peer.kinds
    ] + [Case(peer, connections(count)) for count in CONNECTIONS for peer in http_peers()]


def http_peers() -> list[Peer]:
    """Return the peers that are called over HTTP."""
    return [peer for peer in PEERS.values() if Pattern.CONNECTIONS in peer.kinds]
