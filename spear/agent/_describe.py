"""Descriptions of an agent's functions for their callers.

Every agent has the function ``spear.describe``, which is not announced to the host. It returns a list of
maps with ``name``, ``kind`` (``function`` or ``stream``), ``signature`` and ``summary``.
"""

from __future__ import annotations

import inspect
import logging
import re
from types import FunctionType
from typing import TYPE_CHECKING, Final, final

from spear._signatures import DESCRIBE, MAX_SIGNATURE
from spear.annotations import signature_of

from ._functions import AsyncFunction, RegisteredFunction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._arguments import AnyFunction

logger: Final = logging.getLogger("spear.agent")

_OURS: Final = re.compile(r"\bspear\.(?:\w+\.)*_\w+\.(?=\w)")
"""The private module path before a class of Spear in a signature, to be replaced by ``spear.``."""


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
    from ._wrappers import lambda_context, what_it_takes

    parameters: list[inspect.Parameter] = []
    takes = what_it_takes(function)
    context = lambda_context(takes.parameters) if takes.is_certain else None
    for each in reversed(takes.parameters):
        default, kind = each.default, each.kind
        if each is context:
            default = None  # the agent adds it
        # A wrapper may add optional or named parameters before required or positional-only ones.
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
    """Return the function ``spear.describe``, which describes ``functions`` when it is called."""

    async def describe_all() -> list[dict[str, str]]:
        return describe(functions)

    assert isinstance(describe_all, FunctionType)  # for mypy
    return AsyncFunction(DESCRIBE, describe_all)
