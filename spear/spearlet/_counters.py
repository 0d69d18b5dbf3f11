"""Counters of a deployment's calls, and of the starts of its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import attrs

from spear.channels import LatencyHistogram

_BUCKETS: Final = 104  # buckets of a fine LatencyHistogram, up to two minutes


@final
@attrs.frozen(kw_only=True)
class FunctionStatistics:
    """The counters of one function's calls, since its deployment began.

    Attributes:
        calls: calls that have ended, streams included.
        failures: number of failed calls among them, by the name of the exception's class.
        latency: durations of successful calls, from the call to its result, time in the queue included.
    """

    calls: int
    failures: Mapping[str, int]
    latency: LatencyHistogram


@final
class OutcomeCounters:
    """Mutable counters of one function's calls, or of starts: updated at the end, read for statistics."""

    __slots__ = ("buckets", "failures", "seconds", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.seconds = 0.0
        self.buckets = [0] * _BUCKETS
        self.failures: dict[str, int] = {}

    def ended(self, seconds: float, failure: BaseException | None, calls: int = 1) -> None:
        """Count a call, or several that took as long each; see :class:`spear.calls.CallTally`."""
        if failure is not None:
            kind = type(failure).__name__
            self.failures[kind] = self.failures.get(kind, 0) + calls
            return
        self.succeeded += calls
        self.seconds += seconds * calls
        micros = int(seconds * 1e6)
        if micros > 3:
            shift = micros.bit_length() - 3
            micros = (shift << 2) + (micros >> shift)
        self.buckets[micros if micros < _BUCKETS else -1] += calls

    def snapshot(self) -> FunctionStatistics:
        """Return the present numbers."""
        return FunctionStatistics(
            calls=self.succeeded + sum(self.failures.values()),
            failures=dict(self.failures),
            latency=self.histogram(),
        )

    def histogram(self) -> LatencyHistogram:
        """Return the durations of the successful ones."""
        return LatencyHistogram(tuple(self.buckets), self.seconds, is_fine=True)
