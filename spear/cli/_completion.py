"""``spear completion bash``: what makes a shell complete the commands.

A shell asks ``spear completion --words ...`` for what may come next, and its own part is a few lines. So
it knows the deployments and functions of the host that runs at that moment, too.
"""

from __future__ import annotations

import argparse
from contextlib import suppress

from spear._errors import SpearError

from ._commands import COMMANDS
from ._documents import functions_of, several, text
from ._places import running
from ._remote import Remote
from ._say import say
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from ._documents import Document

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
to have it always:
  bash   echo 'eval "$(spear completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(spear completion zsh)"' >> ~/.zshrc     (behind compinit)
  fish   spear completion fish > ~/.config/fish/completions/spear.fish
"""

ANSWER_SECONDS: Final = 1.0
"""For a host to tell its names, while somebody waits for the key to have an effect."""

_TAKE_DEPLOYMENTS: Final = ("logs", "scale", "restart", "stop")


def define_completion(parser: argparse.ArgumentParser) -> None:
    """Say what the command understands."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", nargs="?", choices=sorted(SHELLS), help="whose")
    parser.add_argument("--words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run_completion, parser=parser)


def run_completion(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if options.words is not None:
        for each in candidates(options.words):
            say(each)
    elif options.shell is None:
        options.parser.error("say which shell: bash, fish or zsh")
    else:
        say(SHELLS[options.shell].removesuffix("\n"))
    return 0


def candidates(words: list[str]) -> list[str]:
    """What the last of these words may become; nothing where a file is wanted, or anything."""
    *before, last = words or [""]
    command = next((each for each in before if each in COMMANDS), None)
    if command is None:
        found = [*COMMANDS, "--help", "--version"]
    elif command in ("call", "invoke") and _names(before, command):
        found = []  # what is a function's, only it knows
    elif last.startswith("-"):
        found = _options(command)
    else:
        found = list(_values(command, before))
    return sorted({each for each in found if each.startswith(last)})


def _names(before: list[str], command: str) -> list[str]:
    """The words behind the command that are no options, nor values of some."""
    takes = {each for each in _options(command) if _takes_value(command, each)}
    names: list[str] = []
    rest = before[before.index(command) + 1 :]
    while rest:
        word = rest.pop(0)
        if word in takes:
            rest = rest[1:]
        elif not word.startswith("-"):
            names.append(word)
    return names


def _values(command: str, before: list[str]) -> Iterator[str]:
    if before and before[-1] == "--host":
        with suppress(SpearError):
            yield from (printable(each, keep="") for each in running())
    elif before and before[-1].startswith("--") and _takes_value(command, before[-1]):
        action = _action(command, before[-1])
        yield from (str(each) for each in (action and action.choices) or ())
    elif command == "completion":
        yield from SHELLS
    elif command in _TAKE_DEPLOYMENTS:
        if command != "scale" or not _names(before, command):
            yield from _deployed("deployments")
    elif command == "invoke":
        yield from _deployed("functions")
    elif command == "result" and not _names(before, command):
        yield from _executions()


def _deployed(what: str) -> Iterator[str]:
    """Names on the host that is there, if one is."""
    for each in _ask("deployments"):
        name = text(each, "name")
        if what == "deployments":
            yield printable(name, keep="")
            continue
        for function, _ in functions_of(each):
            yield printable(function, keep="")
            yield printable(f"{name}.{function}", keep="")


def _executions() -> Iterator[str]:
    """The ids of calls that were submitted to it."""
    for each in _ask("executions"):
        yield printable(text(each, "id"), keep="")


def _ask(what: str) -> list[Document]:
    """What the host that is there has of these; nothing if there is none."""
    try:
        remote = Remote(argparse.Namespace(host=None, token_file=None), seconds=ANSWER_SECONDS)
        return several(remote.get(f"/v1/{what}"), what)
    except SpearError:
        return []


# -- what the parser knows ----------------------------------------------------------------------


def _parser(command: str) -> argparse.ArgumentParser:
    from ._main import make_parser

    subparsers = next(
        each
        for each in make_parser(command)._actions
        if isinstance(each, argparse._SubParsersAction)
    )
    found: argparse.ArgumentParser = subparsers.choices[command]
    return found


def _options(command: str) -> list[str]:
    return [
        flag
        for action in _parser(command)._actions
        if action.help != argparse.SUPPRESS
        for flag in action.option_strings
    ]


def _action(command: str, flag: str) -> argparse.Action | None:
    return _parser(command)._option_string_actions.get(flag)


def _takes_value(command: str, flag: str) -> bool:
    action = _action(command, flag)
    return action is not None and action.nargs != 0
