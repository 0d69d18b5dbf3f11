"""The table of tagged types: the types beyond JSON's, bytes and integers whose values can be sent.

A value of such a type travels as a CBOR tag over a content of plain values, and as a JSON map with one
key, such as ``{"$date": "2026-01-31"}``. This module is the one list of these types: ``spear.wire`` and
``spear._json`` use it, and ``docs/wire.md`` and ``docs/http.md`` show it. It knows neither CBOR nor JSON.

Rules for a row:

* Nothing is changed silently: a value arrives equal and of the same type, or its sender refuses it.
* ``restore`` and ``read`` see data of a peer. They take time and memory in proportion to the content, and
  raise nothing but ValueError. What many contents cost together is in the :class:`TagBudget`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, cast, final

import attrs

from ._scalars import (
    Content,
    Unsuitable,
    fraction_of,
    is_rfc_3339,
    microseconds_of,
    path_reader,
    read_complex,
    read_date,
    read_datetime,
    read_decimal,
    read_duration,
    read_floats,
    read_fraction,
    read_microseconds,
    read_rfc_3339,
    read_special_decimal,
    read_time,
    read_uuid,
    read_uuid_bytes,
    write_complex,
    write_date,
    write_datetime,
    write_decimal,
    write_duration,
    write_path,
    write_time,
)

if TYPE_CHECKING:
    from datetime import date, datetime, time, timedelta
    from decimal import Decimal
    from pathlib import PurePath
    from uuid import UUID

T = TypeVar("T")

TaggedScalar: TypeAlias = "datetime | date | time | timedelta | Decimal | UUID | complex | PurePath"
"""A value of the table that holds no other values."""

PRIVATE_TAGS: Final = 0x53706500
"""The first of Spear's own tags: ``Spe`` in ASCII, and a number. IANA has registered no tags nearby."""

MAX_TAGS: Final = 1 << 17
"""Tagged values inside one value. So many take as long to decode as a million plain items."""

MAX_NUMBERS: Final = 1 << 14
"""Numbers as members of sets and keys of maps, in one value; those in small tables are not counted.

Python does not randomize hashes of numbers, so a peer can choose numbers that share their places in a
hash table. The time to build the table is then quadratic: this many take 0.1 s, which is as long as the
largest value takes to decode. Text and bytes have random hashes, and are not counted."""

SMALL_TABLE: Final = 256
"""Members of a set or map so small that its numbers are not counted."""

MAX_EQUAL_HASHES: Final = 16
"""Members of a set with the same hash, which are all compared with each other. Tuples of small integers
have up to eight: -1 and -2 have the same hash in Python, and so each coordinate doubles their number."""


@final
class TagBudget:
    """A count of what the tagged values inside one value cost. Raises Unsuitable if it is too much."""

    __slots__ = ("_numbers", "_tags")

    def __init__(self) -> None:
        self._tags = MAX_TAGS
        self._numbers = MAX_NUMBERS

    def spend(self) -> None:
        """Count one tagged value."""
        self._tags -= 1
        if self._tags < 0:
            raise Unsuitable(
                f"more than {MAX_TAGS} dates, sets and other tagged values",
                "a stream of smaller values, or several calls",
            )

    def spend_members(self, members: Collection[object]) -> None:
        """Count the numbers among the members of a set, or among the keys of a map.

        Raises:
            Unsuitable: there are too many, or too many have the same hash.
            TypeError: a member cannot be hashed.
        """
        if len(members) <= MAX_EQUAL_HASHES:
            return
        if len(members) > SMALL_TABLE:
            kinds = map(type, members)
            self._numbers -= sum(kind is not str and kind is not bytes for kind in kinds)
            if self._numbers < 0:
                raise Unsuitable(f"more than {MAX_NUMBERS} numbers in sets and keys", "lists")
        if len(set(map(hash, members))) < len(members):
            (_, most), *_ = Counter(map(hash, members)).most_common(1)
            if most > MAX_EQUAL_HASHES:
                raise Unsuitable(f"a set with {most} members of the same hash", "a list")


CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
"""Types of values that hold other values."""

Restore: TypeAlias = Callable[[Content, TagBudget], object]


