"""A host for development, beside its serving: no deadlines, reloads on save, a debugger.

A function at a breakpoint stands still for as long as its developer thinks. Nothing may end it
meanwhile: no deadline, no heartbeat, no health check, no limit for a start. A call that its client gives
up is cancelled as usual, as soon as the function goes on.
"""

from __future__ import annotations

import ast
import logging
import os
import socket
import traceback
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._breakpoints import VARIABLE
from spear._errors import FunctionRaised, SpearError
from spear._failures import first_line
from spear._program_files import files_of
from spear._targets import file_of
from spear.channels import open_private_nursery
from spear.config import Loaded, source_file
from spear.spearlet import HealthPolicy
from spear.telemetry import Instrument

from ._dev_terminal import OwnTerminal
from ._terminals import Terminals
from ._watch import SourceWatch

if TYPE_CHECKING:
    from spear.config import FunctionConfiguration
    from spear.spearlet import Spearlet
    from spear.telemetry import CallRecord

    from ._reload import Reloader

logger: Final = logging.getLogger("spear.cli")

FOREVER_SECONDS: Final = 1e6
"""Eleven days, where a time must be finite."""

PROCESS: Final = "process"


def without_deadlines(loaded: Loaded, breakpoints: str) -> Loaded:
    """Return a configuration for development.

    Args:
        loaded: the configuration.
        breakpoints: name of the socket to which instances connect at breakpoints.
    """
    configuration = loaded.configuration
    limits = configuration.limits
    limits = attrs.evolve(
        limits,
        wire=attrs.evolve(
            limits.wire,
            heartbeat_seconds=FOREVER_SECONDS,
            busy_seconds=FOREVER_SECONDS,
            write_seconds=FOREVER_SECONDS,
            call_seconds=inf,
        ),
        timeouts=attrs.evolve(limits.timeouts, startup_seconds=FOREVER_SECONDS),
    )
    functions = {
        name: _without_deadlines(each, breakpoints)
        for name, each in configuration.functions.items()
    }
    return attrs.evolve(
        loaded, configuration=attrs.evolve(configuration, limits=limits, functions=functions)
    )


def _without_deadlines(function: FunctionConfiguration, breakpoints: str) -> FunctionConfiguration:
    environment = dict(function.environment)
    if function.runtime == PROCESS:
        environment[VARIABLE] = breakpoints
    timeouts = function.timeouts
    if timeouts is not None:
        timeouts = attrs.evolve(timeouts, startup_seconds=FOREVER_SECONDS)
    return attrs.evolve(
        function,
        environment=environment,
        timeout=inf,
        queue_timeout=None,
        timeouts=timeouts,
        health=HealthPolicy(interval_seconds=FOREVER_SECONDS, timeout_seconds=FOREVER_SECONDS),
        debug=True,
    )


@final
class _FailureLog(Instrument):
    """Shows each call that has failed, with the whole traceback of its function."""

    def call_ended(self, call: CallRecord) -> None:
        """Log the failure of a call."""
        failure = call.failure
        if not isinstance(failure, SpearError):
            return
        trace = failure.remote_traceback if isinstance(failure, FunctionRaised) else None
        said = trace or f"{first_line(failure)} [{failure.code}]"
        where = f" on {call.instance}" if call.instance else ""
        logger.error("%s.%s failed%s:\n%s", call.deployment, call.function, where, said.rstrip())


@final
class Development:
    """The development part of a host.

    Args:
        listener: listens for instances at breakpoints.

    Attributes:
        failures: the instrument that shows failed calls.
        terminal: the terminal of this process.
        terminals: all terminals, and the instances at breakpoints.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.failures = _FailureLog()
        self.terminal = OwnTerminal()
        self.terminals = Terminals(listener, self._on_waiting)

    def _on_waiting(self, name: str) -> None:
        if self.terminal.exists():
            self.terminal.offer(name)
        else:
            logger.warning("attach a terminal with: spear attach %s", name)

    async def debug(self, spearlet: Spearlet) -> None:
        """Serve breakpoints until cancelled. Then all functions at breakpoints go on."""
        async with open_private_nursery() as nursery:
            nursery.start_soon(self.terminal.serve, self.terminals)
            await self.terminals.serve(spearlet)

    async def reload_on_save(
        self, reloader: Reloader, task_status: trio.TaskStatus[trio.Event]
    ) -> None:
        """Reload deployments whose files are saved, until cancelled.

        Saves count from ``task_status.started()`` on, but nothing is reloaded before its event is set. A
        save during a reload begins another one at once: the old instances of the first may wait at a
        breakpoint for long.
        """
        watch = SourceWatch(lambda: _files(reloader))
        await watch.begin()
        has_started = trio.Event()
        task_status.started(has_started)
        await has_started.wait()
        running = trio.CancelScope()
        async with open_private_nursery() as nursery:
            while True:
                saved = await watch.wait_saved()
                logger.info("%s changed", ", ".join(sorted(map(os.path.basename, saved))))
                for path in saved:
                    _show_syntax_error(path)
                running.cancel()
                running = trio.CancelScope()
                nursery.start_soon(_reload, reloader, running)


async def _reload(reloader: Reloader, scope: trio.CancelScope) -> None:
    with scope:
        await reloader.reload()


def _show_syntax_error(path: str) -> None:
    """Show the line of a file that Python cannot parse, if there is one, with a mark below it."""
    try:
        ast.parse(Path(path).read_bytes(), path) if path.endswith(".py") else None
    except SyntaxError as error:
        logger.error("%s", "".join(traceback.format_exception_only(error)).rstrip())
    except (OSError, ValueError):  # the reload reports it
        pass


def _files(reloader: Reloader) -> Iterator[str]:
    """Yield the files that are watched: the configuration's, and those of each program."""
    loaded = reloader.loaded
    if loaded.file is not None:
        yield str(loaded.file)
    for function in loaded.configuration.functions.values():
        source = source_file(function)
        if source is not None:
            yield from map(str, files_of(Path(file_of(str(source)))))
