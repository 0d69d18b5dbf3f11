"""Descriptions of an agent's functions for their callers.

Every agent has the function ``spear.describe``, which is not announced to the host. It returns a list of
maps with ``name``, ``kind`` (``function`` or ``stream``), ``signature`` and ``summary``.
"""

from __future__ import annotations

import inspect
import logging
import operator
import re
import types
import typing
from enum import Enum, Flag
from functools import reduce
from types import FunctionType
from typing import TYPE_CHECKING, Final, final

from spear._signatures import DESCRIBE, MAX_SIGNATURE, without_objects
from spear.annotations import signature_of

from ._functions import AsyncFunction, RegisteredFunction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._arguments import AnyFunction

logger: Final = logging.getLogger("spear.agent")

_OURS: Final = re.compile(r"\bspear\.(?:\w+\.)*_\w+\.(?=\w)")
"""The private module path before a class of Spear in a signature, to be replaced by ``spear.``."""


MAX_MEMBERS: Final = 20
"""Members of an enum that a signature shows by their values; it names an enum that has more."""


@final
class _Text:
    """An annotation that is text, shown without the quotes that ``inspect`` would add."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def describe(functions: Iterable[RegisteredFunction]) -> list[dict[str, str]]:
    """Return descriptions of the functions, except functions that cannot be described."""
    described: list[dict[str, str]] = []
    for function in functions:
        try:
            described.append(_describe(function))
        except (Exception, SystemExit) as error:  # the repr of a default or an annotation may raise
            logger.warning("%s() has no description: %s", function.name, type(error).__name__)
    return described


def _describe(function: RegisteredFunction) -> dict[str, str]:
    lines = (inspect.getdoc(function.function) or "").splitlines()
    signature = f"{function.name}{_signature(function.function)}"
    if len(signature) > MAX_SIGNATURE:
        raise ValueError(
            f"the signature has {len(signature)} characters; at most {MAX_SIGNATURE} are allowed"
        )
    return {
        "name": function.name,
        "kind": function.kind,
        "signature": _as_unicode(signature),
        "summary": _as_unicode(lines[0]) if lines else "",
    }


def _as_unicode(text: str) -> str:
    """Return the text with escapes for lone surrogates, which cannot be sent."""
    return text.encode("utf-8", "backslashreplace").decode()


def _signature(function: AnyFunction) -> str:
    try:
        signature = signature_of(function)
    except ValueError:  # such as some functions written in C
        return "(...)"
    from ._wrappers import for_callers, what_it_takes

    takes = what_it_takes(function)
    parameters = [
        each.replace(
            annotation=_with_values(takes.hints.get(each.name), _as_written(each.annotation)),
            default=_as_default(each.default),
        )
        for each in for_callers(takes)
    ]
    returns = _as_written(signature.return_annotation)
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    return without_objects(_OURS.sub("spear.", text))


def _as_written(annotation: object) -> object:
    return _Text(annotation) if isinstance(annotation, str) else annotation


def _with_values(hint: object, written: object) -> object:
    """Return an annotation with the values of an enum, from which callers choose; others as written."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum) and not issubclass(hint, Flag):
        values = tuple(each.value for each in hint)
        if 0 < len(values) <= MAX_MEMBERS and {*map(type, values)} <= {str, int}:
            return typing.Literal[values]
    elif origin in (typing.Union, types.UnionType):
        parts = [_with_values(each, each) for each in arguments]
        if any(part is not each for part, each in zip(parts, arguments, strict=True)):
            return reduce(operator.or_, parts)
    elif origin in (list, set, frozenset) and len(arguments) == 1:
        part = _with_values(arguments[0], arguments[0])
        if part is not arguments[0]:
            return types.GenericAlias(origin, (part,))
    return written


def _as_default(value: object) -> object:
    """Return a default whose repr callers can parse: the value of a member of an enum, or ``...``."""
    if value is inspect.Parameter.empty:
        return value
    value = value.value if isinstance(value, Enum) else value
    if value is None or type(value) in (bool, int, float, str):
        return value
    import ast  # takes long to load, and few functions need it

    text = without_objects(repr(value))
    try:
        ast.parse(f"_(_={text})", mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        text = "..."
    return _Text(text)


def describing(functions: Iterable[RegisteredFunction]) -> RegisteredFunction:
    """Return the function ``spear.describe``, which describes ``functions`` when it is called."""

    async def describe_all() -> list[dict[str, str]]:
        return describe(functions)

    assert isinstance(describe_all, FunctionType)  # for mypy
    return AsyncFunction(DESCRIBE, describe_all)
