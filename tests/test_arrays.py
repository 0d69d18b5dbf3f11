"""Arrays: numpy's come back equal; a description that does not agree with its memory is refused."""

from __future__ import annotations

import array
import copy
import ctypes
import pickle
import struct
import sys
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spear import Array
from spear._arrays import MAX_DIMENSIONS, MAX_FIELDS, NotAnArray, as_array, as_numpy, is_array
from spear._json import MAX_ELEMENTS, dump_json, load_json
from spear._sendable import CannotSend
from spear.wire import encode_sendable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

numpy = pytest.importorskip("numpy", reason="numpy has no wheel for this Python")

PLAIN = (
    "?", "i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">u8", "<f2", "<f4", ">f8", "<c8", ">c16",
    "S3", "<U5", ">U2", "V7", "<M8[ns]", ">M8[25s]", "<m8[us]", "<M8",
)  # fmt: skip

STRUCTURED = (
    [("a", "<i4"), ("b", ">f8")],
    [("a", "<i4"), ("b", "<f8", (2, 3))],
    [("a", "i1"), ("inner", [("x", "<f8"), ("y", "S3")]), ("c", "<U2")],
)


def padded() -> object:
    """Return a data type with unused bytes between its fields, and behind them."""
    return numpy.dtype([("a", "i1"), ("b", "<f8"), ("c", "i1")], align=True)


