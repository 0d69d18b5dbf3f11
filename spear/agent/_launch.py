"""From a program and a bootstrap to an exit status."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from spear._errors import AuthenticationFailed, ConfigurationError, SpearError
from spear._targets import GUARD, being_loaded, loading

from ._bootstrap import ADDRESS, INSTANCE, SECRET, Bootstrap, parse_record, take_environment
from ._serve import serve

if TYPE_CHECKING:
    from ._app import Agent

DRAINED: Final = 0
LOST: Final = 1
CANNOT_START: Final = 2
REFUSED: Final = 3

SWITCH_SECONDS: Final = 0.0005
"""How long a thread that computes may keep the interpreter while others want it. Trio's thread is one of
them, and asks several times for each frame: beside 32 busy threads, with Python's 5 ms, an answer took
2 s, with this 50 ms."""

LOG_FORMAT: Final = "{levelname:.1} {name}[{call}]: {message}"
"""One letter, the logger, the call's number if there is one: the host adds time and instance."""


def launch(target: str, record: bytes | None) -> int:
    """Load a program and serve its agent; returns the exit status.

    Args:
        target: see :func:`load_agent`.
        record: the bootstrap record; None to read the environment.
    """
    from ._loader import LoadFailed, load_agent

    try:
        bootstrap = _from_environment(target) if record is None else parse_record(record)
        _set_up_output(debug=bootstrap.debug)
        sys.argv[:] = [target]  # the rest was for us
        with loading(target):
            agent = load_agent(target)
    except LoadFailed as error:
        sys.stderr.write(f"{error.details}spear: {error}\n")
        return CANNOT_START
    except ConfigurationError as error:
        sys.stderr.write(f"spear: {error}\n")
        return CANNOT_START
    # What is there now stays: no collection needs to look at it again.
    gc.freeze()
    gc.enable()
    return _run(agent, bootstrap)


def launch_agent(agent: Agent, program: str) -> int:
    """Serve an agent of this process to the host that the environment names."""
    if program_being_loaded := being_loaded():
        raise ConfigurationError(f"run() while {program_being_loaded} is loaded: {GUARD}")
    try:
        bootstrap = _from_environment(program)
    except ConfigurationError as error:
        sys.stderr.write(f"spear: {error}\n")
        return CANNOT_START
    _set_up_output(debug=bootstrap.debug or agent.debug)
    return _run(agent, bootstrap)


def _from_environment(program: str) -> Bootstrap:
    bootstrap = take_environment(os.environ)
    if bootstrap is None:
        raise ConfigurationError(
            f"{program} waits for a host, and {ADDRESS}, {SECRET} and {INSTANCE} do not say where "
            f"it is; to call a function of it: spear call {program}:NAME"
        )
    return bootstrap


def _set_up_output(*, debug: bool) -> None:
    """Logs go to stderr; what is printed arrives line by line, though stdout is a pipe."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT, style="{", defaults={"call": "-"}))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    if debug:
        logging.getLogger("spear").setLevel(logging.DEBUG)
    with suppress(AttributeError):  # a process may have been started without a stdout
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file


def _run(agent: Agent, bootstrap: Bootstrap) -> int:
    sys.setswitchinterval(SWITCH_SECONDS)
    agent.service.has_own_process = True  # see _watch_signals
    failure = trio.run(_serve, agent, bootstrap)
    if failure is None:
        return DRAINED
    if not isinstance(failure, SpearError):
        # The program's own: its lifespan, or a background task that it started.
        traceback.print_exception(failure)
        return CANNOT_START
    sys.stderr.write(f"spear: {bootstrap.instance_id}: {failure}\n")
    if isinstance(failure, ConfigurationError):
        return CANNOT_START
    return REFUSED if isinstance(failure, AuthenticationFailed) else LOST


async def _serve(agent: Agent, bootstrap: Bootstrap) -> Exception | None:
    """Serve until the host or a signal ends it; returns what went wrong."""
    # Returned, because the nursery would wrap it in a group.
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(_watch_signals, stop, nursery.cancel_scope)
        try:
            await serve(
                agent,
                bootstrap.address,
                bootstrap.secret,
                bootstrap.instance_id,
                limits=bootstrap.limits,
                low_latency=bootstrap.low_latency,
                debug=bootstrap.debug,
                stop=stop,
            )
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    return failure


async def _watch_signals(
    stop: trio.Event, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    """The first signal begins to drain, the second cancels what still runs, the third kills."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                break
            stop.set()
    scope.cancel()
