"""Options of ours among the words of a function's arguments.

The words behind a function's name are the function's, but for our own options, which may stand among them
up to a ``--``. There argparse has swallowed them, so they are taken out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from spear._errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping


@final
@attrs.frozen(kw_only=True)
class OurOptions:
    """The options of a command that calls a function.

    Attributes:
        usage: of the command, for error messages.
        numbers: options with a number, and what reads it, or raises ValueError.
        flags: options without a value.
        texts: options with a text.
        lists: options with a text that may be given several times.
    """

    usage: str
    numbers: Mapping[str, Callable[[str], float]]
    flags: tuple[str, ...]
    texts: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()

    def wrong(self, message: str) -> ConfigurationError:
        """The error for a command line that makes no sense."""
        return ConfigurationError(f"{message}\nusage: {self.usage}")

    def take(self, options: argparse.Namespace) -> tuple[list[str], frozenset[str]]:
        """(the words that are not ours, the names of our options among the others).

        What ours say is set in ``options``.

        Raises:
            ConfigurationError: one of ours has no value, or one that makes no sense.
        """
        words: list[str] = []
        ours: set[str] = set()
        rest = list(options.words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                words += rest
                break
            name, equals, value = word.partition("=")
            if name in (*self.flags, *self.lists, *self.texts, *self.numbers):
                ours.add(name[2:])
            if name in self.flags:
                if equals:
                    raise self.wrong(f"{name} takes no value; behind a -- it is the function's")
                setattr(options, name[2:], True)
            elif name in (*self.lists, *self.texts, *self.numbers):
                if not equals:
                    if not rest:
                        raise self.wrong(f"{name} needs a value")
                    value = rest.pop(0)
                self._set(options, name, value)
            else:
                words.append(word)
        return words, frozenset(ours)

    def _set(self, options: argparse.Namespace, name: str, value: str) -> None:
        key = name[2:].replace("-", "_")
        if name in self.lists:
            getattr(options, key).append(value)
        elif name in self.texts:
            setattr(options, key, value)
        else:
            try:
                setattr(options, key, self.numbers[name](value))
            except ValueError:
                raise self.wrong(f"{name} needs a number, not {value!r}") from None