DTYPES = st.sampled_from([*PLAIN, *map(str, range(len(STRUCTURED))), "padded"]).map(
    lambda name: (
        padded()
        if name == "padded"
        else numpy.dtype(STRUCTURED[int(name)] if name.isdigit() else name)
    )
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def filled(dtype: object, shape: tuple[int, ...], seed: bytes) -> object:
    """Return an array whose memory is that of a seed, repeated."""
    made = numpy.zeros(shape, dtype)
    memory = made.reshape(-1).view("u1") if made.size else made
    if made.size and not made.dtype.hasobject and dtype != numpy.dtype("?"):
        wanted = numpy.frombuffer((seed * (memory.size // len(seed) + 1))[: memory.size], "u1")
        if made.dtype.kind != "U":  # not every number is a character
            memory[:] = wanted
    return made


def laid_out(made: object, layout: str) -> object:
    """Return an array of the same values in another layout of memory."""
    array = numpy.asarray(made)
    if layout == "F":
        return numpy.asfortranarray(array)
    if layout == "gaps" and array.ndim:
        return numpy.repeat(array, 2, axis=0)[::2]
    return array[::-1] if layout == "reversed" and array.ndim else array


def content(made: object) -> object:
    """Return the bytes of an array without those between its fields, which numpy does not copy."""
    array = numpy.asarray(made)
    names = array.dtype.names
    return array.tobytes() if names is None else [content(array[name]) for name in names]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    DTYPES,
    SHAPES,
    st.binary(min_size=1, max_size=9),
    st.sampled_from(["C", "F", "gaps", "reversed"]),
)
def test_what_numpy_has_comes_back_as_it_was(
    dtype: object, shape: tuple[int, ...], seed: bytes, layout: str
) -> None:
    sent = numpy.asarray(laid_out(filled(dtype, shape, seed), layout))
    arrived = as_array(sent)
    for back in numpy.asarray(arrived), numpy.asarray(as_numpy(arrived)):
        assert back.dtype == dtype
        assert back.shape == sent.shape
        assert content(back) == content(sent)
        assert not back.flags.writeable
    if arrived.has_numbers and seed == b"\0":
        assert arrived.tolist() == sent.tolist()


@pytest.mark.parametrize("dtype", ["<f8", ">i2", "|u1", "<c16", "|b1"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_the_elements_are_numbers_in_lists(dtype: str, layout: str) -> None:
    sent = numpy.arange(24).reshape(2, 3, 4).astype(dtype, order=layout)
    assert as_array(sent).tolist() == sent.tolist()
    assert as_array(numpy.array(7, dtype)).tolist() == numpy.array(7, dtype).tolist()
    assert as_array(sent[:, :0]).tolist() == sent[:, :0].tolist()


def test_bytes_between_fields_are_not_those_of_other_memory() -> None:
    sent = numpy.zeros(2000, padded())[::2]
    for _ in range(10):
        assert as_array(sent).data == bytes(24_000)


def test_numpy_reads_the_same_memory() -> None:
    memory = bytearray(struct.pack("<3d", 1, 2, 3))
    arrived = Array(memory, "<f8")
    back = numpy.asarray(arrived)
    memory[:8] = struct.pack("<d", 7)
    assert back.tolist() == [7, 2, 3]
    assert numpy.asarray(arrived, dtype="<f4").tolist() == [7, 2, 3]


def test_fields_of_an_array_with_padding_are_only_its_fields() -> None:
    sent = numpy.zeros(3, padded())
    arrived = as_array(sent)
    assert not hasattr(arrived, "__array_interface__")
    assert numpy.asarray(arrived).dtype == sent.dtype
    assert numpy.array(arrived).flags.writeable  # a copy


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: numpy.array([None]), "the elements are Python objects"),
        (lambda: numpy.zeros(2, [("a", "O")]), "the elements are Python objects"),
        (lambda: numpy.ma.masked_array([1, 2], [0, 1]), "its mask would be lost"),
        (lambda: numpy.zeros(2, "V0"), "the elements have no bytes"),
        (lambda: numpy.zeros(2, [(("title", "a"), "<i4")]), "a field must be a name"),
        (
            lambda: numpy.zeros(
                2, {"names": ["b", "a"], "formats": ["<i4", "<i4"], "offsets": [4, 0]}
            ),
            "its fields overlap, or are not in the order",
        ),
    ],
)
def test_what_an_array_cannot_carry_is_refused(make: Callable[[], object], why: str) -> None:
    value = make()
    assert is_array(value)
    with pytest.raises(NotAnArray, match=why):
        as_array(value)


class Quantity(numpy.ndarray):  # type: ignore[name-defined,misc]  # mypy does not see numpy
    """An array with a unit."""

    unit = "m"


@pytest.mark.parametrize(
    "make",
    [
        lambda: numpy.zeros(2).view(Quantity),
        lambda: numpy.zeros((1, 2)).view(numpy.matrix),
        lambda: numpy.rec.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f8")]),
    ],
    ids=["unit", "matrix", "records"],
)
def test_subclasses_of_arrays_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(CannotSend, match=r"its class would be lost.*numpy\.asarray\(value\)"):
        encode_sendable({"a": make()})


def test_a_file_in_memory_is_an_array(tmp_path: Path) -> None:
    mapped = numpy.memmap(tmp_path / "numbers", "<f8", "w+", shape=(2,))
    mapped[:] = [1, 2]
    assert as_array(mapped).tolist() == [1, 2]


def test_an_array_has_a_length_and_elements() -> None:
    made = as_array(numpy.arange(6.0).reshape(3, 2))
    assert len(made) == 3
    assert [row.tolist() for row in made] == [[0, 1], [2, 3], [4, 5]]  # type: ignore[attr-defined]  # arrays
    assert made[1, 0] == 2
    assert made[-1].tolist() == [4, 5]  # type: ignore[attr-defined]  # likewise
    assert (numpy.ones((3, 2)) + made).tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(TypeError, match="an array without dimensions has no length"):
        len(as_array(numpy.array(1.0)))


def test_times_have_no_form_as_numbers() -> None:
    with pytest.raises(TypeError, match=r"elements of the type <M8\[D\] have no form as numbers"):
        as_array(numpy.array(["2026-01-31"], "M8[D]")).tolist()


def test_without_numpy_the_elements_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Array(struct.pack("<4d", 1, 2, 3, 4), "<f8", (2, 2))
    monkeypatch.delitem(sys.modules, "numpy")
    assert list(made) == [[1, 2], [3, 4]]
    assert made[1] == [3, 4]


@pytest.mark.parametrize("layout", ["C", "F"])
def test_an_array_can_be_pickled_and_copied(layout: str) -> None:
    for sent in (
        numpy.arange(6.0).reshape((2, 3), order=layout),
        numpy.zeros(2, STRUCTURED[2]),
        numpy.zeros(2, padded()),
    ):
        for back in (pickle.loads(pickle.dumps(as_array(sent))), copy.deepcopy(as_array(sent))):
            assert numpy.asarray(back).dtype == sent.dtype
            assert numpy.array_equal(numpy.asarray(back), sent)


def test_an_attribute_of_numpy_arrays_is_missing_with_advice() -> None:
    made = as_array(numpy.zeros(2))
    with pytest.raises(AttributeError, match=r"'mean'.*numpy\.asarray\(array\).*returns=numpy"):
        made.mean  # noqa: B018  # raises
    assert not hasattr(made, "__array_struct__")


def test_scalars_of_numpy_are_no_arrays() -> None:
    for each in numpy.float64(1), numpy.int64(1), numpy.zeros(1, [("a", "<i4")])[0]:
        assert not is_array(each)
    assert not is_array(numpy.ndarray)


class Image:
    """An object of a library that numpy can read."""

    def __init__(self, **interface: object) -> None:
        self.__array_interface__ = {"version": 3, **interface}


def test_other_libraries_have_arrays_too() -> None:
    made = as_array(Image(shape=(2, 2), typestr="|u1", data=b"abcd"))
    assert (made.shape, bytes(made.data)) == ((2, 2), b"abcd")
    strided = Image(shape=(2,), typestr="|u1", data=b"abcd", strides=(2,))
    assert as_array(strided).tolist() == [97, 99]
    with pytest.raises(NotAnArray):
        as_array(Image(typestr="|u1"))


@pytest.mark.parametrize(
    ("buffer", "dtype", "values"),
    [
        (array.array("d", [1, 2]), "<f8", [1.0, 2.0]),
        (array.array("H", [1, 2]), "<u2", [1, 2]),
        ((ctypes.c_int32 * 2)(1, -2), "<i4", [1, -2]),
        ((ctypes.c_uint16.__ctype_be__ * 2)(1, 2), ">u2", [1, 2]),
        (memoryview(array.array("f", [1, 2])), "<f4", [1.0, 2.0]),
        (memoryview(array.array("q", [1, 2, 3]))[::2], "<i8", [1, 3]),
        (memoryview(bytes(8)).cast("B").cast("i", [1, 2]), "<i4", [[0, 0]]),
    ],
)
def test_buffers_of_larger_elements_are_arrays(buffer: object, dtype: str, values: object) -> None:
    assert is_array(buffer)
    made = as_array(buffer)
    assert (made.dtype, made.tolist()) == (dtype, values)


@pytest.mark.parametrize(
    "buffer", [b"x", bytearray(b"x"), memoryview(b"x"), "x", [1], {}, object()]
)
def test_bytes_are_no_arrays(buffer: object) -> None:
    assert not is_array(buffer)


def test_a_buffer_of_unknown_elements_is_refused() -> None:
    class Pair(ctypes.Structure):
        _fields_ = (("a", ctypes.c_int), ("b", ctypes.c_int))

    with pytest.raises(NotAnArray, match="the format of the buffer"):
        as_array((Pair * 2)())


NESTED: list[object] = ["<i4"]
for _ in range(20):
    NESTED = [("a", NESTED if isinstance(NESTED[0], tuple) else "<i4")]


@pytest.mark.parametrize(
    ("dtype", "shape", "why"),
    [
        ("<f8", [3], "16 bytes for a shape of 24 bytes"),
        ("<f8", [1 << 61], "bytes for a shape of|too large"),
        ("<f8", [1 << 62], "not negative"),
        ("<f8", [-2], "not negative"),
        ("<f8", [True, 2], "not negative"),
        ("<f8", [2.0], "not negative"),
        ("<f8", [0, 1 << 33], "too large"),
        ("<f8", [1 << 31, 1 << 31, 4], "too large"),
        ("<f8", [1] * (MAX_DIMENSIONS + 1), "at most 64 dimensions"),
        ("|O", [2], "Python objects"),
        ("|V0", [0], "no supported data type"),
        ("<f3", [2], "no supported data type"),
        ("f8", [2], "no supported data type"),
        ("<M8[week]", [2], "no supported data type"),
        ("<f8" + " " * 40, [2], "no supported data type"),
        ("<f٨", [2], "no supported data type"),
        ([], [2], "the fields must be a list"),
        ([("a", "<f8"), ("a", "<f8")], [1], "two fields have the name 'a'"),
        ([("a",)], [1], "a field must be"),
        ([("a", "<f8", [1 << 62])], [1], "not negative"),
        ([("", "|i1")] * (MAX_FIELDS + 1), [1], "at most 1024"),
        (NESTED, [1], "nested too deeply"),
    ],
)
def test_s6_a_description_must_agree_with_its_memory(
    dtype: str, shape: list[int], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Array(bytes(16), dtype, shape)


def test_s6_an_array_has_an_order() -> None:
    with pytest.raises(ValueError, match="not 'C' or 'F'"):
        Array(bytes(16), "<f8", [2], "A")


def test_an_array_shows_its_type_and_shape() -> None:
    made = Array(bytes(48), "<f8", [2, 3], "F")
    assert repr(made) == "<Array <f8 (2, 3)>"
    assert (made.ndim, made.nbytes, made.strides) == (2, 48, (8, 16))
    assert Array(bytes(48), "<f8").shape == (6,)


def test_json_has_lists_for_numbers_and_a_map_for_other_elements() -> None:
    assert dump_json({"a": Array(struct.pack("<2d", 1, 2), "<f8")}) == '{"a": [1.0, 2.0]}'
    assert dump_json(Array(struct.pack("<d", float("nan")), "<f8")) == '[{"$float": "nan"}]'
    times = numpy.array(["2026-01-31"], "M8[D]")
    text = dump_json(as_array(times))
    assert text == '{"$array": ["<M8[D]", [1], "C", "BFAAAAAAAAA="]}'
    back = load_json(text)
    assert isinstance(back, Array)
    assert (numpy.asarray(back) == times).all()
    structured = numpy.zeros(2, [("a", "<i4"), ("b", "<f8", (2,))])
    again = load_json(dump_json(as_array(structured)))
    assert numpy.asarray(again).dtype == structured.dtype


@pytest.mark.parametrize("dtype", ["<U4", ">U4"])
def test_json_has_lists_of_text_for_arrays_of_text(dtype: str) -> None:
    words = numpy.array([["spam", "ä"], ["", "𝄞"]], dtype)
    assert dump_json(as_array(words)) == '[["spam", "ä"], ["", "𝄞"]]'
    assert dump_json(as_array(words[:, :0])) == "[[], []]"
    assert dump_json(as_array(numpy.array("a"))) == '"a"'


def test_s6_json_of_an_array_of_invalid_text_is_its_memory() -> None:
    assert dump_json(Array(b"\xff" * 4, "<U1")) == '{"$array": ["<U1", [1], "C", "/////w=="]}'


def test_json_of_a_large_array_is_refused() -> None:
    with pytest.raises(
        ValueError, match="an array of 1048577 elements; at most 1048576 become JSON"
    ):
        dump_json(Array(bytes(MAX_ELEMENTS + 1), "|u1"))


@pytest.mark.parametrize(
    "text",
    ['{"$array": ["<f8", [2], "C", "AAAA"]}', '{"$array": ["<f8", [2]]}', '{"$array": [1, [], "C", ""]}',
     '{"$array": ["|u1", [2], "C", "ü"]}'],
)  # fmt: skip
def test_s6_json_of_an_array_that_does_not_agree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$array|Base64"):
        load_json(text)
