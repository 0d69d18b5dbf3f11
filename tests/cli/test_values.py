"""Command-line arguments that become values, and values that are printed."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from spear import ConfigurationError, InvalidArguments, RemoteProtocolError, WireLimits
from spear.cli._values import (
    MAX_DIGITS,
    MAX_INPUT_BYTES,
    long_integers,
    parse_number,
    parse_value,
    parse_whole,
    read_all,
    show_value,
)
from spear.cli._words import FunctionWords, split_arguments

if TYPE_CHECKING:
    from pathlib import Path


def no_input() -> bytes:
    raise AssertionError


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ('"tea"', "tea"), ("tea", "tea"), ("", ""), ("7", 7), ("-7", -7), ("-0.5", -0.5), ("007", "007"),
        ("1e3", 1000.0), ("true", True), ("True", "True"), ("null", None), ("None", "None"),
        ("[1, 2]", [1, 2]), ("[1, 2", "[1, 2"), ('{"a": {"b": 1}}', {"a": {"b": 1}}), ("größe", "größe"),
        ('"@name"', "@name"), ('"-"', "-"), ("a b", "a b"), (" 1 ", 1),
        ("Infinity", "Infinity"), ("[NaN]", "[NaN]"), ("9" * 30, int("9" * 30)),
    ],
)  # fmt: skip
def test_a_word_is_json_if_it_is_json(word: str, value: object) -> None:
    parsed = parse_value(word, no_input)
    assert parsed == value
    assert type(parsed) is type(value)


def test_files_and_input_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\xff{}")
    (tmp_path / "order.json").write_text('{"item": "tea"}')
    assert parse_value(f"@{tmp_path}/photo.png", no_input) == b"\xff{}"
    assert parse_value(f"@{tmp_path}/order.json", no_input) == {"item": "tea"}
    assert parse_value("-", lambda: b"input") == b"input"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "cannot read '.*missing.png': No such file"),
        ("nul\0", None, "cannot read .*null byte"),
        ("bad.json", b"{", "bad.json as JSON: "),
        ("bad.json", b"\xff", "bad.json as JSON: "),
        ("deep.json", b"[" * 100_000, "deep.json as JSON: "),
        ("nan.json", b"[NaN]", "nan.json as JSON: NaN is not JSON"),
        ("user", None, r"to pass text that begins with @, write '\"@.*user\"'"),
    ],
)
def test_a_file_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        parse_value(f"@{tmp_path}/{name}", no_input)


def test_no_more_is_read_than_a_call_takes(tmp_path: Path) -> None:
    assert read_all(BytesIO(b"12345"), "a file", 5) == b"12345"
    with (
        open("/dev/zero", "rb") as zeros,
        pytest.raises(InvalidArguments, match="zeros has more than 5 bytes, the limit of a call"),
    ):
        read_all(zeros, "zeros", 5)
    assert WireLimits().max_segment_bytes == MAX_INPUT_BYTES


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        parse_value(f"@{tmp_path}", no_input)


def test_what_is_nested_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\[\[\[.* is nested too deeply"):
        parse_value("[" * 100_000, no_input)


@pytest.mark.parametrize(
    ("words", "positional", "keywords"),
    [
        ([], [], {}),
        (["a", "b"], ["a", "b"], {}),
        (["--currency", "GBP"], [], {"currency": "GBP"}),
        (["--currency=GBP"], [], {"currency": "GBP"}),
        (["--currency="], [], {"currency": ""}),
        (["--a=b=c"], [], {"a": "b=c"}),
        (["--dry-run", "true"], [], {"dry_run": "true"}),
        (["--number", "-5"], [], {"number": "-5"}),
        (["--text=--other"], [], {"text": "--other"}),
        (["-5", "-x", "--"], ["-5", "-x", "--"], {}),
        (["a", "--b", "c", "d", "--e", "-"], ["a", "d"], {"b": "c", "e": "-"}),
        (["--größe", "1"], [], {"größe": "1"}),
    ],
)
def test_words_by_position_and_by_name(
    words: list[str], positional: list[str], keywords: dict[str, str]
) -> None:
    several = {name: [word] for name, word in keywords.items()}
    assert split_arguments(words) == (positional, several)


def read(words: list[str], signature: str) -> tuple[list[object], dict[str, object]]:
    """Return the arguments that words make for a function with the signature."""
    command = FunctionWords("f.py:f", words, frozenset(), [])
    positional, keywords = command.arguments()
    if command.are_ambiguous(positional, keywords):
        command.keep_texts(positional, keywords, signature)
    return positional, keywords


@pytest.mark.parametrize(
    ("words", "signature", "positional", "keywords"),
    [
        (["--tag", "a", "--tag", "1"], "f(tag: list[str])", [], {"tag": ["a", "1"]}),
        (["--tag", "a"], "f(tag: set[str] | None = None)", [], {"tag": ["a"]}),
        (["--tag", '["a"]'], "f(tag: list[str])", [], {"tag": ["a"]}),
        (["--n", "1", "--n=2"], "f(n: tuple[int, str])", [], {"n": [1, "2"]}),
        (["--a", "1"], "f(a: str)", [], {"a": "1"}),
        (["--a", "1"], "", [], {"a": 1}),
        (["True", "1", "0"], "f(a: bool, b: str, c: bool)", [True, "1", False], {}),
        (["True"], "", ["True"], {}),
        (["--loud", "True"], "f(loud: bool)", [], {"loud": True}),
        (["1"], "f(colour: Literal['1', '2'])", ["1"], {}),
    ],
)
def test_words_are_read_by_the_signature(
    words: list[str], signature: str, positional: list[object], keywords: dict[str, object]
) -> None:
    assert read(words, signature) == (positional, keywords)


def test_files_are_not_read_by_the_signature(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1")
    files = [f"@{tmp_path / name}" for name in "ab"]
    assert read([files[0]], "f(x: str)") == ([b"1"], {})
    assert read(["--x", files[0], "--x", files[1]], "f(x: list[bytes])") == (
        [],
        {"x": [b"1", b"1"]},
    )
    assert read(["--x", files[0]], "f(x: bytes)") == ([], {"x": b"1"})


@pytest.mark.parametrize(
    ("words", "signature"),
    [
        (["--a", "1", "--a=2"], "f(a: int)"),
        (["--a-b", "1", "--a_b=2"], "f(a_b: int | list[int])"),
        (["--a", "1", "--a=2"], ""),
    ],
)
def test_a_repeated_name_needs_a_list(words: list[str], signature: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--a(_b)? is given twice, and takes no list"):
        read(words, signature)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loud"], "--loud needs a value: --loud true if it is a flag"),
        (["--loud", "--currency", "GBP"], "--loud needs a value: .* --loud=VALUE for a value that"),
        (["--more", "-", "--more", "-"], "standard input, -, can be read only once"),
        (["-", "--more", "-"], "standard input, -, can be read only once"),
    ],
)
def test_words_that_make_no_sense(words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        split_arguments(words)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"raw\xff", b"raw\xff"), (b"", b""), (memoryview(b"shared"), b"shared"),
        ("größe", '"größe"\n'.encode()), (None, b"null\n"),
        ([1, {"a": True}], b'[1, {"a": true}]\n'),
        ([b"\x00"], b'[{"$bytes": "AA=="}]\n'),
        ({b"\x00": b"\x00"}, b'{"{\\"$bytes\\": \\"AA==\\"}": {"$bytes": "AA=="}}\n'),
        (2**200, str(2**200).encode() + b"\n"),
        ("\x1b[31m", b'"\\u001b[31m"\n'),
        ([float("nan"), float("-inf")], b'[{"$float": "nan"}, {"$float": "-inf"}]\n'),
    ],
)  # fmt: skip
def test_what_is_printed(value: object, shown: bytes) -> None:
    assert show_value(value) == shown
    if not isinstance(value, bytes | memoryview):
        json.loads(shown)


def test_integers_of_too_many_digits_are_printed_as_maps_and_taken_as_such() -> None:
    shown = show_value(10**5000)
    assert shown == f'{{"$int": "{10**5000:#x}"}}\n'.encode()
    assert parse_value(shown.decode(), no_input) == 10**5000


def test_a_short_value_that_cannot_be_used_is_shown_whole() -> None:
    with pytest.raises(ConfigurationError, match=r'^\{"a":1,"a":2\} cannot be used: a map has'):
        parse_value('{"a":1,"a":2}', no_input)


def test_a_result_of_which_json_would_lose_a_key_is_not_printed() -> None:
    with pytest.raises(RemoteProtocolError, match="two keys of a map are the same") as caught:
        show_value({b"hi": 1, '{"$bytes": "aGk="}': 2})
    assert caught.value.delivered == "yes"


def test_a_number_that_no_float_holds_is_no_infinity() -> None:
    with pytest.raises(ConfigurationError, match=r"^1e400 cannot be used: 1e400 is out of the"):
        parse_value("1e400", no_input)


def test_options_take_numbers_in_digits() -> None:
    assert (parse_number("2.5"), parse_number("inf"), parse_whole("-3")) == (2.5, float("inf"), -3)
    for read, text in [
        (parse_number, "nan"),
        (parse_number, "1e400"),
        (parse_whole, "1_0"),
        (parse_whole, "\u0661"),
    ]:
        with pytest.raises(ArgumentTypeError, match="needs a"):
            read(text)


@pytest.mark.slow
def test_integers_may_be_long() -> None:
    before = sys.get_int_max_str_digits()
    with long_integers():
        number = parse_value("9" * MAX_DIGITS, no_input)
        assert show_value(number) == b"9" * MAX_DIGITS + b"\n"
        with pytest.raises(
            ConfigurationError, match=r"^9{20}\.\.\. cannot be used: an integer has more"
        ):
            parse_value("9" * (MAX_DIGITS + 1), no_input)
    assert sys.get_int_max_str_digits() == before
