"""Output of ``spear call`` on standard error.

By default: the output of the functions. With ``--verbose``: also the events of the call, from the start
of the first process to the end of the last one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import SpearError

from ._error_lines import ErrorLines

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.calls import Execution
    from spear.telemetry import InstanceEvent

logger: Final = logging.getLogger("spear.cli")


@final
class _SinceBegin(logging.Formatter):
    """A formatter that begins each line with the time since the formatter was made."""

    def __init__(self) -> None:
        super().__init__("%(message)s")
        self._begun = time.time()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        return f"{(record.created - self._begun) * 1e3:8.1f} ms  {super().format(record)}"


# Log lines of Spear itself inside an instance, in the format of its agent.
_AGENTS_OWN: Final = re.compile(r"\S+ stderr: [A-Z] spear\.(?!function\.)")


def _is_the_functions(record: logging.LogRecord) -> bool:
    return not _AGENTS_OWN.match(record.getMessage())


def _is_of_the_life(record: logging.LogRecord) -> bool:
    # The runtime's log about instances is left out: show_event() logs the same events more clearly.
    return record.name == "spear.cli" or (
        record.levelno >= logging.INFO and record.name != "spear.runtimes"
    )


@contextmanager
def showing(*, verbose: bool) -> Iterator[ErrorLines]:
    """Show the functions' output, and with ``verbose`` the events of the call, on standard error."""
    ours, theirs = logging.getLogger("spear"), logging.getLogger("spear.instances")
    handler = ErrorLines()
    if verbose:
        handler.setFormatter(_SinceBegin())
    handler.addFilter(_is_of_the_life if verbose else _is_the_functions)
    before = ours.level, theirs.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else logging.ERROR)
    theirs.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        ours.removeHandler(handler)
        handler.finish()
        ours.setLevel(before[0])
        theirs.setLevel(before[1])


def show_event(event: InstanceEvent) -> None:
    """Log a state change of an instance."""
    name, state, reason = event.instance_id, event.state.value, event.reason
    if state == "exited":
        logger.debug("%s %s", name, reason)
    elif state == "deleted":
        logger.debug("%s was deleted, with its process group, socket and directory", name)
    else:
        logger.debug("%s is %s%s", name, state, f": {reason}" if reason else "")


@final
class Story:
    """A log of the progress of one call."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._begun = trio.current_time()
        self._items = 0

    def begins(self, instance: InstanceId | None = None) -> None:
        """Log the start of the call, with its instance if that is known."""
        self._tell("was called", instance)

    def gives_item(self) -> None:
        """Count an item, and log the first one."""
        self._items += 1
        if self._items == 1:
            self._tell("sent its first item")

    def returns(self, size: int, execution: Execution) -> None:
        """Log the result, which is printed in ``size`` bytes."""
        seconds = execution.execution_seconds or 0.0
        result = f"returned {_count(size, 'byte')} after running for {seconds * 1e3:.1f} ms"
        self._tell(result, execution.instance)

    def ends(self) -> None:
        """Log the end of a stream."""
        self._tell(f"ended after {_count(self._items, 'item')}")

    def fails(self, error: BaseException, instance: InstanceId | None = None) -> None:
        """Log the failure of the call."""
        items = f" after {_count(self._items, 'item')}" if self._items else ""
        kind = type(error).__name__
        delivered = f" (delivered: {error.delivered})" if isinstance(error, SpearError) else ""
        self._tell(f"failed{items} with {kind}{delivered}", instance)

    def _tell(self, what: str, instance: InstanceId | None = None) -> None:
        place = f", on {instance}" if instance else ""
        milliseconds = (trio.current_time() - self._begun) * 1e3
        logger.debug("%s %s%s (+%.1f ms)", self._function, what, place, milliseconds)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