@final
@attrs.frozen
class TaggedType:
    """A row of the table.

    Attributes:
        name: the key of the JSON form, after the dollar.
        classes: names of the classes, each after the name of its package: ``datetime.date``.
        lower: returns (tag, content) for a value of the classes. Raises Unsuitable.
        restore: functions that return the value for a content, by tag. They raise ValueError.
        write: returns the content of the JSON form. Raises Unsuitable.
        read: returns the value for a content of the JSON form. Raises ValueError.
    """

    name: str
    classes: tuple[str, ...]
    lower: Callable[[object], tuple[int, Content]]
    restore: Mapping[int, Restore]
    write: Callable[[object], Content]
    read: Restore


def names_of(cls: type) -> Iterator[str]:
    """Yield the names of a class and its bases, each after the name of its package: ``datetime.date``."""
    for base in cls.__mro__:
        yield f"{base.__module__.partition('.')[0]}.{base.__name__}"


_known: Final[dict[type, TaggedType | None]] = {}


def tagged_type(cls: type) -> TaggedType | None:
    """Return the row for a class; None if its values are plain, or cannot be sent."""
    try:
        return _known[cls]
    except KeyError:
        # A data class is sent as a map, whatever its bases are.
        is_structure = hasattr(cls, "__attrs_attrs__") or hasattr(cls, "__dataclass_fields__")
        names = () if is_structure else names_of(cls)
        found = next((BY_CLASS[name] for name in names if name in BY_CLASS), None)
        if len(_known) < 1000:  # a program may make classes without end
            _known[cls] = found
        return found


# -- sets, and maps with numbers as keys --------------------------------------------------------

KEY_NUMBERS: Final = range(-(1 << 63), 1 << 64)
"""Numbers that may be keys of maps: those of 64 bits, with or without a sign."""


def _frozen(value: object) -> object:
    """Return a member of a set: a list in a set was a tuple."""
    return tuple(map(_frozen, value)) if type(value) is list else value


def _set_reader(make: Callable[..., AbstractSet[object]]) -> Restore:  # type: ignore[explicit-any]  # constructors
    def read(content: Content, budget: TagBudget) -> AbstractSet[object]:
        if type(content) is not list:
            raise ValueError("not a set: a list of its members")
        members = list(map(_frozen, content))
        try:
            budget.spend_members(members)
            found = make(members)
        except TypeError:
            raise ValueError("a set with a member that cannot be hashed") from None
        if len(found) < len(members):
            raise ValueError("a set with equal members")
        return found

    return read


def _write_set(value: AbstractSet[object]) -> list[object]:
    try:
        return sorted(value)  # type: ignore[type-var]  # raises TypeError if they have no order
    except TypeError:
        return list(value)


def _lower_map(value: Mapping[object, object]) -> tuple[int, list[object]]:
    return _MAP, [each for entry in value.items() for each in entry]


def _restore_map(content: Content, budget: TagBudget) -> dict[object, object]:
    if type(content) is not list or len(content) % 2:
        raise ValueError("not a map: a list of keys and values by turns")
    return _map_of(content[::2], content[1::2], budget)


def _write_map(value: Mapping[object, object]) -> list[list[object]]:
    return [[key, each] for key, each in value.items()]


def _read_map(content: Content, budget: TagBudget) -> dict[object, object]:
    if type(content) is not list or any(type(e) is not list or len(e) != 2 for e in content):
        raise ValueError("not a map: a list of pairs")
    return _map_of([key for key, _ in content], [value for _, value in content], budget)


def _map_of(keys: list[object], values: list[object], budget: TagBudget) -> dict[object, object]:
    for key in keys:
        kind = type(key)
        if kind is int:
            if key not in KEY_NUMBERS:
                raise ValueError("a map with a key of more than 64 bits")
        elif kind is not str and kind is not bytes:
            raise ValueError("a map with a key that is neither text, bytes nor an integer")
    budget.spend_members(keys)
    entries = dict(zip(keys, values, strict=True))
    if len(entries) < len(keys):
        raise ValueError("a map with equal keys")
    return entries


# -- the table ----------------------------------------------------------------------------------

(
    _DATETIME,
    _TIME,
    _DURATION,
    _DECIMAL,
    _FROZENSET,
    _MAP,
    _PATH,
    _POSIX_PATH,
    _WINDOWS_PATH,
) = range(PRIVATE_TAGS, PRIVATE_TAGS + 9)


