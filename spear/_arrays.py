"""Arrays as data: shape, type of the elements, and memory. A leaf module.

An :class:`Array` has the form in which arrays travel, so this module checks what a peer says of an array:
data type, shape and size must agree. It never imports numpy. Objects of numpy are recognized by their
attributes, and numpy is used only if the program has loaded it.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from struct import calcsize, iter_unpack
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DIMENSIONS: Final = 64
"""Dimensions of an array; numpy allows no more."""

MAX_DTYPE: Final = 32
"""Characters of the text of a data type."""

MAX_FIELDS: Final = 1024
"""Fields of a structured data type, those of nested fields included."""

MAX_FIELD_LEVELS: Final = 16
"""Levels of structured fields inside of one another."""

MAX_EMPTY: Final = 1 << 32
"""Elements of an array without elements, if each dimension of 0 were 1. The size of other arrays is
limited by their memory."""

_NUMBERS: Final = (
    r"\|b1|\|[iu]1|[<>](?:[iu][248]|f(?:[248]|12|16)|c(?:8|16|24|32))"
    r"|[<>][mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as|generic)\])?"
)
_STRINGS: Final = r"(?:\|[SV]|[<>]U)([1-9][0-9]{0,8})"
# Not compiled before there is an array: most processes never see one.

_FORMATS: Final = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd",
}  # fmt: skip
"""The elements that Python can read without numpy: their format for ``struct``."""

_NATIVE: Final = "<" if sys.byteorder == "little" else ">"
_BYTES_OF_FORMAT: Final = {
    "h": "i2", "H": "u2", "e": "f2", "f": "f4", "d": "f8", "Zf": "c8", "Zd": "c16",
    **{each: f"i{calcsize(each)}" for each in "ilqn"},
    **{each.upper(): f"u{calcsize(each)}" for each in "ilqn"},
}  # fmt: skip
"""Native formats of buffers whose elements have several bytes, as kinds and sizes of elements."""

Field: TypeAlias = (
    "tuple[str, str | tuple[Field, ...]] | tuple[str, str | tuple[Field, ...], tuple[int, ...]]"
)
"""A field of a structured data type: a name, a data type or further fields, and perhaps a shape."""


@final
class InvalidArray(ValueError):
    """The parts of an array do not agree, or it cannot be sent.

    Attributes:
        why: the reason.
        instead: advice on what to send instead, if there is any.
    """

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(f"not a valid array: {why}")
        self.why = why
        self.instead = instead


@lru_cache(maxsize=256)
def _bytes_of(dtype: str) -> int:
    """Return the bytes of one element of a plain data type. Raises ValueError."""
    if len(dtype) <= MAX_DTYPE:
        if re.fullmatch(_NUMBERS, dtype, re.ASCII):
            return int(dtype[2:].partition("[")[0])
        if found := re.fullmatch(_STRINGS, dtype, re.ASCII):
            return int(found[1]) * (4 if dtype[1] == "U" else 1)
        if dtype == "|O":
            raise InvalidArray("the elements are Python objects")
    raise InvalidArray(f"{dtype[:MAX_DTYPE]!r} is no supported data type")


def _size_of(shape: object, element_bytes: int) -> tuple[tuple[int, ...], int]:
    """Return a checked shape, and the bytes that it takes. Raises ValueError."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMENSIONS:
        raise InvalidArray(f"a shape must be a list of at most {MAX_DIMENSIONS} dimensions")
    count, total = 1, element_bytes
    for each in shape:
        if type(each) is not int or not 0 <= each < 1 << 62:
            raise InvalidArray("a dimension must be a whole number that is not negative")
        count *= each or 1
        total *= each
        if count > (1 << 62 if total else MAX_EMPTY):
            raise InvalidArray("the shape is too large")
    return tuple(shape), total


class _FieldReader:
    """A reader of the fields of a structured data type, which counts them."""

    def __init__(self) -> None:
        self._count = 0

    def read(self, fields: object, levels: int = MAX_FIELD_LEVELS) -> tuple[tuple[Field, ...], int]:
        """Return checked fields, and the bytes that they take together. Raises ValueError."""
        if not isinstance(fields, list | tuple) or not fields or not levels:
            raise InvalidArray("the fields must be a list, and not nested too deeply")
        checked: list[Field] = []
        total, names = 0, set()
        for field in fields:
            self._count += 1
            if (
                not isinstance(field, list | tuple)
                or len(field) not in (2, 3)
                or type(field[0]) is not str
                or self._count > MAX_FIELDS
            ):
                raise InvalidArray(f"a field must be a name and a data type; at most {MAX_FIELDS}")
            name, dtype = field[0], field[1]
            if name and name in names:
                raise InvalidArray(f"two fields have the name {name[:40]!r}")
            names.add(name)
            kind: str | tuple[Field, ...] = dtype
            if isinstance(dtype, str):
                size = _bytes_of(dtype)
            else:
                kind, size = self.read(dtype, levels - 1)
            if len(field) == 3:
                shape, size = _size_of(field[2], size)
                checked.append((name, kind, shape))
            else:
                checked.append((name, kind))
            total += size
        return tuple(checked), total


