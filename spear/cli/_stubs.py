"""``spear stubs shop.py``: write the stub of a typed client for a program's functions."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final

from spear._errors import ConfigurationError
from spear._paths import working_directory
from spear._targets import file_of, is_file, loading, split_target, stem_of

from ._say import complain, say

if TYPE_CHECKING:
    from ._parser import CommandParser

DESCRIPTION: Final = """\
Write the stub of a typed client, for mypy and pyright: a class whose attributes are the functions of a
program, with the types of their parameters and results. The program is loaded, and no function is called.

With --check, nothing is written, and the exit status is 1 if the file is missing or out of date."""

EPILOG: Final = """\
examples:
  spear stubs shop.py --output shop_client.pyi
  spear stubs shop.py --output shop_client.pyi --check"""

PACKAGES: Final = {
    "trio": "spear.spearlet",
    "asyncio": "spear.asyncio",
    "blocking": "spear.blocking",
}
"""The packages with the base class and the decorators of a client, by the client's API."""

OUT_OF_DATE: Final = 1
"""The exit status for a stub that is missing or out of date."""

_ATTRIBUTES: Final = frozenset(
    {"functions", "name", "retry_policies", "settings", "streams", "target"}
)
"""The attributes of a deployment that its class does not have."""


def define_stubs(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.parser.description = DESCRIPTION
    parser.parser.epilog = EPILOG
    parser.parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add("target", metavar="FILE.py", help="a file, a directory or a module with functions")
    parser.add(
        "--for",
        choices=[*PACKAGES],
        default="trio",
        help="the API of the program that calls the functions: spear, spear.asyncio or spear.blocking",
    )
    parser.add("--output", metavar="FILE.pyi", help="the file to write, instead of standard output")
    parser.add("--check", action="store_true", help="compare the file with what would be written")
    parser.set_run(run_stubs)


def run_stubs(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    target: str = options.target
    api: str = getattr(options, "for")  # "for" is a keyword
    if options.check and options.output is None:
        options.command_parser.error("--check compares a file: name it with --output FILE.pyi")
    if options.output is None:
        say(stub_of(target, api).removesuffix("\n"))
        return 0
    path = Path(options.output)
    _expect_another_module(path, split_target(target)[0])
    text = stub_of(target, api)
    if _text_of(path) == text:
        return 0
    if options.check:
        state = "is out of date" if path.exists() else "does not exist"
        complain(f"spear: {path} {state}: write it with the same command without --check")
        return OUT_OF_DATE
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    return 0


def stub_of(target: str, api: str) -> str:
    """Return the stub of a typed client for a program.

    Raises:
        ConfigurationError: the program cannot be loaded.
    """
    from spear.agent import load_agent, write_stub
    from spear.spearlet import DeployedProgram

    program = split_target(target)[0]
    if not is_file(program) and (here := working_directory()):
        sys.path.insert(0, here)  # as `python -m` does
    with (
        redirect_stdout(sys.stderr),
        loading(program),
    ):  # what the program prints is no part of the stub
        agent = load_agent(target)
    taken = _ATTRIBUTES.union(dir(DeployedProgram))
    return write_stub(agent, agent.name or stem_of(target), PACKAGES[api], taken)


def _text_of(path: Path) -> str | None:
    """Return the text of a file; None if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _expect_another_module(path: Path, program: str) -> None:
    """Raise ConfigurationError for a stub that would hide the program from type checkers."""
    source = path.parent / f"{path.stem}.py"
    if is_file(program) and os.path.exists(source) and os.path.samefile(source, file_of(program)):
        raise ConfigurationError(
            f"type checkers would read {path} instead of {source}: choose another name, such as "
            f"{path.stem}_client.pyi"
        )
