"""Dates, times, numbers, UUIDs and paths as text and other plain values."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from spear._scalars import (
    MAX_DIGITS,
    MAX_PATH_CHARACTERS,
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
    from collections.abc import Callable

BERLIN = ZoneInfo("Europe/Berlin")
MOMENT = datetime(2026, 1, 31, 12, 30, 15, 250_000)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (MOMENT, "2026-01-31T12:30:15.250000"),
        (MOMENT.replace(tzinfo=UTC), "2026-01-31T12:30:15.250000+00:00"),
        (MOMENT.replace(tzinfo=BERLIN), "2026-01-31T12:30:15.250000+01:00"),
        (MOMENT.replace(year=7, microsecond=0), "0007-01-31T12:30:15"),
        (MOMENT.replace(tzinfo=timezone(timedelta(seconds=-61))), "2026-01-31T12:30:15.250000-00:01:01"),
        (datetime(2026, 10, 25, 2, 30, fold=1), "2026-10-25T02:30:00;fold=1"),
        (datetime.max, "9999-12-31T23:59:59.999999"),
    ],
)  # fmt: skip
def test_a_date_and_time_keeps_microseconds_offset_and_fold(moment: datetime, text: str) -> None:
    assert write_datetime(moment) == text
    found = read_datetime(text)
    assert (found, found.fold, found.utcoffset()) == (moment, moment.fold, moment.utcoffset())


def test_of_a_zone_the_moment_and_the_offset_arrive() -> None:
    summer, winter = (datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN) for fold in (0, 1))
    for moment, hours in (summer, 2), (winter, 1):
        found = read_datetime(write_datetime(moment))
        assert found.timestamp() == moment.timestamp()
        assert (found.utcoffset(), found.fold) == (timedelta(hours=hours), 0)
        assert found.tzinfo == timezone(timedelta(hours=hours))


@pytest.mark.parametrize("microseconds", [1, -1, 999_999, -500_000])
def test_an_offset_of_less_than_a_second_arrives(microseconds: int) -> None:
    zone = timezone(timedelta(microseconds=microseconds))
    moment, clock = datetime(2026, 1, 31, 12, tzinfo=zone), time(12, tzinfo=zone, fold=1)
    assert read_datetime(write_datetime(moment)).utcoffset() == zone.utcoffset(None)
    found = read_time(write_time(clock))
    assert (found.utcoffset(), found.fold) == (zone.utcoffset(None), 1)


def test_rfc_3339_has_offsets_of_minutes() -> None:
    assert is_rfc_3339("2026-01-31t12:00:00z")
    assert read_rfc_3339("2026-01-31t12:00:00z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read_datetime("2026-01-31 12:00:00+01:00").hour == 12
    for text in "2026-01-31T12:00:00", "2026-01-31T12:00:00+00:53:28":
        assert not is_rfc_3339(text)
        with pytest.raises(ValueError, match="not a date and time, such as"):
            read_rfc_3339(text)


class Stamp(datetime):
    """A class with more digits than datetime has, like that of pandas."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "2026-01-31T12:00:00.123456789"


def test_digits_that_would_be_lost_are_refused() -> None:
    with pytest.raises(Unsuitable, match=r"the Stamp 2026-01-31.* send text"):
        write_datetime(Stamp(2026, 1, 31))


@pytest.mark.parametrize(
    ("clock", "text"),
    [
        (time(1, 2, 3), "01:02:03"),
        (time(1, 2, 3, 4, fold=1), "01:02:03.000004;fold=1"),
        (time(1, tzinfo=UTC), "01:00:00+00:00"),
        (time(1, tzinfo=timezone(timedelta(hours=-3.5))), "01:00:00-03:30"),
    ],
)
def test_times_of_day(clock: time, text: str) -> None:
    assert write_time(clock) == text
    found = read_time(text)
    assert (found, found.fold) == (clock, clock.fold)


def test_a_time_of_day_in_a_zone_has_no_offset() -> None:
    with pytest.raises(
        Unsuitable, match="a time of day whose zone has no fixed offset: send a dat"
    ):
        write_time(time(1, tzinfo=BERLIN))


def test_dates() -> None:
    assert read_date(write_date(date(2026, 2, 28))) == date(2026, 2, 28)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "PT0S"),
        (timedelta(days=2), "P2D"),
        (timedelta(seconds=1.5), "PT1.5S"),
        (timedelta(days=1, microseconds=1), "P1DT0.000001S"),
        (timedelta(seconds=-1), "-PT1S"),
        (timedelta(days=-1, seconds=1), "-PT86399S"),
        (timedelta.max, "P999999999DT86399.999999S"),
        (timedelta.min, "-P999999999D"),
    ],
)
def test_durations(duration: timedelta, text: str) -> None:
    assert write_duration(duration) == text
    assert read_duration(text) == duration
    assert read_microseconds(microseconds_of(duration)) == duration


def test_durations_of_other_writers() -> None:
    assert read_duration("P1DT2H30M") == timedelta(days=1, hours=2, minutes=30)
    assert read_duration("PT1.25S") == timedelta(seconds=1.25)


