"""Where ``spear`` begins: here nothing is imported that takes time to load.

Loading the rest takes a tenth of a second, in which people press Ctrl-C as in any other.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    # Nothing has begun that would have to be ended. A KeyboardInterrupt would show a traceback out of
    # some import, or be swallowed there.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with suppress(ValueError):  # not the main thread, which alone gets interrupts
        if is_usual:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from ._main import run
    finally:
        with suppress(ValueError):
            if is_usual:
                signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(argv)
