"""Heartbeats: how a host knows that the other end of a channel is alive.

An agent says "still here" a little more often than its host looks, and the host, which may hold ten
thousand channels, only looks at when it has last heard anything at all. It asks (HEALTH_CHECK) where
that is too long ago: of an agent that has gone, or one that never speaks by itself. To ask every time
would cost the host twice as much for each heartbeat.
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
"""Heartbeats may be late by this part of their interval."""

SPOKEN_AFTER: Final = 0.95
"""The part of the host's interval after which an agent speaks by itself: before it would be asked."""

machine_clock: Final[trio.lowlevel.RunVar[Callable[[], float]]] = trio.lowlevel.RunVar(
    "spear machine clock", monotonic
)
"""A clock that all processes of a machine share, as they do not share Trio's. A run in virtual time sets
another one."""

LEAST_SECONDS: Final = 0.01
"""No host can make an agent speak more often than this."""


@final
class Heartbeat:
    """Watches the peer of one channel.

    Args:
        on_lost: called with the seconds of silence after which the peer is taken for dead.

    Attributes:
        heard: when the peer last said anything; the channel's reader keeps it.
        misses: intervals of silence in a row.
        is_lost: the peer has been taken for dead.
        is_busy: asked with every interval of silence whether the peer has been at work since it was last
            asked. One that has is not dead, for as long as the limits allow.
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
        """Watch the peer from now on (the host's side)."""
        self._look_at(self.heard + self._interval)

    def _look_at(self, when: float) -> None:
        # On a common grid, so that the looks at many channels share a pass of the scheduler: alone,
        # each costs 75 us, together 15.
        tick = self._interval / BEATS_PER_TICK
        self._timers.call_at(ceil(when / tick - 1e-6) * tick, self._look)

    def _look(self, now: float) -> None:
        connection, interval, heard = self._connection, self._interval, self.heard
        if connection.state is ConnectionState.CLOSED:
            return
        silent = now - heard
        # One more at most, however late this is: if we stood still ourselves (a blocked loop, a paused
        # machine), the peer has not been asked, and must not be declared dead for that.
        most = 1 if heard > self._last_look else self.misses + 1
        self.misses = min(int(silent / interval + 1e-6), most)
        self._last_look = now
        if self.misses:
            # Asked at every miss, so that the last answer is about the last interval.
            is_busy = self.is_busy is not None and self.is_busy()
            if self.misses >= self._max_misses and not (is_busy and silent < self._busy_seconds):
                self.is_lost = True
                self._on_lost(silent)
                return
            self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
            connection.send_control(Kind.HEALTH_CHECK, a=self._sequence)
        # Counted from the last sign of life, so that a peer that stops is found after exactly
        # `heartbeat_misses` intervals, whenever it stops. If we are late, a moment from now would be too
        # soon: it needs time to answer, or to do something that can be seen.
        due = heard + interval * (self.misses + 1)
        self._look_at(max(due, now + interval / 2) if due > now else now + interval)

    def speak(self) -> None:
        """Tell the peer, as often as it likes to hear, that we are alive (the agent's side)."""
        self._speak_next(trio.current_time())

    def _speak_next(self, now: float) -> None:
        # On a grid, as the host's looks, but one that all processes of a machine have in common: a host
        # then wakes up once for the beats of many agents. Alone, each costs three times as much.
        interval = max(self._connection.peer.heartbeat_seconds, LEAST_SECONDS)
        tick, clock = interval / BEATS_PER_TICK, machine_clock.get()()
        due = (clock + interval * SPOKEN_AFTER) // tick * tick
        self._timers.call_at(now + due - clock, self._speak)

    def _speak(self, now: float) -> None:
        connection = self._connection
        if connection.state is not ConnectionState.CLOSED:
            connection.send_control(Kind.HEALTH_RESPONSE, b=connection.inbound_open)
            self._speak_next(now)