@final
class Array:
    """An array that has arrived from another process, or that can be sent to one.

    ``numpy.asarray(array)`` returns a read-only numpy array of the same memory. ``array[index]``, loops
    and ``len(array)`` are those of that numpy array; without numpy, those of :meth:`tolist`. Arrays
    compare by identity, and can be pickled. An array that a call has brought may lie in memory shared
    with the other process: the array keeps that memory until nothing uses the array.

    Args:
        data: the memory of the elements, which must not change while the array is used.
        dtype: the type of the elements, as numpy writes it: ``"<f8"``, ``"|u1"``, ``"<M8[ns]"``; or the
            fields of structured elements: tuples of a name, a type or further fields, and perhaps a
            shape. A field without a name is padding.
        shape: the length of each dimension; by default one dimension of all elements.
        order: ``"C"`` if the last dimension varies fastest, ``"F"`` if the first one does.

    Raises:
        ValueError: the parts do not agree, or the elements are Python objects.
    """

    __slots__ = ("__weakref__", "data", "dtype", "fields", "order", "shape")

    data: memoryview
    """The memory of the elements, read-only, as bytes."""

    dtype: str
    """The type of the elements, as numpy writes it; ``"|V"`` and a size in bytes if structured."""

    fields: tuple[Field, ...]
    """The fields of structured elements; empty for others."""

    order: str
    """Which dimension varies fastest in memory: "C" for the last one, "F" for the first one."""

    shape: tuple[int, ...]
    """The length of each dimension; empty if the array has no dimensions, and one element."""

    def __init__(
        self,
        data: bytes | bytearray | memoryview,
        dtype: str | tuple[Field, ...] | list[Field],
        shape: tuple[int, ...] | list[int] | None = None,
        order: str = "C",
    ) -> None:
        if isinstance(dtype, str):
            self.fields, size = (), _bytes_of(dtype)
        else:
            self.fields, size = _FieldReader().read(dtype)
            dtype = f"|V{size}"
        view = memoryview(data).toreadonly().cast("B")
        if shape is None:
            shape = (view.nbytes // size,)
        self.shape, nbytes = _size_of(shape, size)
        if view.nbytes != nbytes:
            raise InvalidArray(f"{view.nbytes} bytes for a shape of {nbytes} bytes")
        if order not in ("C", "F"):
            raise InvalidArray(f"the order is {str(order)[:40]!r}, not 'C' or 'F'")
        self.data, self.dtype, self.order = view, dtype, order

    def __repr__(self) -> str:
        return f"<Array {self.dtype} {self.shape}>"

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.data.nbytes

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, in each dimension."""
        step, strides = _bytes_of(self.dtype), []
        for each in self.shape if self.order == "F" else reversed(self.shape):
            strides.append(step)
            step *= each
        return tuple(strides if self.order == "F" else reversed(strides))

    @property
    def __array_interface__(self) -> dict[str, object]:
        """The array as numpy and other libraries read it, without a copy."""
        if _has_padding(self.fields):
            # numpy would make a field of each padding: let it call __array__() instead.
            raise AttributeError("__array_interface__")
        interface = {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype,
            "data": self.data,
            "strides": self.strides if self.order == "F" else None,
        }
        if self.fields:
            interface["descr"] = _as_lists(self.fields)
        return interface

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, index: object) -> object:
        return self._elements()[index]  # type: ignore[index]  # numpy's array, or a list

    def __iter__(self) -> Iterator[object]:
        return iter(self._elements())  # type: ignore[call-overload,no-any-return]  # likewise

    def __reduce__(self) -> tuple[object, ...]:
        return Array, (bytes(self.data), self.fields or self.dtype, self.shape, self.order)

    def __getattr__(self, name: str) -> object:
        if name.startswith("_") or name in Array.__slots__:
            raise AttributeError(name)
        raise AttributeError(
            f"spear.Array has no attribute {name!r}: make a numpy array of it, numpy.asarray(array), or "
            "numpy.array(array) to write to; f.options(returns=numpy.ndarray) returns one"
        )

    def _elements(self) -> object:
        """Return the array of numpy, if the program has loaded numpy; else the elements in lists."""
        return as_numpy(self) if "numpy" in sys.modules else self.tolist()

    def __array__(self, dtype: object = None, copy: bool | None = None) -> object:
        """Return a numpy array of the same memory; with another type, or if asked for, a copy."""
        made = as_numpy(self)
        if dtype is not None or copy:
            made = made.astype(dtype or made.dtype, copy=bool(copy))  # type: ignore[attr-defined]  # numpy is not imported
        return made

    @property
    def has_numbers(self) -> bool:
        """Whether Python has the elements as numbers."""
        return self.dtype[1:] in _FORMATS

    def tolist(self) -> object:
        """Return the elements as numbers or text in nested lists; without dimensions, only the element.

        Raises:
            TypeError: the elements are neither text nor numbers that Python has: times, or structured.
            ValueError: an element is no valid text.
        """
        if self.dtype[1] == "U":
            size, codec = _bytes_of(self.dtype), f"utf-32-{'be' if self.dtype[0] == '>' else 'le'}"
            texts = [part.decode(codec) for (part,) in iter_unpack(f"{size}s", self.data)]
            return self._nested([each.rstrip("\0") for each in texts])
        layout = _FORMATS.get(self.dtype[1:])
        if layout is None:
            raise TypeError(f"elements of the type {self.dtype} have no form as numbers")
        order = ">" if self.dtype[0] == ">" else "<"
        pairs = iter_unpack(order + layout, self.data)
        # One of several kinds of numbers, which lists of lists do not tell apart.
        flat: list[object] = (
            [complex(*pair) for pair in pairs] if len(layout) == 2 else [one for (one,) in pairs]
        )
        return self._nested(flat)

    def _nested(self, flat: list[object]) -> object:
        steps = [each // _bytes_of(self.dtype) for each in self.strides]
        return _nested(flat, self.shape, steps, 0)


@final
class ArrayPieces:
    """An array of bytes in several pieces of memory, which arrives as one :class:`Array`.

    Attributes:
        pieces: the memory, as bytes, in order.
        nbytes: bytes of all of it.
        shape: one dimension of so many bytes.
    """

    __slots__ = ("nbytes", "pieces", "shape")

    dtype = "|u1"
    fields: tuple[Field, ...] = ()
    order = "C"

    def __init__(self, pieces: list[memoryview]) -> None:
        self.pieces = pieces
        self.nbytes = sum(each.nbytes for each in pieces)
        self.shape = (self.nbytes,)


def _nested(flat: list[object], shape: tuple[int, ...], steps: list[int], at: int) -> object:
    """Return the elements from the index ``at`` on, in lists of this shape."""
    if not shape:
        return flat[at]
    if len(shape) == 1 and shape[0]:
        return flat[at : at + (shape[0] - 1) * steps[0] + 1 : steps[0]]
    return [_nested(flat, shape[1:], steps[1:], at + each * steps[0]) for each in range(shape[0])]


def _has_padding(fields: tuple[Field, ...]) -> bool:
    return any(
        not field[0] or (isinstance(field[1], tuple) and _has_padding(field[1])) for field in fields
    )


def _as_lists(fields: tuple[Field, ...]) -> list[object]:
    """Return fields as numpy writes them: a list for each data type with fields of its own."""
    return [
        (field[0], _as_lists(field[1]) if isinstance(field[1], tuple) else field[1], *field[2:])
        for field in fields
    ]


# -- numpy ----------------------------------------------------------------------------------------------


def as_numpy(array: Array) -> object:
    """Return the numpy array of an array's memory, without a copy. The program must have loaded numpy."""
    numpy = sys.modules["numpy"]
    return numpy.ndarray(
        array.shape, _numpy_dtype(array.dtype, array.fields), array.data, order=array.order
    )


def _numpy_dtype(dtype: str, fields: tuple[Field, ...]) -> object:
    """Return the data type for numpy. Padding takes bytes there, and is no field."""
    numpy = sys.modules["numpy"]
    if not fields:
        return numpy.dtype(dtype)
    names, formats, offsets, at = [], [], [], 0
    for field in fields:
        kind = field[1]
        inner = numpy.dtype(kind if isinstance(kind, str) else _numpy_dtype("", kind))
        whole = numpy.dtype((inner, field[2])) if len(field) == 3 else inner
        if field[0]:
            names.append(field[0])
            formats.append(whole)
            offsets.append(at)
        at += whole.itemsize
    return numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})


