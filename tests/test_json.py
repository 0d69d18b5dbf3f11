"""Conversion of values to JSON and back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear._json import dump_json, load_json, read_float

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def same(one: object, other: object) -> bool:
    """Return whether two values are the same; NaN equals NaN."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(VALUES)
def test_values_come_back_as_they_went(value: object) -> None:
    text = dump_json(value)
    json.loads(text, parse_constant=pytest.fail)  # check that the text is strict JSON
    if '"$' not in text.replace('"$bytes"', "").replace('"$float"', ""):
        assert same(load_json(text), value)


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
    for value in (
        {"$bytes": 1}, {"$float": "1"}, {"$bytes": "AA==", "a": 1}, {"$int": 1}, {"$int": "12"},
        {"$int": "0x_1"}, {"$int": "0x"},
    ):  # fmt: skip
        assert load_json(json.dumps(value)) == value
    with pytest.raises(TypeError, match="set"):
        dump_json({1})


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
