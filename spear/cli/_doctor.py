"""``spear doctor``: checks of this machine, this installation, and programs."""

from __future__ import annotations

import json
import logging
import os
from itertools import chain

import attrs

from spear._errors import SpearError
from spear._paths import absolute, working_directory
from spear._targets import file_of, is_file, split_target

from ._findings import RANKS, Finding, fail, ok, warn
from ._say import say
from ._status import CHECKS_FAILED
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Final

    from ._findings import CheckStatus
    from ._parser import CommandParser

USAGE: Final = "spear doctor [options] [FILE.py ...]"

DESCRIPTION: Final = """\
Check this machine and this installation, and say what to do about each fault. A program is loaded in a
process of its own, and its functions are listed."""

EPILOG: Final = """\
The marks: ok; warn for a fault that some programs meet; fail if Spear, or the program, cannot work. The
exit status is 0 unless a check has failed.

examples:
  spear doctor
  spear doctor shop.py --json
"""


def define_doctor(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    parser.add(
        "programs", nargs="*", metavar="FILE.py", help="files, directories or modules to check"
    )
    parser.add("--json", action="store_true", help="print the findings as JSON")
    parser.set_run(run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    findings = list(_findings(options.programs))
    worst: CheckStatus = max((each.status for each in findings), key=RANKS.__getitem__)
    if options.json:
        told = {"status": worst, "checks": [attrs.asdict(each) for each in findings]}
        say(json.dumps(told, indent=2))
    else:
        _show(findings)
    return CHECKS_FAILED if worst == "fail" else 0


def _findings(programs: list[str]) -> Iterator[Finding]:
    from ._python_checks import check_names, check_packages, check_python
    from ._system_checks import check_kernel, check_limits, check_sockets

    yield from chain(
        check_python(),
        check_packages(),
        check_limits(),
        check_kernel(),
        check_sockets(_listen()),
    )
    for place in dict.fromkeys([working_directory() or os.curdir, *map(_place_of, programs)]):
        yield from check_names(place)
    if programs:
        import trio

        logger, silence = logging.getLogger("spear"), logging.NullHandler()
        logger.addHandler(silence)  # a start that fails is a finding here, and no line of the log
        try:
            for program in programs:
                yield from trio.run(_check_program, program)
        finally:
            logger.removeHandler(silence)


def _place_of(program: str) -> str:
    """Return the directory of a program's file; the working directory for a module."""
    file, _ = split_target(program)
    if not is_file(file):
        return working_directory() or os.curdir
    return os.path.dirname(file_of(absolute(file)))


def _listen() -> str:
    """Return where a gateway would listen; nowhere if the extra for gateways is not installed."""
    try:
        from spear.config import HostConfiguration
    except SpearError:
        return ""
    return os.environ.get("SPEAR_LISTEN") or HostConfiguration().listen


async def _check_program(program: str) -> list[Finding]:
    """Load a program in a process of its own; return what is wrong, or its functions."""
    from spear.spearlet import open_spearlet

    from ._program import settings_of, usage_of

    try:
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(settings_of(program, {}))
            functions = [deployment.function(name) for name in deployment.functions]
            described = [await usage_of(each) or each.name for each in functions]
    except SpearError as error:
        return [fail(program, str(error).strip(), f"spear call {program} shows the same")]
    if not functions:
        return [warn(program, "has no functions", "put @app.function above each of them")]
    return [ok(program, each) for each in described]


def _show(findings: list[Finding]) -> None:
    width = max(len(each.check) for each in findings)
    for each in findings:
        first, *rest = printable(each.says).splitlines() or [""]
        say(f"{each.status:4}  {printable(each.check):{width}}  {first}")
        margin = " " * (width + 8)
        for line in rest:
            say(f"{margin}{line}")
        if each.advice:
            say(f"{margin}-> {printable(each.advice)}")
    counts = {status: sum(each.status == status for each in findings) for status in RANKS}
    say(f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
