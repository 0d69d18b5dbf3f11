"""What a host tells of itself, as far as the command line shows it.

It comes as JSON from a peer: what is missing or of another type counts as nothing, and is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Document: TypeAlias = Mapping[str, object]

_EMPTY: Final[dict[str, object]] = {}


def inner(document: object, *keys: str) -> Document:
    """A map in a map."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else _EMPTY


def several(document: object, key: str) -> list[Document]:
    """The maps of a list in a map."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def text(document: object, key: str) -> str:
    """A text in a map."""
    found = document.get(key) if isinstance(document, Mapping) else None
    return found if isinstance(found, str) else ""


def number(document: object, *keys: str) -> float | None:
    """A number in a map, or in a map of it."""
    *above, key = keys
    found = inner(document, *above).get(key)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def total(document: Document, key: str) -> float:
    """A number, or the sum of a map of numbers; 0 if there is none."""
    value = document.get(key)
    if isinstance(value, Mapping):
        return sum(each for each in value.values() if isinstance(each, int | float))
    return number(document, key) or 0


def functions_of(deployment: Document) -> Iterator[tuple[str, Document]]:
    """Names and statistics of a deployment's functions; also of those that nobody has called.

    Not of Spear's own, such as the one that describes the others.
    """
    statistics = inner(deployment, "function_statistics")
    names = deployment.get("functions")
    listed = [each for each in names if isinstance(each, str)] if isinstance(names, list) else []
    others = [each for each in statistics if not each.startswith("spear.")]
    for name in dict.fromkeys([*listed, *others]):
        yield name, inner(statistics, name)
