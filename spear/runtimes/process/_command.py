"""Starting an agent by an arbitrary command: the building block of runtimes that wrap a command.

A command between the host and the agent (``nice``, ``docker run -i``, ``ssh``) passes on standard input,
output and error, and no other descriptor. The bootstrap record is therefore sent over standard input,
which then stays open as the lifeline. When the host dies, the kernel closes the lifeline and kills the
command's process group. An agent elsewhere, such as in a container, has another pipe as its standard
input, and is killed when this pipe ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

import attrs
import trio

from spear._errors import ConfigurationError, SpawnFailed
from spear._limits import expect_several
from spear.channels import protected_block

from .._body import InstanceBody
from ._body import SpawnedBody
from ._children import HostChildren
from ._directory import open_working_directory
from ._launch import bootstrap_record
from ._settings import INHERITED
from ._spawn import Plumbing, spawn

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear.channels import Endpoint

    from .._abc import TemplateSpec
    from .._logs import LogBook


@protected_block
async def launch_command(
    command: Sequence[str],
    spec: TemplateSpec,
    endpoint: Endpoint,
    book: LogBook,
    timeouts: InstanceTimeouts,
    *,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[InstanceBody]:
    """Start a command that directly or indirectly runs an agent; see :meth:`InstanceTemplate.launch`.

    The agent reads its bootstrap record from standard input: its command line ends with
    ``--bootstrap-fd 0``. The command runs on this machine in a process group of its own, in a temporary
    directory. The group is killed when the instance is killed, and when this process dies.

    Args:
        command: a program, found by ``PATH``, and its command-line arguments.
        spec: the request for the template.
        endpoint: the endpoint at which the agent, in any process of this user with the secret, logs in.
        book: keeps the lines that the command writes to its standard output and error.
        timeouts: the timeouts of the instance.
        environment: variables of the command, in addition to the ones that every instance inherits.

    Raises:
        ConfigurationError: the command is empty, or not a list.
        SpawnFailed: the command cannot be started.
    """
    if not [*expect_several("command", command)]:
        raise ConfigurationError.about("command", "must not be empty: begin with a program")
    children = HostChildren.of(spec.factory)
    await children.sweep()
    guard = await children.get_guard(spec.factory)
    limits = attrs.evolve(spec.limits, timeouts=timeouts)
    variables = _inherited() | dict(environment or {})
    async with AsyncExitStack() as ours:
        try:
            directory = await ours.enter_async_context(open_working_directory())
            with ExitStack() as theirs:
                plumbing = Plumbing(ours, theirs, book, guard, reads_lifeline=True)
                process = await spawn(command, variables, directory, plumbing, children.starters)
                body = SpawnedBody(process, plumbing.outputs)
                ours.callback(body.close)
                record = bootstrap_record(endpoint, spec.settings, limits)
                await _hand_over(body, record, plumbing, timeouts)
        except (OSError, ValueError) as error:
            raise SpawnFailed(
                f"{endpoint.instance_id} could not be started: {command[0]}: {error}"
            ) from error
        yield body


async def _hand_over(
    body: SpawnedBody, record: bytes, plumbing: Plumbing, timeouts: InstanceTimeouts
) -> None:
    try:
        os.write(plumbing.lifeline_end, record)
        # After the record: once the lifeline is armed, data in the pipe kills the process.
        plumbing.arm(body.pid)
    except BaseException:
        body.kill_now()
        deadline = trio.current_time() + timeouts.kill_seconds
        with trio.CancelScope(shield=True, deadline=deadline):
            await body.wait_exited()
        raise


def find_command(command: Sequence[str]) -> str | None:
    """Return the path of a command's program, found by the inherited PATH; None if not found."""
    return shutil.which(command[0], path=_inherited().get("PATH")) if command else None


def _inherited() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith("LC_")
    }
