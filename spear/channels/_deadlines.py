"""Deadlines of the calls of one channel, in both directions.

No call has a timer of its own, so a call that is answered in time, as nearly all are, costs one
comparison. When the earliest deadline passes, all open calls are checked: 100 each way, by default.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, final

from ._calls import InboundCall, OutboundCall
from ._timers import Alarm

if TYPE_CHECKING:
    from spear.wire import Connection

    from ._timers import Timers


@final
class Deadlines:
    """A watch over one channel's calls, which expires them at their deadlines.

    Attributes:
        next: the earliest known deadline; :meth:`arm` need only be called for an earlier one.
    """

    __slots__ = ("_alarm", "_connection", "_timers", "next")

    def __init__(self, connection: Connection, timers: Timers) -> None:
        self._connection = connection
        self._timers = timers
        self._alarm: Alarm | None = None  # made with the first deadline
        self.next = inf

    def arm(self, deadline: float) -> None:
        """Watch for ``deadline``, which is earlier than those of all other calls."""
        if self._alarm is None:
            self._alarm = Alarm(self._timers, self._expire)
        self.next = deadline
        self._alarm.set(deadline)

    def _expire(self, now: float) -> None:
        self.next = earliest = inf
        for call in list(self._connection.calls.values()):
            if not isinstance(call, OutboundCall | InboundCall) or call.is_given_up:
                continue
            if call.deadline > now:
                earliest = min(earliest, call.deadline)
            else:
                call.expire(now)
        if earliest < inf:
            self.arm(earliest)

    def close(self) -> None:
        """Stop the watch: no call expires any more."""
        if self._alarm is not None:
            self._alarm.close()
