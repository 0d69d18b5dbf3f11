"""Failures of calls: exceptions on one side, ERROR frames, exceptions on the other side."""

from __future__ import annotations

import math
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from spear import (
    CallCancelled,
    CallFailed,
    DeadlineExceeded,
    Delivered,
    FunctionRaised,
    HostLost,
    InvalidArguments,
    NoHost,
    NotFound,
    Overloaded,
    Rejected,
    UnexpectedResult,
    WorkerDied,
)
from spear._errors import CASES
from spear._limits import KIB
from spear.wire import (
    FAILURE_NUMBERS,
    HeadValue,
    decode_failure_untrusted,
    encode_failure,
    encode_head,
)
from spear.wire._failures import clip

from .test_heads import HEADS

MESSAGE_BYTES = 4 * KIB

ODD_HEADS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("message", "type", "traceback"), st.none() | st.text() | st.integers()),
)

PLAIN_KINDS = [
    CallFailed, DeadlineExceeded, CallCancelled, Overloaded, NotFound, Rejected, InvalidArguments,
    WorkerDied,
]  # fmt: skip


def over_the_wire(failure: CallFailed, max_bytes: int = MESSAGE_BYTES) -> CallFailed:
    flags, a, b, head = encode_failure(failure, max_bytes)
    assert len(encode_head(head)) < 64 * KIB
    return decode_failure_untrusted(flags, a, b, head, max_bytes)


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest.mark.parametrize("delivered", get_args(Delivered))
def test_each_kind_arrives_as_what_it_was(kind: type[CallFailed], delivered: Delivered) -> None:
    arrived = over_the_wire(kind("why", delivered=delivered))
    assert type(arrived) is kind
    assert str(arrived) == "why"
    assert arrived.delivered == delivered


def test_every_subclass_of_call_failed_has_a_number_of_its_own() -> None:
    kinds: list[type[CallFailed]] = [CallFailed]
    for kind in kinds:
        kinds += kind.__subclasses__()
    # Raised by the caller's end, which checks the result, or finds no host to send the call to.
    callers = {HostLost, NoHost, UnexpectedResult}
    ours = [kind for kind in kinds if kind.__module__ == "spear._errors" and kind not in callers]
    assert sorted(FAILURE_NUMBERS[kind] for kind in ours) == list(range(1, 10))
    for kind in ours:
        assert type(decode_failure_untrusted(0, FAILURE_NUMBERS[kind], 0, None, 10)) is kind


@pytest.mark.parametrize("code", CASES)
def test_the_code_of_a_case_arrives(code: str) -> None:
    for kind in CASES[code]:
        if issubclass(kind, CallFailed) and kind is not UnexpectedResult:
            arrived = over_the_wire(kind("why", code=code))
            assert (type(arrived), arrived.code) == (kind, code)


def test_the_code_of_a_class_needs_no_bytes() -> None:
    *_, head = encode_failure(Overloaded("full"), MESSAGE_BYTES)
    assert head == {"message": "full"}
    assert over_the_wire(Overloaded("full")).code == "overloaded"


def test_a_code_that_is_no_case_of_the_failure_is_neither_sent_nor_believed() -> None:
    *_, head = encode_failure(Overloaded("full", code="my_own"), MESSAGE_BYTES)
    assert head == {"message": "full"}
    for code in ("my_own", "given_up", "overloaded", "", 7, ["queue_full"], None):
        said: dict[str, HeadValue] = {"message": "full", "code": code}  # type: ignore[dict-item]  # the mistake
        failure = decode_failure_untrusted(0, FAILURE_NUMBERS[Overloaded], 0, said, MESSAGE_BYTES)
        assert failure.code == "overloaded"


def test_what_does_not_fit_arrives_with_the_error() -> None:
    arrived = over_the_wire(
        InvalidArguments("f(x[0]): no", parameter="x[0]", expected="list[str]", got="int")
    )
    assert isinstance(arrived, InvalidArguments)
    assert (arrived.parameter, arrived.expected, arrived.got) == ("x[0]", "list[str]", "int")
    *_, head = encode_failure(InvalidArguments("no"), MESSAGE_BYTES)
    assert head == {"message": "no"}


