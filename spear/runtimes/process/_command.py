"""Starting an agent by a command of any kind: the building block of runtimes that are commands.

A command between this process and the agent (``nice``, ``docker run -i``, ``ssh``) hands on standard
input, output and error, and nothing else. So the bootstrap record comes on standard input, which then
remains open as the lifeline. When this process dies, the kernel closes it and kills the command's process
group; an agent in another place, which has another pipe as its standard input, is killed by the end of
that.
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
    """Start a command in the end of which an agent runs; see :meth:`InstanceTemplate.launch`.

    The agent finds its record on standard input: its command line ends with ``--bootstrap-fd 0``. The
    command is a process group of its own on this machine, in a temporary directory. The group is killed
    with the instance, and when this process dies.

    Args:
        command: a program, to be found by ``PATH``, and its arguments.
        spec: of the template.
        endpoint: where the agent may log in, from any process of this user that has the secret.
        book: keeps what the command writes to its standard output and error.
        timeouts: of the instance.
        environment: variables of the command, besides those that every instance inherits.

    Raises:
        ConfigurationError: the command is empty, or no list.
        SpawnFailed: the command cannot be started.
    """
    if not [*expect_several("command", command)]:
        raise ConfigurationError.about("command", "must begin with a program; it is empty")
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
        # After the record: once armed, data in the pipe kills as its end does.
        plumbing.arm(body.pid)
    except BaseException:
        body.kill_now()
        deadline = trio.current_time() + timeouts.kill_seconds
        with trio.CancelScope(shield=True, deadline=deadline):
            await body.wait_exited()
        raise


def find_command(command: Sequence[str]) -> str | None:
    """Return where a command's program is, for the environment that it gets; None if there is none."""
    return shutil.which(command[0], path=_inherited().get("PATH")) if command else None


def _inherited() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith("LC_")
    }