# -- objects that are arrays ----------------------------------------------------------------------------


@final
class NotAnArray(TypeError):
    """An object looks like an array and cannot be sent; the message says why.

    Attributes:
        instead: advice on what to send instead; empty if the class alone says it.
    """

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(why)
        self.instead = instead


def is_array(value: object) -> bool:
    """Return whether a value is sent as an array: by its interface, or its buffer of larger elements."""
    if type(value) is Array:
        return True
    if hasattr(value, "__array_interface__") and not isinstance(value, type):
        numpy = sys.modules.get("numpy")
        return numpy is None or not isinstance(value, numpy.generic)  # a scalar
    if isinstance(value, bytes | bytearray | str | int | float):
        return False
    try:
        with memoryview(value) as view:  # type: ignore[arg-type]  # or it raises
            return view.itemsize > 1
    except (TypeError, ValueError, BufferError):
        return False


def as_array(value: object) -> Array:
    """Return an object for which :func:`is_array` is true as an array; copied if its memory has gaps.

    Raises:
        NotAnArray: the elements are Python objects, or the object cannot be described.
    """
    if type(value) is Array:
        return value
    try:
        if hasattr(value, "__array_interface__"):
            return _of_interface(value)
        return _of_buffer(memoryview(value))  # type: ignore[arg-type]  # see is_array()
    except InvalidArray as error:
        raise NotAnArray(error.why, error.instead) from error
    except (ValueError, TypeError, KeyError, AttributeError, BufferError) as error:
        raise NotAnArray(f"it cannot be read: {error}") from error


