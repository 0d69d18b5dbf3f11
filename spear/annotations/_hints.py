"""The annotations of a function or class as objects, as far as their names can be resolved."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from contextlib import suppress

from ._as_written import annotations_of


def resolve_hints(thing: object) -> dict[str, object]:
    """Return the annotations of a function or class, except the ones that cannot be resolved."""
    with suppress(Exception):  # evaluating a text can raise any exception
        classes = reversed(getattr(thing, "__mro__", (thing,)))
        variables = [each for cls in classes for each in getattr(cls, "__type_params__", ())]
        local: dict[str, object] | None = None
        if variables and sys.version_info < (3, 13):  # Python 3.12 does not find them itself
            local = {each.__name__: each for each in variables}
        return typing.get_type_hints(thing, localns=local, include_extras=True)
    hints: dict[str, object] = {}
    # One name that exists only under TYPE_CHECKING must not disable the checks of all other names.
    module = inspect.getmodule(thing)
    scope = getattr(thing, "__globals__", None) or vars(module or typing)
    for name, annotation in annotations_of(thing).items():  # type: ignore[arg-type]  # either
        single = types.SimpleNamespace(__annotations__={name: annotation}, __globals__=scope)
        with suppress(Exception):  # evaluating a text can raise any exception
            hints.update(typing.get_type_hints(single, include_extras=True))
    return hints
