"""Checks of dates, numbers, UUIDs, paths and sets: values of the class, and what JSON callers send."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from uuid import UUID

import pytest

from spear.annotations import Mismatch, build_check

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ONE = UUID(int=1)


def converted(annotation: object, value: object) -> object:
    """Return a decoded value as a function with the annotation would get it."""
    check = build_check(annotation)
    assert check is not None
    return check(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (datetime, NOON), (date, NOON.date()), (time, NOON.time()), (timedelta, timedelta(1)),
        (Decimal, Decimal("1.50")), (UUID, ONE), (complex, 1j), (Path, Path("a")),
        (PurePath, PureWindowsPath("a")), (set[int], {1}), (frozenset[str], frozenset({"a"})),
        (set[date], {NOON.date()}), (dict[int, date], {1: NOON.date()}), (set, {1, "a"}),
        (set[tuple[int, str]], {(1, "a")}), (set[tuple[int, ...]], {(1, 2), ()}),
        (date | str, NOON.date()), (list[Decimal], [Decimal(1)]),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_the_class_is_taken_as_it_is(annotation: object, value: object) -> None:
    found = converted(annotation, value)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (datetime, "2026-01-31T12:00:00Z", NOON),
        (datetime, "2026-01-31 12:00:00", NOON.replace(tzinfo=None)),
        (datetime, "2026-01-31", datetime(2026, 1, 31)),  # naive, as the text
        (datetime, "2026-01-31 12:00", NOON.replace(tzinfo=None)),
        (datetime, "2026-01-31T12:00Z", NOON),
        (date, "2026-01-31", NOON.date()),
        (time, "12:00:00", time(12)),
        (time, "12:00", time(12)),
        (time, "12:00Z", time(12, tzinfo=UTC)),
        (timedelta, "P1DT0.5S", timedelta(1, 0.5)),
        (timedelta, 90, timedelta(seconds=90)),
        (timedelta, 0.5, timedelta(seconds=0.5)),
        (Decimal, "1.50", Decimal("1.50")),
        (Decimal, -3, Decimal(-3)),
        (UUID, str(ONE), ONE),
        (complex, [1, 2.5], 1 + 2.5j),
        (complex, 2, 2 + 0j),
        (complex, 2.5, 2.5 + 0j),
        (Path, "a/b", Path("a/b")),
        (Path, PurePosixPath("a"), Path("a")),
        (PurePosixPath, Path("a"), Path("a")),
        (set[date], ["2026-01-31"], {NOON.date()}),
        (set[date], {"2026-01-31"}, {NOON.date()}),
        (frozenset[int], {1}, frozenset({1})),
        (set[tuple[int, int]], [[1, 2]], {(1, 2)}),
        (dict[int, Decimal], {"1": "1.5"}, {1: Decimal("1.5")}),
        (date | str, "2026-01-31", "2026-01-31"),
        (date | None, "2026-01-31", NOON.date()),
    ],
    ids=str,
)
def test_text_numbers_and_lists_of_json_callers_are_converted(
    annotation: object, value: object, expected: object
) -> None:
    found = converted(annotation, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("annotation", "value", "said"),
    [
        (date, "soon", "expected date, got 'soon': not a date, such as 2026-01-31"),
        (date, NOON, "expected date, got datetime: send value.date()"),
        (
            date | None,
            "01/02/2026",
            "expected date, got '01/02/2026': not a date, such as 2026-01-31",
        ),
        (date | None, 5, r"expected date \| None, got int"),
        (datetime, "2026-01-31 25:00", "not a date and time, such as"),
        (time, "25:00", "expected time, got '25:00': not a time of day, such as 12:00:00"),
        (time, NOON, r"expected time, got datetime: send value.time\(\)"),
        (datetime, NOON.date(), "expected datetime, got date"),
        (datetime, 5, "expected datetime, got int"),
        (timedelta, 10**30, "expected timedelta, got 1"),
        (timedelta, float("nan"), "expected timedelta, got nan"),
        (timedelta, float("inf"), "expected timedelta, got inf: more than 999999999 days"),
        (timedelta, True, "expected timedelta, got bool"),
        (Decimal, 1.5, "expected Decimal, got float: send text, such as"),
        (Decimal, 10**300, "expected Decimal, got 1.*more than 300 digits"),
        (Decimal, "1e9999999", "expected Decimal, got '1e9999999'"),
        (UUID, "1", "expected UUID, got '1': not a UUID"),
        (complex, [1], "expected complex, got .*two floats"),
        (complex, 10**400, "expected complex, got 1"),
        (Path, 1, "expected a path, got int"),
        (Path, PureWindowsPath("a"), "expected a path, got PureWindowsPath"),
        (PureWindowsPath, Path("a"), "expected a path, got PosixPath"),
        (set[int], {"a"}, "expected int, got str"),
        (list[int], {1}, "expected list.*, got set"),
        (set[int], 5, "expected list.*, got int"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(annotation: object, value: object, said: str) -> None:
    with pytest.raises(Mismatch, match=said):
        converted(annotation, value)
