"""Short forms of amounts, tables, and the neutralization of harmful text."""

from __future__ import annotations

import pytest

from spear.cli._text import age, amount, cell, printable, seconds, size, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), ("1", "-"), (0, "0s"), (0.0000851, "85.1µs"), (0.00099, "990µs"),
        (0.0009996, "1ms"), (0.00125, "1.25ms"), (0.01249, "12.5ms"), (0.5, "500ms"), (1.0, "1s"),
        (12.34, "12.3s"), (123.4, "123s"), (4000, "1h06m"),
    ],
)  # fmt: skip
def test_short_times(value: object, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"),
        (86399, "23h59m"), (200000, "2d07h"),
    ],
)  # fmt: skip
def test_long_times(value: object, text: str) -> None:
    assert age(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0, "0"), (0.25, "0.2"), (7, "7"), (99.5, "99.5"), (123.4, "123"),
        (9999, "9999"), (12345, "12.3k"), (123456, "123k"), (3_140_000, "3.14M"), (5e9, "5G"),
    ],
)  # fmt: skip
def test_amounts(value: object, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (512, "512B"), (1536, "1.5K"), (48 << 20, "48M"), (3 << 30, "3G")],
)
def test_sizes(value: object, text: str) -> None:
    assert size(value) == text


def test_what_could_control_a_terminal() -> None:
    assert printable("a\x1b[2J\tb\n\x9b") == "a\\x1b[2J\tb\n\\x9b"
    assert cell("a\tb\n\x07") == "a\\tb\\n\\x07"
    assert [cell(each) for each in (None, "", 0, "größe")] == ["-", "-", "0", "größe"]


def test_a_table() -> None:
    assert table(("NAME", "N"), [("a", 1), ("longer", 100), (None, "\n")], right=("N",)) == [
        "NAME      N",
        "a         1",
        "longer  100",
        "-        \\n",
    ]
    assert table(("NAME", "N"), []) == ["NAME  N"]
