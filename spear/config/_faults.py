"""Faults of a configuration: all of them, each with its origin.

A fault belongs to a path of keys. The origin of that path (a line of a file, a variable, a flag) is
looked up by the path, or else by the path of an enclosing table.
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
    """Return a path in TOML's dotted form: ``functions.shop.queue``."""
    return ".".join(path)


@final
@attrs.frozen
class Fault:
    """A fault of a configuration.

    Attributes:
        where: origin of the value, such as ``spear.toml:3``, ``SPEAR_LISTEN`` or ``--listen``; empty if
            the value was not set explicitly.
        key: path of the key, such as ``functions.shop.queue``; empty if the fault concerns no key.
        says: description of the fault.
    """

    where: str
    key: str
    says: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.key, self.says)))


@final
class Faults:
    """A collection of faults.

    Args:
        places: the paths at which each known key is valid, by the key's name.

    Attributes:
        origins: origin of each value by its path, such as ``spear.toml:3``, ``SPEAR_LISTEN`` or
            ``--listen``.
    """

    def __init__(self, places: Mapping[str, Iterable[KeyPath]] = MappingProxyType({})) -> None:
        self._places = places
        self.origins: dict[KeyPath, str] = {}
        self._each: dict[Fault, None] = {}

    def __bool__(self) -> bool:
        return bool(self._each)

    @property
    def each(self) -> tuple[Fault, ...]:
        """The faults, in the order in which they were found."""
        return tuple(self._each)

    @property
    def lines(self) -> tuple[str, ...]:
        """Descriptions of the faults for people, each beginning with its origin."""
        return tuple(str(each) for each in self._each)

    def add(self, path: KeyPath, what: str) -> None:
        """Add a fault of a key's value; ``what`` does not name the key."""
        self._each[Fault(self.origin_of(path), show_path(path), what)] = None

    def add_line(self, what: str, origin: str = "") -> None:
        """Add a fault that concerns no key."""
        self._each[Fault(origin, "", what)] = None

    def origin_of(self, path: KeyPath) -> str:
        """Return the origin of the value at a path; empty if it was not set explicitly."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        # Neither the key nor an enclosing table was set, but perhaps a key inside this table.
        inside = (who for each, who in self.origins.items() if each[: len(path)] == path)
        return next(inside, "") if path else ""

    def expect_known(
        self,
        path: KeyPath,
        names: Iterable[str],
        known: Iterable[str],
        below: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Add a fault for each name that is not known, with a suggestion.

        ``below`` maps each key of an inner table to its path relative to this table.
        """
        known = list(known)
        for name in names:
            if name not in known:
                hint = self._hint(path, name, known, below)
                self.add((*path, name), f"there is no such key; {hint}")

    def _hint(self, path: KeyPath, name: str, known: list[str], below: Mapping[str, str]) -> str:
        """Return a suggestion: the same name elsewhere, or else a similar name here."""
        if name not in below and (elsewhere := self._elsewhere(path, name)):
            return f"did you mean {' or '.join(map(show_path, elsewhere))}?"
        close = closest(name, [*known, *below])
        if close is None:
            return f"the keys are {', '.join(sorted(known))}"
        if close in known:
            return f"did you mean {close!r}?"
        return f"did you mean {show_path((*path, below[close]))}?"

    def _elsewhere(self, path: KeyPath, name: str) -> list[KeyPath]:
        """Return the paths of the key of that name elsewhere; only those in the same section, if any."""
        found = list(self._places.get(name, ()))
        if path[:1] == ("functions",):  # suggest keys of the same function
            found = [(*path[:2], *each[2:]) if each[0] == path[0] else each for each in found]
        found = [each for each in found if each[:-1] != path]
        return [each for each in found if each[:1] == path[:1]] or found

    def raise_if_any(self) -> None:
        """Raise ConfigurationError with all faults, if there are any."""
        if self._each:
            raise ConfigurationError("\n".join(self.lines))


@final
@attrs.frozen
class Said:
    """The values of one source as nested tables, and the origin of each."""

    tables: Mapping[str, object]
    origins: Mapping[KeyPath, str]
