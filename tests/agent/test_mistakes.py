"""Impossible annotations are reported before the first call; all others are accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from numbers import Number
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, SupportsFloat
from uuid import UUID

import attrs
import pytest
import trio

import spear
from spear import Agent, ConfigurationError, Items
from spear.agent import load_agent

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator  # noqa: F401  # used in texts below


class Clock:
    pass


class Hour(date):
    """A class of which no value arrives, though its base is one that does."""


@attrs.frozen
class Dated:
    text: str
    share: Fraction


@attrs.frozen
class Tree:
    name: str
    below: list[Tree]
    part: Fraction = Fraction(1)


async def refused(annotation: object) -> str:
    """Return the error for a parameter with this annotation, or "" if it is accepted."""

    async def due(first: int, day) -> None:  # type: ignore[no-untyped-def]  # annotated below
        raise AssertionError

    due.__annotations__["day"] = annotation
    app = Agent()
    app.function(due)
    try:
        async with app.running():
            return ""
    except ConfigurationError as error:
        return str(error)


def foreign(package: str, *names: str) -> type:
    """Return a class of a package that need not be installed, under the last of these names."""
    cls: type = object
    for name in names:
        cls = type(name, (cls,), {"__module__": package})
    return cls


PART = "Fraction cannot be sent: use the annotation str, and Fraction() in the function"
CLOCK = (
    "Clock cannot be sent: use the annotation str, list or dict, "
    "make Clock a dataclass, or give it a codec (spear.codec)"
)
HOUR = (
    "Hour cannot be sent: use the annotation str, list or dict, "
    "make Hour a dataclass, or give it a codec (spear.codec)"
)
FRAME = "GeoDataFrame cannot be sent: use the annotation list, and GeoDataFrame() in the function"
NUMPY = "datetime64 cannot be sent: use the annotation str, and numpy.datetime64() in the function"
INTEGER = "integer cannot be sent: use the annotation int, and numpy.int64() in the function"
RECORDS = (
    "recarray cannot be sent: use the annotation numpy.ndarray, "
    "and a view of the class, .view(recarray) in the function"
)
TIMESTAMP = (
    "Timestamp cannot be sent: use the annotation datetime, and pandas.Timestamp() in the function"
)
DEQUE = "deque cannot be sent: use the annotation list, and deque() in the function"
# Types for which the error does not advise to make them a dataclass.
MODULE = "module cannot be sent: use the annotation str, list or dict"
LIMITER = "CapacityLimiter cannot be sent: use the annotation str, list or dict"
SPEARLET = "Spearlet cannot be sent: use the annotation str, list or dict"
BUFFER = "SharedBuffer cannot be sent: use the annotation memoryview, the type of a received buffer"
CONTEXT = (
    "CallContext cannot be sent: remove the parameter, and use spear.context() in the function"
)
OTHER = (
    "date cannot be sent: use the annotation str, list or dict, "
    "make date a dataclass, or give it a codec (spear.codec)"
)


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Fraction, PART), ("Fraction", PART), (Hour, HOUR), (Clock, CLOCK),
        (Fraction | None, PART), (Fraction | Clock, PART), (list[Fraction], PART),
        (set[Fraction], PART), (tuple[Fraction, ...], PART), (tuple[int, Fraction], PART),
        (dict[str, Fraction], PART), (list[dict[str, Clock]], CLOCK), (Dated, PART),
        (list[Dated], PART), (Items[Fraction], PART),
        (foreign("pandas.core.frame", "DataFrame", "GeoDataFrame"), FRAME),
        (foreign("numpy", "generic", "datetime64"), NUMPY),
        (foreign("numpy", "generic", "integer"), INTEGER),
        (foreign("numpy", "ndarray", "recarray"), RECORDS),
        (foreign("pandas", "datetime", "Timestamp"), TIMESTAMP),
        (foreign("shop", "date"), OTHER),
        (deque, DEQUE), (type(sys), MODULE), (trio.CapacityLimiter, LIMITER), (spear.Spearlet, SPEARLET),
        (spear.SharedBuffer, BUFFER), (spear.CallContext, CONTEXT),
    ],
    ids=str,
)  # fmt: skip
async def test_what_can_never_be_given_is_refused(annotation: object, said: str) -> None:
    assert await refused(annotation) == f"due(day): {said}"


@pytest.mark.parametrize(
    "annotation",
    [
        str, "str", None, "None", Any, object, Fraction | str, "Fraction | int", Tree, list[Tree],
        Items[int], Items, SupportsFloat, "Hashable", "Path", "list[Path]", "just a remark", date,
        datetime, time, timedelta, Decimal, UUID, complex, set[date], os.PathLike, Number, PurePath,
    ],
    ids=str,
)  # fmt: skip
async def test_what_can_be_given_or_cannot_be_told_is_taken(annotation: object) -> None:
    assert await refused(annotation) == ""


async def test_what_need_not_be_given_is_for_those_who_call_it_here() -> None:
    app = Agent()

    @app.function
    async def due(
        part: Fraction = Fraction(1, 2), *more: Fraction, clock: Clock | None = None
    ) -> str:
        return str(part)

    async with calling(app) as caller:
        assert await caller.call("due") == "1/2"
        with pytest.raises(
            spear.InvalidArguments, match=r"due\(part=...\): expected Fraction, got str"
        ):
            await caller.call("due", "1/2")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("strr", "due(day): the name 'strr' is not defined; did you mean 'str'?"),
        ("list[Datde]", "due(day): the name 'Datde' is not defined; did you mean 'Dated'?"),
        ("Ytterbium", "due(day): the name 'Ytterbium' is not defined"),
    ],
)
async def test_a_name_that_exists_nowhere_is_misspelled(annotation: str, message: str) -> None:
    assert await refused(annotation) == message


def load(place: Path, code: str) -> Agent:
    path = place / "bad_annotations.py"
    path.write_text(
        f"from __future__ import annotations\nimport spear\napp = spear.Agent()\n{code}"
    )
    return load_agent(str(path))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("bad_annotations", None)


async def test_a_name_of_which_only_type_checkers_know_is_taken(tmp_path: Path) -> None:
    app = load(
        tmp_path,
        """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from far_away import Thing, other as Other
    import far.away
    Alias = dict[str, Thing]

def make():
    class Local: ...
    @app.function
    async def inner(x: Local): ...
make()

@app.function
async def f(a: Thing, b: Other, c: far.away.Thing, d: list[Alias]): ...
""",
    )
    async with app.running():
        assert app.functions == ("inner", "f")


async def test_where_names_cannot_be_told_nothing_is_refused(tmp_path: Path) -> None:
    app = load(
        tmp_path,
        """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from far_away import *

@app.function
async def f(a: Thing): ...
""",
    )
    async with app.running():
        assert app.functions == ("f",)
    del sys.modules["bad_annotations"]
    app = load(tmp_path, "@app.function\nasync def f(a: Thing): ...\n")
    del sys.modules["bad_annotations"]  # without its module, there is no source
    async with app.running():
        assert app.functions == ("f",)


async def test_a_deployment_tells_of_it() -> None:
    app = Agent()

    @app.function
    async def due(part: Fraction) -> None:
        raise AssertionError

    async with spear.open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match=r"due\(part\): Fraction cannot be sent"):
            await spearlet.deploy(app)


def test_plain_annotations_cost_nothing_at_the_start() -> None:
    code = """
import sys, trio, spear
app = spear.Agent()
@app.function
async def f(a: str, b: "int", c: None, d: bytes = b"", *e: float) -> list[str]: ...
app.function(len)
async def main():
    async with app.running():
        print("spear.annotations._build" in sys.modules)
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
