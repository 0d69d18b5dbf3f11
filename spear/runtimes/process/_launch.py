"""Starting the process of an instance, in an order that makes the start safe.

The endpoint refuses every connection until the pid is known. Before the process can run the program, the
host sets the peer check, the resource limits and the lifeline. The process waits for the bootstrap record
or, if the program is not Spear's agent, for a newline to its launcher (``_gate``), which come last.

The record is sent through the lifeline (see ``_spawn``), whose write end stays open in the host for as
long as the instance lives.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from spear._errors import SpawnFailed
from spear.channels import protected_block
from spear.transports import process_or_its_session
from spear.wire import BootstrapRecord

from ._body import SpawnedBody
from ._directory import open_working_directory
from ._oom import prefer_to_host
from ._spawn import Plumbing, spawn
from ._template import TemplateDied
from ._zygote import ForkedStart

if TYPE_CHECKING:
    from spear._host_limits import HostLimits
    from spear.channels import Endpoint

    from .._body import RuntimeSettings
    from .._logs import LogBook
    from ._body import ForkedBody, ProcessBody
    from ._guard import Guard
    from ._settings import ProcessSettings
    from ._zygote import Zygote

Fork: TypeAlias = "Callable[[Plumbing], Awaitable[ForkedBody | None]]"
"""A function that forks the instance if it can be forked; see ``Zygote._fork``."""

_GATE: Final = Path(__file__).with_name("_gate.py")


def bootstrap_record(endpoint: Endpoint, settings: RuntimeSettings, limits: HostLimits) -> bytes:
    """Return the bootstrap record with its length in front: 4 bytes, little-endian."""
    record = BootstrapRecord(
        addresses=endpoint.offered,
        secret=endpoint.secret,
        instance_id=endpoint.instance_id,
        limits=limits.wire,
        drain_seconds=limits.timeouts.drain_seconds,
        debug=settings.debug,
        low_latency=getattr(settings, "low_latency", False) is True,
    ).encode()
    return len(record).to_bytes(4, "little") + record


def handover_environment(endpoint: Endpoint) -> dict[str, str]:
    """Return environment variables with the best address, the secret and the id of the instance."""
    return {
        "SERVICE_ADDR": str(endpoint.address),
        "SECRET": endpoint.secret.reveal().hex(),
        "SPEAR_INSTANCE": str(endpoint.instance_id),
    }


@protected_block
async def launch_process(
    settings: ProcessSettings,
    limits: HostLimits,
    starters: trio.CapacityLimiter,
    guard: Guard,
    endpoint: Endpoint,
    book: LogBook,
    zygote: Zygote | None,
) -> AsyncIterator[ProcessBody]:
    """Start a process, which then logs in at ``endpoint``; leaving the block releases its resources.

    The process must have ended when the block is left.

    Args:
        settings: the settings of the process.
        limits: the limits of the host, with the timeouts of this instance.
        starters: limits the number of simultaneous starts.
        guard: kills the process if this process dies.
        endpoint: the endpoint at which the process may log in.
        book: keeps the lines that the process writes.
        zygote: forks the process if possible; None to spawn it.

    Raises:
        SpawnFailed: the process could not be started.
        ConfigurationError: ``start`` is ``zygote``, and the program cannot be forked.
    """
    endpoint.expect_peer(lambda _: False)
    async with AsyncExitStack() as ours:
        try:
            directory = settings.working_directory
            if directory is None:
                directory = await ours.enter_async_context(open_working_directory())
            fork: Fork | None = None
            if zygote is not None:
                asking = ForkedStart(
                    endpoint.instance_id, directory, limits.timeouts.startup_seconds
                )
                fork = partial(zygote._fork, asking)
            body: ProcessBody | None = None
            while body is None:
                with suppress(TemplateDied):  # the next attempt uses another template, or spawns
                    body = await _start(
                        settings, limits, starters, guard, endpoint, book, fork, directory, ours
                    )
        except (OSError, ValueError) as error:  # prlimit raises ValueError
            raise SpawnFailed(f"{endpoint.instance_id} could not be started: {error}") from error
        yield body


async def _start(
    settings: ProcessSettings,
    limits: HostLimits,
    starters: trio.CapacityLimiter,
    guard: Guard,
    endpoint: Endpoint,
    book: LogBook,
    fork: Fork | None,
    directory: str,
    ours: AsyncExitStack,
) -> ProcessBody:
    # Each attempt has its own pipes: a process left by the last attempt must not read the record.
    async with AsyncExitStack() as attempt:
        with ExitStack() as theirs:  # closed as soon as the process has its own copies
            plumbing = Plumbing(attempt, theirs, book, guard, has_gate=bool(settings.command))
            body: ProcessBody | None = None
            if fork is not None:
                body = await fork(plumbing)
            if body is None:
                body = await _spawn(settings, endpoint, directory, plumbing, starters)
            attempt.callback(body.close)
            try:
                _prepare(body.pid, settings, limits, endpoint, plumbing)
            except BaseException:
                body.kill_now()
                deadline = trio.current_time() + limits.timeouts.kill_seconds
                with trio.CancelScope(shield=True, deadline=deadline):
                    await body.wait_exited()
                raise
        await ours.enter_async_context(attempt.pop_all())
    return body


async def _spawn(
    settings: ProcessSettings,
    endpoint: Endpoint,
    directory: str,
    plumbing: Plumbing,
    starters: trio.CapacityLimiter,
) -> ProcessBody:
    environment = settings.full_environment()
    if settings.environment_handover:
        environment |= handover_environment(endpoint)
    if settings.command:
        command = [sys.executable, "-I", "-S", str(_GATE)]
        command += settings.own_command(plumbing.lifeline)
    else:
        command = settings.agent_command(plumbing.lifeline)
    process = await spawn(command, environment, directory, plumbing, starters)
    return SpawnedBody(process, plumbing.outputs)


def _prepare(
    pid: int, settings: ProcessSettings, limits: HostLimits, endpoint: Endpoint, plumbing: Plumbing
) -> None:
    """Set the peer check, the resource limits and the lifeline, and let the process begin."""
    endpoint.expect_peer(process_or_its_session(pid))
    prefer_to_host(pid)
    for kind, limit in settings.limits.to_resources().items():
        resource.prlimit(pid, kind, limit)
    if not settings.environment_handover:
        os.write(plumbing.lifeline_end, bootstrap_record(endpoint, settings, limits))
    # After the record: once the lifeline is armed, data in the pipe kills the process.
    plumbing.arm(pid)
    if plumbing.gate_end is not None:
        os.write(plumbing.gate_end, b"\n")
