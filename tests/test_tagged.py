"""The table of tagged types: its rows agree with each other, and with the documents."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import attrs
import pytest

from spear._tagged import (
    BY_NAME,
    BY_TAG,
    MAX_EQUAL_HASHES,
    MAX_NUMBERS,
    MAX_TAGS,
    PRIVATE_TAGS,
    SMALL_TABLE,
    TABLE,
    TagBudget,
    tagged_type,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent.parent / "docs"


def rows_of(page: str, column: int) -> list[str]:
    """Return the words in code in a column of the page's table of types."""
    text = (DOCS / page).read_text()
    table = text.partition("<!-- types -->\n")[2].partition("\n\n")[0]
    cells = [line.split(" | ")[column] for line in table.splitlines()[2:]]
    return [word for cell in cells for word in re.findall(r"`(.+?)`", cell)]


def test_no_two_rows_share_a_tag_a_name_or_a_class() -> None:
    assert len(BY_TAG) == sum(len(row.restore) for row in TABLE)
    assert len(BY_NAME) == len(TABLE)
    classes = [name for row in TABLE for name in row.classes]
    assert len(set(classes)) == len(classes)


def test_wire_md_lists_the_tags() -> None:
    documented = {int(word) for word in rows_of("wire.md", 0)}
    assert documented == set(BY_TAG)
    assert int.from_bytes(b"Spe\0") == PRIVATE_TAGS


def test_http_md_lists_the_forms() -> None:
    forms = " ".join(rows_of("http.md", 1))
    assert {f"${name}" for name in re.findall(r"\$(\w+)", forms)} >= set(BY_NAME)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (datetime.now(UTC), "datetime"), (date.today(), "date"), (Decimal(1), "decimal"), ({1}, "set"),
        (frozenset(), "frozenset"), (Path(), "path"), (PurePosixPath(), "posixpath"), (1j, "complex"),
    ],
)  # fmt: skip
def test_a_class_has_one_row(value: object, name: str) -> None:
    found = tagged_type(type(value))
    assert found is not None
    assert found.name == name


def test_subclasses_have_the_row_of_their_base_and_data_classes_have_none() -> None:
    class Day(date):
        """A day."""

    @attrs.frozen(order=False)
    class Span(date):
        end: int = 0

    found = tagged_type(Day)
    assert found is not None
    assert found.name == "date"
    assert tagged_type(Span) is None
    assert tagged_type(type("date", (), {"__module__": "shop"})) is None


def spend_members(budget: TagBudget) -> None:
    budget.spend_members(range(SMALL_TABLE + 1))


@pytest.mark.parametrize(
    ("spend", "times"),
    [(TagBudget.spend, MAX_TAGS), (spend_members, MAX_NUMBERS // (SMALL_TABLE + 1))],
    ids=["tags", "numbers"],
)
def test_s6_a_budget_is_exceeded_by_one_more(
    spend: Callable[[TagBudget], None], times: int
) -> None:
    budget = TagBudget()
    for _ in range(times):
        spend(budget)
    with pytest.raises(ValueError, match="more than"):
        spend(budget)


def test_s6_members_of_one_hash_are_few() -> None:
    prime = (1 << 61) - 1  # Python's hashes of integers are remainders modulo this prime
    TagBudget().spend_members([prime * each for each in range(MAX_EQUAL_HASHES)])
    grid = [(x, y, z) for x in range(-5, 5) for y in range(-5, 5) for z in range(-2, 0)]
    TagBudget().spend_members(grid)
    with pytest.raises(ValueError, match="a set with 17 members of the same hash: send a list"):
        TagBudget().spend_members([prime * each for each in range(MAX_EQUAL_HASHES + 1)])


def test_small_tables_text_and_bytes_are_not_counted() -> None:
    budget = TagBudget()
    for _ in range(100):
        budget.spend_members(range(SMALL_TABLE))
        budget.spend_members([f"{each}" for each in range(1000)])
        budget.spend_members([b"%d" % each for each in range(1000)])
    spend_members(budget)  # raises nothing
