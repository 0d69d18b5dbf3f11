"""The latency histogram: its buckets, their bounds, its quantiles."""

from __future__ import annotations

import pytest

from spear.channels import LatencyHistogram
from spear.channels._statistics import BUCKETS, Counters


def histogram(*seconds: float) -> LatencyHistogram:
    counters = Counters()
    for each in seconds:
        counters.answered(each)
    return counters.histogram()


def test_nothing_was_answered() -> None:
    empty = histogram()
    assert empty.count == 0
    assert empty.mean_seconds == 0
    assert empty.quantile_seconds(0.5) == 0
    assert len(empty.counts) == BUCKETS


@pytest.mark.parametrize(
    ("micros", "bucket"),
    [
        (0, 0),
        (0.9, 0),
        (1, 1),
        (1.9, 1),
        (2, 2),
        (3.9, 2),
        (4, 3),
        (1000, 10),
        (1e6, 20),
        (1e9, -1),
    ],
)
def test_each_answer_falls_into_its_bucket(micros: float, bucket: int) -> None:
    found = histogram((micros + 1e-4) / 1e6)
    assert found.counts[bucket] == 1
    assert found.count == 1


def test_quantiles_are_upper_bounds_within_a_factor_of_two() -> None:
    seconds = [0.001 * number for number in range(1, 101)]
    found = histogram(*seconds)
    assert found.count == 100
    assert found.mean_seconds == pytest.approx(0.0505)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        true = seconds[round(share * 100) - 1]
        assert true <= found.quantile_seconds(share) * (1 + 1e-9)
        assert found.quantile_seconds(share) <= 2 * true + 1e-6
    # nothing above the last bucket
    assert found.quantile_seconds(1.1) == 0


def test_failures_are_counted_by_kind() -> None:
    counters = Counters()
    for kind in ("A", "B", "A"):
        counters.failed(kind)
    assert counters.failures == {"A": 2, "B": 1}
