"""What functions look like to somebody who wants to call them.

The function ``spear.describe``, which every agent answers and none announces, returns a list of maps with
``name``, ``kind`` (``function`` or ``stream``), ``signature`` and ``summary``.
"""

from __future__ import annotations

import inspect
import logging
import re
from types import FunctionType
from typing import TYPE_CHECKING, Final, final

from spear._signatures import DESCRIBE, MAX_SIGNATURE

from ._as_written import signature_of
from ._functions import AsyncFunction, RegisteredFunction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._arguments import AnyFunction

logger: Final = logging.getLogger("spear.agent")

_OURS: Final = re.compile(r"\bspear\.(?:\w+\.)*_\w+\.(?=\w)")
"""Where a class of ours is written, which is not where it is imported from."""


@final
class _Text:
    """An annotation that is text already: ``inspect`` would put it into quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def describe(functions: Iterable[RegisteredFunction]) -> list[dict[str, str]]:
    """Return descriptions of the functions; leave out a function that cannot be described."""
    described: list[dict[str, str]] = []
    for function in functions:
        try:
            described.append(_describe(function))
        except (Exception, SystemExit) as error:  # the repr of a default or an annotation may
            logger.warning("%s() is not described: %s", function.name, type(error).__name__)
    return described


def _describe(function: RegisteredFunction) -> dict[str, str]:
    lines = (inspect.getdoc(function.function) or "").splitlines()
    signature = f"{function.name}{_signature(function.function)}"
    if len(signature) > MAX_SIGNATURE:
        raise ValueError(f"a signature of {len(signature)} characters")
    return {
        "name": function.name,
        "kind": function.kind,
        "signature": _as_unicode(signature),
        "summary": _as_unicode(lines[0]) if lines else "",
    }


def _as_unicode(text: str) -> str:
    """The text with its lone surrogates, which cannot be sent, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _signature(function: AnyFunction) -> str:
    try:
        signature = signature_of(function)
    except ValueError:  # some functions that are written in C
        return "(...)"
    from ._wrappers import what_it_takes

    parameters: list[inspect.Parameter] = []
    for each in reversed(what_it_takes(function).parameters):
        default, kind = each.default, each.kind
        # What a wrapper adds in front may be optional, or have a name, where what follows is or has not.
        if parameters and kind in _BY_POSITION and parameters[0].kind in _BY_POSITION:
            default = default if parameters[0].default is not each.empty else each.empty
            kind = min(kind, parameters[0].kind)
        annotation = _as_written(each.annotation)
        parameters.insert(0, each.replace(annotation=annotation, default=default, kind=kind))
    returns = _as_written(signature.return_annotation)
    text = str(signature.replace(parameters=parameters, return_annotation=returns))
    return _OURS.sub("spear.", text)


_BY_POSITION: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def _as_written(annotation: object) -> object:
    return _Text(annotation) if isinstance(annotation, str) else annotation


def describing(functions: Iterable[RegisteredFunction]) -> RegisteredFunction:
    """The function that describes these, as they are when it is called."""

    async def describe_all() -> list[dict[str, str]]:
        return describe(functions)

    assert isinstance(describe_all, FunctionType)  # mypy knows less
    return AsyncFunction(DESCRIBE, describe_all)
