"""Small tools that belong to no layer. A leaf: it knows no other part of Spear."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class NoPublicConstructor(type):
    """A metaclass for classes that only Spear builds: ``Class()`` raises, ``Class._create()`` works."""

    def __call__(cls, *args: object, **kwargs: object) -> None:
        """Refuse to construct."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object, **kwargs: object) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc,no-any-return]  # type.__call__ is untyped
