"""Statistics of calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spear import NotFound
from spear.spearlet._counters import OutcomeCounters


@given(st.lists(st.integers(0, 130_000_000), min_size=1, max_size=40), st.floats(0.01, 1))
def test_quantiles_are_upper_bounds_within_a_quarter(micros: list[int], share: float) -> None:
    counters = OutcomeCounters()
    for each in micros:
        counters.ended(each / 1e6, None)
    latency = counters.snapshot().latency
    assert latency.count == len(micros)
    wanted = share * len(micros)
    true = next(each for place, each in enumerate(sorted(micros), 1) if place >= wanted)
    found = latency.quantile_seconds(share) * 1e6
    assert true - 1 <= found  # a microsecond for the rounding of seconds
    assert found <= true * 1.25 + 2


def test_what_took_longer_than_two_minutes_is_in_the_last_bucket() -> None:
    counters = OutcomeCounters()
    counters.ended(10_000.0, None)
    counters.ended(0.1, NotFound("no"))
    counters.ended(0.1, NotFound("no"))
    found = counters.snapshot()
    assert (found.calls, found.failures) == (3, {"NotFound": 2})
    assert 120 < found.latency.quantile_seconds(0.5) < 140
    assert found.latency.mean_seconds == 10_000
