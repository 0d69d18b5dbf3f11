"""Dates, times, decimal numbers, UUIDs and paths as plain values, and back. A leaf module.

The functions ``write_x`` return a plain content for a value, and ``read_x`` a value for a content that a
peer or a user wrote. They take time and memory in proportion to the content: lengths, digits and
exponents are bounded. Nothing is changed silently: ``read_x`` raises ValueError for a content that the
type cannot hold exactly, and ``write_x`` raises Unsuitable for a value that has no such content.

Modules of the standard library are imported when the first value of their types appears, because most
programs send none.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date, datetime, time, timedelta
    from decimal import Context, Decimal
    from pathlib import PurePath
    from uuid import UUID

T = TypeVar("T")
DateOrTime = TypeVar("DateOrTime", "datetime", "time")

Content: TypeAlias = object
"""A plain value that stands for another one: text, bytes, a number, or a list of these."""

MAX_DIGITS: Final = 300
"""Digits of a decimal number. Python converts in quadratic time: 1 us for this many, 1 ms for 4,300."""

MAX_EXPONENT: Final = 6144
"""Exponent of a decimal number, positive or negative, as in IEEE's decimal128: ``int()`` takes 1 ms."""

MAX_PATH_CHARACTERS: Final = 32_768
"""Characters of a path; Linux takes 4,095, Windows 32,767."""


class Unsuitable(ValueError):
    """A value of a tagged type that no content represents exactly.

    Attributes:
        what: a description of the value.
        instead: advice on what to send instead.
    """

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what}: send {instead} instead")
        self.what = what
        self.instead = instead


# Cached, because an import statement that runs for each value takes as long as reading the value.
@cache
def _datetime() -> type[datetime]:
    from datetime import datetime

    return datetime


@cache
def _date() -> type[date]:
    from datetime import date

    return date


@cache
def _time() -> type[time]:
    from datetime import time

    return time


@cache
def _timedelta() -> type[timedelta]:
    from datetime import timedelta

    return timedelta


@cache
def _decimal() -> type[Decimal]:
    from decimal import Decimal

    return Decimal


@cache
def _uuid() -> type[UUID]:
    from uuid import UUID

    return UUID


# -- points in time, and durations -----------------------------------------------------------

