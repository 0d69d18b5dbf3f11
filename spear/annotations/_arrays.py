"""Checks of arrays: ``spear.Array``, and numpy's ndarray if the program has loaded numpy."""

from __future__ import annotations

import sys
import types
import typing
from typing import Final

from spear._arrays import Array, as_numpy

from ._check import Build, Check
from ._mismatch import Mismatch


def array_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a class of arrays; None for another class."""
    if cls is Array:
        return Check("Array", Array)
    numpy = sys.modules.get("numpy")
    if numpy is None or cls is not getattr(numpy, "ndarray", None):
        return None
    return _numpy_check(_element_types(arguments))


def _element_types(arguments: tuple[object, ...]) -> list[type]:
    """Return the ``float64`` of ``ndarray[tuple[Any, ...], dtype[float64]]``; empty for any type."""
    found: list[type] = []
    for dtype in arguments[1:]:
        for each in typing.get_args(dtype):
            is_union = typing.get_origin(each) in (typing.Union, types.UnionType)
            for one in typing.get_args(each) if is_union else (each,):
                of_any_size = typing.get_origin(one) or one  # `floating` of `floating[Any]`
                if not isinstance(of_any_size, type) or of_any_size is typing.Any:
                    return []
                found.append(of_any_size)
    return found


def _numpy_check(wanted: list[type]) -> Check:
    """Return the check that makes numpy arrays, whose elements have one of these types; empty for any.

    Lists of numbers or of text become arrays, too, because JSON has no others.
    """
    numpy = sys.modules["numpy"]
    elements = " | ".join(each.__name__ for each in wanted)
    check = Check(f"an array of {elements}" if wanted else "an array", numpy.ndarray)
    if wanted == [numpy.object_]:
        check.impossible = wanted[0]

    def convert(value: object) -> object:
        if type(value) is Array:
            made = as_numpy(value)
            found = made.dtype  # type: ignore[attr-defined]  # see as_numpy()
            if wanted and not any(numpy.issubdtype(found, each) for each in wanted):
                text = f"an array of {found}"
                raise Mismatch(f"expected {check.text}, got {text}", expected=check.text, got=text)
            return made
        if type(value) is not list:
            raise check.mismatch(value)
        reason = ""
        for dtype in [_dtype_for(each) for each in wanted] or [None]:
            try:
                return _of_lists(value, dtype)
            except (TypeError, ValueError, OverflowError) as error:
                reason = reason or str(error)
        raise Mismatch(f"expected {check.text}, got a list: {reason}")

    check.complete(convert)
    return check


_RANKS: Final = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
"""Kinds of numbers; a number may become one of a kind with a higher rank."""


def _of_lists(value: list[object], dtype: type | None) -> object:
    """Return the array of the elements of lists. Raises an exception that says why there is none."""
    numpy = sys.modules["numpy"]
    found = numpy.array(value)  # without the type, of which numpy would make NaN of None
    if found.dtype.kind == "U" and dtype in (None, numpy.str_) and found.tolist() == value:
        return found
    if found.dtype.kind not in _RANKS:
        raise ValueError('it has other values than numbers (NaN is {"$float": "nan"} in JSON)')
    if dtype is None:
        return found
    rank = _RANKS.get(numpy.dtype(dtype).kind, -1)
    if found.size and rank < _RANKS[found.dtype.kind]:
        raise ValueError(f"it has numbers of the type {found.dtype}")
    made = numpy.array(value, dtype)
    if rank == 1 and not (made == found).all():
        raise ValueError("it has numbers beyond the range of the type")
    return made


def _dtype_for(wanted: type) -> type | None:
    """Return the type of elements for numpy; None for an abstract one, such as ``floating``."""
    concrete = (bool, int, float, complex, *sys.modules["numpy"].sctypeDict.values())
    return wanted if wanted in concrete else None