def test_s14_the_names_of_parameters_and_types_are_cut_on_both_sides() -> None:
    long = "é" * 30_000
    arrived = over_the_wire(InvalidArguments(long, parameter=long, expected=long, got=long))
    head: dict[str, HeadValue] = {"parameter": long, "expected": 7, "got": long}
    number = FAILURE_NUMBERS[InvalidArguments]
    believed = decode_failure_untrusted(0, number, 0, head, MESSAGE_BYTES)
    for each in (arrived, believed):
        assert isinstance(each, InvalidArguments)
        assert len(each.parameter.encode()) <= 256
        assert len(each.got.encode()) <= 256
    assert isinstance(believed, InvalidArguments)
    assert believed.expected == ""


def test_a_failure_of_a_class_of_somebody_elses_has_the_number_of_its_base() -> None:
    class MyOwn(NotFound):
        pass

    assert type(over_the_wire(MyOwn("no"))) is NotFound


def test_what_a_function_raised_arrives_with_its_type() -> None:
    arrived = over_the_wire(FunctionRaised("no such row", type_name="LookupError"))
    assert isinstance(arrived, FunctionRaised)
    assert (arrived.type_name, arrived.remote_message) == ("LookupError", "no such row")
    assert arrived.remote_traceback is None
    assert str(arrived) == "LookupError: no such row"
    assert arrived.delivered == "yes"


def test_the_code_of_what_was_raised_travels_cut() -> None:
    raised = FunctionRaised("gone", type_name="WorkerDied", remote_code="worker_died")
    for failure, code in ((raised, "worker_died"), (FunctionRaised("x"), "")):
        arrived = over_the_wire(failure)
        assert isinstance(arrived, FunctionRaised)
        assert (arrived.code, arrived.remote_code) == ("function_raised", code)
    for said, believed in (("é" * 9999, 256), (7, 0)):
        head: dict[str, HeadValue] = {"type": "T", "raised": said}
        number = FAILURE_NUMBERS[FunctionRaised]
        believing = decode_failure_untrusted(0, number, 0, head, MESSAGE_BYTES)
        assert isinstance(believing, FunctionRaised)
        assert 0 <= believed - len(believing.remote_code.encode()) < 2


def test_a_traceback_travels_if_there_is_one() -> None:
    arrived = over_the_wire(FunctionRaised("x", remote_traceback="Traceback ..."))
    assert isinstance(arrived, FunctionRaised)
    assert arrived.remote_traceback == "Traceback ..."


@pytest.mark.parametrize(
    ("seconds", "arrives"),
    [
        (None, None), (0.0, 0.001), (0.1, 0.1), (1.2345, 1.234), (-5.0, 0.001),
        (1e30, 0xFFFF_FFFF / 1000), (math.inf, 0xFFFF_FFFF / 1000), (math.nan, 0xFFFF_FFFF / 1000),
    ],
)  # fmt: skip
def test_when_to_try_again(seconds: float | None, arrives: float | None) -> None:
    arrived = over_the_wire(Overloaded("busy", retry_after_seconds=seconds))
    assert isinstance(arrived, Overloaded)
    assert arrived.retry_after_seconds == arrives


@pytest.mark.parametrize("max_bytes", [10, MESSAGE_BYTES, 10**9])
def test_s14_text_is_capped_and_always_fits_into_a_head(max_bytes: int) -> None:
    failure = FunctionRaised("é" * 100_000, type_name="T" * 9999, remote_traceback="t" * 200_000)
    arrived = over_the_wire(failure, max_bytes)
    assert isinstance(arrived, FunctionRaised)
    assert len(arrived.remote_message.encode()) <= max_bytes
    assert len(arrived.type_name) <= 256
    assert arrived.remote_message.endswith("...")


def test_the_base_classes_of_an_exception_travel_with_its_name() -> None:
    raised = FunctionRaised("gone", type_name="Timeout", base_names=("ApiError", "OSError"))
    arrived = over_the_wire(raised)
    assert isinstance(arrived, FunctionRaised)
    assert arrived.base_names == ("ApiError", "OSError")