_DATE: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,6})?"
_FOLD: Final = ";fold=1"
_RFC_3339: Final = re.compile(rf"{_DATE}[Tt]{_CLOCK}([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_OFFSET: Final = r"[Zz]|[+-]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_DATETIME: Final = re.compile(rf"{_DATE}[Tt ]{_CLOCK}({_OFFSET}|{_FOLD})?", re.ASCII)
_TIME: Final = re.compile(rf"{_CLOCK}({_OFFSET})?({_FOLD})?", re.ASCII)
_SMALL_OFFSET: Final = re.compile(r"([+-])00:00:00\.(\d{1,6})$", re.ASCII)
_DATE_ONLY: Final = re.compile(_DATE, re.ASCII)
_DURATION: Final = re.compile(
    r"(-)?P(?=.)(?:(\d{1,9})D)?"
    r"(?:T(?=.)(?:(\d{1,15})H)?(?:(\d{1,15})M)?(?:(\d{1,15})(?:\.(\d{1,6}))?S)?)?",
    re.ASCII,
)


def _matching(pattern: re.Pattern[str], content: Content, what: str, example: str) -> str:
    if type(content) is not str or len(content) > 64 or not pattern.fullmatch(content):
        raise ValueError(f"not {what}, such as {example}")
    return content


def read_datetime(content: Content, pattern: re.Pattern[str] = _DATETIME) -> datetime:
    """Return the date and time in a text, aware if the text has an offset. Raises ValueError."""
    text = _matching(pattern, content, "a date and time", "2026-01-31T12:00:00+01:00")
    if text.endswith(_FOLD):
        return _datetime().fromisoformat(text.removesuffix(_FOLD).upper()).replace(fold=1)
    return _with_small_offset(_datetime().fromisoformat(text.upper()), text)


def _with_small_offset(moment: DateOrTime, text: str) -> DateOrTime:
    """Set an offset of less than a second, which ``fromisoformat()`` of CPython 3.11 takes for 0."""
    if (offset := _SMALL_OFFSET.search(text)) is None:
        return moment
    from datetime import timezone

    sign, fraction = offset.groups()
    microseconds = int(sign + fraction.ljust(6, "0"))
    return moment.replace(tzinfo=timezone(_timedelta()(microseconds=microseconds)))


def read_rfc_3339(content: Content) -> datetime:
    """Return the aware date and time in a text of RFC 3339. Raises ValueError."""
    return read_datetime(content, _RFC_3339)


def is_rfc_3339(text: str) -> bool:
    """Return whether :func:`read_rfc_3339` reads a text: RFC 3339 has no offsets with seconds."""
    return _RFC_3339.fullmatch(text) is not None


def read_date(content: Content) -> date:
    """Return the date in a text. Raises ValueError."""
    return _date().fromisoformat(_matching(_DATE_ONLY, content, "a date", "2026-01-31"))


def read_time(content: Content) -> time:
    """Return the time of day in a text. Raises ValueError."""
    text = _matching(_TIME, content, "a time of day", "12:00:00")
    written = text.removesuffix(_FOLD)
    clock = _with_small_offset(_time().fromisoformat(written.upper()), written)
    return clock.replace(fold=1) if text.endswith(_FOLD) else clock


def read_duration(content: Content) -> timedelta:
    """Return the duration in a text of ISO 8601 without years and months. Raises ValueError."""
    text = _matching(_DURATION, content, "a duration", "P1DT2H30M or PT1.5S")
    parts = _DURATION.fullmatch(text)
    assert parts is not None
    sign, days, hours, minutes, seconds, fraction = parts.groups("0")
    try:
        found = _timedelta()(
            int(days),
            int(seconds),
            int(fraction.ljust(6, "0")),
            minutes=int(minutes),
            hours=int(hours),
        )
        return -found if sign == "-" else found
    except OverflowError:
        raise ValueError("a duration of more than 999999999 days") from None


def write_datetime(value: datetime) -> str:
    """Return the text of a date and time.

    A zone is written as its offset at that moment, which also says what ``fold`` says.
    """
    text = value.isoformat()
    if not _DATETIME.fullmatch(text):  # such as the nanoseconds of pandas.Timestamp
        instead = "None" if text == "NaT" else "text, such as str(value)"
        raise Unsuitable(f"the {type(value).__qualname__} {text[:40]}", instead)
    return text + _FOLD if value.fold and value.utcoffset() is None else text


def write_date(value: date) -> str:
    """Return the text of a date."""
    return value.isoformat()


def write_time(value: time) -> str:
    """Return the text of a time of day."""
    text = value.isoformat()
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Unsuitable("a time of day whose zone has no fixed offset", "a datetime")
    return text + _FOLD if value.fold else text


_MICROSECONDS_A_DAY: Final = 86_400_000_000
_MICROSECONDS: Final = range(-999_999_999 * _MICROSECONDS_A_DAY, 10**9 * _MICROSECONDS_A_DAY)


def _expect_whole_microseconds(value: timedelta) -> None:
    """Refuse a duration of a subclass that has more than the microseconds of a ``timedelta``."""
    if getattr(value, "nanoseconds", 0):  # pandas.Timedelta
        raise Unsuitable(
            f"the {type(value).__qualname__} {str(value)[:40]}, which has nanoseconds",
            "text, such as value.isoformat(), or a number, such as value.value",
        )


def microseconds_of(value: timedelta) -> int:
    """Return a duration in microseconds."""
    _expect_whole_microseconds(value)
    seconds = value.days * 86400 + value.seconds
    return seconds * 10**6 + value.microseconds


def read_microseconds(content: Content) -> timedelta:
    """Return the duration of a number of microseconds. Raises ValueError."""
    if type(content) is not int or content not in _MICROSECONDS:
        raise ValueError("not a duration in microseconds")
    days, microseconds = divmod(content, _MICROSECONDS_A_DAY)
    return _timedelta()(days, 0, microseconds)


def write_duration(value: timedelta) -> str:
    """Return a duration in the form of ISO 8601, such as P1DT1.5S."""
    _expect_whole_microseconds(value)
    size = abs(value)
    days = f"{size.days}D" if size.days else ""
    fraction = f".{size.microseconds:06}".rstrip("0") if size.microseconds else ""
    clock = f"T{size.seconds}{fraction}S" if size.seconds or fraction or not days else ""
    return f"{'-' if value.days < 0 else ''}P{days}{clock}"


# -- numbers ----------------------------------------------------------------------------------

_DECIMAL: Final = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?|-?(Infinity|s?NaN\d*)", re.ASCII
)


_SPECIAL: Final = re.compile(
    rf"-?(Infinity|s?NaN\d{{0,{MAX_DIGITS}}})|-0+(\.0+)?(E[+-]?\d{{1,4}})?", re.ASCII
)


def read_decimal(content: Content) -> Decimal:
    """Return the decimal number in a text, which may also be a NaN or an infinity. Raises ValueError."""
    if (
        type(content) is not str
        or len(content) > MAX_DIGITS + 16
        or not _DECIMAL.fullmatch(content)
    ):
        raise ValueError(f"not a decimal number of at most {MAX_DIGITS} digits, such as 1.50")
    return _bounded(_decimal()(content))


