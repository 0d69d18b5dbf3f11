"""The search for wrong annotations before an agent accepts calls.

No decoded value is an object of an arbitrary class, so no caller can supply a parameter with such an
annotation, unless the class has a codec. An undefined name in an annotation is misspelled. A name that
only type checkers can resolve is no mistake; parameters annotated with it are not checked.

Only functions with other than plain annotations are searched. This takes half a millisecond of an agent's
start, which the first call then saves.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import sys
import typing
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from spear._codecs import is_frame
from spear._errors import ConfigurationError
from spear._signatures import SCALARS
from spear._tagged import names_of
from spear._util import did_you_mean
from spear.annotations import annotations_of

if TYPE_CHECKING:
    from ._arguments import AnyFunction
    from ._functions import RegisteredFunction

_PLAIN: Final = (str, int, float, bool, bytes, None)
_PLAIN_TEXTS: Final = (*SCALARS, "bytes", "object")


def check_annotations(functions: Iterable[RegisteredFunction]) -> None:
    """Raise ConfigurationError for an annotation that cannot be sent, or has an undefined name."""
    for function in functions:
        # Since Python 3.14, a wrapper may lack annotations that were set on the wrapped function.
        inside = inspect.unwrap(function.function)
        annotations = annotations_of(function.function) | annotations_of(inside)
        annotations.pop("return", None)
        if not all(map(_is_plain, annotations.values())):
            for parameter, fault in _faults(function.function):
                raise ConfigurationError(f"{function.name}({parameter}): {fault}")


def _is_plain(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation in _PLAIN_TEXTS
    return any(annotation is plain for plain in _PLAIN)


def _faults(function: AnyFunction) -> Iterator[tuple[str, str]]:
    """Yield (parameter, description of the mistake in its annotation)."""
    from spear.annotations import build_check

    from ._item_annotations import is_items, item_check
    from ._wrappers import lambda_context, what_it_takes

    takes = what_it_takes(function)
    if not takes.is_certain:
        return
    context = lambda_context(takes.parameters)
    for parameter in takes.parameters:
        name, hints = parameter.name, takes.hints
        if parameter is context:
            continue
        if name not in hints:
            if parameter.annotation is not parameter.empty and (
                fault := _misspelled(inspect.unwrap(function), parameter.annotation)
            ):
                yield name, fault
        # A parameter with a default is optional: it may be meant for callers within the program.
        elif parameter.default is parameter.empty and parameter.kind not in _MANY:
            impossible: type | None = None
            with suppress(Exception):  # an unusual class; its error appears when the class is used
                hint = hints[name]
                check = item_check(hint) if is_items(hint) else build_check(hint)
                impossible = check.impossible if check else None
            if impossible is not None:
                yield name, _fault_of(impossible)


def _fault_of(impossible: type) -> str:
    if impossible.__module__.partition(".")[0] == "annotated_types":
        return (
            f"nothing checks the constraint {impossible.__name__}: import pydantic, or use a model"
        )
    return f"{impossible.__name__} cannot be sent: {_advice_for(impossible)}"


_ADVICE: Final = {
    "fractions.Fraction": ("str", "{}()"),
    "ipaddress._IPAddressBase": ("str", "{}()"),
    "collections.deque": ("list", "{}()"),
    "collections.Counter": ("dict", "{}()"),
    "_io.BytesIO": ("bytes", "{}()"),
    "_io.StringIO": ("str", "{}()"),
    "numpy.datetime64": ("str", "numpy.{}()"),
    "numpy.integer": ("int", "numpy.int64()"),
    "numpy.floating": ("float", "numpy.float64()"),
    "numpy.object_": ("list", "numpy.array()"),
    "numpy.ndarray": ("numpy.ndarray", "a view of the class, .view({})"),
    "numpy.generic": ("float", "numpy.{}()"),
    "pandas.Timestamp": ("datetime", "pandas.Timestamp()"),
    "pandas.Timedelta": ("timedelta", "pandas.Timedelta()"),
    "pandas.DataFrame": ("list", "{}()"),
    "pandas.Series": ("list", "{}()"),
}
"""For each class, the annotation to use instead, and the expression that makes an instance."""


def _advice_for(cls: type) -> str:
    if is_frame(cls):
        return "install pyarrow in both processes, or use the annotation list"
    for name in names_of(cls):
        if name in _ADVICE:
            take, make = _ADVICE[name]
            made = make.format(cls.__name__)
            return f"use the annotation {take}, and {made} in the function"
    package = cls.__module__.partition(".")[0]
    if package == "spear" and cls.__name__ in _OURS:
        return _OURS[cls.__name__]
    if not _is_the_users(cls, package):
        return "use the annotation str, list or dict"
    return (
        f"use the annotation str, list or dict, make {cls.__name__} a dataclass, or give it a codec "
        "(spear.codec)"
    )


_OURS: Final = {
    "SharedBuffer": "use the annotation memoryview, the type of a received buffer",
    "CallContext": "remove the parameter, and use spear.context() in the function",
}


def _is_the_users(cls: type, package: str) -> bool:
    """Return whether a class belongs to the user's program, so that the user can change it."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(file.split(os.sep))
    return not is_installed and package not in (*sys.stdlib_module_names, "spear")


_MANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _misspelled(function: AnyFunction, annotation: object) -> str:
    """Return the mistake in an annotation that cannot be resolved; empty if it may be correct."""
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
    return f"the name {missing!r} is not defined{did_you_mean(missing, {*known, *dir(builtins)})}"


def _names_of(function: AnyFunction) -> set[str] | None:
    """Return all names bound in a function's module, also for type checkers only; None if unknown."""
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
