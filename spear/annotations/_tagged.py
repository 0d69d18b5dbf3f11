"""Checks of dates, times, durations, decimal and complex numbers, UUIDs and paths.

Each accepts values of its class, and text in the form that JSON callers send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath, PureWindowsPath
from typing import Final
from uuid import UUID

from spear._scalars import (
    MAX_DIGITS,
    read_complex,
    read_date,
    read_datetime,
    read_decimal,
    read_duration,
    read_time,
    read_uuid,
)

from ._check import Build, Check, shown
from ._mismatch import Mismatch

_SHORT_DATE: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)([Zz]|[+-]\d\d:\d\d)?)?", re.ASCII
)
_SHORT_TIME: Final = re.compile(r"(\d\d:\d\d)([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def _datetime(value: object) -> datetime:
    """Return the date and time in a text, whose seconds or whole time of day may be missing."""
    if isinstance(value, str) and (short := _SHORT_DATE.fullmatch(value)):
        day, clock, offset = short.groups("")
        value = f"{day}T{clock or '00:00'}:00{offset}"
    return read_datetime(value)


def _time(value: object) -> time:
    """Return the time of day in a text, whose seconds may be missing."""
    if isinstance(value, str) and (short := _SHORT_TIME.fullmatch(value)):
        clock, offset = short.groups("")
        value = f"{clock}:00{offset}"
    return read_time(value)


def _seconds(value: object) -> timedelta:
    try:
        return timedelta(seconds=value)  # type: ignore[arg-type]  # an int or a float
    except OverflowError:
        raise ValueError("more than 999999999 days") from None


def _decimal(value: object) -> Decimal:
    assert isinstance(value, int)
    if abs(value) >= 10**MAX_DIGITS:
        raise ValueError(f"more than {MAX_DIGITS} digits")
    return Decimal(value)


def _complex(value: object) -> complex:
    return read_complex([value, 0])


_READERS: Final[Mapping[type, tuple[str, Mapping[type, Callable[[object], object]]]]] = {
    datetime: ("datetime", {str: _datetime}),
    date: ("date", {str: read_date}),
    time: ("time", {str: _time}),
    timedelta: ("timedelta", {str: read_duration, int: _seconds, float: _seconds}),
    Decimal: ("Decimal", {str: read_decimal, int: _decimal}),
    UUID: ("UUID", {str: read_uuid}),
    complex: ("complex", {list: read_complex, int: _complex, float: _complex}),
}
"""For each class its name, and functions that make it of other types. They raise ValueError."""


_HINTS: Final[Mapping[tuple[type, type], str]] = {
    (date, datetime): "send value.date()",
    (time, datetime): "send value.time()",
    (Decimal, float): 'send text, such as "1.50"',
}
"""What to send instead of a value, by (class of the annotation, type of the value)."""


def tagged_check(cls: type, arguments: tuple[object, ...], build: Build) -> Check | None:
    """Return the check for a class of dates, numbers, UUIDs or paths; None for another class."""
    if issubclass(cls, PurePath):
        return _path_check(cls)
    if cls not in _READERS:
        return None
    name, readers = _READERS[cls]
    check = Check(name, cls)

    def convert(value: object) -> object:
        read = readers.get(type(value))
        if read is None:
            raise check.mismatch(value, _HINTS.get((cls, type(value)), ""))
        try:
            return read(value)
        except ValueError as error:
            raise Mismatch(f"expected {name}, got {shown(value)}: {error}") from None

    check.complete(convert)
    return check


def _path_check(cls: type[PurePath]) -> Check:
    check = Check("a path", cls)
    is_windows = issubclass(cls, PureWindowsPath)

    def convert(value: object) -> object:
        if isinstance(value, cls):
            return value
        if isinstance(value, str) or (
            isinstance(value, PurePath) and isinstance(value, PureWindowsPath) is is_windows
        ):
            return cls(value)
        raise check.mismatch(value)

    check.complete(convert)
    return check
