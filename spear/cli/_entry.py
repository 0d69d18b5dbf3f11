"""The entry point of ``spear``; this module imports nothing that loads slowly.

Loading the rest takes a tenth of a second, during which the user may already press Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    # While loading, SIGINT has its default effect, as nothing has to be cleaned up. A KeyboardInterrupt
    # would print a traceback from an import, or be swallowed there.
    _exchange(signal.default_int_handler, signal.SIG_DFL)
    try:
        from ._main import load, run

        words = sys.argv[1:] if argv is None else list(argv)
        parser = load(words)
    except OSError as error:  # no file descriptor is left for reading modules
        if sys.stderr is not None:
            sys.stderr.write(f"spear: operating system error: {error}\n")
        return os.EX_OSERR
    finally:
        _exchange(signal.SIG_DFL, signal.default_int_handler)
    status = run(parser, words)
    _drop_unwritten()
    return status


def _drop_unwritten() -> None:
    """Discard what standard error refuses; otherwise the interpreter would retry and exit with 120."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        from ._say import silence

        silence(sys.stderr)


def _exchange(before: object, handler: signal._HANDLER) -> None:
    """Set the handler of SIGINT if the present handler is ``before``."""
    try:
        if signal.getsignal(signal.SIGINT) is before:
            signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread, which alone receives interrupts
        pass
