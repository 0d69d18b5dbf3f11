"""Where ``spear`` begins: here nothing is imported that takes time to load.

Loading the rest takes a tenth of a second, in which people press Ctrl-C as in any other.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    # Nothing has begun that would have to be ended. A KeyboardInterrupt would show a traceback out of
    # some import, or be swallowed there.
    _exchange(signal.default_int_handler, signal.SIG_DFL)
    try:
        from ._main import load, run

        words = sys.argv[1:] if argv is None else list(argv)
        parser = load(words)
    except OSError as error:  # no descriptor is left, with which to read modules
        if sys.stderr is not None:
            sys.stderr.write(f"spear: the system refuses: {error}\n")
        return os.EX_OSERR
    finally:
        _exchange(signal.SIG_DFL, signal.default_int_handler)
    status = run(parser, words)
    _drop_unwritten()
    return status


def _drop_unwritten() -> None:
    """Drop what standard error refuses: the interpreter would try again, and exit with status 120."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def _exchange(before: object, handler: signal._HANDLER) -> None:
    """Handle SIGINT so, if it was handled as ``before``."""
    try:
        if signal.getsignal(signal.SIGINT) is before:
            signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread, which alone gets interrupts
        pass
