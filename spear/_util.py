"""Small tools that belong to no layer. A leaf: it knows no other part of Spear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that nobody knows; nothing, if no known one is like it."""
    from difflib import get_close_matches  # takes a function's start 2 ms, and most never need it

    known, name = list(known), name[:100]
    longer = (each for each in known if each.startswith(f"{name}_"))
    close = next(iter(get_close_matches(name, known, 1)), None) or next(longer, None)
    return f"; did you mean {close!r}?" if close else ""


class NoPublicConstructor(type):
    """A metaclass for classes that only Spear builds: ``Class()`` raises, ``Class._create()`` works."""

    def __call__(cls, *args: object, **kwargs: object) -> None:
        """Refuse to construct."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object, **kwargs: object) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc,no-any-return]  # type.__call__ is untyped
