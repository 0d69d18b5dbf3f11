"""Classes whose fields are annotated: NamedTuples, TypedDicts, generic classes."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
from collections import namedtuple
from typing import (
    TYPE_CHECKING,
    Annotated,
    Generic,
    NamedTuple,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
)

import attrs
import pytest

from spear.annotations import Mismatch, build_check

from .helpers import converted, mismatch_of

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
U = TypeVar("U")


class Point(NamedTuple):
    x: float
    y: float = 0.0


Bare = namedtuple("Bare", "x y")  # noqa: PYI024  # the untyped one, as users write it


class Cell(NamedTuple, Generic[T]):
    content: T


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    next: Page[T] | None = None


@dataclasses.dataclass
class Numbers(Page[int]):
    name: str = ""


@dataclasses.dataclass
class Two(Page[U], Generic[U, T]):
    other: Optional[T] = None  # noqa: UP045  # written so by many
    plain: T | None = None


@attrs.frozen
class Box(Generic[T]):
    content: T


class Options(TypedDict, total=False):
    depth: Required[int]
    name: str


class MoreOptions(Options):
    width: NotRequired[Annotated[int, "in characters"]]
    height: Annotated[NotRequired[int], "in lines"]
    values: list[int]


class Holder(TypedDict, Generic[T]):
    value: T


class Held(Holder[int]):
    by: Required[str]


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Mode(enum.Flag, boundary=enum.STRICT):
    FAST = 1
    SAFE = 2


@pytest.mark.parametrize(
    ("annotation", "value", "seen"),
    [
        (Point, [1, 2.5], Point(1.0, 2.5)),
        (Point, [1], Point(1.0)),
        (Point, {"y": 2, "x": 1}, Point(1.0, 2.0)),
        (Bare, ["a", 1], Bare("a", 1)),
        (Bare, {"x": "a", "y": 1}, Bare("a", 1)),
        (Cell[Point], [[1, 2]], Cell(Point(1.0, 2.0))),
        (list[Point], [[1], {"x": 2}], [Point(1.0), Point(2.0)]),
        (Page[Point], {"items": [[1, 2]]}, Page([Point(1.0, 2.0)])),
        (
            Page[Point],
            {"items": [], "next": {"items": [[1]]}},
            Page([], Page([Point(1.0)])),
        ),
        (Page, {"items": [1, "x"]}, Page([1, "x"])),
        (Numbers, {"items": [1], "name": "n"}, Numbers([1], None, "n")),
        (Two[Point, str], {"items": [[1]], "plain": "x"}, Two([Point(1.0)], plain="x")),
        (Box[float], {"content": 1}, Box(1.0)),
        (Box[Box[float]], {"content": {"content": 1}}, Box(Box(1.0))),
        (Options, {"depth": 1}, {"depth": 1}),
        (MoreOptions, {"depth": 1, "values": [2]}, {"depth": 1, "values": [2]}),
        (Holder[float], {"value": 1}, {"value": 1.0}),
        (Held, {"value": 1, "by": "x"}, {"value": 1, "by": "x"}),
        (Access, 3, Access.READ | Access.WRITE),
        (Access, 1, Access.READ),
        (Mode, 3, Mode.FAST | Mode.SAFE),
    ],
)
def test_values_become_objects(annotation: object, value: object, seen: object) -> None:
    result = converted(annotation, value)
    assert result == seen
    assert type(result) is type(seen)
    assert repr(result) == repr(seen)  # a tuple is equal to a named one, and 1 to 1.0


@pytest.mark.parametrize(
    ("annotation", "value", "path", "message"),
    [
        (Point, ["a"], ".x", "expected float, got str"),
        (Point, [], "", "Point requires the field 'x'"),
        (Point, [1, 2, 3], "", "Point has 2 fields, not 3"),
        (Point, {"x": 1, "z": 2}, ".z", "Point has no field 'z'"),
        (Point, "x", "", "expected a list (Point), got str"),
        (Cell[int], ["x"], ".content", "expected int, got str"),
        (Page[int], {"items": ["x"]}, ".items[0]", "expected int, got str"),
        (Page[str], {"items": [1]}, ".items[0]", "expected str, got int"),
        (
            Page[int],
            {"items": [1], "next": {"items": [1, None]}},
            ".next.items[1]",
            "expected int, got None",
        ),
        (Page[int], 1, "", "expected a map (Page[int]), got int"),
        (Numbers, {"items": ["x"]}, ".items[0]", "expected int, got str"),
        (Two[int, str], {"items": ["x"]}, ".items[0]", "expected int, got str"),
        (Two[int, str], {"items": [1], "other": 1}, ".other", "expected str | None, got int"),
        (Two[int, str], {"items": [1], "plain": 1}, ".plain", "expected str | None, got int"),
        (Options, {}, "", "Options requires the field 'depth'"),
        (Options, {"depth": 1, "name": 2}, ".name", "expected str, got int"),
        (MoreOptions, {"depth": 1}, "", "MoreOptions requires the field 'values'"),
        (
            MoreOptions,
            {"depth": 1, "values": [], "width": "x"},
            ".width",
            "expected int, got str",
        ),
        (Holder[int], {"value": "x"}, ".value", "expected int, got str"),
        (Held, {"value": "x", "by": ""}, ".value", "expected int, got str"),
        (Held, {"value": 1}, "", "Held requires the field 'by'"),
        (Access, "READ", "", "expected 1 or 2, got 'READ'"),
        (Mode, 4, "", "expected 1 or 2, got 4"),
    ],
)
def test_a_field_that_does_not_fit_is_named(
    annotation: object, value: object, path: str, message: str
) -> None:
    mismatch = mismatch_of(annotation, value)
    assert (mismatch.path, str(mismatch)) == (path, message)


def test_a_class_has_one_check_for_each_choice_of_types() -> None:
    assert build_check(Page[int]) is build_check(Page[int])
    assert build_check(Page[int]) is not build_check(Page[str])
    assert build_check(Page[Annotated[int, []]]) is not build_check(Page[str])


def test_unhashable_types_in_brackets_are_checked() -> None:
    annotation = Page[Annotated[int, ["unhashable"]]]
    assert converted(annotation, {"items": [1], "next": {"items": [2]}}) == Page([1], Page([2]))
    with pytest.raises(Mismatch):
        converted(annotation, {"items": ["x"]})


NEW_SYNTAX = """
from __future__ import annotations
import dataclasses
from typing import NotRequired, TypedDict
@dataclasses.dataclass
class Page[T]:
    items: list[T]
    next: Page[T] | None = None
@dataclasses.dataclass
class Pages[U](Page[list[U]]):
    first: U | None = None
class Holder[T](TypedDict):
    value: T
    name: NotRequired[str]
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters are new in Python 3.12")
def test_type_parameters_of_the_new_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new_syntax.py").write_text(NEW_SYNTAX)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("new_syntax")
    nested = {"items": [1], "next": {"items": ["x"]}}
    assert mismatch_of(module.Page[int], nested).path == ".next.items[0]"
    assert mismatch_of(module.Pages[int], {"items": [["x"]]}).path == ".items[0][0]"
    assert mismatch_of(module.Pages[int], {"items": [], "first": "x"}).path == ".first"
    assert mismatch_of(module.Holder[int], {"value": "x"}).path == ".value"
    assert converted(module.Holder[int], {"value": 1}) == {"value": 1}
