"""Hints for arguments that do not fit their function."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Final

from spear._errors import InvalidArguments
from spear._signatures import parse_signature_untrusted

_BYTES: Final = "@FILE stands for the bytes of a file, - for standard input"
_QUOTES: Final = "text that could be JSON needs quotes of its own: '\"7\"'"

# Hints about shell quoting: (expected type, received types, hint).
_HINTS: Final = (
    ("bool", ("str",), "write true or false, as in --loud true"),
    ("str", ("int", "float", "bool", "None", "list", "dict"), _QUOTES),
    ("bytes", ("str",), _BYTES),
)


def explained(error: InvalidArguments, usage: str, options: Iterable[str]) -> InvalidArguments:
    """Return the error with the function's signature and hints below its message.

    Args:
        error: the refusal of the call.
        usage: the function's signature, or empty.
        options: names of the command's options that stood among the function's arguments.
    """
    lines = (f"usage: {usage}" if usage else "", *_hints(error, usage, options))
    more = copy(error)
    more.args = ("\n".join(filter(None, [str(error), *lines])),)
    return more


def _hints(error: InvalidArguments, usage: str, options: Iterable[str]) -> Iterable[str]:
    for expected, gots, hint in _HINTS:
        if error.expected == expected and error.got in gots:
            yield f"hint: {hint}"
    signature = parse_signature_untrusted(usage)
    if signature is None:
        return
    if error.code == "too_many_arguments" and signature.takes_items:
        yield "hint: a command line sends no items: what takes Items is called by a program, or over HTTP"
    for option in options:
        if option.replace("-", "_") in {each.name for each in signature.parameters}:
            yield f"hint: --{option} was taken for spear's own; behind a -- it is the function's"
