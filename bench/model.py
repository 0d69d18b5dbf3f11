"""The words the benchmark speaks: loads, figures, samples, peers, cases.

Values only: this module starts nothing, measures nothing and imports none of the measured systems.
"""

from __future__ import annotations

import enum
import json

import attrs


class Figure(enum.StrEnum):
    """One number that a measurement yields. Its unit is in `UNITS`."""

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
}

Sample = dict[Figure, float]


class Pattern(enum.StrEnum):
    """What the client does, and so which figures come out."""

    SEQUENTIAL = "sequential"  # one call after another: P50, P99, RATE, CPU
    PIPELINED = "pipelined"  # `count` calls always in flight: RATE, CPU
    CONNECTIONS = "connections"  # one call after another on each of `count`: as SEQUENTIAL
    STREAM = "stream"  # one-way items, counted where they arrive: RATE, CPU
    HANDOVER = "handover"  # arguments one way, one call after another: as SEQUENTIAL
    START = "start"  # from spawning a process to its first answer: START
    BURST = "burst"  # `count` of them at once, the time of all divided by their number: START
    IDLE_INSTANCE = "idle-instance"  # one that has answered and waits: UNIQUE_MEMORY
    REPLICAS = "replicas"  # 64 calls in flight, to `count` replicas: CPU of the host by policy
    LIFE = "replicas-life"  # `count` of them deployed, killed and restarted: time of each
    IDLE = "idle"  # `count` channels open, doing nothing: the figures about idle channels


@attrs.frozen
class Workload:
    """The work of one measurement; equal loads are comparable."""

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
    """How long one measurement takes; never part of what is compared."""

    warmup_seconds: float
    seconds: float
    share: float = 1.0  # of a great number of channels; figures are given for all of them

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Effort:
        return cls(**json.loads(text))


@attrs.frozen
class Peer:
    """A measured system: Spear itself or something to stand beside it.

    `entry` names a function `measure(load, effort) -> Sample` as "module:function". It is imported
    in the worker process only, so a system that is not installed costs nothing but its own rows.
    """

    name: str
    title: str
    entry: str
    kinds: tuple[Pattern, ...]
    requires: tuple[str, ...] = ()  # modules that must be importable
    extra: str = ""  # the extra of pyproject.toml that brings them
    daemons: bool = False  # has processes whose CPU time cannot be told from other people's
    matrix: bool = False  # a full run measures it at every size, beside the promises


@attrs.frozen
class Case:
    """One thing to measure."""

    peer: Peer
    load: Workload

    def __str__(self) -> str:
        return f"{self.peer.name}/{self.load}"


class BenchError(Exception):
    """A measurement that must not count."""


class Unavailable(BenchError):
    """This system cannot be measured here; the message says why and what would help."""


class WrongAnswer(BenchError):
    """A system returned something else than what was sent: its speed means nothing."""


def size_label(size: int) -> str:
    """Return a payload size as people write it: 16 B, 1 KiB, 1 MiB."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return f"{size} B"
