"""``spear dev``: a host for development, with the command line of ``spear serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._serve import define_host_options, read_host_options

if TYPE_CHECKING:
    import argparse

    from spear.config import Faults, Loaded

    from ._parser import CommandParser

USAGE: Final = "spear dev [options] [[NAME=]FILE.py ...]"

DESCRIPTION: Final = """\
Serve functions while they are being written: as `spear serve`, but saved files are loaded at once, failed
calls are shown with their tracebacks, breakpoint() starts a debugger, and no call has a deadline."""

EPILOG: Final = """\
A save replaces the instances of the programs that it concerns: those whose file or imported module it is.
Running calls finish on the old instances. If the new code does not start, the old instances go on.

The configuration file is watched, too. SIGHUP, as from a closed window, ends the host like SIGTERM.

At a breakpoint() the debugger runs on this terminal; without one, attach another: spear attach INSTANCE.

examples:
  spear dev shop.py
  spear dev --config spear.toml --listen 127.0.0.1:0
"""


def define_dev(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    define_host_options(parser)
    parser.set_run(run_dev)


def run_dev(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    load_as_served = read_host_options(options, USAGE)
    from ._development import Development, without_deadlines
    from ._host import run_host
    from ._terminals import listen

    listener, name = listen()
    with listener:

        def load() -> tuple[Loaded, Faults]:
            loaded, faults = load_as_served()
            return (loaded if faults else without_deadlines(loaded, name)), faults

        loaded, faults = load()
        faults.raise_if_any()
        options.shows_lines = loaded.configuration.spearlet.log_instances
        return run_host(loaded, load, as_json=options.json, development=Development(listener))
