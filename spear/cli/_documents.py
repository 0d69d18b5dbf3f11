"""Tolerant access to the JSON that a host returns, for display.

The JSON comes from a peer, so a value that is missing or of another type is treated as empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Document: TypeAlias = Mapping[str, object]

_EMPTY: Final[dict[str, object]] = {}


def inner(document: object, *keys: str) -> Document:
    """Return the map at a path of keys; empty if there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else _EMPTY


def several(document: object, key: str) -> list[Document]:
    """Return the maps in the list under a key."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def text(document: object, key: str) -> str:
    """Return the string under a key; empty if there is none."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, str) else ""


def texts(document: object, key: str) -> list[str]:
    """Return the strings in the list under a key."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def number(document: object, *keys: str) -> float | None:
    """Return the number at a path of keys; None if there is none."""
    *above, key = keys
    found = inner(document, *above).get(key)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def total(document: Document, key: str) -> float:
    """Return the number under a key, or the sum of a map of numbers; 0 if there is none."""
    value = document.get(key)
    if isinstance(value, Mapping):
        return sum(each for each in value.values() if isinstance(each, int | float))
    return number(document, key) or 0


def functions_of(deployment: Document) -> Iterator[tuple[str, Document]]:
    """Yield the name and the statistics of each function, including functions that were never called.

    Spear's internal functions, such as the one that describes the others, are left out.
    """
    statistics = inner(deployment, "function_statistics")
    names = deployment.get("functions")
    listed = [each for each in names if isinstance(each, str)] if isinstance(names, list) else []
    others = [each for each in statistics if not each.startswith("spear.")]
    for name in dict.fromkeys([*listed, *others]):
        yield name, inner(statistics, name)