def _bounded(number: Decimal) -> Decimal:
    _, digits, exponent = number.as_tuple()
    if len(digits) > MAX_DIGITS:
        raise Unsuitable(f"a decimal number of {len(digits)} digits", "text, such as str(value)")
    if type(exponent) is int and not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
        raise Unsuitable(
            f"a decimal number with the exponent {exponent} (at most {MAX_EXPONENT})",
            "text, such as str(value)",
        )
    return number


def fraction_of(value: Decimal) -> list[int] | None:
    """Return [exponent, mantissa] of a decimal number; None for -0, an infinity or a NaN."""
    negative, digits, exponent = _bounded(value).as_tuple()
    if type(exponent) is not int or (negative and not any(digits)):
        return None
    mantissa = int("".join(map(str, digits)))
    return [exponent, -mantissa if negative else mantissa]


def read_fraction(content: Content) -> Decimal:
    """Return the decimal number [exponent, mantissa]. Raises ValueError."""
    exponent, mantissa = _pair_of(content, int, "a decimal fraction: an exponent and a mantissa")
    if not (-MAX_EXPONENT <= exponent <= MAX_EXPONENT and -_MANTISSAS < mantissa < _MANTISSAS):
        raise ValueError(
            f"a decimal fraction of more than {MAX_DIGITS} digits or an exponent beyond {MAX_EXPONENT}"
        )
    return _decimal()(mantissa).scaleb(exponent, _exact())


_MANTISSAS: Final = 10**MAX_DIGITS


@cache
def _exact() -> Context:
    """Return a context in which no decimal number within the limits is rounded."""
    from decimal import Context

    return Context(prec=MAX_DIGITS, Emin=-10 * MAX_EXPONENT, Emax=10 * MAX_EXPONENT)


def _pair_of(content: Content, kind: type[T], what: str) -> tuple[T, T]:
    if type(content) is list and list(map(type, content)) == [kind, kind]:
        one, other = content
        return one, other
    raise ValueError(f"not {what}")


def read_special_decimal(content: Content) -> Decimal:
    """Return the -0, infinity or NaN in a text. Raises ValueError."""
    if (
        type(content) is not str
        or len(content) > MAX_DIGITS + 16
        or not _SPECIAL.fullmatch(content)
    ):
        raise ValueError("not -0, an infinity or a NaN")
    number = _decimal()(content)
    return number or _bounded(number)


def write_decimal(value: Decimal) -> str:
    """Return the text of a decimal number."""
    return str(_bounded(value))


def write_complex(value: complex) -> list[float]:
    """Return the real and the imaginary part of a complex number."""
    return [value.real, value.imag]


def read_floats(content: Content) -> complex:
    """Return the complex number of two floats. Raises ValueError."""
    return complex(*_pair_of(content, float, "a complex number: two floats"))


def read_complex(content: Content) -> complex:
    """Return the complex number of two floats, or whole numbers that are floats. Raises ValueError."""
    if type(content) is list:
        content = [
            float(each) if type(each) is int and abs(each) <= 2**53 else each for each in content
        ]
    return read_floats(content)


# -- UUIDs and paths --------------------------------------------------------------------------

_UUID: Final = re.compile("[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def read_uuid_bytes(content: Content) -> UUID:
    """Return the UUID of 16 bytes. Raises ValueError."""
    if type(content) is not bytes or len(content) != 16:
        raise ValueError("not a UUID: 16 bytes")
    return _uuid()(bytes=content)


def read_uuid(content: Content) -> UUID:
    """Return the UUID in a text of five groups of hexadecimal digits. Raises ValueError."""
    if type(content) is not str or not _UUID.fullmatch(content):
        raise ValueError("not a UUID, such as 01234567-89ab-cdef-0123-456789abcdef")
    return _uuid()(content)


def path_reader(name: str) -> Callable[[Content], PurePath]:
    """Return a function that returns the path in a text, as an object of a class of ``pathlib``."""

    @cache
    def path_class() -> type[PurePath]:
        import pathlib

        cls: type[PurePath] = getattr(pathlib, name)
        return cls

    def read(content: Content) -> PurePath:
        if type(content) is not str or len(content) > MAX_PATH_CHARACTERS:
            raise ValueError(f"not a path: text of at most {MAX_PATH_CHARACTERS} characters")
        return path_class()(content)

    return read


def write_path(value: PurePath) -> str:
    """Return the text of a path."""
    text = str(value)
    if len(text) > MAX_PATH_CHARACTERS:
        raise Unsuitable(f"a path of {len(text)} characters", "text, such as str(value)")
    return text
