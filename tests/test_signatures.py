"""The text of a signature, and the checks that agents make for the types in it."""

from __future__ import annotations

import builtins
import enum
import inspect
import re
from collections import abc
from datetime import date
from typing import Any

import pytest

from spear import Agent, InvalidArguments
from spear._signatures import (
    ANYTHING,
    BYTES,
    ITEMS,
    LISTS,
    MAPS,
    MAX_SIGNATURE,
    SCALARS,
    SETS,
    STREAMS,
    TUPLES,
    name_of,
    parse_signature_untrusted,
)
from spear.spearlet import open_spearlet

SAMPLES: dict[str, object] = {
    "str": "a", "int": 1, "float": 0.5, "bool": True, "None": None,
    **dict.fromkeys(BYTES, b"a"),
    **{name: [1] for name in (*LISTS, *SETS, *TUPLES)},
    **{name: {"a": 1} for name in MAPS},
}  # fmt: skip
"""A value that fits each annotation, by the annotation's name."""


def class_of(name: str) -> object:
    """Return the annotation with this name."""
    if name in ("None", "Any"):
        return None if name == "None" else Any
    return getattr(builtins, name, None) or getattr(abc, name)


@pytest.mark.parametrize("name", SAMPLES)
async def test_agents_check_every_annotation_of_the_grammar(name: str) -> None:
    agent = Agent("grammar")

    async def take(value: object) -> bool:
        return True

    take.__annotations__["value"] = class_of(name)
    agent.function(take)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(agent)
        function = deployment.function("take")
        for sample in SAMPLES.values():
            fits = await accepts(function.call, sample)
            similar = type(sample) is type(SAMPLES[name]) or (name, type(sample)) == ("float", int)
            assert fits is similar, sample


async def accepts(call: abc.Callable[[object], abc.Awaitable[object]], value: object) -> bool:
    try:
        await call(value)
    except InvalidArguments:
        return False
    return True


def test_parameters_and_result() -> None:
    signature = parse_signature_untrusted(
        "f(a: int, /, b: shop.Order, c=1, *rest, d: None, e: str = '', **more) -> list[int]"
    )
    assert signature is not None
    found = [
        (each.name, name_of(each.annotation), each.is_positional, each.is_named, each.is_required)
        for each in signature.parameters
    ]
    assert found == [
        ("a", "int", True, False, True),
        ("b", "Order", True, True, True),
        ("c", "", True, True, False),
        ("d", "None", False, True, True),
        ("e", "str", False, True, False),
    ]
    assert signature.takes_more
    assert not signature.takes_items
    assert name_of(signature.result) == ""  # a list has no name of its own


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("form", ["{}", "spear.{}", "{}[int]", "spear.{}[int]"])
def test_items_are_no_argument(name: str, form: str) -> None:
    signature = parse_signature_untrusted(f"f(a, items: {form.format(name)}, *, b=1)")
    assert signature is not None
    assert [each.name for each in signature.parameters] == ["a", "b"]
    assert signature.takes_items


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("form", ["{}[int]", "abc.{}[int, None]", "{}[int, None, str]"])
def test_the_result_of_a_stream_is_one_item(name: str, form: str) -> None:
    signature = parse_signature_untrusted(f"f() -> {form.format(name)}")
    assert signature is not None
    assert name_of(signature.result) == "int"


def test_a_stream_of_nothing_known_is_its_own_result() -> None:
    for text in ("Iterator", "Iterator[()]", "list[int]"):
        signature = parse_signature_untrusted(f"f() -> {text}")
        assert signature is not None
        assert signature.result is not None


@pytest.mark.parametrize(
    "text",
    [
        None, "", "f(", "f(x) -> (", "f(x): pass\ndef g()", "f(): pass\nx", "\0", "f(x, x)\udc80(",
        "f(" + "(" * 500, "f(x)" + " " * MAX_SIGNATURE,
    ],
)  # fmt: skip
def test_text_that_is_no_signature(text: str | None) -> None:
    assert parse_signature_untrusted(text) is None


def test_no_name_means_two_things() -> None:
    names = [*SCALARS, *BYTES, *ANYTHING, *LISTS, *SETS, *TUPLES, *MAPS]
    assert len(names) == len(set(names))
    assert set(SAMPLES) | set(ANYTHING) == set(names)


