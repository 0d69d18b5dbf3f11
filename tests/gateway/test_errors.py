"""The response for each error."""

from __future__ import annotations

import pytest

import spear
from spear import ConfigurationError
from spear.gateway._errors import Problem, describe, retry_after, retry_header, status_of


def died(delivered: str) -> spear.WorkerDied:
    return spear.WorkerDied("gone", exit_status=-9, stderr_tail="secret", delivered=delivered)  # type: ignore[arg-type]  # one of the three


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (spear.InvalidArguments("x"), 400),
        (spear.ConfigurationError("x"), 400),
        (spear.NotFound("x"), 404),
        (spear.Rejected("x"), 409),
        (spear.Rejected("x", delivered="yes"), 502),
        (spear.Overloaded("x"), 429),
        (spear.CallCancelled("x"), 503),
        (spear.FunctionRaised("x"), 500),
        (spear.DeadlineExceeded("x"), 504),
        (died("no"), 503),
        (died("maybe"), 502),
        (spear.SpawnFailed("x"), 503),
        (spear.RemoteProtocolError("x"), 502),
        (spear.ChannelBroken("x"), 502),
        (spear.CallFailed("x"), 502),
        (spear.SpearError("x"), 500),
        (Problem(413, "TooLarge", "x"), 413),
        (ValueError("x"), 500),
    ],
)
def test_statuses(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_while_the_host_drains_what_is_refused_may_be_tried_again() -> None:
    assert status_of(spear.Rejected("x"), is_draining=True) == 503
    assert status_of(spear.Rejected("x", delivered="yes"), is_draining=True) == 502


def test_when_to_try_again() -> None:
    assert retry_after(spear.Overloaded("x", retry_after_seconds=0.2), 429) == 0.2
    assert retry_after(spear.Overloaded("x"), 429) == 1.0
    assert retry_after(Problem(503, "Busy", "x", retry_seconds=7), 503) == 7
    assert retry_after(spear.NotFound("x"), 404) is None
    assert retry_header(0.2) == ((b"retry-after", b"1"),)
    assert retry_header(1.5) == ((b"retry-after", b"2"),)
    assert retry_header(None) == ()


def test_the_notes_of_an_error_are_told() -> None:
    lost = died("no")
    assert "notes" not in describe(lost)
    lost.add_note("not tried again: the retry budget of shop is used up")
    assert describe(lost)["notes"] == ["not tried again: the retry budget of shop is used up"]


def test_what_is_told() -> None:
    raised = spear.FunctionRaised("no", type_name="ValueError", remote_traceback="Traceback: ...")
    assert describe(raised, request_id="r") == {
        "kind": "FunctionRaised", "code": "function_raised", "message": "no", "delivered": "yes",
        "type": "ValueError", "traceback": "Traceback: ...", "request_id": "r",
    }  # fmt: skip
    nested = spear.FunctionRaised("gone", type_name="WorkerDied", remote_code="given_up")
    assert describe(nested)["remote_code"] == "given_up"
    assert describe(died("maybe")) == {
        "kind": "WorkerDied", "code": "worker_died", "message": "gone", "delivered": "maybe",
        "exit_status": -9,
    }  # fmt: skip
    assert describe(died("maybe"), tell_all=True)["stderr_tail"] == "secret"
    failed = spear.SpawnFailed("no start", stderr_tail="secret")
    assert describe(failed) == {
        "kind": "SpawnFailed", "code": "spawn_failed", "message": "no start", "delivered": "no",
    }  # fmt: skip
    misfit = spear.InvalidArguments("f(x=...): no", parameter="x", expected="int", got="str")
    assert describe(misfit) == {
        "kind": "InvalidArguments", "code": "invalid_arguments", "message": "f(x=...): no",
        "delivered": "no", "parameter": "x", "expected": "int", "got": "str",
    }  # fmt: skip
    setting = ConfigurationError.about("replicas.max", "must be at least 1")
    assert describe(setting) == {
        "kind": "ConfigurationError", "code": "configuration_error", "delivered": "no",
        "message": "replicas.max must be at least 1", "key": "replicas.max",
    }  # fmt: skip
    assert "key" not in describe(ConfigurationError("no functions"))
    assert describe(spear.WorkerDied("gone"))["message"] == "gone"
    assert "secret" not in str(describe(ValueError("secret")))
