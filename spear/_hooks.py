"""Functions that a program hands over to be called by a host: whether they can be. A leaf."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction


def is_plain_function(value: object) -> bool:
    """Whether a value can be called and has done its work when it returns.

    An async function or a generator would only make an object, whose body never runs.
    """
    call = getattr(type(value), "__call__", None)  # noqa: B004  # of an object with such a method
    kinds = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
    return callable(value) and not any(is_kind(each) for is_kind in kinds for each in (value, call))