@pytest.mark.parametrize(
    ("annotation", "value", "is_kept"),
    [
        ("str", 1.1, True), ("str", None, True), ("str", [1], True), ("str", "text", False),
        ("str | None", 1, True), ("str | None", None, False), ("Optional[str]", None, False),
        ("typing.Optional[str]", 1, True), ("Union[str, pathlib.Path]", 1, True),
        ("Literal['1', '2']", 1, True), ("Literal['1', 2]", 1, False), ("Annotated[str, 1]", 1, True),
        ("decimal.Decimal", 1.1, True), ("datetime.date", 20260131, True), ("uuid.UUID", 1, True),
        ("int", 1, False), ("float", 1, False), ("int | str", 1, False), ("None", None, False),
        ("list[str]", ["a"], False), ("shop.Colour", 1, False), ("object", 1, False), ("", 1, False),
    ],
)  # fmt: skip
def test_text_stays_text_where_only_text_is_meant(
    annotation: str, value: object, is_kept: bool
) -> None:
    parameter = f"a: {annotation}" if annotation else "a"
    signature = parse_signature_untrusted(f"f(b: int, {parameter}, /, *, c: str)")
    assert signature is not None
    assert signature.keeps_text(1, value) is is_kept
    assert not signature.keeps_text("a", value)  # by position only
    assert not signature.keeps_text(0, 1)
    assert not signature.keeps_text(2, 1)  # by name only
    assert signature.keeps_text("c", 1)
    assert not signature.keeps_text("d", 1)


@pytest.mark.parametrize(
    ("annotation", "values", "is_list"),
    [
        ("list[str]", ["a"], True), ("list[str]", ["a", 1], True), ("list", [1], True),
        ("list[str]", [["a"]], False), ("set[str]", [{"a"}], False), ("list[str]", [None], True),
        ("list[str] | None", [None], False), ("list[str] | None", [None, "a"], True),
        ("Optional[list[str]]", ["a"], True), ("Annotated[list[str] | None, 1]", ["a"], True),
        ("Union[None, Sequence[int]]", [1], True), ("frozenset[int]", [1, 2], True),
        ("tuple[int, str]", [1, 2], True), ("typing.Iterable[int]", [1], True),
        ("str", ["a", "b"], False), ("list[str] | str", ["a", "b"], False), ("", ["a", "b"], False),
        ("list[str] | set[str]", ["a"], False), ("dict[str, int]", [1, 2], False),
        ("shop.Items[int]", [1], False), ("object", [1, 2], False),
    ],
)  # fmt: skip
def test_values_are_a_list_where_only_a_list_is_meant(
    annotation: str, values: list[object], is_list: bool
) -> None:
    parameter = f"b: {annotation}" if annotation else "b"
    signature = parse_signature_untrusted(f"f(a: list[str], /, {parameter})")
    assert signature is not None
    assert signature.makes_list("b", values) is (is_list and "shop." not in annotation)
    assert not signature.makes_list("a", values)  # by position only
    assert not signature.makes_list("c", values)


@pytest.mark.parametrize(
    ("annotation", "kept"),
    [
        ("list[str]", [True, True, True]), ("list[int]", [False, False, False]), ("list", [False] * 3),
        ("tuple[str, int]", [True, False, False]), ("tuple[str, ...]", [True, True, True]),
        ("tuple[()]", [False] * 3), ("list[()]", [False] * 3), ("int", [False] * 3),
        ("set[str | None] | None", [True, True, True]), ("Annotated[list[str], 1]", [True] * 3),
    ],
)  # fmt: skip
def test_text_in_a_list_stays_text_where_only_text_is_meant(
    annotation: str, kept: list[bool]
) -> None:
    signature = parse_signature_untrusted(f"f(a: {annotation})")
    assert signature is not None
    assert [signature.keeps_text("a", 1.1, item=index) for index in range(3)] == kept


