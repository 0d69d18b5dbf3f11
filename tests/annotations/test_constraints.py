"""Constraints in ``Annotated[...]``, which the package of each constraint checks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import attrs
import pytest

from spear import Agent, ConfigurationError
from spear.annotations import Mismatch, build_check, build_result_check
from spear.spearlet import open_spearlet

from .helpers import converted, mismatch_of

if TYPE_CHECKING:
    import annotated_types
    import msgspec
    import numpy
    import pydantic
else:
    annotated_types = pytest.importorskip("annotated_types")
    msgspec = pytest.importorskip("msgspec")
    numpy = pytest.importorskip("numpy")
    pydantic = pytest.importorskip("pydantic")


class Line(pydantic.BaseModel):
    item: str
    count: int = pydantic.Field(gt=0)
    price: float = 0.0


POSITIVE = Annotated[int, pydantic.Field(gt=0)]


def halved(value: int) -> int:
    """Return the half of an even number."""
    if value % 2:
        raise ValueError("it is odd")
    return value // 2


@pytest.mark.parametrize(
    ("annotation", "value", "path", "message"),
    [
        (POSITIVE, -1, "", "Input should be greater than 0"),
        (POSITIVE | None, -1, "", "Input should be greater than 0"),
        (Annotated[int, annotated_types.Gt(0)], 0, "", "Input should be greater than 0"),
        (Annotated[object, pydantic.Field(gt=0)], 0, "", "Input should be greater than 0"),
        (list[Annotated[str, annotated_types.MaxLen(2)]], ["a", "abc"], "[1]", "String should have at"),
        (Annotated[int, pydantic.AfterValidator(halved)], 3, "", "Value error, it is odd"),
        (Annotated[int, msgspec.Meta(gt=0)], 0, "", "Expected `int` >= 1"),
        (Annotated[Line, pydantic.Field(description="x")], {}, ".item", "Field required; .count: Field"),
        # Spear's own rules come first.
        (POSITIVE, True, "", "expected int, got bool"),
        (POSITIVE, "1", "", "expected int, got str"),
    ],
)  # fmt: skip
def test_a_constraint_that_a_value_breaks_is_named(
    annotation: object, value: object, path: str, message: str
) -> None:
    mismatch = mismatch_of(annotation, value)
    assert mismatch.path == path
    assert str(mismatch).startswith(message)


def test_values_within_their_constraints_are_converted() -> None:
    assert converted(POSITIVE, 1) == 1
    assert converted(Annotated[int, pydantic.AfterValidator(halved)], 4) == 2
    assert converted(Annotated[float, msgspec.Meta(gt=0)], 1) == 1.0
    array = converted(Annotated[numpy.ndarray, pydantic.Field(description="x")], [1, 2])
    assert isinstance(array, numpy.ndarray)
    assert converted(Annotated[int, "a remark", 5], -1) == -1


def test_all_faults_of_a_model_are_listed_up_to_five() -> None:
    class Wide(pydantic.BaseModel):
        values: list[int]

    mismatch = mismatch_of(Line, {"count": -1, "price": "x"})
    assert mismatch.path == ".item"
    assert str(mismatch) == (
        "Field required; .count: Input should be greater than 0; .price: Input should be a valid "
        "number, unable to parse string as a number"
    )
    mismatch = mismatch_of(Wide, {"values": ["x"] * 7})
    assert mismatch.path == ".values[0]"
    assert ".values[4]: " in str(mismatch)
    assert ".values[5]: " not in str(mismatch)
    assert str(mismatch).endswith(" (and 2 more)")


def test_a_constraint_that_nothing_checks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic")
    check = build_check(Annotated[int, annotated_types.Gt(0)])
    assert check is not None
    with pytest.raises(
        Mismatch, match=r"nothing checks Gt\(gt=0\): import pydantic, or use a model"
    ):
        check(1)


async def test_an_agent_refuses_a_constraint_that_nothing_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Agent()

    async def take(count: int) -> None:
        raise AssertionError

    take.__annotations__["count"] = Annotated[int, annotated_types.Gt(0)]
    app.function(take)
    monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(
        ConfigurationError,
        match=r"take\(count\): nothing checks the constraint Gt: import pydantic",
    ):
        async with open_spearlet() as spearlet:
            await spearlet.deploy(app)


# -- results ----------------------------------------------------------------------------------


@attrs.frozen
class Order:
    item: str
    count: POSITIVE = 1


@pytest.mark.parametrize(
    ("annotation", "result", "fault"),
    [
        (POSITIVE, 1, None),
        (POSITIVE, numpy.int64(1), None),
        (POSITIVE, -1, ("", "Input should be greater than 0")),
        (POSITIVE, "1", ("", "expected int, got str")),
        (POSITIVE | None, None, None),
        (POSITIVE | None, 0, ("", "Input should be greater than 0")),
        (list[POSITIVE], [1, 0], ("[1]", "Input should be greater than 0")),
        (Annotated[list[int], annotated_types.MinLen(1)], (numpy.int64(1),), None),
        (Annotated[list[int], annotated_types.MinLen(1)], [], ("", "List should have at least 1 item")),
        (Annotated[dict[str, int], annotated_types.MinLen(1)], {"a": numpy.int64(1)}, None),
        (Annotated[int, msgspec.Meta(gt=0)], 0, ("", "Expected `int` >= 1")),
        (Annotated[object, pydantic.Field(gt=0)], 0, ("", "Input should be greater than 0")),
        (Order, Order("tea"), None),
        (Order, Order("tea", 0), (".count", "Input should be greater than 0")),
        (Order, {"item": "tea", "count": 0}, (".count", "Input should be greater than 0")),
        (Annotated[int, "a remark"], -1, None),
    ],
)  # fmt: skip
def test_results_keep_their_constraints(
    annotation: object, result: object, fault: tuple[str, str] | None
) -> None:
    check = build_result_check(annotation)
    assert check is not None
    if fault is None:
        assert check(result) is result
        return
    with pytest.raises(Mismatch) as raised:
        check(result)
    path, message = fault
    assert raised.value.path == path
    assert str(raised.value).startswith(message)


def test_results_without_constraints_are_not_slowed_down() -> None:
    check = build_result_check(Annotated[int, "a remark"])
    assert check is not None
    assert check.exact is int  # compared before anything is called