def _of_buffer(view: memoryview) -> Array:
    prefix = view.format[0] if view.format[0] in "<>=@!" else "@"
    kind = _BYTES_OF_FORMAT.get(view.format.lstrip("<>=@!"))
    if kind is None:
        raise InvalidArray(f"the format of the buffer is {view.format[:40]!r}")
    if int(kind[1:]) != view.itemsize:  # the sizes of "l" differ with a prefix
        kind = f"{kind[0]}{view.itemsize}"
    dtype = (">" if prefix in ">!" else "<" if prefix == "<" else _NATIVE) + kind
    if view.ndim and view.f_contiguous and not view.c_contiguous:
        return Array(view.tobytes(order="F"), dtype, view.shape, "F")
    if not view.c_contiguous or not view.nbytes or prefix != "@":
        return Array(view.tobytes(), dtype, view.shape)
    return Array(view.cast("B"), dtype, view.shape)


def _of_interface(value: object) -> Array:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _of_numpy(value)
    interface = cast("dict[str, object]", value.__array_interface__)  # type: ignore[attr-defined]  # see is_array()
    dtype, shape = interface["typestr"], interface["shape"]
    data = interface.get("data")
    if isinstance(data, tuple) or data is None or interface.get("strides") is not None:
        if numpy is None:
            data = memoryview(value)  # type: ignore[arg-type]  # or it raises
            if not data.c_contiguous:
                raise InvalidArray("its memory has gaps")
            data = data.cast("B") if data.nbytes else b""
        else:
            return _of_numpy(numpy.asarray(value))
    return Array(data, _with_fields(dtype, interface.get("descr")), shape)  # type: ignore[arg-type]  # checked there


def _with_fields(dtype: object, descr: object) -> object:
    """Return the fields of numpy's description, or the data type that ``[("", dtype)]`` describes."""
    return descr if isinstance(descr, list) and descr != [("", dtype)] else dtype


def _of_numpy(value: object) -> Array:
    numpy = sys.modules["numpy"]
    array = numpy.asanyarray(value)  # the same object
    dtype, order = array.dtype, "C"
    if isinstance(array, numpy.ma.MaskedArray):
        raise InvalidArray("its mask would be lost")
    if type(array) not in (numpy.ndarray, numpy.memmap):
        raise InvalidArray(
            "its class would be lost",
            "a plain array, such as numpy.asarray(value), or an object with a codec (spear.codec)",
        )
    if dtype.hasobject:
        raise InvalidArray("the elements are Python objects")
    if not dtype.itemsize:
        raise InvalidArray("the elements have no bytes")
    kind = _with_fields(dtype.str, array.__array_interface__["descr"])
    if dtype.names is not None and kind == dtype.str:
        raise InvalidArray("its fields overlap, or are not in the order of the memory")
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array, order = array.T, "F"
    shape = array.shape if order == "C" else array.shape[::-1]
    if not array.flags.c_contiguous:
        whole = numpy.zeros(
            array.shape, dtype
        )  # empty() would send the old contents between the fields
        whole[...] = array
        array = whole
    flat = array.reshape(-1)
    data = flat.view(numpy.uint8).data if array.size else b""
    return Array(data, kind, shape, order)  # type: ignore[arg-type]  # checked there
