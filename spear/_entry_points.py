"""Parts of Spear that other distributions provide, found by entry point. A leaf module.

A part is loaded only when a program asks for it by name. The metadata of installed distributions is read
only for names that are not Spear's own, because reading it takes milliseconds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ._errors import BrokenEntryPoint
from ._util import summary_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

    from ._errors import ConfigurationError

T = TypeVar("T")


def names_of_entry_points(group: str) -> tuple[str, ...]:
    """Return the names of a group's entry points, sorted, without loading any of them."""
    from importlib.metadata import entry_points

    return tuple(sorted({each.name for each in entry_points(group=group)}))


def load_entry_point(group: str, name: str, kind: type[T]) -> T | None:
    """Return the object of an entry point; None if no installed distribution has one of that name.

    An entry point names an object of class ``kind``, or a callable without arguments that makes one,
    such as the class. If several distributions have the name, the first one on ``sys.path`` counts.

    Raises:
        BrokenEntryPoint: the entry point cannot be loaded, or gives an object of another class.
    """
    make = find_entry_point(group, name, kind)
    return None if make is None else make()


def find_entry_point(group: str, name: str, kind: type[T]) -> Callable[[], T] | None:
    """Import what an entry point names; return a function that returns the object, or makes it.

    None, the classes and the errors are as for :func:`load_entry_point`, also those of the function.
    """
    from importlib.metadata import entry_points

    for found in entry_points(group=group, name=name):
        distribution = found.dist.name if found.dist else ""
        return find_object(found, kind, partial(BrokenEntryPoint, group, name, distribution))
    return None


def find_reference(
    reference: str, kind: type[T], refusal: Callable[[str], ConfigurationError]
) -> Callable[[], T]:
    """Import the module in ``package.module:Class``; the result is that of :func:`find_entry_point`.

    Raises:
        ConfigurationError: made by ``refusal`` from the reason; also by the returned function.
    """
    from importlib.metadata import EntryPoint

    return find_object(EntryPoint(reference, reference, ""), kind, refusal)


def find_object(
    found: EntryPoint, kind: type[T], refusal: Callable[[str], ConfigurationError]
) -> Callable[[], T]:
    """Import what an entry point, installed or not, names; see :func:`find_reference`."""

    def guarded(work: Callable[[], object]) -> object:
        try:
            return work()
        except (Exception, SystemExit) as error:
            hint = "; install it, or add its directory to PYTHONPATH"
            hint = hint if isinstance(error, ModuleNotFoundError) else ""
            raise refusal(f"{found.value} cannot be loaded: {summary_of(error)}{hint}") from error

    def wrong(got: type) -> ConfigurationError:
        return refusal(
            f"{found.value} must be an instance of {kind.__name__}, not of {got.__name__}"
        )

    def make() -> T:
        if isinstance(loaded, kind):
            return loaded
        assert callable(loaded)  # as was checked when it was loaded
        thing = guarded(loaded)
        if not isinstance(thing, kind):
            raise wrong(type(thing))
        return thing

    loaded = guarded(found.load)
    if isinstance(loaded, type) and not issubclass(loaded, kind):
        raise wrong(loaded)
    if not isinstance(loaded, kind) and not callable(loaded):
        raise wrong(type(loaded))
    return make
