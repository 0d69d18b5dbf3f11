"""What can be a limit, and what cannot."""

from __future__ import annotations

import math
import re

import attrs
import pytest

from spear import ConfigurationError, Limits

FIELDS = {each.name: each.default for each in attrs.fields(Limits)}


@pytest.mark.parametrize("name", FIELDS)
def test_one_that_is_nothing_is_refused_by_its_name(name: str) -> None:
    for value in (-1, 0):
        if value == 0 and name == "max_segment_bytes":
            assert Limits(max_segment_bytes=0).max_segment_bytes == 0
            continue
        with pytest.raises(ConfigurationError, match=rf"^{name} must .*, and is {value}$"):
            Limits(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("startup_seconds", "60", "startup_seconds must be a number, not '60'"),
        ("startup_seconds", True, "startup_seconds must be a number, not True"),
        ("call_seconds", math.nan, "call_seconds must be above 0, and is nan"),
        ("max_calls", 2.5, "max_calls must be a whole number, not 2.5"),
        ("max_calls", math.inf, "max_calls must be a whole number, not inf"),
        ("max_calls", 10**30, "max_calls must be at most 4611686018427387904, and is"),
        ("max_segment_bytes", -1, "max_segment_bytes must not be negative, and is -1"),
    ],
)
def test_one_that_makes_no_sense(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        Limits(**{name: value})  # type: ignore[arg-type]  # the mistake


def test_a_time_may_be_whole_or_without_an_end() -> None:
    assert Limits(call_seconds=math.inf, startup_seconds=60).startup_seconds == 60
