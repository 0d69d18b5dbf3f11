"""What is wrong with a configuration: all of it at once, each with the place where it is said.

A place is a path of keys. Who said it (a line of a file, a variable, a flag) is looked up by that path,
or else by that of what it is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias, final

import attrs

from spear._errors import ConfigurationError
from spear._util import closest

KeyPath: TypeAlias = tuple[str, ...]


def show_path(path: KeyPath) -> str:
    """As a file would write it: ``functions.shop.queue``."""
    return ".".join(path)


@final
@attrs.frozen
class Fault:
    """One thing that is wrong.

    Attributes:
        where: who said it: ``spear.toml:3``, ``SPEAR_LISTEN`` or ``--listen``; empty if nobody did.
        key: what is wrong, ``functions.shop.queue``; empty if it is no key's affair.
        says: why.
    """

    where: str
    key: str
    says: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.key, self.says)))


@final
class Faults:
    """Collects what is wrong.

    Args:
        places: where each key that there is may stand, by its own name.

    Attributes:
        origins: who said what: by path, ``spear.toml:3``, ``SPEAR_LISTEN`` or ``--listen``.
    """

    def __init__(self, places: Mapping[str, Iterable[KeyPath]] = MappingProxyType({})) -> None:
        self._places = places
        self.origins: dict[KeyPath, str] = {}
        self._each: dict[Fault, None] = {}

    def __bool__(self) -> bool:
        return bool(self._each)

    @property
    def each(self) -> tuple[Fault, ...]:
        """In the order in which they were found."""
        return tuple(self._each)

    @property
    def lines(self) -> tuple[str, ...]:
        """One for each, as people read them."""
        return tuple(str(each) for each in self._each)

    def add(self, path: KeyPath, what: str) -> None:
        """Something is wrong with what a key says; ``what`` does not name the key."""
        self._each[Fault(self.origin_of(path), show_path(path), what)] = None

    def add_line(self, what: str, origin: str = "") -> None:
        """Something is wrong that is no key's affair."""
        self._each[Fault(origin, "", what)] = None

    def origin_of(self, path: KeyPath) -> str:
        """Who said so; empty if nobody did."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        # Nobody has said it, but something in it.
        inside = (who for each, who in self.origins.items() if each[: len(path)] == path)
        return next(inside, "") if path else ""

    def expect_known(
        self,
        path: KeyPath,
        names: Iterable[str],
        known: Iterable[str],
        below: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Add a fault for each name that is not known, with what may have been meant.

        ``below`` has keys of inner tables, and the path of each from here.
        """
        known = list(known)
        for name in names:
            if name not in known:
                hint = self._hint(path, name, known, below)
                self.add((*path, name), f"there is no such key; {hint}")

    def _hint(self, path: KeyPath, name: str, known: list[str], below: Mapping[str, str]) -> str:
        """Return what may have been meant: the same name elsewhere, rather than another one here."""
        if name not in below and (elsewhere := self._elsewhere(path, name)):
            return f"did you mean {' or '.join(map(show_path, elsewhere))}?"
        close = closest(name, [*known, *below])
        if close is None:
            return f"there are {', '.join(sorted(known))}"
        if close in known:
            return f"did you mean {close!r}?"
        return f"did you mean {show_path((*path, below[close]))}?"

    def _elsewhere(self, path: KeyPath, name: str) -> list[KeyPath]:
        """Return where a key of that name stands: in the same section, if it does."""
        found = list(self._places.get(name, ()))
        if path[:1] == ("functions",):  # the same function is meant
            found = [(*path[:2], *each[2:]) if each[0] == path[0] else each for each in found]
        found = [each for each in found if each[:-1] != path]
        return [each for each in found if each[:1] == path[:1]] or found

    def raise_if_any(self) -> None:
        """Raise ConfigurationError that lists them, if there are any."""
        if self._each:
            raise ConfigurationError("\n".join(self.lines))


@final
@attrs.frozen
class Said:
    """What one source says: tables in tables, and who says which of it."""

    tables: Mapping[str, object]
    origins: Mapping[KeyPath, str]
