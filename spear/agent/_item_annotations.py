"""Annotations of parameters that take the stream of the caller's items."""

from __future__ import annotations

import re
import typing
from collections import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from spear._signatures import ITEMS
from spear.annotations import annotations_of, build_check, resolve_hints

from ._items import Items

if TYPE_CHECKING:
    from spear.annotations import Check

_CLASSES: Final = frozenset(getattr(abc, name, Items) for name in ITEMS)
_TEXT: Final = re.compile(rf"(\w+\.)*({'|'.join(ITEMS)})\b")


def hints_of(function: Callable[..., object]) -> dict[str, object]:  # type: ignore[explicit-any]  # any
    """Return the resolved annotations of a function; :class:`Items` also where its name is unknown."""
    hints = resolve_hints(function)
    for name, annotation in annotations_of(function).items():
        if name not in hints and isinstance(annotation, str) and _TEXT.match(annotation):
            hints[name] = Items  # imported under TYPE_CHECKING only
    return hints


def is_items(hint: object) -> bool:
    """Return whether a parameter with this annotation takes the stream of items of the caller."""
    return (typing.get_origin(hint) or hint) in _CLASSES


def item_check(hint: object) -> Check | None:
    """Return the check for each item of an annotated stream; None if the items are not annotated."""
    arguments = typing.get_args(hint)
    return build_check(arguments[0]) if arguments else None
