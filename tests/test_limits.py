"""Valid and invalid values of limits."""

from __future__ import annotations

import math
import re
from typing import TypeAlias

import attrs
import pytest

from spear import ConfigurationError, HostLimits, InstanceTimeouts, WireLimits

Limits: TypeAlias = type[WireLimits] | type[InstanceTimeouts] | type[HostLimits]

NUMBERS = [
    pytest.param(kind, each.name, id=each.name)
    for kind in (WireLimits, InstanceTimeouts, HostLimits)
    for each in attrs.fields(kind)
    if each.name not in ("wire", "timeouts")
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_one_that_is_nothing_is_refused_by_its_name(kind: Limits, name: str) -> None:
    for value in (-1, 0):
        if value == 0 and name == "max_segment_bytes":
            assert WireLimits(max_segment_bytes=0).max_segment_bytes == 0
            continue
        with pytest.raises(
            ConfigurationError, match=rf"^{name} must .*, and is {value}$"
        ) as caught:
            kind(**{name: value})  # type: ignore[arg-type]  # that of the number
        assert caught.value.key == name


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (InstanceTimeouts, "startup_seconds", "60", "must be a number, not '60'"),
        (InstanceTimeouts, "startup_seconds", True, "must be a number, not True"),
        (WireLimits, "call_seconds", math.nan, "must be above 0, and is nan"),
        (WireLimits, "max_calls", 2.5, "must be a whole number, not 2.5"),
        (WireLimits, "max_calls", math.inf, "must be a whole number, not inf"),
        (WireLimits, "max_calls", 10**30, "must be at most 4611686018427387904, and is"),
        (WireLimits, "max_segment_bytes", -1, "must not be negative, and is -1"),
        (HostLimits, "max_submitted", "1", "must be a whole number, not '1'"),
        (
            HostLimits,
            "wire",
            {"max_calls": 1},
            "must be spear.WireLimits(...), not {'max_calls': 1}",
        ),
        (HostLimits, "timeouts", 60, "must be spear.InstanceTimeouts(...), not 60"),
    ],
)
def test_one_that_makes_no_sense(kind: Limits, name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(f'{name} {message}')}"):
        kind(**{name: value})  # type: ignore[arg-type]  # the mistake


def test_a_time_may_be_whole_or_without_an_end() -> None:
    assert InstanceTimeouts(startup_seconds=60).startup_seconds == 60
    assert WireLimits(call_seconds=math.inf).call_seconds == math.inf
