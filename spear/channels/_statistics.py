"""Counters of a channel, and the statistics that are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import attrs

from spear._errors import ConfigurationError
from spear._limits import is_number, shown

BUCKETS: Final = 28


@final
@attrs.frozen
class LatencyHistogram:
    """A histogram of latencies: how long answers took.

    Bucket ``i`` counts answers that took at least ``2 ** (i - 1)`` and less than ``2 ** i``
    microseconds; the last bucket counts all above a minute. If ``is_fine``, each bucket from 4
    microseconds on is divided into four of the same width, and each microsecond below 4 has a bucket.
    """

    counts: tuple[int, ...]
    total_seconds: float
    is_fine: bool = False

    @property
    def count(self) -> int:
        """The number of answers."""
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The mean latency in seconds; 0 if there was no answer."""
        return self.total_seconds / self.count if self.count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """Return the time within which ``share`` of the answers came; 0 if there are none.

        The time is too large by a factor of two at most, by 1.25 if the histogram is fine.

        Raises:
            ConfigurationError: ``share`` is negative, or not a number. (Above 1 the result is 0.)
        """
        if not is_number(share) or share < 0:
            raise ConfigurationError(f"share must be from 0 to 1, not {shown(share)}")
        wanted = share * self.count
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return self._upper_microseconds(index) / 1e6
        return 0.0

    def _upper_microseconds(self, index: int) -> int:
        if not self.is_fine:
            return int(2**index)
        if index < 4:
            return index + 1
        return (index % 4 + 5) << (index // 4 - 1)


@final
@attrs.frozen(kw_only=True)
class ChannelStatistics:
    """A channel's counters since it was opened."""

    messages_sent: int
    """Messages sent: requests, responses, failures, items and one-way messages, each counted once
    however many frames it took."""
    messages_received: int
    """Messages received, excluding items that arrived after their stream closed."""
    bytes_sent: int
    """Bytes on the wire; bytes of payload if the channel is in memory."""
    bytes_received: int
    calls_in_flight: int
    """Calls that we made and whose final frame has not arrived."""
    handlers_running: int
    """Calls of the peer whose final frame has not been sent."""
    calls_refused: int
    """Calls of the peer that ended before a handler began."""
    most_calls_in_flight: int
    callers_waiting: int
    """Callers that are queued because the peer takes no further call now."""
    latency: LatencyHistogram
    """Latencies of our answered calls, from request to answer, including answers after the deadline."""
    failures: Mapping[str, int]
    """Number of our calls that failed, by kind of failure."""
    unsent_bytes: int
    buffered_bytes: int
    """Bytes that have arrived of the peer's incomplete messages."""
    lent_bytes: int
    """Bytes of our shared memory that the peer may still read."""
    borrowed_bytes: int
    """Bytes of the peer's shared memory that we still use."""
    kept_bytes: int
    """Bytes of shared memory that we keep for large payloads, in use or not."""
    heartbeats_missed: int
    """Consecutive heartbeats that the peer has missed up to now."""
    unknown_frames: int
    uptime_seconds: float


@final
class Counters:
    """A channel's mutable counters, which only the channel uses."""

    __slots__ = (
        "buckets", "failures", "latency_seconds", "messages_received", "messages_sent", "most_calls",
    )  # fmt: skip

    def __init__(self) -> None:
        self.messages_sent = 0
        self.messages_received = 0
        self.most_calls = 0
        self.buckets: list[int] | None = (
            None  # made with the first answer, which saves 250 bytes per idle channel
        )
        self.latency_seconds = 0.0
        self.failures: dict[str, int] = {}

    def answered(self, seconds: float) -> None:
        """Count one answer with its latency."""
        self.latency_seconds += seconds
        buckets = self.buckets
        if buckets is None:
            buckets = self.buckets = [0] * BUCKETS
        bucket = int(seconds * 1e6).bit_length()
        buckets[bucket if bucket < BUCKETS else -1] += 1

    def failed(self, kind: str) -> None:
        """Count one failure of this kind."""
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def histogram(self) -> LatencyHistogram:
        """Return a snapshot of the latencies."""
        return LatencyHistogram(tuple(self.buckets or [0] * BUCKETS), self.latency_seconds)
