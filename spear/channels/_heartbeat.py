"""Heartbeats: how a host knows that the other end of a channel is alive.

An agent sends heartbeats by itself, a little more often than its host checks. The host, which may hold
ten thousand channels, only checks when it last received any frame. A peer that has been silent for too
long may be dead, or may not send heartbeats by itself, so the host asks it (HEALTH_CHECK). Asking every
time would double the host's cost of a heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Final, final

import trio

from spear.wire import Connection, ConnectionState, Kind

if TYPE_CHECKING:
    from spear._limits import WireLimits

    from ._timers import Timers

BEATS_PER_TICK: Final = 10
"""Ticks in an interval. Times are rounded to ticks, so a heartbeat's check may be late by one tick."""

SPOKEN_AFTER: Final = 0.95
"""The part of the host's interval after which an agent sends a heartbeat: just before the host asks."""

machine_clock: Final[trio.lowlevel.RunVar[Callable[[], float]]] = trio.lowlevel.RunVar(
    "spear machine clock", monotonic
)
"""A clock that all processes of a machine share, unlike Trio's clock. A run in virtual time replaces
it."""

LEAST_SECONDS: Final = 0.01
"""The shortest interval at which a host can make an agent send heartbeats."""


@final
class Heartbeat:
    """A watch over the peer of one channel (host), or a sender of heartbeats (agent).

    Args:
        on_lost: called with the seconds of silence when the peer is treated as dead.

    Attributes:
        heard: when the peer's last frame arrived, in Trio's time; the channel's reader sets it.
        misses: consecutive intervals in which the peer was silent.
        is_lost: whether the peer has been treated as dead.
        is_busy: called after every silent interval; returns whether the peer has been busy since the
            last call. A busy peer is treated as dead only after ``busy_seconds`` of silence.
    """

    __slots__ = (
        "_busy_seconds", "_connection", "_interval", "_last_look", "_max_misses", "_on_lost",
        "_sequence", "_timers", "heard", "is_busy", "is_lost", "misses",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        timers: Timers,
        limits: WireLimits,
        on_lost: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._interval = limits.heartbeat_seconds
        self._max_misses = limits.heartbeat_misses
        self._busy_seconds = limits.busy_seconds
        self._on_lost = on_lost
        self.heard = self._last_look = trio.current_time()
        self.misses = 0
        self._sequence = 0
        self.is_lost = False
        self.is_busy: Callable[[], bool] | None = None

    def watch(self) -> None:
        """Start to watch the peer (the host's side)."""
        self._look_at(self.heard + self._interval)

    def _look_at(self, when: float) -> None:
        # On a common grid, so that checks of many channels share a scheduler pass: a check alone costs
        # 75 us, a check among others 15 us.
        tick = self._interval / BEATS_PER_TICK
        self._timers.call_at(ceil(when / tick - 1e-6) * tick, self._look)

    def _look(self, now: float) -> None:
        connection, interval, heard = self._connection, self._interval, self.heard
        if connection.state is ConnectionState.CLOSED:
            return
        silent = now - heard
        # At most one more miss, however late this check is. If this process stood still (a blocked loop,
        # a paused machine), it has not asked the peer, which must not be declared dead for that.
        most = 1 if heard > self._last_look else self.misses + 1
        self.misses = min(int(silent / interval + 1e-6), most)
        self._last_look = now
        if self.misses:
            # Called at every miss, so that the last answer covers only the last interval.
            is_busy = self.is_busy is not None and self.is_busy()
            if self.misses >= self._max_misses and not (is_busy and silent < self._busy_seconds):
                self.is_lost = True
                self._on_lost(silent)
                return
            self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
            connection.send_control(Kind.HEALTH_CHECK, a=self._sequence)
        # Counted from the last frame, so that a peer that stops is found after exactly
        # `heartbeat_misses` intervals, whenever it stops. After a late check, the next one must leave the
        # peer time to answer, or to use CPU time.
        due = heard + interval * (self.misses + 1)
        self._look_at(max(due, now + interval / 2) if due > now else now + interval)

    def speak(self) -> None:
        """Start to send heartbeats, at the interval that the peer has asked for (the agent's side)."""
        self._speak_next(trio.current_time())

    def _speak_next(self, now: float) -> None:
        # On a grid that all processes of a machine share, so that a host wakes up once for the heartbeats
        # of many agents. A heartbeat that arrives alone costs the host three times as much.
        interval = max(self._connection.peer.heartbeat_seconds, LEAST_SECONDS)
        tick, clock = interval / BEATS_PER_TICK, machine_clock.get()()
        due = (clock + interval * SPOKEN_AFTER) // tick * tick
        self._timers.call_at(now + due - clock, self._speak)

    def _speak(self, now: float) -> None:
        connection = self._connection
        if connection.state is not ConnectionState.CLOSED:
            connection.send_control(Kind.HEALTH_RESPONSE, b=connection.inbound_open)
            self._speak_next(now)
