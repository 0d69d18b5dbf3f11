"""The positions of keys in a file, and the text that is written."""

from __future__ import annotations

import json
import math
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear.config import show_as_json, show_as_toml
from spear.config._toml import find_lines, load_toml, show_toml

if TYPE_CHECKING:
    from .conftest import Read

TEXT = """# a comment
top = 1

[one]  # another
a = "x # = [y"
b = '''
c = 1
[no]
''' # over

  d.e = [ # "
   1,
   { f = 2 },
]
"g h".'i' = "\\"]"
[ one . "t\\u0077o" ]
j = { k = \"\"\"
[no]
\\\"\"\"\"\"\", l = 3 }
[[three]]
m=1
"""


def test_where_each_key_stands() -> None:
    tomllib.loads(TEXT)  # the text is valid TOML
    assert dict(find_lines(TEXT)) == {
        ("top",): 2,
        ("one",): 4,
        ("one", "a"): 5,
        ("one", "b"): 6,
        ("one", "d", "e"): 11,
        ("one", "g h", "i"): 15,
        ("one", "two"): 16,
        ("one", "two", "j"): 17,
        ("three",): 20,
        ("three", "m"): 21,
    }


KEYS = st.text(min_size=1, max_size=8)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=3),
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner), max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@given(TABLES)
def test_what_is_written_means_the_same(tables: dict[str, object]) -> None:
    text = show_toml(tables)
    assert tomllib.loads(text) == tables
    lines = text.split("\n")
    for path, line in find_lines(text):
        assert lines[line - 1].strip()
        assert path


def test_a_configuration_that_is_shown_means_the_same(read: Read) -> None:
    before = read(
        '[spearlet]\nname = "evening"\n[limits.wire]\ncall_seconds = inf\n[functions.shop]\n'
        'source = "shop.py"\nreplicas = "1-3"\ntimeout = inf\nrestart = { intensity = 2 }\n'
        'pass_environment = ["A"]\n[functions.tool]\ncommand = ["sh"]\n'
    )
    assert before.lines == []
    after = read(show_as_toml(before.configuration))
    assert after.lines == []
    assert after.configuration == before.configuration
    shown = json.loads(show_as_json(before.configuration))
    assert shown["spearlet"]["name"] == "evening"
    assert shown["functions"]["shop"]["replicas"]["max"] == 3
    assert shown["functions"]["shop"]["timeout"] is None
    assert shown["limits"]["wire"]["call_seconds"] is None


def test_secrets_are_not_shown(read: Read) -> None:
    outcome = read('[functions.shop]\nsource = "shop.py"\nenvironment = { KEY = "hush" }\n')
    for text in (show_as_toml(outcome.configuration), show_as_json(outcome.configuration)):
        assert "hush" not in text
        assert "KEY" in text
        assert "<hidden>" in text


@pytest.mark.parametrize(
    ("text", "number"),
    [("inf", math.inf), ("-inf", -math.inf), ("+inf", math.inf), ("1_0.2_5", 10.25), ("-0.0", 0.0)],
)
def test_floats_are_what_toml_says(text: str, number: float) -> None:
    assert load_toml(f"a = {text}") == {"a": number}


def test_a_float_that_python_cannot_hold_is_refused() -> None:
    for text in "1e400", "-1e400", "1e-400":
        with pytest.raises(ValueError, match="out of the range of a float"):
            load_toml(f"a = {text}")