def test_s14_names_of_base_classes_are_capped_at_both_ends() -> None:
    names = ("é" * 9999,) * 50
    arrived = over_the_wire(FunctionRaised("", base_names=names))
    head: dict[str, HeadValue] = {"bases": [*names, 7]}
    number = FAILURE_NUMBERS[FunctionRaised]
    uncut = decode_failure_untrusted(0, number, 0, head, MESSAGE_BYTES)
    odd = decode_failure_untrusted(0, number, 0, {"bases": [7, "OSError"]}, MESSAGE_BYTES)
    none = decode_failure_untrusted(0, number, 0, {"bases": "OSError"}, MESSAGE_BYTES)
    for failure in arrived, uncut:
        assert isinstance(failure, FunctionRaised)
        assert len(failure.base_names) == 16
        assert max(len(each.encode()) for each in failure.base_names) <= 256
    assert isinstance(odd, FunctionRaised)
    assert isinstance(none, FunctionRaised)
    assert (odd.base_names, none.base_names) == (("OSError",), ())


def test_text_is_cut_between_characters() -> None:
    assert clip("éééé", 8) == "éééé"
    assert clip("éééé", 7) == "éé..."
    assert clip("ééééé", 8) == "éé..."
    assert clip("lone \ud800", 40) == "lone \\ud800"


class TestUntrusted:
    """A peer's text about its failures is accepted as text, and never raises."""

    def test_no_head_at_all(self) -> None:
        assert str(decode_failure_untrusted(0, 6, 0, None, MESSAGE_BYTES)) == "no reason given"
        raised = decode_failure_untrusted(0, 2, 0, None, MESSAGE_BYTES)
        assert isinstance(raised, FunctionRaised)
        assert (raised.type_name, raised.remote_message) == ("Exception", "")

    @pytest.mark.parametrize("kind", [*PLAIN_KINDS, FunctionRaised])
    def test_s14_a_peer_that_does_not_cut_its_texts_has_them_cut_here(
        self, kind: type[CallFailed]
    ) -> None:
        long = "é" * 30_000
        head: dict[str, HeadValue] = {"message": long, "type": long, "traceback": long}
        failure = decode_failure_untrusted(0, FAILURE_NUMBERS[kind], 0, head, MESSAGE_BYTES)
        if isinstance(failure, FunctionRaised):
            assert len(failure.remote_message.encode()) <= MESSAGE_BYTES
            assert len(failure.type_name.encode()) <= 256
            assert failure.remote_traceback is not None
            assert len(failure.remote_traceback.encode()) <= 8 * MESSAGE_BYTES
        else:
            assert MESSAGE_BYTES - 4 <= len(str(failure).encode()) <= MESSAGE_BYTES

    def test_an_unknown_code_is_a_failure_like_any_other(self) -> None:
        failure = decode_failure_untrusted(
            0x40, 4711, 0, {"message": "from the future"}, MESSAGE_BYTES
        )
        assert type(failure) is CallFailed
        assert str(failure) == "from the future"
        assert failure.delivered == "maybe"

    def test_yes_is_stronger_than_maybe(self) -> None:
        assert decode_failure_untrusted(0xC0, 1, 0, None, MESSAGE_BYTES).delivered == "yes"

    @pytest.mark.slow
    @given(st.integers(0, 255), st.integers(0, 12), st.integers(0, 2**32 - 1), HEADS | ODD_HEADS)
    def test_anything_becomes_a_failure(
        self, flags: int, a: int, b: int, head: dict[str, HeadValue]
    ) -> None:
        assert isinstance(decode_failure_untrusted(flags, a, b, head, 100), CallFailed)


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("max_bytes", range(1, 6))
def test_a_text_is_no_longer_than_its_bound_however_small_that_is(
    max_bytes: int, keep_end: bool
) -> None:
    assert len(clip("x" * 60_000, max_bytes, keep_end=keep_end)) == max_bytes


def test_of_a_long_traceback_the_end_is_kept() -> None:
    trace = "Traceback\n" + "frame ü\n" * 10_000 + "ZeroDivisionError: by zero"
    failure = FunctionRaised("by zero", type_name="ZeroDivisionError", remote_traceback=trace)
    decoded = decode_failure_untrusted(*encode_failure(failure, 1000), 1000)
    assert isinstance(decoded, FunctionRaised)
    assert decoded.remote_traceback is not None
    assert decoded.remote_traceback.startswith("...")
    assert decoded.remote_traceback.endswith("frame ü\nZeroDivisionError: by zero")
    assert 7900 < len(decoded.remote_traceback.encode()) <= 8000
