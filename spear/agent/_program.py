"""Loading a program and serving its agent, up to the exit status."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from spear._errors import ConfigurationError
from spear._targets import loading
from spear.wire import BootstrapRecord

from ._launch import (
    CANNOT_START,
    bootstrap_from_environment,
    return_bootstrap,
    run,
    set_up_output,
)
from ._loader import LoadFailed, load_agent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._app import Agent


def launch(target: str, record: bytes | None) -> int:
    """Load a program, serve its agent, and return the exit status.

    Args:
        target: see :func:`load_agent`.
        record: the bootstrap record; None to read the environment.
    """
    try:
        bootstrap = (
            bootstrap_from_environment(target) if record is None else BootstrapRecord.decode(record)
        )
    except ConfigurationError as error:
        sys.stderr.write(f"spear: {error}\n")
        return CANNOT_START
    agent = load(target, debug=bootstrap.debug)
    if agent is None:
        return CANNOT_START
    # The objects loaded so far will not become garbage, so later collections can skip them.
    gc.freeze()
    gc.enable()
    return run(agent, partial(return_bootstrap, bootstrap))


def load(target: str, *, debug: bool = False) -> Agent | None:
    """Set up output, load a program and return its agent; None if it fails, with the reason on stderr."""
    set_up_output(debug=debug)
    if "PYTHONBREAKPOINT" not in os.environ:  # it chooses another debugger
        sys.breakpointhook = _on_breakpoint
    sys.argv[:] = [target]  # the other arguments are Spear's
    try:
        with loading(target):
            return load_agent(target)
    except LoadFailed as error:
        sys.stderr.write(f"{error.details}spear: {error}\n")
    return None


def _on_breakpoint(*, header: str = "", commands: Iterable[str] = ()) -> None:
    """Stop in the caller; the ``sys.breakpointhook`` of instances. Takes what ``pdb.set_trace`` takes."""
    from spear._debugger import stop_at  # loads Python's debugger

    stop_at(sys._getframe(1), header, commands)
