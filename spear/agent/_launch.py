"""Running an agent of this process for a host, up to the exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from spear._breakpoints import VARIABLE
from spear._errors import AuthenticationFailed, ConfigurationError, SpearError
from spear._targets import GUARD, NEEDS_GUARD, being_loaded
from spear._util import leaves_of, summary_of
from spear.wire import BootstrapRecord

from ._bootstrap import ADDRESS, INSTANCE, SECRET, take_environment
from ._children import WATCHED, keep_from_children, remember_handlers
from ._failures import traceback_of
from ._reaching import HostAddresses
from ._serve import NOT_ITS_OWN, serve

if TYPE_CHECKING:
    from spear._ids import InstanceId

    from ._app import Agent

Take: TypeAlias = Callable[[], Awaitable[BootstrapRecord]]
"""An async function that returns the bootstrap record as soon as it is known."""

DRAINED: Final = 0
LOST: Final = 1
CANNOT_START: Final = 2
REFUSED: Final = 3

SWITCH_SECONDS: Final = 0.0005
"""Python's switch interval: seconds that a busy thread keeps the interpreter while other threads wait.
Trio's thread waits several times for each frame. Beside 32 busy threads, an answer took 2 s with Python's
default of 5 ms, and takes 50 ms with this value."""

LOG_FORMAT: Final = "{levelname:.1} {name}[{call}]: {message}"
"""One letter for the level, the logger, the call's number if any; the host adds time and instance."""


def launch_agent(agent: Agent, program: str) -> int:
    """Serve an agent to the host named by the environment, and return the exit status."""
    if program_being_loaded := being_loaded():
        message = f"run() was called while {program_being_loaded} was being loaded: {GUARD}"
        raise ConfigurationError(message, code=NEEDS_GUARD)
    try:
        bootstrap = bootstrap_from_environment(program)
    except ConfigurationError as error:
        sys.stderr.write(f"spear: {error}\n")
        return CANNOT_START
    set_up_output(debug=agent.debug)
    return run(agent, partial(return_bootstrap, bootstrap))


def bootstrap_from_environment(program: str) -> BootstrapRecord:
    """Pop the bootstrap record from os.environ. Raises ConfigurationError if it is missing or invalid."""
    bootstrap = take_environment(os.environ)
    if bootstrap is None:
        raise ConfigurationError(
            f"{program} cannot find a host: {ADDRESS}, {SECRET} and {INSTANCE} are not set; to call a "
            f"function of {program} without a host: spear call {program}:NAME"
        )
    return bootstrap


def set_up_output(*, debug: bool) -> None:
    """Send logs to stderr, and make stdout line-buffered although it is a pipe."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, style="{", defaults={"call": "-"}))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    if debug:
        _show_debug_lines()
    with suppress(AttributeError):  # the process may have no stdout
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file


def _show_debug_lines() -> None:
    if VARIABLE in os.environ:  # a development host always wants tracebacks, but no lines of Spear
        return
    logging.getLogger("spear").setLevel(logging.DEBUG)


def run(agent: Agent, take: Take) -> int:
    """Serve a loaded agent, and return the exit status.

    Args:
        agent: the agent to serve.
        take: returns the bootstrap record, after waiting for it if necessary.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    agent.service.has_own_process = True  # see watch_signals
    remember_handlers()
    try:
        instance_id, failure = trio.run(
            _take_and_serve, agent, take, restrict_keyboard_interrupt_to_checkpoints=True
        )
    except BaseException as error:
        # An error of Trio or of Spear, because errors of the program are returned.
        sys.stderr.write(f"{traceback_of(error)}spear: {summary_of(error)}: {NOT_ITS_OWN}\n")
        return LOST
    if failure is None:
        return DRAINED
    if not isinstance(failure, SpearError):
        # An error of the program: of its lifespan, or of a background task that it started.
        sys.stderr.write(traceback_of(failure))
        return CANNOT_START
    sys.stderr.write(f"spear: {instance_id}: {failure}\n")
    if isinstance(failure, ConfigurationError):
        return CANNOT_START
    return REFUSED if isinstance(failure, AuthenticationFailed) else LOST


async def return_bootstrap(bootstrap: BootstrapRecord) -> BootstrapRecord:
    """Return ``bootstrap``, as a :data:`Take` that does not wait."""
    return bootstrap


async def _take_and_serve(agent: Agent, take: Take) -> tuple[InstanceId, BaseException | None]:
    bootstrap = await take()
    if bootstrap.debug:
        _show_debug_lines()
    return bootstrap.instance_id, await serve_bootstrap(agent, bootstrap)


async def serve_bootstrap(agent: Agent, bootstrap: BootstrapRecord) -> BaseException | None:
    """Serve until the host or a signal ends it, and return the error, if any."""
    # The error is not raised, because the nursery would wrap it in a group.
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(watch_signals, stop, nursery.cancel_scope)
        try:
            await serve(
                agent,
                HostAddresses(bootstrap.addresses, report=partial(_report, bootstrap.instance_id)),
                bootstrap.secret,
                bootstrap.instance_id,
                limits=bootstrap.limits,
                drain_seconds=bootstrap.drain_seconds,
                low_latency=bootstrap.low_latency,
                debug=bootstrap.debug,
                stop=stop,
            )
        except BaseException as error:
            # Including SystemExit. Ctrl-C raises no exception here: see watch_signals.
            if any(type(each) is trio.Cancelled for each in leaves_of(error)):
                raise
            failure = error
        nursery.cancel_scope.cancel()
    return failure


def _report(instance_id: InstanceId, text: str) -> None:
    """Write a line to stderr at once: the host may soon kill this process, and then shows its stderr.

    The line is not logged, because the program may have disabled logging.
    """
    with suppress(AttributeError, OSError, ValueError):  # no stderr, or a closed one
        sys.stderr.write(f"spear: {instance_id}: {text}\n")
        sys.stderr.flush()


async def watch_signals(
    stop: trio.Event, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    """Drain at the first signal, and cancel all calls at the second one; the third one kills."""
    with trio.open_signal_receiver(*WATCHED) as signals:
        keep_from_children()
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                break
            stop.set()
    scope.cancel()
