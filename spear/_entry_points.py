"""Parts of Spear that other distributions provide, found by entry point. A leaf module.

A part is loaded only when a program asks for it by name. The metadata of installed distributions is read
only for names that are not Spear's own, because reading it takes milliseconds.
"""

from __future__ import annotations

from typing import TypeVar

from ._errors import BrokenEntryPoint
from ._util import summary_of

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
    from importlib.metadata import entry_points

    for found in entry_points(group=group, name=name):
        distribution = found.dist.name if found.dist else ""
        try:
            loaded = found.load()
            thing: object = loaded if isinstance(loaded, kind) else loaded()
        except (Exception, SystemExit) as error:
            raise BrokenEntryPoint(
                group, name, distribution, f"{found.value} cannot be loaded: {summary_of(error)}"
            ) from error
        if not isinstance(thing, kind):
            raise BrokenEntryPoint(
                group,
                name,
                distribution,
                f"{found.value} must be a {kind.__name__}, not a {type(thing).__name__}",
            )
        return thing
    return None