def _scalar(
    name: str,
    classes: str,
    lower: Callable[[T], tuple[int, Content]],
    restore: Mapping[int, Callable[[Content], T]],
    write: Callable[[T], Content],
    read: Callable[[Content], T],
) -> TaggedType:
    """Return the row of a type whose values hold no other values."""
    return TaggedType(
        name,
        tuple(classes.split()),
        cast("Callable[[object], tuple[int, Content]]", lower),
        {tag: _without_budget(each) for tag, each in restore.items()},
        cast("Callable[[object], Content]", write),
        _without_budget(read),
    )


def _without_budget(read: Callable[[Content], object]) -> Restore:
    return lambda content, budget: read(content)


def _text(
    name: str,
    classes: str,
    tag: int,
    write: Callable[[T], Content],
    read: Callable[[Content], T],
) -> TaggedType:
    """Return the row of a type whose values are the same text on the wire and in JSON."""
    return _scalar(name, classes, lambda value: (tag, write(value)), {tag: read}, write, read)


def _set(name: str, tag: int, make: type) -> TaggedType:
    """Return the row of a type of sets."""
    read = _set_reader(make)
    return TaggedType(
        name,
        (f"builtins.{name}",),
        lambda value: (tag, list(cast("AbstractSet[object]", value))),
        {tag: read},
        cast("Callable[[object], Content]", _write_set),
        read,
    )


def _lower_datetime(value: datetime) -> tuple[int, str]:
    text = write_datetime(value)
    return (0 if is_rfc_3339(text) else _DATETIME), text


def _lower_decimal(value: Decimal) -> tuple[int, Content]:
    fraction = fraction_of(value)
    return (_DECIMAL, str(value)) if fraction is None else (4, fraction)


MAP: Final = TaggedType(
    "map",
    (),  # a dict is plain, except one with a number for a key
    cast("Callable[[object], tuple[int, Content]]", _lower_map),
    {_MAP: _restore_map},
    cast("Callable[[object], Content]", _write_map),
    _read_map,
)

TABLE: Final[tuple[TaggedType, ...]] = (
    _scalar(
        "datetime",
        "datetime.datetime",
        _lower_datetime,
        {0: read_rfc_3339, _DATETIME: read_datetime},
        write_datetime,
        read_datetime,
    ),
    _text("date", "datetime.date", 1004, write_date, read_date),
    _text("time", "datetime.time", _TIME, write_time, read_time),
    _scalar(
        "duration",
        "datetime.timedelta",
        lambda value: (_DURATION, microseconds_of(value)),
        {_DURATION: read_microseconds},
        write_duration,
        read_duration,
    ),
    _scalar(
        "decimal",
        "decimal.Decimal",
        _lower_decimal,
        {4: read_fraction, _DECIMAL: read_special_decimal},
        write_decimal,
        read_decimal,
    ),
    _scalar(
        "uuid",
        "uuid.UUID",
        lambda value: (37, value.bytes),
        {37: read_uuid_bytes},
        str,
        read_uuid,
    ),
    _scalar(
        "complex",
        "builtins.complex",
        lambda value: (43000, write_complex(value)),
        {43000: read_floats},
        write_complex,
        read_complex,
    ),
    _text("path", "pathlib.Path", _PATH, write_path, path_reader("Path")),
    _text(
        "posixpath",
        "pathlib.PurePosixPath pathlib.PurePath",
        _POSIX_PATH,
        write_path,
        path_reader("PurePosixPath"),
    ),
    _text(
        "windowspath",
        "pathlib.PureWindowsPath",
        _WINDOWS_PATH,
        write_path,
        path_reader("PureWindowsPath"),
    ),
    _set("set", 258, set),
    _set("frozenset", _FROZENSET, frozenset),
    MAP,
)
"""All tagged types."""

UNHASHABLE_TAGS: Final = frozenset({258, _MAP})
"""Tags whose values cannot be members of a set."""

BY_CLASS: Final = {name: row for row in TABLE for name in row.classes}
BY_NAME: Final = {f"${row.name}": row for row in TABLE}
BY_TAG: Final = {tag: restore for row in TABLE for tag, restore in row.restore.items()}
