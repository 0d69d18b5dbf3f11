"""Checks of results and of streamed items, made from the annotation of a function's result."""

from __future__ import annotations

import typing
from collections import abc
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from spear._errors import FunctionRaised
from spear._signatures import STREAMS
from spear.annotations import annotations_of

from ._failures import about_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.annotations import Check, Mismatch

    from ._arguments import AnyFunction

_STREAM_CLASSES: Final = frozenset(getattr(abc, name) for name in STREAMS)


def make_result_check(function: AnyFunction, *, is_stream: bool) -> Check | None:
    """Return the check for a function's results, or for the items of its stream; None for no check.

    A wrapper has the annotation of the wrapped function, but may return something else.
    """
    inside: Callable[..., object] = function  # type: ignore[explicit-any]  # any function
    if isinstance(inside, partial):
        inside = inside.func
    annotation = annotations_of(inside).get("return")
    if annotation is None or (type(annotation) is str and annotation == "None"):
        return None
    if hasattr(inside, "__wrapped__"):
        return None
    from spear.annotations import build_result_check, resolve_hints

    with suppress(Exception):  # an unusual class, whose code raises
        is_class = isinstance(annotation, type) and not is_stream
        hint = annotation if is_class else resolve_hints(inside).get("return")
        if not is_stream:
            return build_result_check(hint)
        if typing.get_origin(hint) in _STREAM_CLASSES:
            return build_result_check(typing.get_args(hint)[0])
    return None


def wrong_result(function: str, did: str, mismatch: Mismatch) -> FunctionRaised:
    """Return the failure of a function with a result that does not fit the annotation.

    Args:
        function: the name of the function.
        did: the verb for the message: "returned" or "yielded".
        mismatch: the mismatch of the value, or of a part of it.
    """
    where = f" at {mismatch.path}" if mismatch.path else ""
    what = f"{function}() {did} a value that does not fit the annotation{where}: {mismatch}"
    return about_call(FunctionRaised(what, type_name="TypeError"))
