"""Conversion of values to JSON and back."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear._json import dump_json, load_json, read_float
from spear._tagged import TABLE

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.dates() | st.timedeltas() | st.uuids() | st.datetimes() | st.times() | st.decimals()
    | st.complex_numbers() | st.frozensets(st.integers() | st.text(max_size=2), max_size=3),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(), inner, max_size=4)
    | st.dictionaries(st.integers(-(2**63), 2**64 - 1), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
NAMES = ["$bytes", "$float", *(f"${row.name}" for row in TABLE)]


def same(one: object, other: object) -> bool:
    """Return whether two values are the same; NaN equals NaN."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Decimal | complex):
        return repr(one) == repr(other)
    return type(one) is type(other) and one == other


@given(VALUES)
def test_values_come_back_as_they_went(value: object) -> None:
    text = dump_json(value)
    json.loads(text, parse_constant=pytest.fail)  # check that the text is strict JSON
    rest = text
    for name in NAMES:
        rest = rest.replace(f'"{name}"', "")
    if '"$' not in rest:
        assert same(load_json(text), value)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=UTC), '{"$datetime": "2026-01-31T12:00:00+00:00"}'),
        (datetime(2026, 1, 31, 12), '{"$datetime": "2026-01-31T12:00:00"}'),
        (date(2026, 1, 31), '{"$date": "2026-01-31"}'),
        (time(12), '{"$time": "12:00:00"}'),
        (timedelta(1, 0.5), '{"$duration": "P1DT0.5S"}'),
        (Decimal("1.50"), '{"$decimal": "1.50"}'),
        (UUID(int=1), '{"$uuid": "00000000-0000-0000-0000-000000000001"}'),
        (1 - 2j, '{"$complex": [1.0, -2.0]}'),
        (complex("inf"), '{"$complex": [{"$float": "inf"}, 0.0]}'),
        ({2, 1}, '{"$set": [1, 2]}'),
        (frozenset({b"a"}), '{"$frozenset": [{"$bytes": "YQ=="}]}'),
        ({(1, "a")}, '{"$set": [[1, "a"]]}'),
        ({1: "tea", "b": {2: math.inf}},
         '{"$map": [[1, "tea"], ["b", {"$map": [[2, {"$float": "inf"}]]}]]}'),
        ({b"a": 1, 2: 3}, '{"$map": [[{"$bytes": "YQ=="}, 1], [2, 3]]}'),
        (Path("a"), '{"$path": "a"}'),
        (PurePosixPath("/"), '{"$posixpath": "/"}'),
        (PureWindowsPath("C:\\"), '{"$windowspath": "C:\\\\"}'),
        ([{"days": {date(2026, 1, 31)}}], '[{"days": {"$set": [{"$date": "2026-01-31"}]}}]'),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_each_type_has_one_form(value: object, form: str) -> None:
    assert dump_json(value) == form
    assert same(load_json(form), value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"$date": "soon"}', r"\$date: not a date, such as 2026-01-31"),
        ('{"$date": "2026-02-30"}', r"\$date: day"),
        ('{"$decimal": "1E+7000"}', r"\$decimal: a decimal number with the exponent 7000"),
        ('{"$set": [1, true]}', r"\$set: a set with equal members"),
        ('{"$set": [{"a": 1}]}', r"\$set: .* cannot be hashed"),
        ('{"$map": [[1, 2], [1, 3]]}', r"\$map: a map with equal keys"),
        ('{"$map": [[1.5, 2]]}', r"\$map: .* neither text, bytes nor an integer"),
        ('{"$map": [[1]]}', r"\$map: not a map: a list of pairs"),
        ('{"$complex": [1]}', r"\$complex: not a complex number"),
        ('{"$float": "x"}', r'^\$float is not "nan", "inf" or "-inf"'),
        ('{"$float": "1"}', r"^\$float is not"),
        ('{"$float": []}', r"^\$float is not"),
        ('{"$int": "12"}', r'^\$int is not a hexadecimal number, such as "0x1f"$'),
        ('{"$int": "0x_1"}', r"^\$int is not"),
        ('{"$int": "0x"}', r"^\$int is not"),
        ('{"$int": [1]}', r"^\$int is not"),
        ('{"$bytes": "A"}', r"^\$bytes is not Base64: "),
        ('{"$bytes": [1]}', r"^\$bytes is not Base64$"),
        ('{"$array": "AA=="}', r"^\$array is not a data type"),
    ],
)
def test_a_form_whose_content_does_not_fit_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_json(text)


