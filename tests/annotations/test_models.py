"""Classes of other packages: pydantic models, msgspec structs, numpy's scalars."""

from __future__ import annotations

import math
import subprocess
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, Union, cast

import pytest

import spear
from spear._sendable import CannotSend, check_sendable
from spear.annotations import Mismatch, build_check
from spear.wire import decode_result, encode_result, encode_sendable

from .helpers import converted, fault_of, mismatch_of

if TYPE_CHECKING:
    import msgspec
    import numpy
    import pydantic
    from numpy.typing import NDArray
else:
    msgspec = pytest.importorskip("msgspec")
    numpy = pytest.importorskip("numpy")
    pydantic = pytest.importorskip("pydantic")
    NDArray = pytest.importorskip("numpy.typing").NDArray

T = TypeVar("T")


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Line(pydantic.BaseModel):
    item: str
    count: int = 1
    where: list[Point] = []  # noqa: RUF012  # pydantic copies it


class Order(pydantic.BaseModel):
    customer: str = pydantic.Field(alias="customerName")
    lines: list[Line] = []  # noqa: RUF012  # likewise
    password: str = pydantic.Field(default="", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
    @property
    def total(self) -> int:
        return sum(line.count for line in self.lines)

    @pydantic.field_validator("customer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "Eve":
            raise ValueError("Eve gets nothing")
        if name == "Mallory":
            raise RuntimeError("Mallory gets nothing either")
        return name


class Numbers(pydantic.RootModel[list[int]]):
    pass


class ModelPage(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    count: int


class Site(pydantic.BaseModel):
    url: pydantic.HttpUrl
    token: pydantic.SecretStr | None = None


class Count(Enum):
    ONE = 1


class Wave(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    samples: numpy.ndarray  # type: ignore[explicit-any]  # of elements of any type
    parts: list[dict[str, numpy.ndarray]] = []  # type: ignore[explicit-any]  # noqa: RUF012  # likewise
    name: str = ""


class RawWave(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    samples: spear.Array


class Signal(msgspec.Struct):  # type: ignore[explicit-any]  # of its only field
    samples: numpy.ndarray  # type: ignore[explicit-any]  # of elements of any type


class Lot(msgspec.Struct, rename="camel"):
    lot_id: int
    by_size: dict[int, str] = {}  # noqa: RUF012  # msgspec copies it
    weight: numpy.float32 | None = None
    note: str | msgspec.UnsetType = msgspec.UNSET


class StructPage(msgspec.Struct, Generic[T]):
    items: list[T]


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


class Row(msgspec.Struct, array_like=True):
    name: str
    count: int = 0


class Picky(msgspec.Struct):
    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise RuntimeError("count is negative")


def sent(value: object) -> object:
    """Return a value as it arrives without an annotation."""
    check_sendable(value)
    payload, is_cbor = encode_result(value)
    return decode_result(bytes(payload), is_cbor)


ORDER = Order(customerName="Ada", lines=[Line(item="tea", where=[Point(1.0)])], password="x")


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (
            ORDER,
            {
                "customer": "Ada",
                "lines": [{"item": "tea", "count": 1, "where": [[1.0, 0.0]]}],
            },
        ),
        (Numbers([1, 2]), [1, 2]),
        (ModelPage[Line](items=[Line(item="x")]), {"items": [{"item": "x", "count": 1, "where": []}]}),
        (Lot(1), {"lotId": 1, "bySize": {}, "weight": None}),
        (Lot(1, note="n"), {"lotId": 1, "bySize": {}, "weight": None, "note": "n"}),
        ([Circle(1.0)], [{"type": "circle", "radius": 1.0}]),
        (Row("a", 1), ["a", 1]),
        (numpy.float32(0.1), float(numpy.float32(0.1))),
        (numpy.float64(0.1), 0.1),
        (numpy.int8(-3), -3),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        ([numpy.bool_(True)], [True]),
        (numpy.str_("x"), "x"),
        ({"x": numpy.int64(1)}, {"x": 1}),
        (pydantic.HttpUrl("http://a.b/c"), "http://a.b/c"),
        (Site(url="http://a.b/"), {"url": "http://a.b/", "token": None}),
    ],
)  # fmt: skip
def test_objects_are_sent(value: object, seen: object) -> None:
    result = sent(value)
    assert result == seen
    assert repr(result) == repr(seen)  # numpy's numbers are equal to Python's


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Site(url="http://a.b/", token="t"), ".token: a value of type SecretStr: send the secret itself"),
        (numpy.longdouble(1), ": a value of type longdouble: send a number, such as float(value)"),
        (numpy.datetime64("2026-01-31"), ": a value of type datetime64: send text"),
        (numpy.timedelta64(1, "s"), ": a value of type timedelta64: send a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_exactly_is_refused(value: object, message: str) -> None:
    with pytest.raises(CannotSend) as caught:
        check_sendable(value)
    assert f"{caught.value.path}: {caught.value}".replace("cannot send ", "").startswith(message)


@pytest.mark.parametrize("cls", [Wave, Signal])
def test_a_field_for_an_array_of_numpy_gets_one(cls: type) -> None:
    check = build_check(cls)
    assert check is not None
    array = spear.Array(bytes(16), "<f8")
    made = check({"samples": array})
    assert type(made.samples) is numpy.ndarray  # type: ignore[attr-defined]  # of both classes
    assert made.samples.tolist() == [0, 0]  # type: ignore[attr-defined]  # likewise


def test_a_model_gets_arrays_of_numpy_only_for_its_fields_of_numpy() -> None:
    array = spear.Array(bytes(16), "<f8")
    wave, raw = build_check(Wave), build_check(RawWave)
    assert wave is not None
    assert raw is not None
    assert cast("RawWave", raw({"samples": array})).samples is array
    nested = cast("Wave", wave({"samples": array, "parts": [{"a": array}]}))
    assert nested.parts[0]["a"].tolist() == [0, 0]
    with pytest.raises(Mismatch, match="should be a valid string") as caught:
        wave({"samples": array, "name": 1})
    assert caught.value.path == ".name"
    with pytest.raises(Mismatch, match="should be an instance of ndarray"):
        wave({"samples": [1]})


def test_integers_of_numpy_are_keys_of_maps() -> None:
    payload, is_cbor = encode_sendable({numpy.int64(1): "a", numpy.str_("b"): 2})
    assert decode_result(bytes(cast("bytes", payload)), is_cbor) == {1: "a", "b": 2}
    with pytest.raises(CannotSend, match="a dict with equal keys"):
        encode_sendable({numpy.int64(1): "a", Count.ONE: "b"})
    with pytest.raises(CannotSend, match=r"a key of type float64: .*\{str\(key\): value\}"):
        check_sendable({numpy.float64(1): 1})


def test_an_array_of_objects_cannot_be_annotated() -> None:
    check = build_check(NDArray[numpy.object_])
    assert check is not None
    assert check.impossible is numpy.object_


def test_the_elements_of_an_array_are_checked_for_generic_types_too() -> None:
    for annotation in (
        NDArray[numpy.floating[Any]],
        numpy.ndarray[Any, numpy.dtype[numpy.floating]],
    ):
        check = build_check(annotation)
        assert check is not None
        assert cast("NDArray[Any]", check(spear.Array(bytes(8), "<f4"))).dtype == numpy.float32
        with pytest.raises(Mismatch, match="expected an array of floating, got an array of <U1"):
            check(spear.Array("ab".encode("utf-32-le"), "<U1"))


@pytest.mark.parametrize(
    "elements",
    [numpy.uint8 | numpy.float32, Union[numpy.uint8, numpy.float32]],  # noqa: UP007  # differs at run time
    ids=["|", "Union"],
)
def test_the_elements_of_an_array_may_have_one_of_several_types(elements: object) -> None:
    check = build_check(numpy.ndarray[Any, numpy.dtype[elements]])  # type: ignore[valid-type]  # a variable
    assert check is not None
    for dtype in ("|u1", "<f4"):
        assert cast("NDArray[Any]", check(spear.Array(bytes(8), dtype))).dtype == numpy.dtype(dtype)
    with pytest.raises(
        Mismatch, match=r"expected an array of uint8 \| float32, got an array of int16"
    ):
        check(spear.Array(bytes(8), "<i2"))
    assert cast("NDArray[Any]", check([1, 2])).dtype == numpy.uint8
    assert cast("NDArray[Any]", check([1, 2.5])).dtype == numpy.float32
    with pytest.raises(Mismatch, match=r"expected an array of uint8 \| float32, got a list"):
        check([1j])


@pytest.mark.parametrize("elements", [Any, T], ids=["Any", "T"])
def test_an_array_of_any_elements_takes_all(elements: object) -> None:
    check = build_check(numpy.ndarray[Any, numpy.dtype[elements]])  # type: ignore[valid-type]  # a variable
    assert check is not None
    assert cast("NDArray[Any]", check(spear.Array(bytes(8), "<i2"))).dtype == numpy.int16


def test_lists_of_text_become_arrays_where_annotated() -> None:
    for annotation in (numpy.ndarray, NDArray[numpy.str_]):
        check = build_check(annotation)
        assert check is not None
        made = check(["a", "bc"])
        assert type(made) is numpy.ndarray
        assert made.tolist() == ["a", "bc"]
        for wrong in (["a", 1], ["a\0"], [None]):
            with pytest.raises(Mismatch, match="it has other values than numbers"):
                check(wrong)


def test_an_object_whose_own_code_raises_is_refused() -> None:
    class Odd(pydantic.BaseModel):
        @pydantic.model_serializer
        def _serialize(self) -> dict[str, int]:
            raise RuntimeError("not today")

    with pytest.raises(CannotSend, match=r"type .*Odd, whose fields cannot be read .*not today"):
        check_sendable([Odd()])


@pytest.mark.parametrize(
    ("annotation", "value", "seen"),
    [
        (Order, {"customerName": "Ada"}, Order(customerName="Ada")),
        (Order, {"customer": "Ada", "password": "x"}, Order(customerName="Ada", password="x")),
        (Line, {"item": "tea", "count": "2"}, Line(item="tea", count=2)),  # as pydantic has it
        (Line, {"item": "tea", "where": [[1, 2]]}, Line(item="tea", where=[Point(1.0, 2.0)])),
        (Numbers, [1, 2], Numbers([1, 2])),
        (ModelPage[Line], {"items": [{"item": "x"}]}, ModelPage[Line](items=[Line(item="x")])),
        (list[Line], [{"item": "x"}], [Line(item="x")]),
        (Lot, {"lotId": 1, "bySize": {"2": "x"}}, Lot(1, {2: "x"})),
        (Lot, {"lotId": 1, "weight": 1.5}, Lot(1, weight=numpy.float32(1.5))),
        (StructPage[Row], {"items": [["a", 1]]}, StructPage([Row("a", 1)])),
        (Circle | Square, {"type": "square", "side": 1}, Square(1.0)),
        (Line | None, None, None),
        (numpy.float32, 1, numpy.float32(1)),
        (numpy.float32, 0.1, numpy.float32(0.1)),
        (numpy.float32, -math.inf, numpy.float32(-math.inf)),
        (numpy.float64, 1.5, numpy.float64(1.5)),
        (numpy.int8, -128, numpy.int8(-128)),
        (numpy.bool_, True, numpy.bool_(True)),
        (numpy.complex64, 1.5, numpy.complex64(1.5)),
        (list[numpy.int16], [1], [numpy.int16(1)]),
    ],
)
def test_values_become_objects(annotation: object, value: object, seen: object) -> None:
    result = converted(annotation, value)
    assert result == seen
    assert type(result) is type(seen)
    assert repr(result) == repr(seen)


def test_a_numpy_nan_stays_one() -> None:
    number = converted(numpy.float32, math.nan)
    assert isinstance(number, numpy.float32)
    assert math.isnan(number)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "message"),
    [
        (Line, {"item": "x", "count": "two"}, ".count", "Input should be a valid integer"),
        (Line, {"item": "x", "where": [[1], ["y"]]}, ".where[1][0]", "Input should be a valid number"),
        (Line, {"count": "x"}, ".item", "Field required; .count: Input should be a valid integer"),
        (Line, "x", "", "Input should be a valid dictionary or instance of Line"),
        (Order, {"customer": "Eve"}, ".customer", "Value error, Eve gets nothing"),
        (Order, {"customer": "Mallory"}, "", "not a valid Order: Mallory gets nothing either"),
        (Strict, {"count": "1"}, ".count", "Input should be a valid integer"),
        (list[Line], [{"item": 1}], "[0].item", "Input should be a valid string"),
        (ModelPage[int], {"items": ["x"]}, ".items[0]", "Input should be a valid integer"),
        (Lot, {"lotId": "x"}, ".lotId", "Expected `int`, got `str`"),
        (Lot, {"lotId": 1, "weight": "x"}, ".weight", "expected float (float32), got str"),
        (Lot, {}, "", "Object missing required field `lotId`"),
        (list[StructPage[int]], [{"items": [1, "x"]}], "[0].items[1]", "Expected `int`, got `str`"),
        (Circle, {"type": "square", "side": 1}, ".type", "Invalid value 'square'"),
        (Picky, {"count": -1}, "", "not a valid Picky: count is negative"),
        (numpy.float32, 1e300, "", "1e+300 does not fit float32"),
        (numpy.float32, 2**24 + 1, "", "16777217 does not fit float32"),
        (numpy.float64, 2**53 + 1, "", "9007199254740993 does not fit float64"),
        (numpy.int8, 128, "", "128 does not fit int8"),
        (numpy.uint8, -1, "", "-1 does not fit uint8"),
        (numpy.int8, 1.0, "", "expected int (int8), got float"),
        (numpy.int8, True, "", "expected int (int8), got bool"),
        (numpy.bool_, 1, "", "expected bool (bool), got int"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    annotation: object, value: object, path: str, message: str
) -> None:
    mismatch = mismatch_of(annotation, value)
    assert mismatch.path == path
    assert str(mismatch).startswith(message)


@pytest.mark.parametrize(
    ("annotation", "result", "path"),
    [
        (Line, Line(item="x"), ""),
        (Line, {"item": "x"}, ""),
        (Line, {"item": 1}, ".item"),
        (Lot, Lot(1), ""),
        (Lot, {"lotId": "x"}, ".lotId"),
        (int, numpy.int64(1), ""),
        (float, numpy.float32(1), ""),
        (numpy.float32, numpy.float32(1), ""),
        (numpy.float32, 1.5, ""),
        (list[float], [numpy.float32(1), numpy.float64(1), 1], ""),
        (list[int], [numpy.int64(1), numpy.float32(1)], "[1]"),
    ],
)
def test_results_are_checked(annotation: object, result: object, path: str) -> None:
    where, message = fault_of(annotation, result)
    assert where == path
    assert bool(message) == bool(path)


def test_the_packages_are_never_imported() -> None:
    code = """
import sys
from spear.annotations import build_check, build_result_check
from spear.wire import encode_result
class Thing: ...
build_check(Thing), build_result_check(Thing), build_check(list[int])
encode_result([1])
print({"msgspec", "numpy", "pydantic"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
