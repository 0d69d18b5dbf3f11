"""Functions that a program hands over to be called by a host: whether they can be. A leaf."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TypeVar

from ._errors import ConfigurationError

T = TypeVar("T")


def expect_plain_function(name: str, function: T) -> T:
    """Return a function of the program. Raises ConfigurationError for one that has to be awaited."""
    if not is_plain_function(function):
        raise ConfigurationError.about(
            name,
            f"must be a plain function, which is called and not awaited, not {function!r:.100}",
        )
    return function


def is_plain_function(value: object) -> bool:
    """Whether a value can be called and has done its work when it returns.

    An async function or a generator would only make an object, whose body never runs.
    """
    call = getattr(type(value), "__call__", None)  # noqa: B004  # of an object with such a method
    kinds = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
    return callable(value) and not any(is_kind(each) for is_kind in kinds for each in (value, call))
