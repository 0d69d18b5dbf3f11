"""Annotations that CPython 3.14 and later evaluate late, with names that only type checkers know."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import pytest

import spear
from spear.agent import Agent, load_agent

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

late = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="Python evaluates annotations where they stand"
)

BEGINNING = """
import attrs, dataclasses
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from far_away import Thing
import spear
app = spear.Agent()
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("late_annotations", None)


def load(place: Path, code: str) -> Agent:
    path = place / "late_annotations.py"
    path.write_text(BEGINNING + code)
    return load_agent(str(path))


@late
async def test_a_name_for_type_checkers_leaves_the_other_annotations_checked(
    tmp_path: Path,
) -> None:
    app = load(
        tmp_path,
        """
@app.function
async def f(a: Thing, b: int) -> Thing:
    return [a, b]
""",
    )
    async with calling(app) as caller:
        assert await caller.call("f", "x", 2) == ["x", 2]
        with pytest.raises(spear.InvalidArguments, match=r"f\(b=\.\.\.\): expected int, got str"):
            await caller.call("f", 1, "x")
        described = cast("list[dict[str, str]]", await caller.call("spear.describe"))
        assert [each["signature"] for each in described] == ["f(a: Thing, b: int) -> Thing"]


@late
@pytest.mark.parametrize("decorator", ["attrs.frozen", "dataclasses.dataclass"])
async def test_a_field_for_type_checkers_leaves_the_other_fields_checked(
    tmp_path: Path, decorator: str
) -> None:
    app = load(
        tmp_path,
        f"""
@{decorator}
class Order:
    count: int
    thing: Thing

@app.function
async def f(order: Order) -> int:
    return order.count
""",
    )
    async with calling(app) as caller:
        assert await caller.call("f", {"count": 3, "thing": None}) == 3
        with pytest.raises(spear.InvalidArguments, match=r"f\(order\.count\): expected int, got s"):
            await caller.call("f", {"count": "3", "thing": None})


@late
async def test_a_class_may_stand_below_the_function_that_takes_it(tmp_path: Path) -> None:
    app = load(
        tmp_path,
        """
@app.function
async def f(tree: Tree) -> int:
    return len(tree.below)

@attrs.frozen
class Tree:
    below: list[Tree] = []
""",
    )
    async with calling(app) as caller:
        assert await caller.call("f", {"below": [{}, {}]}) == 2
        with pytest.raises(spear.InvalidArguments, match=r"f\(tree\.below\[0\]\): expected a map"):
            await caller.call("f", {"below": [1]})


@late
async def test_a_misspelled_annotation_is_found_when_the_agent_starts(tmp_path: Path) -> None:
    app = load(tmp_path, "@app.function\nasync def f(a: strr, b: Thing): ...\n")
    message = r"f\(a\): the name 'strr' is not defined; did you mean 'str'\?"
    with pytest.raises(spear.ConfigurationError, match=message):
        async with app.running():
            raise AssertionError


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python evaluates annotations late")
def test_before_that_it_is_python_that_does_not_take_them(tmp_path: Path) -> None:
    with pytest.raises(spear.ConfigurationError, match="NameError: name 'Thing' is not defined"):
        load(tmp_path, "@app.function\nasync def f(a: Thing): ...\n")
