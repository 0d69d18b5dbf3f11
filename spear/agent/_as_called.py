"""A batched function as its callers see it: it takes one item, and returns one result."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import reduce
from inspect import Parameter, Signature
from operator import or_
from types import FunctionType, UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin

from spear._errors import ConfigurationError
from spear.annotations import resolve_hints, signature_of

from ._wrappers import what_it_takes

if TYPE_CHECKING:
    from ._arguments import AnyFunction

_LIST_TEXT: Final = re.compile(r"(?:\w+\.)*(?:[Ll]ist|Sequence)\[(.*)\]", re.DOTALL)

_ANYTHING: Final = (Any, object, list, Sequence, Parameter.empty)
"""Annotations of a list of unchecked items."""


def as_called(name: str, function: AnyFunction) -> FunctionType:
    """Return a function with the signature, the annotations and the documentation for callers.

    The returned function only describes ``function``, and cannot be called.

    Raises:
        ConfigurationError: the function has other parameters than one list of items.
    """
    try:
        takes = what_it_takes(function)
        written: object = signature_of(function).return_annotation
    except ValueError as error:
        raise ConfigurationError(f"{name}() cannot be batched: {error}") from None
    if len(takes.parameters) != 1 or takes.parameters[0].kind not in _BY_POSITION:
        raise ConfigurationError(
            f"{name}() must have one parameter, the list of items: a batched function gets the items of "
            "several calls, which have one argument each"
        )
    (parameter,) = takes.parameters
    annotation: object = takes.hints.get(parameter.name, parameter.annotation)
    item = _item_of(annotation)
    if item is None:
        raise ConfigurationError(
            f"{name}({parameter.name}) must be annotated as a list of items, such as list[str], not as "
            f"{inspect.formatannotation(annotation)}: callers pass one item"
        )
    parameter = parameter.replace(annotation=item, default=Parameter.empty)
    returns = _result_of(resolve_hints(inspect.unwrap(function)).get("return", written))
    return _described(function, name, Signature([parameter], return_annotation=returns))


_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _item_of(annotation: object) -> object | None:
    """Return the annotation of an item; None if the annotation is not one of a list."""
    if isinstance(annotation, str):  # a name that only type checkers can resolve: it is not checked
        found = _LIST_TEXT.fullmatch(annotation)
        return found[1] if found else annotation
    if annotation in _ANYTHING:
        return Parameter.empty
    if get_origin(annotation) in (list, Sequence):
        item: object = get_args(annotation)[0]
        return item
    return None


def _result_of(annotation: object) -> object:
    """Return the annotation of one result, without exceptions; none if the function's is no list."""
    found = _item_of(annotation)
    if found is None or found is annotation:
        return Signature.empty
    if get_origin(found) in (Union, UnionType):
        results = [each for each in get_args(found) if not _is_exception(each)]
        return reduce(or_, results) if results else Signature.empty
    return found


def _is_exception(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseException)


def _described(function: AnyFunction, name: str, signature: Signature) -> FunctionType:
    def described() -> None: ...

    scope: dict[str, object] = getattr(inspect.unwrap(function), "__globals__", {})
    # With the function's own names, so that a misspelled one in an annotation is found.
    found = FunctionType(described.__code__, scope, name)
    found.__doc__ = function.__doc__
    found.__module__ = function.__module__
    found.__qualname__ = getattr(function, "__qualname__", name)
    annotations = {each.name: each.annotation for each in signature.parameters.values()}
    annotations["return"] = signature.return_annotation
    found.__annotations__ = {
        key: value for key, value in annotations.items() if value is not Signature.empty
    }
    found.__signature__ = signature  # type: ignore[attr-defined]  # inspect looks for it
    return found
