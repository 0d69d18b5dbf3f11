"""The parts of docs/cli.md that are generated from the parsers of the command.

``python -m tests.cli.document`` writes them into the document; test_document.py fails if they are out of
date. Each part is between two comments that name it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spear.cli._parser import COMMANDS, CommandParser, parser_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

ONCE: Final = ("arguments", "exit status")
"""Sections of a command's help that the document has once, for all commands."""

PART: Final = re.compile(r"<!-- made: ([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)


def table(*rows: tuple[str, ...]) -> str:
    head, *body = ([each.replace("|", r"\|") for each in row] for row in rows)
    lines = (f"| {' | '.join(each)} |" for each in (head, *body))
    return "\n".join((next(lines), f"|{'---|' * len(head)}", *lines))


# -- one command ----------------------------------------------------------------------------------


def value_of(action: argparse.Action) -> str:
    """Return the name of an option's value or of an argument, as the help shows it."""
    name = action.metavar
    if not isinstance(name, str):
        name = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest
        name = name.upper() if action.option_strings and not action.choices else name
    match action.nargs:
        case "?":
            return f"[{name}]"
        case "*":
            return f"[{name} ...]"
        case "+":
            return f"{name} [{name} ...]"
        case _:
            return name


def row(action: argparse.Action) -> tuple[str, str]:
    """Return the table row of an option or argument."""
    spelled = list(action.option_strings) or [""]
    if action.nargs != 0:
        spelled[-1] = f"{spelled[-1]} {value_of(action)}".strip()
    meaning = (action.help or "").replace("%%", "%")
    return ", ".join(f"`{each}`" for each in spelled), meaning


def usage(name: str, parser: CommandParser) -> str:
    """Return the form of a command line."""
    if parser.parser.usage:
        return parser.parser.usage
    options = ["[options]"] if parser.flags != ["-h", "--help"] else []
    arguments = [value_of(each) for each in parser.actions if not each.option_strings]
    return " ".join(["spear", name, *options, *arguments])


def sections(epilog: str) -> Iterator[tuple[str, str]]:
    """Yield (title, text) for each part of the end of a help; the title of plain text is empty."""
    for each in filter(None, re.split(r"\n\n+", epilog.strip("\n"))):
        title, colon, rest = each.partition(":\n")
        yield (title, rest) if colon and rest.startswith("  ") else ("", each)


def command(name: str) -> str:
    """Return the description of one command: its purpose, its form, its options, and its remarks."""
    parser = parser_of(name)
    purpose = parser.parser.description or f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
    rows = [row(each) for each in parser.actions if "--help" not in each.option_strings]
    parts = [purpose, f"Usage: `{usage(name, parser)}`", table(("option", "meaning"), *rows)]
    for title, text in sections(parser.parser.epilog or ""):
        if not title:
            parts.append(f"{text[0].upper()}{text[1:]}")
        elif title not in ONCE:
            parts.append(f"{title[0].upper()}{title[1:]}:\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


# -- the document ---------------------------------------------------------------------------------


def of_all(title: str) -> str:
    """Return a section that the help of ``spear invoke`` shares with other commands."""
    return dict(sections(parser_of("invoke").parser.epilog or ""))[title]


def statuses() -> str:
    lines = [line.split(maxsplit=1) for line in of_all("exit status").splitlines()]
    return table(("exit status", "meaning"), *((f"{number}", text) for number, text in lines))


def commands() -> str:
    rows = ((f"[`spear {name}`](#spear-{name})", says) for name, says in COMMANDS.items())
    return table(("command", "purpose"), *rows)


def parts() -> dict[str, str]:
    """Return all generated parts, by name."""
    return {
        "commands": commands(),
        "arguments": f"```text\n{of_all('arguments')}\n```",
        "exit statuses": statuses(),
        **{f"spear {name}": command(name) for name in COMMANDS},
    }


def remade(text: str) -> str:
    """Return the document with all its parts up to date."""
    made = parts()
    return PART.sub(lambda found: part(found[1], made[found[1]]), text)


def part(name: str, text: str) -> str:
    """Return a part as it stands in the document."""
    return f"<!-- made: {name} -->\n{text}\n<!-- end -->"


if __name__ == "__main__":  # pragma: no cover
    DOCUMENT.write_text(remade(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
