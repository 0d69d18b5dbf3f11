"""The command-line arguments of ``spear call`` and ``spear invoke`` that belong to a function.

All words after a function's name are the function's, except for options of the command. Options of the
command may stand among the function's arguments, unless a ``--`` precedes them. Only this module decides
which word is which: argparse leaves the words as they are.
"""

from __future__ import annotations

from argparse import ArgumentTypeError

from spear._errors import ConfigurationError
from spear._signatures import BOOLEANS, parse_signature_untrusted

from ._values import parse_value, read_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Final

    from ._parser import CommandParser

ARGUMENTS_HELP: Final = """\
arguments:
  tea 3 '[1, 2]'     JSON; an argument that is not JSON is text
  @photo.png         the bytes of a file; @order.json the value of the JSON in it
  -                  the bytes of standard input
  --currency GBP     a keyword argument, also as --currency=GBP
  --tag a --tag b    the items of a list
  -- --timeout 3     all options after -- belong to the function

"""
"""The part of a command's help that says how arguments are written."""


class FunctionWords:
    """The part of a command line from the function's name on.

    Attributes:
        target: the first word, which names the function.
        options: the names, without dashes, of the command's options that stood among the words.
        flags: all options of the command, with dashes.
    """

    def __init__(
        self, target: str, words: list[str], options: frozenset[str], flags: list[str]
    ) -> None:
        self.target = target
        self.options = options
        self.flags = flags
        self._words = words
        self._written: tuple[list[str], dict[str, list[str]]] = ([], {})

    @property
    def wants_help(self) -> bool:
        """Whether the function is to be described instead of called."""
        return "help" in self.options

    def arguments(self) -> tuple[list[object], dict[str, object]]:
        """Return the function's arguments: (positional, keywords). Reads the files that they name.

        The argument of a repeated name is a list; :meth:`keep_texts` checks whether it may be one.

        Raises:
            ConfigurationError: a name has no value, or a file cannot be used.
            InvalidArguments: a file is too large for a call.
        """
        positional, keywords = self._written = split_arguments(self._words)
        return (
            [parse_value(word, read_input) for word in positional],
            {
                name: [parse_value(word, read_input) for word in words]
                if len(words) > 1
                else parse_value(words[0], read_input)
                for name, words in keywords.items()
            },
        )

    def keep_texts(
        self, positional: list[object], keywords: dict[str, object], signature: str
    ) -> None:
        """Read the words by the signature: text as text, booleans, and the items of a list.

        Args:
            positional: arguments, as :meth:`arguments` has returned them.
            keywords: likewise.
            signature: the signature of the function; may be empty.

        Raises:
            ConfigurationError: a name is given twice, and its parameter takes no list.
        """
        parsed = parse_signature_untrusted(signature)
        written, named = self._written
        for name, words in named.items():
            values = keywords[name] if len(words) > 1 else [keywords[name]]
            assert isinstance(values, list)  # as arguments() has made it
            is_list = parsed is not None and parsed.makes_list(name, values)
            if len(words) > 1 and not is_list:
                raise ConfigurationError(f"--{name} is given twice, and takes no list")
            if parsed is None:
                continue
            read = [
                parsed.read_text(name, word, value, index if is_list else None)
                if _is_json(word)
                else value
                for index, (word, value) in enumerate(zip(words, values, strict=True))
            ]
            keywords[name] = read if is_list else read[0]
        for index, word in enumerate(written if parsed is not None else ()):
            if parsed is not None and _is_json(word):
                positional[index] = parsed.read_text(index, word, positional[index])

    def are_ambiguous(self, positional: list[object], keywords: dict[str, object]) -> bool:
        """Return whether :meth:`keep_texts` could change any of the arguments."""
        words, named = self._written
        return bool(named) or any(
            _is_json(word) and (word in BOOLEANS or not isinstance(value, str))
            for word, value in zip(words, positional, strict=True)
        )


def _is_json(word: str) -> bool:
    """Return whether the value of a word is that of its text, and not of a file."""
    return word != "-" and not word.startswith("@")


def read_words(options: argparse.Namespace, missing: str) -> FunctionWords:
    """Return the function's words, and set the command's options among them in ``options``.

    Args:
        options: the options after argparse's parsing; ``options.words`` is the rest of the command line.
        missing: the message for a command line without a function.

    Raises:
        ConfigurationError: there is no function, or an option has no value or a wrong one.
    """
    parser: CommandParser = options.command_parser
    words: list[str] = []
    found: set[str] = set()
    rest = list(options.words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        flag, equals, value = word.partition("=")
        option = parser.option(flag) if flag.startswith("--") else None
        short = None if word.startswith("--") else parser.option(word[:2])
        if short is not None and short.nargs != 0:  # -j 2 or -j2; -h is text
            option, flag, equals, value = short, word[:2], word[2:], word[2:]
        if option is None:
            words.append(word)
            continue
        found.add(flag.lstrip("-"))
        if option.nargs == 0:
            if equals:
                parser.error(f"{flag} takes no value; put it after -- to pass it to the function")
            if flag != "--help":  # --help describes the function
                option(parser.parser, options, [], flag)
            continue
        if not equals:
            if not rest:
                parser.error(f"{flag} needs a value")
            value = rest.pop(0)
        try:
            converted = option.type(value) if callable(option.type) else value
        except ArgumentTypeError as error:
            parser.error(f"{flag} {error}")
        option(parser.parser, options, converted, flag)  # type: ignore[arg-type]  # no file
    if not words:
        parser.error(missing)
    return FunctionWords(words[0], words[1:], frozenset(found), parser.flags)


def split_arguments(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Split a function's words into (positional, keywords): ``--name value``, ``--name=value``, or plain.

    A name that is given several times has several words.

    Negative numbers are values. Raises ConfigurationError for a name without a value.
    """
    positional: list[str] = []
    keywords: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            positional.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigurationError(
                    f"--{name} needs a value: --{name} true if it is a flag, --{name}=VALUE for a "
                    "value that begins with --"
                )
            value = rest.pop(0)
        keywords.setdefault(name.replace("-", "_"), []).append(value)
    if sum(words.count("-") for words in (positional, *keywords.values())) > 1:
        raise ConfigurationError("standard input, -, can be read only once")
    return positional, keywords
