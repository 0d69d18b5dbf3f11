"""The parser of the command line, which also knows each command's options.

A command's module is loaded only when the command is used: commands for a running host must start
quickly, while the others load all that runs functions.

argparse has no public way to list the options of a parser. So each command defines its options with a
:class:`CommandParser`, which records them: for completion, for "did you mean", and for options among a
function's arguments.
"""

from __future__ import annotations

import argparse

from spear._errors import ConfigurationError
from spear._version import __version__

from ._commands import COMMANDS as COMMANDS
from ._say import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn, Protocol, TypedDict, Unpack

    from _typeshed import SupportsWrite

    class ArgumentSettings(TypedDict, total=False):
        """The keyword arguments of ``ArgumentParser.add_argument``."""

        action: str | type[argparse.Action]
        nargs: str | int
        const: object
        default: object
        type: Callable[[str], object]
        choices: Iterable[str] | None
        metavar: str | None
        help: str

    class AddArgument(Protocol):
        """The method ``add_argument`` of an ``ArgumentParser``, or of a group of arguments."""

        def __call__(
            self, *names: str, **settings: Unpack[ArgumentSettings]
        ) -> argparse.Action: ...


class OptionGroup:
    """A group of options under one heading of a command's help."""

    def __init__(self, add_argument: AddArgument, actions: list[argparse.Action]) -> None:
        self._add_argument = add_argument
        self._actions = actions

    def add(self, *names: str, **settings: Unpack[ArgumentSettings]) -> None:
        """Define an option or an argument, as ``ArgumentParser.add_argument`` does."""
        self._actions.append(self._add_argument(*names, **settings))


class CommandParser(OptionGroup):
    """The parser of a command, which knows the command's options.

    Attributes:
        parser: the underlying parser of argparse.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.add_argument, [])
        self.parser = parser
        self.add("-h", "--help", action="help", help="show this help message and exit")

    def group(self, title: str) -> OptionGroup:
        """Return a group of options with a heading of its own."""
        return OptionGroup(self.parser.add_argument_group(title).add_argument, self._actions)

    def alternatives(self) -> OptionGroup:
        """Return a group of which a command line may have one option at most."""
        return OptionGroup(self.parser.add_mutually_exclusive_group().add_argument, self._actions)

    def describe(self, *, usage: str, description: str, epilog: str) -> None:
        """Set the texts of the help, which keep their line breaks. Options are not abbreviated."""
        self.parser.usage = usage
        self.parser.description = description
        self.parser.epilog = epilog
        self.parser.formatter_class = argparse.RawDescriptionHelpFormatter
        self.parser.allow_abbrev = False

    def set_run(
        self, run: Callable[[argparse.Namespace], int], *, shows_lines: bool = False
    ) -> None:
        """Set the function that runs the command.

        Args:
            run: takes the parsed options, and returns the exit status.
            shows_lines: whether it shows the standard error of functions as it is written.
        """
        self.parser.set_defaults(run=run, shows_lines=shows_lines)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigurationError with a message and the command's usage."""
        self.parser.error(message)

    @property
    def actions(self) -> list[argparse.Action]:
        """The options and arguments that the help shows, in the order of their definition."""
        return [each for each in self._actions if each.help != argparse.SUPPRESS]

    @property
    def flags(self) -> list[str]:
        """The options that the help shows, in the order of their definition."""
        return [flag for action in self.actions for flag in action.option_strings]

    def option(self, flag: str) -> argparse.Action | None:
        """Return the option that a flag stands for; None if the command has no such flag."""
        return next((each for each in self._actions if flag in each.option_strings), None)

    def takes_value(self, flag: str) -> bool:
        """Return whether an option of the command takes a value, or may take one."""
        option = self.option(flag)
        return option is not None and option.nargs != 0

    def did_you_mean(self, unknown: Iterable[str]) -> str:
        """Return the end of a message about words that the command does not know; may be empty."""
        from difflib import get_close_matches

        words = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        close = [flag for each in words for flag in get_close_matches(each, self.flags, 1)]
        return f"; did you mean {' and '.join(dict.fromkeys(close))}?" if close else ""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises errors instead of exiting, and whose help must be written."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}\n{self.format_usage().strip()}")

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        say(self.format_help().rstrip("\n"))  # argparse would ignore errors of writing


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say(f"spear {__version__}")
        parser.exit()


def make_parser(command: str | None) -> CommandParser:
    """Return the parser of all commands, complete for one of them.

    Parsed options have an attribute ``command_parser``, the CommandParser of their command.
    """
    parser = CommandParser(
        _Parser(prog="spear", description="Host functions in separate processes.", add_help=False)
    )
    parser.add(
        "--version", action=_ShowVersion, nargs=0, help="show program's version number and exit"
    )
    commands = parser.parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, says in COMMANDS.items():
        one = CommandParser(
            commands.add_parser(
                name, help=says, description=f"{says[0].upper()}{says[1:]}.", add_help=False
            )
        )
        if name == command:
            one.parser.set_defaults(command_parser=one, parser_of=parser_of)
            define(name, one)
    return parser


def parser_of(command: str) -> CommandParser:
    """Return the parser of one command alone, as a source of the command's options."""
    parser = CommandParser(_Parser(prog=f"spear {command}", add_help=False))
    define(command, parser)
    return parser


def define(name: str, parser: CommandParser) -> None:
    """Define the options of a command."""
    match name:
        case "call":
            from ._call import define_call as define_it
        case "map":
            from ._map import define_map as define_it
        case "serve":
            from ._serve import define_serve as define_it
        case "dev":
            from ._dev import define_dev as define_it
        case "invoke":
            from ._invoke import define_invoke as define_it
        case "result":
            from ._result import define_result as define_it
        case "ps":
            from ._ps import define_ps as define_it
        case "top":
            from ._top import define_top as define_it
        case "logs":
            from ._logs import define_logs as define_it
        case "attach":
            from ._attach import define_attach as define_it
        case "scale":
            from ._operate import define_scale as define_it
        case "restart":
            from ._operate import define_restart as define_it
        case "stop":
            from ._operate import define_stop as define_it
        case "start":
            from ._operate import define_start as define_it
        case "doctor":
            from ._doctor import define_doctor as define_it
        case "drain":
            from ._operate import define_drain as define_it
        case "stubs":
            from ._stubs import define_stubs as define_it
        case _:
            from ._completion import define_completion as define_it
    define_it(parser)
