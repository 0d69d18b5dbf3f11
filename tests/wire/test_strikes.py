"""The number of strikes that a peer may have."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from spear.wire import RateLimit


def test_s9_a_burst_is_free_and_what_exceeds_it_is_a_strike() -> None:
    limit = RateLimit(10, 100)
    assert limit.hit(0.0, 100) == 0
    assert limit.hit(0.0) == 1


def test_s9_the_next_strike_takes_another_second_of_excess() -> None:
    limit = RateLimit(10, 100)
    limit.hit(0.0, 101)
    assert [limit.hit(0.0) for _ in range(10)] == [1] * 9 + [2]


def test_s9_the_rate_is_free_for_ever() -> None:
    limit = RateLimit(100.0, 1000)
    for second in range(10_000):
        assert limit.hit(float(second), 100) == 0


def test_s9_one_more_than_the_rate_is_not() -> None:
    limit = RateLimit(100.0, 1000)
    strikes = [limit.hit(float(second), 101) for second in range(1200)]
    assert strikes.index(1) <= 1000
    assert strikes.index(2) <= 1101


def test_rest_restores_no_more_than_the_burst() -> None:
    limit = RateLimit(10, 100)
    limit.hit(0.0, 100)
    limit.hit(1e9, 100)
    assert limit.hit(1e9) == 1


def test_a_clock_that_jumps_back_grants_nothing() -> None:
    limit = RateLimit(10, 10)
    limit.hit(100.0, 10)
    assert limit.hit(50.0) == 1
    assert limit.hit(100.0) == 1


def test_a_rate_below_one_a_second_still_forgives_a_whole_event() -> None:
    limit = RateLimit(0.1, 1)
    assert [limit.hit(0.0) for _ in range(3)] == [0, 1, 2]


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 30)), max_size=60))
def test_no_more_than_burst_and_rate_pass_without_a_strike(steps: list[tuple[float, int]]) -> None:
    limit = RateLimit(5.0, 20)
    now, free = 0.0, 0
    for wait, count in steps:
        now += wait
        if limit.hit(now, count):
            return
        free += count
        assert free <= 20 + 5 * now + 1e-6


def test_what_is_taken_never_strikes_and_what_does_not_fit_is_not_taken() -> None:
    limit = RateLimit(rate=10, burst=5)
    assert limit.take(0.0, 3)
    assert not limit.take(0.0, 3)
    assert limit.take(0.0, 2)
    assert not limit.take(0.0)
    assert limit.take(0.1)
    assert limit.strikes == 0


def test_what_is_allowed_beside_the_rate_fills_the_burst_and_no_more() -> None:
    limit = RateLimit(rate=10, burst=5)
    limit.allow(100)
    assert limit.tokens == 5
    assert limit.hit(0.0, 4) == 0
    limit.allow(2)
    assert limit.tokens == 3
    assert limit.hit(0.0, 4) == 1
    left = limit.tokens  # after a strike, more than a burst
    limit.allow(1)
    assert limit.tokens == left
