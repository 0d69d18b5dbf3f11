"""The messages of exceptions, and the attributes for code that decides by an error."""

from __future__ import annotations

import ast
import importlib
import pickle
import pkgutil
import re
from copy import copy, deepcopy
from pathlib import Path

import pytest

import spear
from spear import (
    BrokenEntryPoint,
    CallFailed,
    CannotListen,
    ChannelCreationFailed,
    ConfigurationError,
    DeadlineExceeded,
    Delivered,
    FunctionRaised,
    InvalidArguments,
    NotInCall,
    Overloaded,
    RemoteProtocolError,
    SpawnFailed,
    SpearError,
    UnexpectedResult,
    UnsupportedInstrument,
    UnsupportedRuntime,
    UnsupportedTransport,
    WorkerDied,
    _errors,
)
from spear._errors import CASES, ProtocolError, is_case
from spear.agent import LoadFailed
from spear.channels._handshake import LoginRefused
from spear.cli._failures import SYSTEM_REFUSES
from spear.gateway._errors import INTERNAL_ERROR, PROBLEM_CODES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("seconds", "delivered", "said"),
    [
        (2, "maybe", "f took longer than 2 s"),
        (0.05, "yes", "f took longer than 0.05 s"),
        (8.9984999, "yes", "f took longer than 8.998 s"),
        (0.0004, "maybe", "f took longer than 0.0004 s"),
        (0.00005, "maybe", "f took longer than 0.00005 s"),
        (1e-9, "maybe", "f had less than a microsecond, and took longer"),
        (1e-9, "no", "f had less than a microsecond, and did not start"),
        (10, "maybe", "f took longer than 10 s"),
        (86_400.25, "yes", "f took longer than 86400.25 s"),
        (2.5, "no", "f did not start within 2.5 s"),
        (0, "no", "there was no time left to call f"),
        (-1.5, "no", "there was no time left to call f"),
    ],
)
def test_time_that_was_up_is_told(seconds: float, delivered: Delivered, said: str) -> None:
    error = DeadlineExceeded.of_call("f", seconds, delivered)
    assert (str(error), error.delivered) == (said, delivered)


EACH_WITH_ALL_IT_CARRIES = [
    SpearError("no", delivered="maybe"),
    ConfigurationError.about("queue", "must be a whole number, not 'a'"),
    CannotListen("tcp", "the port is taken"),
    UnsupportedTransport("carrier-pigeon", "nobody has built it"),
    UnsupportedRuntime("abacus", "nobody has built it"),
    UnsupportedInstrument("flute", "nobody has built it"),
    BrokenEntryPoint("spear.runtimes", "abacus", "spear-abacus", "it cannot be loaded"),
    ChannelCreationFailed("process:a#1", [("unix", "no room"), ("tcp", "no port")]),
    RemoteProtocolError("a frame out of place", delivered="yes"),
    NotInCall("this code runs outside of a call"),
    SpawnFailed("it did not start", stderr_tail="Traceback"),
    CallFailed("no", delivered="no"),
    FunctionRaised(
        "'x'", type_name="KeyError", remote_code="x", remote_traceback="line 1", delivered="yes"
    ),
    DeadlineExceeded("late", code="stalled", delivered="yes"),
    Overloaded("full", retry_after_seconds=2.5, code="queue_full"),
    InvalidArguments(
        "f(x=...): no", parameter="x", expected="int", got="str", code="argument_type"
    ),
    UnexpectedResult("no", path="[0]", expected="int", got="str"),
    WorkerDied("killed", exit_status=-9, stderr_tail="oh", code="given_up", delivered="maybe"),
]


