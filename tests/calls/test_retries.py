"""Retry policies: which failures are tried again, after which delays, and how many in all."""

from __future__ import annotations

from random import Random

import pytest

from spear import (
    ChannelBroken,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    RetryPolicy,
    SpearError,
    WorkerDied,
)
from spear.calls import RetryBudget


@pytest.mark.parametrize(
    ("failure", "any_policy", "idempotent"),
    [
        (WorkerDied("gone", delivered="no"), True, True),
        (WorkerDied("gone", delivered="maybe"), False, True),
        (ChannelBroken("cut", delivered="maybe"), False, True),
        (Overloaded("full"), True, True),
        (Rejected("ending", code="draining", delivered="no"), True, True),
        (Rejected("it gives a stream", code="gives_stream"), False, False),
        (DeadlineExceeded("late", delivered="no"), False, False),
        (InvalidArguments("no such parameter"), False, False),
        (NotFound("no such function"), False, False),
        (FunctionRaised("refused", type_name="ConnectionError"), False, False),
    ],
    ids=lambda each: (
        f"{type(each).__name__} {each.delivered}" if isinstance(each, SpearError) else ""
    ),
)
def test_which_failures_are_tried_again(
    failure: SpearError, any_policy: bool, idempotent: bool
) -> None:
    assert RetryPolicy().may_repeat(failure) is any_policy
    assert RetryPolicy(idempotent=True).may_repeat(failure) is idempotent


@pytest.mark.parametrize("name", ["ConnectionError", "builtins.ConnectionError"])
def test_a_function_that_raised_a_listed_class_is_tried_again(name: str) -> None:
    policy = RetryPolicy(on=("KeyError", name), idempotent=True)
    assert policy.may_repeat(FunctionRaised("refused", type_name="ConnectionError"))
    assert policy.may_repeat(FunctionRaised("tea", type_name="KeyError"))
    assert not policy.may_repeat(FunctionRaised("no", type_name="OtherConnectionError"))


def test_what_a_function_raised_needs_an_idempotent_function() -> None:
    with pytest.raises(ConfigurationError, match="needs idempotent=True") as caught:
        RetryPolicy(on=("ConnectionError",))
    assert caught.value.key == "retry.on"


@pytest.mark.parametrize(
    ("mistake", "key"),
    [
        ({"max_attempts": 0}, "retry.max_attempts"),
        ({"initial_seconds": -1}, "retry.initial_seconds"),
        ({"max_seconds": "1"}, "retry.max_seconds"),
        ({"on": "KeyError", "idempotent": True}, "retry.on"),
        ({"on": ("",), "idempotent": True}, "retry.on"),
    ],
)
def test_wrong_values_are_refused(mistake: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**mistake)  # type: ignore[arg-type]  # the mistake
    assert caught.value.key == key


def test_delays_double_up_to_a_limit_and_half_of_each_is_random() -> None:
    policy, rng = RetryPolicy(initial_seconds=1.0, max_seconds=5.0), Random(1)
    for attempts, longest in (1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (90, 5.0), (5000, 5.0):
        delays = [policy.delay_seconds(attempts, rng) for _ in range(100)]
        assert longest / 2 <= min(delays) < max(delays) <= longest


def test_a_budget_allows_a_tenth_of_the_calls() -> None:
    budget = RetryBudget()
    first = 0
    while budget.spend():
        first += 1
    assert first == 100
    assert not budget.spend()
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 95 <= spent <= 100
