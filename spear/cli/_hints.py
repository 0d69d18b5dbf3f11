"""What to write instead, for arguments that did not fit their function."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# What the function's agent says, and what that means at a shell.
_HINTS: Final = (
    (r"expected bool, got str$", "write true or false, as in --loud true"),
    (
        r"expected str, got (int|float|bool|None|list|dict)$",
        "text that could be JSON needs quotes of its own: '\"7\"'",
    ),
    (r"expected bytes, got str$", "@FILE stands for the bytes of a file, - for standard input"),
)


def hints(message: str, usage: str, options: Iterable[str]) -> Iterable[str]:
    """Lines to show below an error.

    Args:
        message: the error.
        usage: the function's signature, or nothing.
        options: ours that stood among the function's arguments.
    """
    for pattern, hint in _HINTS:
        if re.search(pattern, message):
            yield f"hint: {hint}"
    if re.search(r"takes .* by position, not \d+$", message) and "Items[" in usage:
        yield "hint: a command line sends no items: what takes Items is called by a program, or over HTTP"
    for option in options:
        if re.search(rf"\b{option}\b *[:=,)]", usage):
            yield f"hint: --{option} was taken for spear's own; behind a -- it is the function's"
