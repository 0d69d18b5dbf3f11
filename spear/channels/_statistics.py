"""What a channel counts."""

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
    """How long answers took.

    Bucket ``i`` counts those that took at least ``2 ** (i - 1)`` and less than ``2 ** i``
    microseconds; the last one takes all above a minute. If it is ``is_fine``, each of these, but for the
    first two, is divided into four of the same width, and there is one for each microsecond below 4.
    """

    counts: tuple[int, ...]
    total_seconds: float
    is_fine: bool = False

    @property
    def count(self) -> int:
        """Answers in all."""
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The average; 0 if there was no answer."""
        return self.total_seconds / self.count if self.count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """Return the time within which ``share`` of the answers came; 0 if there are none.

        The time is too large by a factor of two at most, by 1.25 if the histogram is fine.

        Raises:
            ConfigurationError: ``share`` is negative, or not a number. (Above 1 the result is 0.)
        """
        if not is_number(share) or share < 0:  # of more than all, there is nothing
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
    """Requests, responses, failures, items and one-way messages, each once however many frames it
    took."""
    messages_received: int
    """The same of the peer's, but for items that came after nobody wanted them any more."""
    bytes_sent: int
    """Bytes on the wire; in memory, bytes of payload."""
    bytes_received: int
    calls_in_flight: int
    """Calls that we made and that have not had their final frame."""
    handlers_running: int
    """Calls of the peer that have not had their final frame."""
    calls_refused: int
    """Calls of the peer that ended before a handler began."""
    most_calls_in_flight: int
    callers_waiting: int
    """Callers that wait because the peer takes no further call now."""
    latency: LatencyHistogram
    """Of our calls that were answered, from request to answer; also if the answer came too late."""
    failures: Mapping[str, int]
    """Our calls that failed, by kind of failure."""
    unsent_bytes: int
    buffered_bytes: int
    """Of incomplete messages of the peer."""
    lent_bytes: int
    """Memory that we have handed to the peer, and that it may still look at."""
    borrowed_bytes: int
    """The same of the peer's, as long as we use it."""
    kept_bytes: int
    """Memory that we keep for handing over large payloads, in use or not."""
    heartbeats_missed: int
    """In a row, up to now."""
    unknown_frames: int
    uptime_seconds: float


@final
class Counters:
    """The mutable side: written by the channel, read by nobody else."""

    __slots__ = (
        "buckets", "failures", "latency_seconds", "messages_received", "messages_sent", "most_calls",
    )  # fmt: skip

    def __init__(self) -> None:
        self.messages_sent = 0
        self.messages_received = 0
        self.most_calls = 0
        self.buckets: list[int] | None = (
            None  # made with the first answer: 250 bytes per idle channel
        )
        self.latency_seconds = 0.0
        self.failures: dict[str, int] = {}

    def answered(self, seconds: float) -> None:
        """Count one answer."""
        self.latency_seconds += seconds
        buckets = self.buckets
        if buckets is None:
            buckets = self.buckets = [0] * BUCKETS
        bucket = int(seconds * 1e6).bit_length()
        buckets[bucket if bucket < BUCKETS else -1] += 1

    def failed(self, kind: str) -> None:
        """Count one failure."""
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def histogram(self) -> LatencyHistogram:
        """A snapshot."""
        return LatencyHistogram(tuple(self.buckets or [0] * BUCKETS), self.latency_seconds)
