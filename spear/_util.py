"""Small tools that belong to no layer. A leaf: it knows no other part of Spear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that nobody knows; nothing, if no known one is like it."""
    close = closest(name, known)
    return f"; did you mean {close!r}?" if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``; None if none is like it."""
    from difflib import get_close_matches  # takes a function's start 2 ms, and most never need it

    known, name = list(known), name[:100]
    longer = (each for each in known if each.startswith(f"{name}_"))
    return next(iter(get_close_matches(name, known, 1)), None) or next(longer, None)


# -- what the user has written, called from where nothing of the user's may do harm ----------------------

# Not as a subclass or a metaclass may have redefined them.
_members: Final = BaseExceptionGroup.__dict__["exceptions"].__get__
_qualname: Final = type.__dict__["__qualname__"].__get__


def text_of(error: object) -> str:
    """Return what an exception says, even if its own ``__str__`` raises or exits.

    In Trio's thread call this under ``enable_ki_protection``: then nothing that it swallows is Ctrl-C.
    """
    try:
        return str.__str__(str(error))  # not an instance of a subclass of str
    except BaseException:
        return "<exception str() failed>"  # as tracebacks have it


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class."""
    return str.__str__(_qualname(type(error)))


def summary_of(error: BaseException) -> str:
    """Return the name of an exception's class and what it says, in the same way."""
    name, text = name_of(error), text_of(error)
    return f"{name}: {text}" if text else name


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, and in the groups in it; or the exception, if it is no group."""
    # By the type: isinstance() would ask the exception for its __class__.
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
