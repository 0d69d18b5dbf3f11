"""The data types of the benchmark: loads, figures, samples, peers, cases.

Values only: this module starts nothing, measures nothing and imports none of the measured systems.
"""

from __future__ import annotations

import enum
import json

import attrs


class Figure(enum.StrEnum):
    """A number that a measurement yields. `UNITS` has the unit of each figure."""

    RATE = "rate"
    P50 = "p50"
    P99 = "p99"
    CLIENT_CPU = "client_cpu"
    SERVER_CPU = "server_cpu"
    CPU = "cpu"
    START = "start"
    UNIQUE_MEMORY = "unique_memory"
    CHANNEL_MEMORY = "channel_memory"
    HEARTBEAT_CPU = "heartbeat_cpu"
    IDLE_CPU = "idle_cpu"
    CPU_ROUND_ROBIN = "cpu_round_robin"
    CPU_LEAST_LOADED = "cpu_least_loaded"
    CPU_RANDOM = "cpu_random"
    CPU_POWER_OF_TWO = "cpu_power_of_two"
    CPU_STICKY = "cpu_sticky"
    DEPLOY = "deploy"
    REPLACE = "replace"
    RESTART = "restart"
    MAP = "map"
    LOST = "lost"


UNITS = {
    Figure.RATE: "msgs/s",
    Figure.P50: "µs",
    Figure.P99: "µs",
    Figure.CLIENT_CPU: "µs/msg",
    Figure.SERVER_CPU: "µs/msg",
    Figure.CPU: "µs/msg",
    Figure.START: "ms",
    Figure.UNIQUE_MEMORY: "bytes",
    Figure.CHANNEL_MEMORY: "bytes",
    Figure.HEARTBEAT_CPU: "µs",
    Figure.IDLE_CPU: "% of a core",
    Figure.CPU_ROUND_ROBIN: "µs/msg",
    Figure.CPU_LEAST_LOADED: "µs/msg",
    Figure.CPU_RANDOM: "µs/msg",
    Figure.CPU_POWER_OF_TWO: "µs/msg",
    Figure.CPU_STICKY: "µs/msg",
    Figure.DEPLOY: "ms",
    Figure.REPLACE: "ms",
    Figure.RESTART: "ms",
    Figure.MAP: "ms",
    Figure.LOST: "items",
}

Sample = dict[Figure, float]


class Pattern(enum.StrEnum):
    """The kind of work that the client does. It decides which figures a measurement yields."""

    SEQUENTIAL = "sequential"  # one call after another: P50, P99, RATE, CPU
    PIPELINED = "pipelined"  # `count` calls always in flight: RATE, CPU
    CONNECTIONS = "connections"  # one call after another on each of `count`: as SEQUENTIAL
    STREAM = "stream"  # one-way items, counted where they arrive: RATE, CPU
    HANDOVER = "handover"  # arguments one way, one call after another: as SEQUENTIAL
    ARRAYS = "arrays"  # an array to a function and back, one call after another: as SEQUENTIAL
    START = "start"  # from spawning a process to its first answer: START
    BURST = "burst"  # `count` starts at once, the total time divided by `count`: START
    IDLE_INSTANCE = "idle-instance"  # an instance that has answered and waits: UNIQUE_MEMORY
    REPLICAS = "replicas"  # 64 calls in flight, to `count` replicas: CPU of the host by policy
    LIFE = "replicas-life"  # `count` replicas deployed, killed and restarted: time per replica
    MAP = "map"  # a function that does nothing, over `count` items: MAP
    MAP_WITH_DEATH = "map-with-death"  # `count` items, one of which ends its process: LOST
    IDLE = "idle"  # `count` channels open, doing nothing: the figures about idle channels


@attrs.frozen
class Workload:
    """The work of one measurement. Figures of equal loads are comparable."""

    kind: Pattern = attrs.field(converter=Pattern)
    size: int = 0
    count: int = 1
    pinned: bool = False  # client and server share one core

    def __str__(self) -> str:
        parts = [self.kind.value]
        if self.size:
            parts.append(size_label(self.size).replace(" ", ""))
        if self.count > 1:
            parts.append(f"x{self.count}")
        if self.pinned:
            parts.append("pinned")
        return "-".join(parts)

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Workload:
        return cls(**json.loads(text))


@attrs.frozen
class Effort:
    """The duration of a measurement. Two figures with equal loads are comparable at any effort."""

    warmup_seconds: float
    seconds: float
    share: float = 1.0  # share of the load's channels to open; figures are scaled to all of them

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Effort:
        return cls(**json.loads(text))


@attrs.frozen
class Peer:
    """A measured system: a part of Spear, or a system to compare with.

    `entry` names a function `measure(load, effort) -> Sample` as "module:function". Only the worker
    process imports the function, so a system that is not installed affects only its own rows.
    """

    name: str
    title: str
    entry: str
    kinds: tuple[Pattern, ...]
    requires: tuple[str, ...] = ()  # modules that must be importable
    extra: str = ""  # the extra of pyproject.toml that installs them
    daemons: bool = False  # has processes whose CPU time cannot be told from foreign load
    matrix: bool = False  # a full run measures it at every size, beside the promises


@attrs.frozen
class Case:
    """A peer to measure under a load."""

    peer: Peer
    load: Workload

    def __str__(self) -> str:
        return f"{self.peer.name}/{self.load}"


class BenchError(Exception):
    """A measurement is invalid, and must not count."""


class Unavailable(BenchError):
    """The system cannot be measured on this machine; the message says why and what would help."""


class WrongAnswer(BenchError):
    """A system returned other bytes than were sent, so its speed means nothing."""


def size_label(size: int) -> str:
    """Return a payload size as text: 16 B, 1 KiB, 1 MiB."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size} B"