DECIMALS = ["1.50", "0", "0.000", "0E+3", "-0", "-0.00", "1E+6144", "-1E-6144", "NaN", "-sNaN12"]
DECIMALS += ["Infinity", "-Infinity", "9" * MAX_DIGITS, "-12.345678901234567890123456789012345"]


@pytest.mark.parametrize("text", DECIMALS)
def test_a_decimal_number_keeps_its_sign_its_digits_and_its_exponent(text: str) -> None:
    number = Decimal(text)
    assert str(read_decimal(write_decimal(number))) == text
    fraction = fraction_of(number)
    found = read_special_decimal(text) if fraction is None else read_fraction(fraction)
    assert str(found) == text


def test_a_decimal_fraction_is_an_exponent_and_a_mantissa() -> None:
    assert fraction_of(Decimal("-1.50")) == [-2, -150]
    assert [fraction_of(Decimal(each)) for each in ("-0", "NaN", "Infinity")] == [None] * 3


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (Decimal(10**MAX_DIGITS), "a decimal number of 301 digits"),
        (Decimal("1E+6145"), "a decimal number with the exponent 6145"),
        (Decimal("1E-6145"), "a decimal number with the exponent -6145"),
        (Decimal("NaN" + "1" * 301), "a decimal number of 301 digits"),
    ],
)
def test_s6_a_decimal_number_is_bounded_at_both_ends(number: Decimal, said: str) -> None:
    for write in write_decimal, fraction_of:
        with pytest.raises(Unsuitable, match=said):
            write(number)
    with pytest.raises(ValueError, match=f"{said}|not a decimal number of at most 300 digits"):
        read_decimal(str(number))


def test_complex_numbers() -> None:
    for number in 1 + 2j, complex("-0.0-0.0j"), complex("inf"):
        assert read_floats(write_complex(number)) == read_complex(write_complex(number)) == number
    assert read_complex([1, -2]) == 1 - 2j


def test_uuids() -> None:
    one = UUID("01234567-89ab-cdef-0123-456789abcdef")
    assert read_uuid(str(one).upper()) == read_uuid_bytes(one.bytes) == one


def test_paths() -> None:
    for path in Path("a/b"), PurePosixPath("/"), Path("x" * MAX_PATH_CHARACTERS):
        assert path_reader(type(path).__name__)(write_path(path)) == path
    with pytest.raises(Unsuitable, match="a path of 32769 characters"):
        write_path(Path("x" * (MAX_PATH_CHARACTERS + 1)))


@pytest.mark.parametrize(
    ("read", "contents"),
    [
        (read_datetime, [1, "", "2026-02-30T00:00:00", "2026-01-31T24:00:00", "2026-01-31T12:00",
                         "2026-01-31T12:00:00.1234567", "2026-W01-1T12:00:00", "2026-01-31T12:00:60Z",
                         "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00Z;fold=1",
                         "\u0662026-01-31T12:00:00"]),
        (read_rfc_3339, ["2026-01-31T12:00:00;fold=1", b"2026-01-31T12:00:00Z"]),
        (read_date, [20260131, "20260131", "2026-02-30", "0000-01-01", "2026-01-31T00:00:00"]),
        (read_time, [1, "1:00:00", "24:00:00", "01:00:00+1:00", "01:00:00;fold=2"]),
        (read_duration, [1, "", "P", "PT", "P1DT", "-P", "P1Y", "P1M", "PT1.5H", "PT1.1234567S",
                         "P9999999999D", "P999999999DT86400S", "PT.5S", "P-1D", "PT1e3S"]),
        (read_microseconds, [1.0, True, "1", 10**9 * 86_400_000_000, -(10**9) * 86_400_000_000 + 1]),
        (read_decimal, [1, "", "1_0", " 1", "0x1", "1e", "1E+7000", "1E+9999999", "nan(1)", "\u0661"]),
        (read_fraction, [[1], [1, 2, 3], [True, 1], [1, 1.0], [6145, 1], [-6145, 0], [0, 10**MAX_DIGITS],
                         (1, 2), None, {1: 2}]),
        (read_special_decimal, ["1", "0", "1E+5", [0, 0], "-1.5"]),
        (read_floats, [[1.0], [1, 2], [1.0, "2"], 1.0, [1.0, 2.0, 3.0]]),
        (read_complex, [[1], [True, 1], [2**53 + 1, 0], "1j", [10**400, 1]]),
        (read_uuid, [1, "", "{01234567-89ab-cdef-0123-456789abcdef}", "0123456789abcdef" * 2]),
        (read_uuid_bytes, [b"", bytes(15), bytes(17), "x" * 16]),
        (path_reader("Path"), [1, b"x", "x" * (MAX_PATH_CHARACTERS + 1)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_s6_what_a_peer_may_not_send_raises_value_error(
    read: Callable[[object], object], contents: list[object]
) -> None:
    for content in contents:
        with pytest.raises(ValueError, match=r"."):
            read(content)
