"""Annotations that cannot be meant, found before an agent takes calls.

Nothing that travels is a date or an object of an arbitrary class, so a parameter that asks for one can
never be given; and a name that exists nowhere is misspelled. A name that only type checkers can resolve
is neither: what is annotated with it stays unchecked.

Looked for only where an annotation is not one of the plain ones: half a millisecond of an agent's start,
which its first call then does not need any more.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from spear._errors import ConfigurationError
from spear._util import did_you_mean

from ._as_written import annotations_of, signature_of

if TYPE_CHECKING:
    from ._arguments import AnyFunction
    from ._functions import Function

_PLAIN: Final = (str, int, float, bool, bytes, None)
_PLAIN_TEXTS: Final = ("str", "int", "float", "bool", "bytes", "None", "object")


def check_annotations(functions: Iterable[Function]) -> None:
    """Raise ConfigurationError for a parameter that can never be given, or not be understood."""
    for function in functions:
        annotations = annotations_of(function.function)
        annotations.pop("return", None)
        if not all(map(_is_plain, annotations.values())):
            for parameter, fault in _faults(function.function, annotations):
                raise ConfigurationError(f"{function.name}({parameter}): {fault}")


def _is_plain(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation in _PLAIN_TEXTS
    return any(annotation is plain for plain in _PLAIN)


def _faults(function: AnyFunction, annotations: dict[str, object]) -> Iterator[tuple[str, str]]:
    """(parameter, what is wrong with its annotation)."""
    from ._annotations import build_check, is_items, item_check, resolve_hints

    hints = resolve_hints(function)
    for name, parameter in signature_of(function).parameters.items():
        if name not in hints:
            if name in annotations and (fault := _misspelled(function, annotations[name])):
                yield name, fault
        # What has a default need not be given: it may be for those who call the function here.
        elif parameter.default is parameter.empty and parameter.kind not in _MANY:
            impossible = ""
            with suppress(Exception):  # an odd class: told when it is used
                hint = hints[name]
                check = item_check(hint) if is_items(hint) else build_check(hint)
                impossible = check.impossible if check else ""
            if impossible:
                yield name, f"{impossible} cannot be sent: annotate it with what can, such as str"


_MANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _misspelled(function: AnyFunction, annotation: object) -> str:
    """What is wrong with an annotation that cannot be resolved; nothing if that may be in order."""
    scope = getattr(function, "__globals__", {})
    single = type("_Single", (), {"__annotations__": {"it": annotation}, "__module__": ""})
    try:
        typing.get_type_hints(single, globalns=scope)
    except NameError as error:
        missing = error.name or ""
    except Exception:
        return ""
    else:
        return ""
    known = _names_of(function)
    if known is None or missing in known:
        return ""
    return f"there is no {missing!r}{did_you_mean(missing, {*known, *dir(builtins)})}"


def _names_of(function: AnyFunction) -> set[str] | None:
    """All names that a function's module gives to anything, for type checkers too; None if unknown."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        names.update(_names_in(node))
    return None if "*" in names else names


def _names_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
        for each in getattr(node, "type_params", ()):
            yield each.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
