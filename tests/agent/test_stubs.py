"""The declarations in the stub of a typed client, for each kind of function and of annotation."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
)

import msgspec
import numpy
import pydantic
import pytest
from numpy.typing import NDArray

import spear
from spear.agent import write_stub

T = TypeVar("T")
Cents = NewType("Cents", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Strange(enum.Enum):
    HALF = 0.5


Large = enum.Enum("Large", {f"L{n}": n for n in range(30)})  # type: ignore[misc]  # made, not written


@dataclass
class Order:
    item: str


class Row(TypedDict):
    day: date
    colours: list[str]


class Nested(TypedDict):
    order: Order


class Tree(TypedDict):
    name: str
    children: list[Tree]


class Pair(NamedTuple):
    item: str
    amount: int


class Model(pydantic.BaseModel):  # type: ignore[misc]  # mypy follows no import of pydantic
    link: pydantic.HttpUrl


class Struct(msgspec.Struct):
    item: str


class Listed(msgspec.Struct, array_like=True):
    item: str


class Page(Generic[T]):
    pass


class Money:
    pass


def argument(hint: object) -> str:
    """Return the type of an argument with an annotation."""

    def f(value):  # type: ignore[no-untyped-def]  # annotated below
        pass

    f.__annotations__ = {"value": hint}
    line = declared(f)
    return line.removeprefix("def f(self, value: ").removesuffix(
        ", *, timeout: float | None = None) -> Result: ..."
    )


def result(hint: object) -> str:
    """Return the type of a result with an annotation."""

    def f():  # type: ignore[no-untyped-def]  # annotated below
        pass

    f.__annotations__ = {"return": hint}
    return declared(f).partition(" -> ")[2].removesuffix(": ...")


def stub(*functions: Callable[..., object], name: str | None = None) -> str:  # type: ignore[explicit-any]  # any
    app = spear.Agent()
    for each in functions:
        app.function(name=name)(each)
    return write_stub(app, "x", "spear.spearlet", {"stop"})


def declared(function: Callable[..., object]) -> str:  # type: ignore[explicit-any]  # any
    """Return the declaration of a function, on one line, after remarks and without its decorator."""
    _, _, body = stub(function).partition("class X(DeployedProgram):\n")
    lines = [each.strip() for each in body.splitlines()]
    whole = " ".join(each for each in lines if each[:1] not in ("@", "#"))
    return whole.replace("( ", "(").replace(", ) ->", ") ->")


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (str, "str"),
        (Any, "object"),
        (None, "None"),
        (Optional[int], "int | None"),  # noqa: UP045  # the other form is another class
        (int | list[str], "int | list[str]"),
        (dict[str, Any], "dict[str, Any]"),
        (list, "list[Any]"),
        (dict, "dict[Any, Any]"),
        (tuple, "tuple[Any, ...]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (Sequence[date], "Sequence[date]"),
        (Literal["a", 1, Colour.RED, '"'], 'Literal["a", 1, Colour.RED, \'"\']'),
        (Annotated[int, "a remark"], "int"),
        (Cents, "int"),
        (Colour, "Colour"),
        (bytearray, "bytes | bytearray | memoryview"),
        (bytes | memoryview, "bytes | bytearray | memoryview"),
        (Page[int], "Page[int]"),
        (Page, "Page[Any]"),
        (Path, "Path"),
        (NDArray[numpy.float64], "ndarray[tuple[Any, ...], dtype[float64]]"),
        (spear.Array, "Array"),
        ("Missing", "object"),
        (T, "object"),
        (Callable[[int], str], "object"),
        (Mapping[str, Callable[[int], str]], "Mapping[str, Any]"),
    ],
)
def test_arguments(hint: object, text: str) -> None:
    assert argument(hint) == text


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (str, "str"),
        (Any, "Result"),
        (None, "None"),
        (list, "list[Result]"),
        (dict, "dict[Result, Result]"),
        (set, "set[Result]"),
        (AbstractSet[int], "Set[int]"),
        (tuple[int, str, int], "list[int | str]"),
        (tuple[date, ...] | None, "list[date] | None"),
        (Sequence[Order], "list[dict[str, Result]]"),
        (Mapping[str, Pair], "dict[str, list[Result]]"),
        (Literal["a", Colour.RED], 'Literal["a", "red"]'),
        (Colour, 'Literal["red", "blue"]'),
        (Mode, "int"),
        (Large, "int"),
        (Strange, "Result"),
        (bytearray | None, "bytes | None"),
        (spear.SharedBuffer, "memoryview"),
        (numpy.ndarray, "Array"),
        (numpy.float32, "float"),
        (numpy.bool_, "bool"),
        (numpy.datetime64, "Result"),
        (Order, "dict[str, Result]"),
        (Row, "Row"),
        (Tree, "Tree"),
        (Nested, "dict[str, Result]"),
        (Model, "dict[str, Result]"),
        (pydantic.HttpUrl, "str"),
        (Struct, "dict[str, Result]"),
        (Listed, "list[Result]"),
        (Money, "Result"),
        (T, "Result"),
        ("Missing", "Result"),
    ],
)
def test_results(hint: object, text: str) -> None:
    assert result(hint) == text


def test_parameters_have_their_kinds_and_defaults() -> None:
    def f(  # type: ignore[no-untyped-def]  # of an agent
        a, b: float = math.inf, /, c: Colour = Colour.RED, *d: int, e: str = "x" * 99, **f: bytes
    ) -> None:
        pass

    assert declared(f) == (
        "def f(self, a: object, b: float = ..., /, c: Colour = Colour.RED, *d: int, e: str = ..., "
        "timeout: float | None = None, **f: bytes) -> None: ..."
    )

    def g(a: int = 3, b: float = 1.5, *, c: Mode = Mode.READ) -> None:
        pass

    assert declared(g) == (
        "def g(self, a: int = 3, b: float = 1.5, *, c: Mode = ..., timeout: float | None = None) -> "
        "None: ..."
    )


def test_parameters_named_like_those_of_a_call() -> None:
    def f(self: int, timeout: float, *, sends_items: bool = False) -> None:
        pass

    assert declared(f) == (
        "def f(this, self: int, timeout_: float, *, timeout: float | None = None) -> None: ..."
    )
    assert "# timeout is that of the call; for the function's use keywords=.\n" in stub(f)


def test_streams() -> None:
    async def f(n: int) -> AsyncIterator[Pair]:
        yield Pair("", n)

    def g(prices: spear.Items[float], start: float) -> Iterator[float]:
        yield start

    async def h(prices: spear.Items[float]) -> float:
        return 1.0

    def i():  # type: ignore[no-untyped-def]  # of an agent
        yield 1

    text = stub(f, g, h, i)
    assert text.count("@typed_stream") == 4
    assert "-> list[Result]: ..." in text
    assert (
        "def g(self, start: float, *, timeout: float | None = None, sends_items: bool = False"
        in text
    )
    assert (
        "def h(self, *, timeout: float | None = None, sends_items: Literal[True]) -> float" in text
    )
    assert "def i(self, *, timeout: float | None = None) -> Result: ..." in text


def test_wrappers_and_handlers_have_the_parameters_of_their_callers() -> None:
    def logged(function: Callable[..., str]) -> Callable[..., str]:  # type: ignore[explicit-any]  # any
        @functools.wraps(function)
        def wrapper(*args: object, **kwargs: object) -> str:
            return function("log", *args, **kwargs)

        return wrapper

    @logged
    def f(log: str, count: int) -> str:
        return log * count

    def handler(event, context):  # type: ignore[no-untyped-def]  # of an agent
        pass

    assert declared(f) == "def f(self, count: int, *, timeout: float | None = None) -> str: ..."
    assert declared(handler).startswith(
        "def handler(self, event: object, context: object = None, *,"
    )


def test_names_that_functions_hide_are_imported_under_others() -> None:
    def date_(day: date) -> list[date]:
        return [day]

    app = spear.Agent()
    for name in ("date", "date_", "list", "float", "Path"):
        app.function(name=name)(date_)
    text = write_stub(app, "a path", "spear.spearlet", ())
    assert "from builtins import list as list_\nfrom datetime import date as date__\n" in text
    assert "from builtins import float as float_\n" in text
    assert (
        "    def list(self, day: date__, *, timeout: float_ | None = None) -> list_[date__]: ...\n"
        in text
    )
    assert "class APath(DeployedProgram):" in text


@pytest.mark.parametrize("name", ["shop.price", "class", "_hidden", "stop"])
def test_names_that_are_no_attributes_are_left_out(name: str) -> None:
    def f() -> None:
        pass

    assert stub(f, name=name).endswith(
        f"class X(DeployedProgram):\n    # {name}: the client has no such attribute; use "
        f'.function("{name}"), untyped.\n'
    )


def test_remarks() -> None:
    class Local:
        pass

    def f(order: Local) -> Order:
        """Take an order.

        More.
        """
        return Order("")

    def g() -> None:
        """Say "no"."""

    f.__annotations__["order"] = Local
    assert stub(f, g).endswith(
        """\
    # test_remarks.<locals>.Local cannot be imported, so type checkers know nothing about it.
    # Order arrives as a map, and as an object with .options(returns=Order).
    @typed_function
    def f(self, order: object, *, timeout: float | None = None) -> dict[str, Result]:
        \"\"\"Take an order.\"\"\"

    @typed_function
    def g(self, *, timeout: float | None = None) -> None: ...
"""
    )


def test_a_function_without_a_signature_is_left_out() -> None:
    assert "# min: its signature is not known" in stub(min)


@pytest.mark.parametrize(
    ("name", "title"),
    [("shop", "Shop"), ("my-shop.v2", "MyShopV2"), ("2nd", "Client2nd"), ("none", "ClientNone")],
)
def test_the_class_is_named_after_the_program(name: str, title: str) -> None:
    assert f"class {title}(DeployedProgram):\n    ..." in write_stub(spear.Agent(), name, "x", ())
    assert title.isidentifier()
