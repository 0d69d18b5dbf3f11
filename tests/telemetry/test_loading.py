"""Instruments by name: of entry points, and of modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from entry_points import Install

from spear import BrokenEntryPoint, ConfigurationError, Instrument, UnsupportedInstrument
from spear.telemetry import find_instrument, load_instrument

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import spear

MADE = []


class Bell(spear.Instrument):
    def __init__(self):
        MADE.append(self)


class Drum:
    pass


class Cracked(spear.Instrument):
    def __init__(self):
        raise OSError("no collector answers")


def leave():
    raise SystemExit(3)


def drum():
    return Drum()


bell = Bell()
number = 7
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "orchestra.py").write_text(SOURCE)
    monkeypatch.delitem(sys.modules, "orchestra", raising=False)
    return Install(tmp_path, monkeypatch, "spear.instruments")


def test_an_entry_point_names_a_class_or_an_object(install: Install) -> None:
    install("bell", "from orchestra import Bell as thing")
    install("one-bell", "from orchestra import bell as thing")
    made = load_instrument("bell")
    assert isinstance(made, Instrument)
    assert type(made).__name__ == "Bell"
    assert load_instrument("bell") is not made
    assert load_instrument("one-bell") is load_instrument("one-bell")


def test_a_reference_names_a_class_or_an_object(install: Install) -> None:
    assert type(load_instrument("orchestra:Bell")).__name__ == "Bell"
    assert load_instrument("orchestra:bell") is sys.modules["orchestra"].bell


def test_finding_one_makes_none(install: Install) -> None:
    make = find_instrument("orchestra:Bell")
    made = sys.modules["orchestra"].MADE
    assert len(made) == 1  # of the module itself
    assert make() is made[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("orchestra:Drum", "orchestra:Drum must be an instance of Instrument, not of Drum"),
        ("orchestra:number", "orchestra:number must be an instance of Instrument, not of int"),
        ("orchestra:Harp", "orchestra:Harp cannot be loaded: AttributeError: .*Harp"),
        (
            "no_orchestra:Bell",
            "No module named 'no_orchestra'; install it, or add its directory to PYTHONPATH",
        ),
        ("orchestra.py:Bell", "a module is named without .py: use orchestra:Bell"),
        ("./orchestra:Bell", "must be the name of an entry point, or package.module:Class"),
        ("orchestra:", "must be the name of an entry point, or package.module:Class"),
        ("bel", "has an entry point of this name; did you mean 'bell'?"),
        ("piano", "must be the name of an entry point, or package.module:Class"),
        ("", "must be the name of an entry point, or package.module:Class"),
    ],
)
def test_what_cannot_be_found_says_what_to_do(install: Install, name: str, said: str) -> None:
    install("bell", "from orchestra import Bell as thing")
    with pytest.raises(UnsupportedInstrument, match=said) as raised:
        find_instrument(name)
    assert raised.value.instrument == name
    assert raised.value.key == "instruments"
    assert isinstance(raised.value, ConfigurationError)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        ("Cracked", "cannot be loaded: OSError: no collector answers"),
        ("leave", "cannot be loaded: SystemExit: 3"),
        ("drum", "must be an instance of Instrument, not of Drum"),
    ],
)
def test_what_cannot_be_made_says_why(install: Install, thing: str, said: str) -> None:
    install("bell", f"from orchestra import {thing} as thing")
    with pytest.raises(BrokenEntryPoint, match=said) as raised:
        find_instrument("bell")()
    assert (raised.value.name, raised.value.distribution) == ("bell", "spear-bell")
    with pytest.raises(UnsupportedInstrument, match=said):
        find_instrument(f"orchestra:{thing}")()


def test_a_broken_distribution_is_named(install: Install) -> None:
    install("bell", "1 / 0")
    with pytest.raises(
        BrokenEntryPoint, match=r"of spear-bell cannot be used: .*ZeroDivisionError"
    ):
        find_instrument("bell")
