"""Log of ``spear serve`` on standard error: instances' output, and problems of the host itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ._error_lines import ErrorLines
from ._text import printable

if TYPE_CHECKING:
    from spear.config import HostConfiguration

QUIET: Final = logging.CRITICAL + 1

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record: an instance's with its name in it, our own with ``spear:``."""
        if record.name == "spear.instances":
            return super().format(record)
        return f"spear: {printable(super().format(record))}"


@contextmanager
def showing_log(host: HostConfiguration) -> Iterator[ErrorLines]:
    """Write the log to standard error while the block runs, with the configured levels."""
    ours = logging.getLogger("spear")
    levels = {
        ours: LEVELS[host.log_level],
        logging.getLogger("spear.instances"): logging.INFO if host.log_instances else QUIET,
        logging.getLogger("spear.cli"): logging.INFO,  # results of an operator's requests
    }
    handler = ErrorLines()
    handler.setFormatter(_Format("%(message)s"))
    before = {logger: logger.level for logger in levels}
    ours.addHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield handler
    finally:
        ours.removeHandler(handler)
        handler.finish()
        for logger, level in before.items():
            logger.setLevel(level)
