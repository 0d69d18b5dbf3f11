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
    return _numpy_check(_element_type(arguments))


def _element_type(arguments: tuple[object, ...]) -> type | None:
    """Return the ``float64`` of ``ndarray[tuple[Any, ...], dtype[float64]]``; None for any type."""
    for dtype in arguments[1:]:
        for each in typing.get_args(dtype):
            of_any_size = typing.get_origin(each) or each  # `floating` of `floating[Any]`
            if isinstance(of_any_size, type) and of_any_size is not types.UnionType:
                return of_any_size
    return None


def _numpy_check(wanted: type | None) -> Check:
    """Return the check that makes numpy arrays, of a type of elements or of any.

    Lists of numbers or of text become arrays, too, because JSON has no others.
    """
    numpy = sys.modules["numpy"]
    check = Check(f"an array of {wanted.__name__}" if wanted else "an array", numpy.ndarray)
    if wanted is numpy.object_:
        check.impossible = wanted

    def convert(value: object) -> object:
        if type(value) is Array:
            made = as_numpy(value)
            if wanted is not None and not numpy.issubdtype(made.dtype, wanted):  # type: ignore[attr-defined]  # see as_numpy()
                text = f"an array of {made.dtype}"  # type: ignore[attr-defined]  # likewise
                raise Mismatch(f"expected {check.text}, got {text}", expected=check.text, got=text)
            return made
        if type(value) is not list:
            raise check.mismatch(value)
        try:
            made = _of_lists(value, _dtype_for(wanted))
        except (TypeError, ValueError, OverflowError) as error:
            raise Mismatch(f"expected {check.text}, got a list: {error}") from None
        return made

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


def _dtype_for(wanted: type | None) -> type | None:
    """Return the type of elements for numpy; None for an abstract one, such as ``floating``."""
    concrete = (bool, int, float, complex, *sys.modules["numpy"].sctypeDict.values())
    return wanted if wanted in concrete else None
