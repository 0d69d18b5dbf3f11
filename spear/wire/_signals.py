"""Outgoing progress signals: the newest of each call, no faster than the peer accepts.

A host counts the signals of an agent as control frames, and ends a connection with too many of them. So
an agent holds back signals that come too fast. A newer signal of a call replaces the one that is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from ._frames import Buffer, FrameType
from ._states import CallState, Kind
from ._strikes import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._calls import Call, CalleeSide
    from ._sink import Sink

SIGNALS_PER_SECOND: Final = 500.0
SIGNAL_BURST: Final = 1000
"""Signals that an agent sends at once, after a pause. A host counts signals as control frames, of which
it takes twice SIGNALS_PER_SECOND and ten times this burst: the rest is for heartbeats, credit, and
signals that arrive late and all at once."""

SIGNAL_BYTES: Final = 4096
MOST_SIGNAL_COST: Final = 256
"""A signal counts once, and once more for each full 4 KiB of its payload up to a MiB."""

_SIGNAL: Final = int(FrameType.SIGNAL)


def signal_cost(size: int) -> int:
    """Return the number of control frames that a signal with ``size`` bytes of payload counts as."""
    return 1 + min(size // SIGNAL_BYTES, MOST_SIGNAL_COST)


@final
class SignalQueue:
    """The signals that one end sends or holds back.

    Args:
        sink: takes the signals that are sent.
    """

    __slots__ = ("_held", "_rate", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._rate = RateLimit(SIGNALS_PER_SECOND, SIGNAL_BURST)
        self._held: dict[int, tuple[int, bytes]] = {}  # call id -> flags, newest report

    def __bool__(self) -> bool:
        """Return whether signals are held back."""
        return bool(self._held)

    def send(self, call_id: int, report: Buffer, flags: int, now: float) -> bool:
        """Send the signal of a call, or hold it back; return False if it is held back."""
        if self._held or not self._rate.take(now, signal_cost(len(report))):
            self._held[call_id] = flags, bytes(report)
            return False
        self._sink.push_latest(_SIGNAL, call_id, flags, 0, report)
        return True

    def send_held(self, calls: Mapping[int, Call], now: float) -> bool:
        """Send signals that were held back, as many as the rate allows; return False if some are left.

        A signal is dropped if its call is not allowed to send signals any more.

        Args:
            calls: the open calls; they include all calls whose signals are held back.
            now: current time.
        """
        held = self._held
        while held:
            call_id, (flags, report) = next(iter(held.items()))
            call = calls[call_id]
            if call.sends[call.state].get(Kind.SIGNAL) is not None:
                if not self._rate.take(now, signal_cost(len(report))):
                    return False
                self._sink.push_latest(_SIGNAL, call_id, flags, 0, report)
            del held[call_id]
        return True

    def send_last(self, call: CalleeSide) -> None:
        """Send a call's signal that was held back, before the call's final frame.

        A small one is sent whatever the rate: the peer allows one for each call. A large one is dropped.
        """
        flags, report = self._held.pop(call.id, (0, None))
        if (
            report is not None
            and call.state is not CallState.CANCELLING
            and len(report) < SIGNAL_BYTES
        ):
            self._sink.push_latest(_SIGNAL, call.id, flags, 0, report)

    def clear(self) -> None:
        """Forget all signals that are held back."""
        self._held.clear()
