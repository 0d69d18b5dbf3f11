"""Values with codecs, checked against annotations."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import spear
from spear.annotations import build_check

from .helpers import converted, fault_of, mismatch_of


class Distance:
    """A class with a codec."""

    def __init__(self, metres: float) -> None:
        self.metres = metres


@dataclass
class Trip:
    """A data class with a codec."""

    start: str
    length: Distance


@dataclass
class Recipe:
    """A data class that only its codec can make."""

    part: Fraction


spear.codec(Distance, lambda value: value.metres, Distance)
spear.codec(Trip, lambda value: [value.start, value.length], lambda content: Trip(*content))
spear.codec(Recipe, lambda value: str(value.part), lambda content: Recipe(Fraction(content)))


def test_an_object_of_the_class_is_accepted() -> None:
    one = Distance(1.0)
    assert converted(Distance, one) is one
    assert converted(list[Distance], [one]) == [one]
    assert converted(Distance | None, one) is one
    mismatch = mismatch_of(Distance, 1.0)
    assert (str(mismatch), mismatch.expected, mismatch.got) == (
        "expected Distance, got float",
        "Distance",
        "float",
    )


def test_a_parameter_may_have_the_annotation() -> None:
    for cls in (Distance, Trip, Recipe):
        check = build_check(cls)
        assert check is not None
        assert check.impossible is None


def test_a_data_class_may_still_be_a_map() -> None:
    one = Trip("home", Distance(1.0))
    assert converted(Trip, one) is one
    assert converted(Trip, {"start": "home", "length": one.length}) == one
    assert str(mismatch_of(Recipe, {"part": "1/2"})) == "expected Recipe, got dict"


def test_results_fit() -> None:
    assert fault_of(Distance, Distance(1.0)) == ("", "")
    assert fault_of(Distance, 1.0) == ("", "expected Distance, got float")
    assert fault_of(list[Trip], [Trip("home", Distance(1.0))]) == ("", "")