@pytest.mark.parametrize("error", EACH_WITH_ALL_IT_CARRIES, ids=lambda each: type(each).__name__)
def test_an_error_that_is_copied_or_pickled_keeps_all_that_it_carries(error: SpearError) -> None:
    for made in (copy(error), deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(made) is type(error)
        assert made is not error
        assert (str(made), made.args, vars(made)) == (str(error), error.args, vars(error))


def test_a_summary_is_the_message_without_what_other_attributes_hold() -> None:
    found = {type(each).__name__: each for each in EACH_WITH_ALL_IT_CARRIES}
    assert found["WorkerDied"].summary == "killed"
    assert str(found["WorkerDied"]) == "killed\n--- stderr ---\noh"
    assert found["SpawnFailed"].summary == "it did not start"
    assert str(found["SpawnFailed"]) == "it did not start\n--- stderr ---\nTraceback"
    assert found["FunctionRaised"].summary == "KeyError: 'x'"
    assert str(found["FunctionRaised"]) == "KeyError: 'x'\nline 1"
    assert found["ConfigurationError"].summary == "must be a whole number, not 'a'"
    assert str(found["ConfigurationError"]) == "queue must be a whole number, not 'a'"
    assert found["Overloaded"].summary == str(found["Overloaded"]) == "full"


# -- codes ------------------------------------------------------------------------------------------


CODES_OF_THEIR_BASES = (ProtocolError, LoginRefused, LoadFailed)
"""Classes with the code of their base: one is abstract, the others never leave their package."""


def every_class() -> list[type[SpearError]]:
    """Return all exception classes of Spear, from all modules."""
    for each in pkgutil.walk_packages(spear.__path__, "spear."):
        if not each.name.endswith("__main__") and "_program" not in each.name:
            importlib.import_module(each.name)
    classes: list[type[SpearError]] = [SpearError]
    for cls in classes:
        classes += [each for each in cls.__subclasses__() if each not in classes]
    return [each for each in classes if each.__module__.startswith("spear.")]


def documented() -> dict[str, set[str]]:
    """Return the codes of docs/errors.md, each with its kinds."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    tables = text.partition("## Codes of classes")[2]
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", tables, re.MULTILINE)
    assert len({code for code, _ in rows}) == len(rows)
    return {code: set(re.findall(r"`(\w+)`", kinds)) for code, kinds in rows}


def test_each_class_has_a_code_of_its_own() -> None:
    classes = every_class()
    assert len(classes) > 25
    own = [vars(each)["code"] for each in classes if each not in CODES_OF_THEIR_BASES]
    assert len(set(own)) == len(own)
    assert not CASES.keys() & set(own)


def test_the_documented_codes_are_those_of_classes_cases_and_problems() -> None:
    classes = [each for each in every_class() if each not in CODES_OF_THEIR_BASES]
    codes: dict[str, set[str]] = {each.code: {each.__name__} for each in classes}
    codes |= {code: {each.__name__ for each in kinds} for code, kinds in CASES.items()}
    for kind, code in PROBLEM_CODES.items():
        codes.setdefault(code, set()).add(kind)
    codes |= {INTERNAL_ERROR: {"InternalError"}, SYSTEM_REFUSES: set()}
    assert documented() == codes


def test_the_documented_codes_are_in_the_order_of_the_source() -> None:
    tree = [each for each in vars(_errors).values() if each in every_class()]
    main = [each.code for each in tree if each not in CODES_OF_THEIR_BASES]
    others = {INTERNAL_ERROR, SYSTEM_REFUSES, *PROBLEM_CODES.values()} - {*main}
    elsewhere = {each.code for each in every_class()} - {*main} - others
    assert list(documented()) == [*main, *sorted(elsewhere), *CASES, *sorted(others)]


def test_the_documented_attributes_are_those_of_the_classes() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    section = text.partition("## Attributes")[2].partition("\n\n**")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    told = {
        (attribute, getattr(spear, kind))
        for attributes, kinds in rows
        for attribute in re.findall(r"`(\w+)`", attributes)
        for kind in re.findall(r"`(\w+)`", kinds) or ["SpearError"]
    }
    carried = {(name, type(each)) for each in EACH_WITH_ALL_IT_CARRIES for name in vars(each)}
    carried |= {("code", SpearError), ("delivered", SpearError)}

    def fit(one: tuple[str, type], other: tuple[str, type]) -> bool:
        return one[0] == other[0] and issubclass(one[1], other[1])

    assert [each for each in carried if not any(fit(each, row) for row in told)] == []
    assert [row for row in told if not any(fit(each, row) for each in carried)] == []


def test_each_code_in_the_source_is_one_of_the_table() -> None:
    known = {each.code for each in every_class()} | CASES.keys()
    raised: set[str] = set()
    for path in sorted((ROOT / "spear").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "code"
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                raised.add(node.value.value)
    assert raised <= known
    # Each case is raised somewhere in Spear; these are passed by name, or by position.
    others = {"needs_guard", "head_too_large", "head_not_sendable"}
    others |= {"too_many_calls", "too_many_bytes"}
    assert raised >= CASES.keys() - others


def test_a_code_is_a_case_of_its_own_classes_only() -> None:
    assert is_case("queue_full", Overloaded)
    assert is_case("gives_stream", InvalidArguments)  # InvalidArguments is a Rejected
    assert not is_case("queue_full", WorkerDied)
    assert not is_case("overloaded", Overloaded)
