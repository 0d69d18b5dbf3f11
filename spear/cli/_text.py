"""Text for terminals: escaping untrusted text, tables, and compact numbers.

This module imports nothing that loads slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MISSING: Final = "-"
"""The text for a missing value."""


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Return the text with non-printable characters escaped, so that it cannot control the terminal."""
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )


def cell(value: object) -> str:
    """Return a value as one line of text."""
    return MISSING if value is None or value == "" else printable(str(value), keep="")


def table(
    titles: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
) -> list[str]:
    """Return the lines of a table.

    Args:
        titles: titles of the columns.
        rows: the cells of each row.
        right: titles of right-aligned columns.
    """
    lines = [list(titles), *([cell(each) for each in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    aligned = set(right)
    return [
        "  ".join(
            each.rjust(width) if title in aligned else each.ljust(width)
            for each, width, title in zip(line, widths, titles, strict=True)
        ).rstrip()
        for line in lines
    ]


def seconds(value: object) -> str:
    """Return a short time with three digits: ``85µs``, ``1.25ms``, ``12.5s``."""
    if not isinstance(value, int | float):
        return MISSING
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if 0 < value * factor < 999.5:
            return f"{_three_digits(value * factor)}{unit}"
    return f"{_three_digits(value)}s" if value < 999.5 else age(value)


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    text = f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def age(value: object) -> str:
    """Return a long time: ``42s``, ``7m03s``, ``3h12m``, ``5d02h``."""
    if not isinstance(value, int | float):
        return MISSING
    whole = int(value)
    for unit, size, smaller, small in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small:02}{smaller}"
    return f"{whole}s"


def amount(value: object) -> str:
    """Return a number in few characters: ``950``, ``12.5k``, ``3.1M``."""
    if not isinstance(value, int | float):
        return MISSING
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= factor:
            return f"{_three_digits(value / min(factor, 1e3 if unit == 'k' else factor))}{unit}"
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def size(value: object) -> str:
    """Return a number of bytes in few characters: ``512B``, ``1.5K``, ``48M``."""
    if not isinstance(value, int | float):
        return MISSING
    for factor, unit in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if value >= factor:
            return f"{_three_digits(value / factor)}{unit}"
    return f"{value:.0f}B"
