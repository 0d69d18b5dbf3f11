"""Annotations and signatures of users' functions and classes, even if some names cannot be resolved.

Python 3.14 and later evaluate all annotations of a function on access, and raise if one name is missing,
such as a name imported under TYPE_CHECKING. This module then returns all annotations as texts, as with
``from __future__ import annotations``.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 14):
    from annotationlib import Format

if TYPE_CHECKING:
    from collections.abc import Callable


def annotations_of(thing: Callable[..., object]) -> dict[str, object]:  # type: ignore[explicit-any]  # any
    """Return the annotations of a function or class, as objects or as unevaluated texts."""
    if sys.version_info >= (3, 14):
        try:
            return dict(inspect.get_annotations(thing))
        except Exception:  # evaluating can raise any exception
            return dict(inspect.get_annotations(thing, format=Format.STRING))
    return dict(inspect.get_annotations(thing))


def signature_of(thing: Callable[..., object]) -> inspect.Signature:  # type: ignore[explicit-any]  # any
    """Return the signature of a function or class, annotated as in :func:`annotations_of`.

    Raises:
        ValueError: the function has no signature, like some functions written in C.
    """
    if sys.version_info >= (3, 14):
        try:
            return inspect.signature(thing)
        except Exception:  # any exception of evaluating; an error of another cause is raised again
            return inspect.signature(thing, annotation_format=Format.STRING)
    return inspect.signature(thing)
