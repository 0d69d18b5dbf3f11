"""Small tools that belong to no layer. A leaf module: it imports no other part of Spear."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, final

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name; empty if no known name is like it."""
    close = closest(name, known)
    return f"; did you mean {close!r}?" if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``; None if none is like it."""
    from difflib import get_close_matches  # adds 2 ms to a function's start, and is rarely needed

    known, name = list(known), name[:100]
    longer = (each for each in known if each.startswith(f"{name}_"))
    return next(iter(get_close_matches(name, known, 1)), None) or next(longer, None)


# -- exceptions of user code, read where user code must do no harm ---------------------------------------

# The original descriptors: a subclass or a metaclass may have redefined these attributes.
_members: Final = BaseExceptionGroup.__dict__["exceptions"].__get__
_mro: Final = type.__dict__["__mro__"].__get__
_qualname: Final = type.__dict__["__qualname__"].__get__


def text_of(error: object) -> str:
    """Return the text of an exception, even if its ``__str__`` raises or exits.

    In Trio's thread, call this under ``enable_ki_protection``; otherwise it could swallow a Ctrl-C.
    """
    try:
        return str.__str__(str(error))  # not an instance of a subclass of str
    except BaseException:
        return "<exception str() failed>"  # the same text as in tracebacks


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class."""
    return str.__str__(_qualname(type(error)))


MOST_BASES: Final = 16
"""Most base classes of an exception whose names are sent to the caller."""


def bases_of(error: BaseException) -> tuple[str, ...]:
    """Return the names of the base classes of an exception's class; none for a class of Python itself."""
    cls = type(error)
    if vars(builtins).get(_qualname(cls)) is cls:  # the caller knows the bases
        return ()
    return tuple(str.__str__(_qualname(each)) for each in _mro(cls)[1:-1][:MOST_BASES])


def summary_of(error: BaseException) -> str:
    """Return the name of an exception's class and its text, as :func:`text_of` returns it."""
    name, text = name_of(error), text_of(error)
    return f"{name}: {text}" if text else name


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and in the groups in it; or the exception, if it is no group."""
    # issubclass() of the type, because isinstance() would ask the exception for its __class__.
    if issubclass(type(error), BaseExceptionGroup):
        for each in _members(error):
            yield from leaves_of(each)
    else:
        yield error


class NoPublicConstructor(type):
    """A metaclass for classes that only Spear builds: ``Class()`` raises, ``Class._create()`` works."""

    def __call__(cls, *args: object, **kwargs: object) -> None:
        """Refuse to construct."""
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} has no public constructor")

    def _create(cls: type[T], *args: object, **kwargs: object) -> T:
        return super().__call__(*args, **kwargs)  # type: ignore[misc,no-any-return]  # type.__call__ is untyped


@final
class MissingPackage(Exception):
    """A value needs a package that is not installed, or is too old.

    Attributes:
        package: what to install, as pip takes it.
    """

    def __init__(self, package: str) -> None:
        super().__init__(f"it needs {package}, in both processes: pip install {package!r}")
        self.package = package