@pytest.mark.parametrize(
    ("annotation", "text", "value", "argument"),
    [
        ("bool", "True", "True", True), ("bool", "False", "False", False), ("bool", "0", 0, False),
        ("bool | None", "1", 1, True), ("bool", "yes", "yes", "yes"), ("bool | str", "1", 1, 1),
        ("bool", "true", True, True), ("int", "1", 1, 1), ("str", "1", 1, "1"),
        ("", "True", "True", "True"), ("None", "1", 1, 1),
    ],
)  # fmt: skip
def test_booleans_of_python_are_read_where_only_a_boolean_is_meant(
    annotation: str, text: str, value: object, argument: object
) -> None:
    signature = parse_signature_untrusted(f"f(a: {annotation})" if annotation else "f(a)")
    assert signature is not None
    read = signature.read_text("a", text, value)
    assert (read, type(read)) == (argument, type(argument))
    assert signature.read_text("b", text, value) is value


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("b(code: str, color: q2.C = <C.A: '1'>) -> str", True),
        ("shop.b-2(code: str, key=<function f.<locals>.<lambda> at 0x7f>)", True),
        ("b(code: str, where: shop.f.<locals>.C = '<')", True),
        ("b(code: Literal[<C.A: '1'>, <C.B: \"it's >\">])", True),
        ("b(code: Literal[<C.A: 1>])", False),
        ("b(code: int, mode=[<M.R|W: 3>], odd=<object> or <a <b>>)", False),
    ],
)
def test_reprs_that_are_no_python_do_not_hide_a_signature(text: str, kept: bool) -> None:
    signature = parse_signature_untrusted(text)
    assert signature is not None
    assert signature.parameters[0].name == "code"
    assert signature.keeps_text(0, 1) is kept


def test_an_object_that_never_ends_is_no_signature() -> None:
    assert parse_signature_untrusted("f(x=<object at 0x7f) -> int") is None


def test_a_union_of_many_types_is_read() -> None:
    signature = parse_signature_untrusted(f"f(a: {' | '.join(['list[str]'] + ['None'] * 300)})")
    assert signature is not None
    assert signature.makes_list("a", ["a"])


class Colour(enum.Enum):
    RED = "1"
    BLUE = "2"


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


Many = enum.Enum("Many", [f"m{number}" for number in range(21)])  # type: ignore[misc]  # made of names


def test_a_signature_can_be_parsed_whatever_its_defaults_are() -> None:
    app = Agent()

    async def dye(code, **more):  # type: ignore[no-untyped-def]  # below
        raise AssertionError

    defaults = {
        "colour": Colour.RED, "colours": [Colour.RED], "key": lambda: 1, "other": object(),
        "mode": Mode.READ | Mode.WRITE, "when": date(2026, 1, 31), "mark": "<>'", "cut": Cut(),
    }  # fmt: skip
    optional = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    code = inspect.Parameter("code", inspect.Parameter.POSITIONAL_ONLY, annotation="str")
    dye.__signature__ = inspect.Signature([code, *optional])  # type: ignore[attr-defined]  # PEP 362
    app.function(name="shop.dye")(dye)
    (described,) = app.describe()
    assert described["signature"] == (
        "shop.dye(code: str, /, *, colour='1', colours=['1'], key=..., other=..., mode=3, "
        """when=datetime.date(2026, 1, 31), mark="<>'", cut=...)"""
    )
    signature = parse_signature_untrusted(described["signature"])
    assert signature is not None
    assert signature.keeps_text(0, 1.1)


class Cut:
    def __repr__(self) -> str:
        return "a cut) -> ("


def test_an_enum_is_described_by_its_values() -> None:
    app = Agent()

    async def dye(a, b, c, d, e, f, g) -> None:  # type: ignore[no-untyped-def]  # below
        raise AssertionError

    dye.__annotations__ = {
        "a": Colour, "b": Colour | None, "c": list[Colour], "d": int | None, "e": list[int],
        "f": Many, "g": Mode,
    }  # fmt: skip
    app.function(dye)
    (described,) = app.describe()
    signature = parse_signature_untrusted(described["signature"])
    assert signature is not None
    assert signature.keeps_text("a", 1)
    assert signature.keeps_text("b", 1)
    assert signature.keeps_text("c", 1, item=0)
    assert not signature.keeps_text("f", 1)
    assert "a: Literal['1', '2'], b: Optional[Literal['1', '2']]" in described["signature"]
    assert (
        "c: list[typing.Literal['1', '2']], d: int | None, e: list[int]" in described["signature"]
    )
    assert re.search(r"f: [\w.]+\.Many, g: [\w.]+\.Mode", described["signature"])
