"""Hints for arguments that do not fit their function."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Final

from spear._errors import InvalidArguments
from spear._signatures import parse_signature_untrusted
from spear._util import did_you_mean

if TYPE_CHECKING:
    from ._words import FunctionWords

_BYTES: Final = "pass the bytes of a file as @FILE, or those of standard input as -"
_QUOTES: Final = "text that is valid JSON needs extra quotes: '\"7\"'"

# Hints about shell quoting: (expected type, received types, hint).
_HINTS: Final = (
    ("bool", ("str",), "pass true or false, as in --loud true"),
    ("str", ("int", "float", "bool", "None", "list", "dict"), _QUOTES),
    ("bytes", ("str",), _BYTES),
)

_ITEMS: Final = {"int": "1, 2", "float": "1.5, 2.5", "bool": "true, false", "date": '"2026-01-31"'}
"""Items of a list on the command line, by the items' type."""


def explained(error: InvalidArguments, usage: str, words: FunctionWords) -> InvalidArguments:
    """Return the error with the function's signature and hints below its message.

    Args:
        error: the refusal of the call.
        usage: the function's signature, or empty.
        words: the function's part of the command line.
    """
    lines = (f"usage: {usage}" if usage else "", *_hints(error, usage, words))
    more = copy(error)
    more.args = ("\n".join(filter(None, [str(error), *lines])),)
    return more


def _hints(error: InvalidArguments, usage: str, words: FunctionWords) -> Iterable[str]:
    if error.code == "unknown_argument":
        option = f"--{error.parameter.replace('_', '-')}"
        if meant := did_you_mean(option, words.flags):
            yield f"hint: {option} is no option of spear{meant}"
    for expected, gots, hint in _HINTS:
        if error.expected == expected and error.got in gots:
            yield f"hint: {hint}"
    if error.expected.startswith("list") and error.got == "str":
        item = _ITEMS.get(error.expected.removeprefix("list")[1:-1], '"a", "b"')
        yield f"hint: pass a list as JSON, as in '[{item}]'"
    signature = parse_signature_untrusted(usage)
    if signature is None:
        return
    if error.code == "too_many_arguments" and signature.takes_items:
        yield "hint: a command line cannot send items: call this function from a program, or over HTTP"
    for option in words.options:
        if option.replace("-", "_") in {each.name for each in signature.parameters}:
            yield f"hint: --{option} is an option of spear; put it after -- to pass it to the function"
