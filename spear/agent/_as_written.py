"""Annotations and signatures of what users wrote, though a name in them may exist for type checkers only.

Python 3.14 and later evaluate annotations when they are asked for, all at once, and raise if one name is
missing. Then all of them are texts, as ``from __future__ import annotations`` makes them everywhere.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 14):
    from annotationlib import Format

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._arguments import AnyFunction


def annotations_of(thing: AnyFunction | type) -> dict[str, object]:
    """Return the annotations of a function or class: as objects, or as unevaluated texts."""
    if sys.version_info >= (3, 14):
        try:
            return dict(inspect.get_annotations(thing))
        except Exception:  # evaluating can raise anything
            return dict(inspect.get_annotations(thing, format=Format.STRING))
    return dict(inspect.get_annotations(thing))


def signature_of(thing: Callable[..., object]) -> inspect.Signature:  # type: ignore[explicit-any]  # any
    """Return the signature of a function or class, annotated as in :func:`annotations_of`.

    Raises:
        ValueError: it has none, as some functions that are written in C.
    """
    if sys.version_info >= (3, 14):
        try:
            return inspect.signature(thing)
        except Exception:  # likewise; if it is another one, it comes again
            return inspect.signature(thing, annotation_format=Format.STRING)
    return inspect.signature(thing)
