"""``spear completion bash``: shell completion of commands, options and names.

A shell's script is a few lines, which call ``spear completion --words ...`` for the candidates.
Completion can therefore offer the deployments and functions of the running host, too.
"""

from __future__ import annotations

import argparse
from contextlib import suppress

from spear._errors import SpearError
from spear._places import running

from ._commands import COMMANDS
from ._documents import functions_of, several, text
from ._remote import Remote
from ._say import say
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from ._documents import Document
    from ._parser import CommandParser

SHELLS: Final[dict[str, str]] = {
    "bash": """\
_spear() {
    local IFS=$'\\n'
    COMPREPLY=($(spear completion --words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _spear spear
""",
    "zsh": """\
#compdef spear
_spear() {
    local -a found
    found=("${(@f)$(spear completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${#found[@]} )) && [[ -n $found[1] ]]; then
        compadd -- "${found[@]}"
    else
        _files
    fi
}
compdef _spear spear
""",
    "fish": """\
function __spear_complete
    set -l words (commandline -opc)[2..-1] (commandline -ct)
    spear completion --words $words 2>/dev/null
end
complete -c spear -a '(__spear_complete)'
""",
}

EPILOG: Final = """\
to enable completion permanently:
  bash   echo 'eval "$(spear completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(spear completion zsh)"' >> ~/.zshrc     (after compinit)
  fish   spear completion fish > ~/.config/fish/completions/spear.fish
"""

ANSWER_SECONDS: Final = 1.0
"""Seconds that a host has to return its names, while the user waits for the completion."""

_TAKE_DEPLOYMENTS: Final = ("logs", "scale", "restart", "stop")


def define_completion(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.parser.epilog = EPILOG
    parser.parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add("shell", nargs="?", choices=sorted(SHELLS), help="the shell")
    parser.add("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_run(run_completion)


def run_completion(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if options.words is not None:
        line: list[str] = options.line  # argparse would remove a "--"
        words = line[line.index("--words") + 1 :]
        for each in candidates(words, options.parser_of):
            say(each)
    elif options.shell is None:
        options.command_parser.error("no shell was given: use bash, fish or zsh")
    else:
        say(SHELLS[options.shell].removesuffix("\n"))
    return 0


def candidates(words: list[str], parser_of: Callable[[str], CommandParser]) -> list[str]:
    """Return the candidates for the last word; none where a file or free text is expected.

    Args:
        words: the words of the command line after ``spear``.
        parser_of: returns the parser of a command.
    """
    *before, last = words or [""]
    command = next((each for each in before if each in COMMANDS), None)
    if command is None:
        found = [*COMMANDS, "--help", "--version"]
    else:
        parser = parser_of(command)
        arguments = _arguments(before[before.index(command) + 1 :], parser)
        if command in ("call", "invoke") and arguments:
            found = []  # only the function knows its arguments
        elif last.startswith("-"):
            found = parser.flags
        elif before[-1].startswith("--") and parser.takes_value(before[-1]):
            found = list(_values(before[-1], parser))
        else:
            found = list(_names(command, arguments))
    return sorted({each for each in found if each.startswith(last)})


def _arguments(words: list[str], parser: CommandParser) -> list[str]:
    """Return the words that are neither options nor values of options."""
    arguments: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if parser.takes_value(word):
            rest = rest[1:]
        elif not word.startswith("-"):
            arguments.append(word)
    return arguments


def _values(flag: str, parser: CommandParser) -> Iterator[str]:
    """Yield the values that an option accepts."""
    if flag == "--host":
        with suppress(SpearError):
            yield from (printable(each, keep="") for each in running())
        return
    option = parser.option(flag)
    yield from (str(each) for each in (option and option.choices) or ())


def _names(command: str, arguments: list[str]) -> Iterator[str]:
    """Yield the names that a command accepts after these arguments."""
    if command == "completion":
        yield from SHELLS
    elif command in _TAKE_DEPLOYMENTS:
        if command != "scale" or not arguments:
            yield from _deployed("deployments")
    elif command == "attach" and not arguments:
        for each in _ask("instances"):
            yield printable(text(each, "name"), keep="")
    elif command == "invoke":
        yield from _deployed("functions")
    elif command == "result" and not arguments:
        yield from _executions()


def _deployed(what: str) -> Iterator[str]:
    """Yield the names of deployments or functions on the default host, if one is running."""
    for each in _ask("deployments"):
        name = text(each, "name")
        if what == "deployments":
            yield printable(name, keep="")
            continue
        for function, _ in functions_of(each):
            yield printable(function, keep="")
            yield printable(f"{name}.{function}", keep="")


def _executions() -> Iterator[str]:
    """Yield the ids of the calls submitted to the default host."""
    for each in _ask("executions"):
        yield printable(text(each, "id"), keep="")


def _ask(what: str) -> list[Document]:
    """Return the default host's objects of one kind; none if no host answers."""
    try:
        remote = Remote(argparse.Namespace(host=None, token_file=None), seconds=ANSWER_SECONDS)
        return several(remote.get(f"/v1/{what}"), what)
    except SpearError:
        return []
