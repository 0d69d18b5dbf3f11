"""Retry policies: which failures are tried again, after which delays, and how many in all."""

from __future__ import annotations

from copy import copy
from math import inf
from random import Random

import pytest

from spear import (
    ChannelBroken,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InstanceId,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    RetryPolicy,
    SpearError,
    WorkerDied,
)
from spear.calls import AssignedInstance, Attempts, RetryBudget


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


@pytest.mark.parametrize(
    ("on", "matches"),
    [
        ("ConnectionError", True),
        ("OSError", True),
        ("IOError", True),
        ("Exception", True),
        ("object", False),
        ("ValueError", False),
        ("ApiError", False),
        (ConnectionError, True),
        (ConnectionResetError, True),
        (ConnectionAbortedError, False),
    ],
)
def test_subclasses_of_a_listed_class_of_python_are_tried_again(
    on: str | type[BaseException], matches: bool
) -> None:
    """``on=("ConnectionError",)`` once did not match the ConnectionResetError of a socket."""
    policy = RetryPolicy(on=(on,), idempotent=True)
    assert policy.may_repeat(FunctionRaised("", type_name="ConnectionResetError")) is matches


def test_subclasses_of_a_listed_class_of_the_function_are_tried_again() -> None:
    late = FunctionRaised("", type_name="ReadTimeout", base_names=("Timeout", "ConnectionError"))
    unknown = FunctionRaised("", type_name="ReadTimeout")
    for on in "api.Timeout", "Timeout", "ConnectionError", "OSError":
        policy = RetryPolicy(on=(on,), idempotent=True)
        assert policy.may_repeat(late)
        assert not policy.may_repeat(unknown)


def test_a_policy_keeps_the_names_of_its_classes() -> None:
    policy = RetryPolicy(on=(ConnectionError, WorkerDied, "KeyError"), idempotent=True)
    assert policy.on == ("ConnectionError", "WorkerDied", "KeyError")


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
        ({"on": ConnectionError, "idempotent": True}, "retry.on"),
        ({"on": (int,), "idempotent": True}, "retry.on"),
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
    budget = RetryBudget("shop")
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


# -- the attempts of one call -------------------------------------------------------------------------

LOST = WorkerDied("gone", delivered="no")
INSTANCE = InstanceId("process", "shop-1")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts_of(
    policy: RetryPolicy,
    clock: Clock,
    *,
    run_seconds: float = 10.0,
    queue_seconds: float | None = None,
    waits_for_queue: bool = False,
    earlier: int = 0,
    budget: RetryBudget | None = None,
) -> Attempts:
    return Attempts(
        policy, budget or RetryBudget("shop"), clock, Random(1), run_seconds=run_seconds,
        queue_seconds=queue_seconds, waits_for_queue=waits_for_queue, earlier=earlier,
    )  # fmt: skip


def test_a_call_has_as_many_attempts_as_its_policy_allows() -> None:
    policy = RetryPolicy(max_attempts=3, initial_seconds=0)
    attempts = attempts_of(policy, Clock())
    assert [attempts.delay_after(LOST) for _ in range(3)] == [0, 0, None]
    assert attempts.count == 3
    attempts = attempts_of(policy, Clock(), earlier=1)
    assert attempts.may_repeat(LOST)
    assert [attempts.delay_after(LOST) for _ in range(2)] == [0, None]
    assert not attempts_of(RetryPolicy(max_attempts=1), Clock()).may_repeat(LOST)
    assert attempts_of(policy, Clock()).delay_after(NotFound("no such function")) is None


def test_attempts_and_delays_have_one_timeout() -> None:
    clock = Clock()
    policy = RetryPolicy(max_attempts=9, initial_seconds=2.0, max_seconds=2.0)
    attempts = attempts_of(policy, clock)
    for _ in range(2):
        clock.now += 3
        attempts.assigned(INSTANCE)
        before = attempts.run_seconds
        delay = attempts.delay_after(LOST)
        assert delay is not None
        assert 1 <= delay <= 2
        assert attempts.run_seconds == pytest.approx(before - 3 - delay)
        clock.now += delay
    # The next delay would end after the timeout.
    clock.now += attempts.run_seconds - 1
    assert attempts.delay_after(LOST) is None


def test_waits_have_a_time_of_their_own() -> None:
    clock = Clock()
    policy = RetryPolicy(max_attempts=9, initial_seconds=0)
    attempts = attempts_of(policy, clock, run_seconds=10, queue_seconds=60)
    clock.now += 20  # in the queue
    attempts.assigned(INSTANCE)
    clock.now += 4
    attempts.assigned(INSTANCE)  # the next instance, within the same attempt
    clock.now += 2
    assert attempts.delay_after(LOST) == 0
    assert (attempts.run_seconds, attempts.queue_seconds) == (4, 40)
    clock.now += 30  # in the queue again, until the call is refused
    busy = Overloaded("full", retry_after_seconds=5.0)
    assert attempts.delay_after(busy) == 5
    clock.now += 5
    assert (attempts.run_seconds, attempts.queue_seconds) == (4, 5)
    assert attempts.delay_after(busy) is None


def test_a_full_queue_is_no_attempt_of_a_call_that_waits_for_it() -> None:
    full = Overloaded("full", code="queue_full", retry_after_seconds=0.25)
    attempts = attempts_of(
        RetryPolicy(max_attempts=1), Clock(), queue_seconds=inf, waits_for_queue=True
    )
    assert [attempts.delay_after(full) for _ in range(300)] == [0.25] * 300
    assert attempts.delay_after(Overloaded("full", code="queue_full")) == 0.1
    assert attempts.count == 0
    assert attempts.delay_after(LOST) is None


def test_attempts_use_the_budget_of_their_deployment() -> None:
    budget = RetryBudget("shop")
    while budget.spend():
        pass
    policy = RetryPolicy(max_attempts=2, initial_seconds=0)
    delays = [attempts_of(policy, Clock(), budget=budget).delay_after(LOST) for _ in range(100)]
    assert 9 <= delays.count(0) <= 10  # a tenth
    once = RetryPolicy(max_attempts=1)
    for _ in range(30):
        attempts_of(once, Clock(), budget=budget)  # earns nothing
    assert not budget.spend()


def notes_of(failure: SpearError) -> list[str]:
    return getattr(failure, "__notes__", [])


def test_a_failure_notes_why_it_was_not_tried_again_although_its_policy_allows_it() -> None:
    budget = RetryBudget("shop")
    while budget.spend():
        pass
    policy = RetryPolicy(max_attempts=2, initial_seconds=1)
    failure = WorkerDied("gone", delivered="no")
    kept = copy(failure)
    assert attempts_of(policy, Clock(), budget=budget).delay_after(failure) is None
    assert notes_of(failure) == ["not tried again: the retry budget of shop is used up"]
    late = copy(failure)
    assert attempts_of(policy, Clock(), run_seconds=0.1).delay_after(late) is None
    text = "not tried again: the timeout would end before the next attempt"
    assert notes_of(late)[1:] == [text]
    assert len(notes_of(failure)) == 1  # a copy has a list of its own
    assert attempts_of(RetryPolicy(max_attempts=1), Clock()).delay_after(kept) is None
    assert notes_of(kept) == []  # the policy has allowed no more


def test_the_observer_of_a_call_is_notified_of_the_instance_of_each_attempt() -> None:
    assigned = AssignedInstance()
    attempts = Attempts(
        RetryPolicy(), RetryBudget("shop"), Clock(), Random(1), run_seconds=1, execution=assigned
    )
    attempts.assigned(INSTANCE)
    assert assigned.instance == INSTANCE
    assert not attempts.is_accepted
