"""Checks of the callbacks that a program gives to a host. A leaf module."""

from __future__ import annotations

from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TypeVar

from ._errors import ConfigurationError

T = TypeVar("T")


def expect_plain_function(name: str, function: T) -> T:
    """Return ``function``. Raises ConfigurationError unless :func:`is_plain_function` is true of it."""
    if not is_plain_function(function):
        raise ConfigurationError.about(
            name, f"must be a plain function (neither async nor a generator), not {function!r:.100}"
        )
    return function


def is_plain_function(value: object) -> bool:
    """Return whether a value can be called, and has done its work when the call returns.

    An async function or a generator function would only return an object, and its body would never run.
    """
    call = getattr(type(value), "__call__", None)  # noqa: B004  # of an object with such a method
    kinds = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
    return callable(value) and not any(is_kind(each) for is_kind in kinds for each in (value, call))