def test_s6_what_tagged_values_of_a_text_cost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = dump_json([date.today()] * 1001)
    numbers = dump_json([set(range(501)), set(range(501))])
    load_json(dates)
    load_json(numbers)
    monkeypatch.setattr("spear._tagged.MAX_TAGS", 1000)
    monkeypatch.setattr("spear._tagged.MAX_NUMBERS", 1000)
    for text, said in (dates, "more than 1000 dates"), (numbers, "more than 1000 numbers"):
        with pytest.raises(ValueError, match=said):
            load_json(text)


def test_what_was_shared_is_shown_as_bytes() -> None:
    assert dump_json(memoryview(b"\x00")) == dump_json(b"\x00") == '{"$bytes": "AA=="}'


def test_keys_that_are_bytes_become_text() -> None:
    assert (
        dump_json({b"\x00": 1, "a": math.inf})
        == '{"{\\"$bytes\\": \\"AA==\\"}": 1, "a": {"$float": "inf"}}'
    )


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", '{"a": 1, "a": 1}', "1" * 5000, '{"$bytes": "?"}', b"\xff"]
)
def test_what_cannot_be_used_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


@pytest.mark.parametrize(
    "number",
    [
        "1e400", "-1e400", "1E+309", "1.8e308", "9" * 310 + ".0", "1e-400", "-1e-324", "0.0001e-322",
        "0." + "0" * 400 + "1", "1e99999999999999999999", "1e-99999999999999999999",
    ],
)  # fmt: skip
def test_a_number_that_no_float_holds_is_refused(number: str) -> None:
    for text in number, f"[{number}]", f'{{"a": {{"b": {number}}}}}':
        with pytest.raises(ValueError, match="is out of the range of a float"):
            load_json(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.0", 0.0), ("-0.0", -0.0), ("0e999", 0.0), ("-0.000E-999", -0.0), ("1e308", 1e308),
        ("5e-324", 5e-324), ("1" + "0" * 400 + "e-400", 1.0), ("1.5", 1.5), ("1e5", 1e5),
    ],
)  # fmt: skip
def test_a_number_that_a_float_holds_is_that_float(text: str, number: float) -> None:
    for found in load_json(text), read_float(text):
        assert (found, str(found)) == (number, str(number))


@pytest.mark.parametrize(
    "text",
    ["", "nan", "inf", "-inf", "1_0", " 1", "1 ", "\u0661", "0x1", "1e", "e1", ".", "--1", "1.5.5"],
)
def test_what_only_python_takes_for_a_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        read_float(text)


def test_infinity_must_be_allowed_and_is_a_word() -> None:
    assert read_float("inf", may_be_infinite=True) == read_float("Infinity", may_be_infinite=True)
    for text in "nan", "-inf", "1e400", "in":
        with pytest.raises(ValueError, match="is "):
            read_float(text, may_be_infinite=True)


def test_keys_that_would_be_the_same_in_json_have_none() -> None:
    with pytest.raises(ValueError, match="two keys of a map are the same in JSON"):
        dump_json([{b"hi": 1, '{"$bytes": "aGk="}': 2}])


def test_what_only_looks_like_ours_is_a_map() -> None:
    looking_like: list[dict[str, object]] = [
        {"$bytes": 1}, {"$float": 1.5}, {"$bytes": "AA==", "a": 1}, {"$int": 1}, {"$array": True},
        {"$date": 1}, {"$set": None}, {"$set": {"a": 1}}, {"$day": "2026-01-31"}, {"$day": []},
        {"$date": "2026-01-31", "a": 1}, {"date": "2026-01-31"},
    ]  # fmt: skip
    for value in looking_like:
        assert load_json(json.dumps(value)) == value
    with pytest.raises(TypeError, match="object"):
        dump_json([object()])


@pytest.mark.parametrize(
    "number", [10**4300, -(10**5000), 2**400_000 + 1], ids=lambda each: each.bit_length()
)
def test_integers_of_any_size_come_back_as_they_went(number: int) -> None:
    text = dump_json({"a": [number, 1, True, 2**64], "b": None})
    assert text == f'{{"a": [{{"$int": "{number:#x}"}}, 1, true, {2**64}], "b": null}}'
    assert load_json(text) == {"a": [number, 1, True, 2**64], "b": None}
    assert load_json(f'{{"$int": "{number:#X}"}}'.replace("X", "x")) == number


def test_an_integer_of_too_many_digits_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r'4300 digits.*: write it as \{"\$int": "0x...') as caught:
        load_json("1" * 5000)
    assert "sys." not in str(caught.value)
    with pytest.raises(ValueError, match=r"\$bytes is not Base64"):
        load_json('{"$bytes": "\u00e9"}')  # for which Python raises the same class as for int()


def test_integers_that_python_writes_are_numbers() -> None:
    assert dump_json([10**4299, math.nan]) == f'[{10**4299}, {{"$float": "nan"}}]'
