"""docs/cli.md agrees with the parsers: every command, every option, every exit status."""

from __future__ import annotations

from .document import DOCUMENT, PART, part, parts, remade

TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_document_is_up_to_date() -> None:
    assert remade(TEXT) == TEXT, "run: python -m tests.cli.document"


def test_the_document_has_each_part_once_and_commands_in_sections_of_their_own() -> None:
    assert PART.findall(TEXT) == [*parts()]
    commands = [name for name in parts() if name.startswith("spear ")]
    assert [
        each for each in commands if f"\n## `{each}`\n\n<!-- made: {each} -->\n" not in TEXT
    ] == []


def test_a_part_that_was_changed_by_hand_is_found() -> None:
    text = part("spear ps", "nonsense") + "\n"
    assert parts()["spear ps"] in remade(text)
    assert remade(remade(text)) == remade(text)
