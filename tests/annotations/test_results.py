"""Checks of results: lenient where an argument would be converted, strict where it would be refused."""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar

import attrs
import pytest

from spear import SharedBuffer
from spear.annotations import build_result_check

from .helpers import fault_of

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    next: Page[T] | None = None
    count: int = dataclasses.field(init=False, default=0)


@attrs.frozen
class Line:
    item: str
    _count: int = 1


class Options(TypedDict):
    depth: int
    name: NotRequired[str]


class Handle:
    """A class whose objects cannot be sent."""


@pytest.mark.parametrize(
    ("annotation", "result"),
    [
        (int, 1),
        (int, Level.LOW),
        (float, 1.5),
        (float, 1),
        (str, "x"),
        (str, Colour.RED),
        (bool, True),
        (bytes, b"x"),
        (bytes, bytearray(b"x")),
        (memoryview, b"x"),
        (list, [1, "x"]),
        (list[int], [1, 2]),
        (list[int], (1, 2)),
        (list[int], deque([1])),
        (list[float], [1, 2.5]),
        (list[Any], [1, "x"]),
        (tuple[int, str], (1, "x")),
        (tuple[int, str], [1, "x"]),
        (tuple[int, ...], [1, 2]),
        (tuple, (1, "x")),
        (set[int], {1}),
        (set[int], [1]),
        (frozenset[int], {1}),
        (AbstractSet[int], {1}),
        (Sequence[int], range(3)),
        (Iterable[int], {1}),
        (Collection[int], (1,)),
        (dict[str, int], {"a": 1}),
        (dict[int, str], {"1": "x"}),
        (dict[int, str], {1: "x"}),
        (Mapping[str, Any], {"a": object()}),
        (dict, {"a": 1}),
        (int | None, None),
        (Optional[Line], Line("x")),  # noqa: UP045  # written so by many
        (list[int] | str, "x"),
        (int | object, "anything"),
        (Literal["a", 1], "a"),
        (Literal[Colour.RED], "red"),
        (Literal[Colour.RED], Colour.RED),
        (Colour, Colour.RED),
        (Colour, "red"),
        (Path, "x"),
        (Line, Line("x")),
        (Line, {"item": "x", "count": 2}),
        (Page[int], Page([1], Page([2]))),
        (Page[int], {"items": [1], "count": 1}),
        (Point, Point(1, 2)),
        (Point, (1, 2)),
        (Point, {"x": 1}),
        (Options, {"depth": 1}),
    ],
)
def test_what_would_fit_as_an_argument_fits(annotation: object, result: object) -> None:
    check = build_result_check(annotation)
    assert check is None or fault_of(annotation, result) == ("", "")


@pytest.mark.parametrize(
    ("annotation", "result", "path", "message"),
    [
        (int, "1", "", "expected int, got str"),
        (int, True, "", "expected int, got bool"),
        (int, 1.0, "", "expected int, got float"),
        (int, None, "", "expected int, got None"),
        (float, 2**70 + 1, "", "expected float, got an int that no float represents exactly"),
        (str, b"x", "", "expected str, got bytes"),
        (bytes, "x", "", "expected bytes, got str"),
        (list, "x", "", "expected list, got str"),
        (list[int], {1}, "", "expected list[int], got set"),
        (list[int], [1, "x"], "[1]", "expected int, got str"),
        (list[str], "xyz", "", "expected list[str], got str"),
        (tuple[int, str], (1,), "", "expected 2 items, got 1"),
        (tuple[int, str], (1, 2), "[1]", "expected str, got int"),
        (tuple[int, str], 1, "", "expected list[int, str], got int"),
        (dict[str, int], {"a": "x"}, "['a']", "expected int, got str"),
        (dict[str, int], {1: 1}, "[1]", "expected str, got int"),
        (dict[str, int], [], "", "expected dict[str, int], got list"),
        (dict[str, list[int]], {"a": [1, None]}, "['a'][1]", "expected int, got None"),
        (int | None, "x", "", "expected int | None, got str"),
        (list[int] | str, ["x"], "[0]", "expected int, got str"),
        (Literal["a"], "b", "", "expected 'a', got 'b'"),
        (Colour, "blue", "", "expected 'red', got 'blue'"),
        (Line, Line(3), ".item", "expected str, got int"),  # type: ignore[arg-type]  # that is the point
        (Line, Line("x", "y"), "._count", "expected int, got str"),  # type: ignore[arg-type]  # likewise
        (Line, {"itm": "x"}, ".itm", "Line has no field 'itm'; did you mean 'item'?"),
        (Line, {"item": 1}, ".item", "expected str, got int"),
        (Line, {}, "", "Line requires the field 'item'"),
        (Line, "x", "", "expected Line, got str"),
        (Page[int], Page(["x"]), ".items[0]", "expected int, got str"),
        (Page[int], Page([1], Page(["x"])), ".next.items[0]", "expected int, got str"),  # type: ignore[misc]  # likewise
        (Point, Point("x"), ".x", "expected float, got str"),  # type: ignore[arg-type]  # likewise
        (Point, ("x",), ".x", "expected float, got str"),
        (Options, {"depth": "x"}, ".depth", "expected int, got str"),
        (Options, {}, "", "Options requires the field 'depth'"),
        (Sized, 3, "", "expected Sized, got int"),
    ],
)
def test_what_would_not_fit_is_named(
    annotation: object, result: object, path: str, message: str
) -> None:
    assert fault_of(annotation, result) == (path, message)


@pytest.mark.parametrize(
    "annotation", [object, Any, Handle, SharedBuffer, T, Coroutine[Any, Any, int], list[int] | Any]
)
def test_some_annotations_need_no_check(annotation: object) -> None:
    assert build_result_check(annotation) is None
