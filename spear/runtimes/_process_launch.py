"""Starting a process: its descriptors, its bootstrap record, its lifeline, and the order of all that.

The order is what makes it safe. Nobody may connect until the pid is known. Then, before the process can
do anything of its own, its peer check, its limits and its lifeline are set; and only then it gets what
it waits for: the record, or, if it is not Spear's agent, the go of the doorman in front of it.

The record travels through a pipe whose other end stays open here for as long as the instance lives. It
is the lifeline: the kernel closes it when this process dies, however it dies, and that raises SIGKILL in
the whole process group. The settings live in the pipe's open file description, which the process shares
with us, so it need not cooperate; it only must not close the descriptor. There is one pipe to each
process, because a pipe has one owner to signal. (PR_SET_PDEATHSIG will not do: it fires when the
*thread* ends that started the process, and Trio's threads end after ten idle seconds.)
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from spear._errors import SpawnFailed
from spear._limits import DEFAULT_LIMITS, Limits
from spear.channels import encode_head, process_or_its_session

from ._process_body import ProcessBody
from ._process_directory import open_working_directory
from ._process_output import Output

if TYPE_CHECKING:
    from spear.channels import Endpoint

    from ._logs import LogBook, LogTail
    from ._process_settings import ProcessSettings

_F_SETSIG: Final = 10  # <fcntl.h>; Python's fcntl does not have it

_GATE: Final = Path(__file__).with_name("_process_gate.py")


def bootstrap_record(endpoint: Endpoint, settings: ProcessSettings, limits: Limits) -> bytes:
    """What an agent must know to log in: 4 bytes of length, little-endian, and a CBOR map."""
    instance = endpoint.instance_id
    changed = {
        name: value
        for name, value in attrs.asdict(limits).items()
        if value != getattr(DEFAULT_LIMITS, name)
    }
    record = encode_head(
        {
            "address": str(endpoint.address),
            "secret": endpoint.secret.reveal(),
            "runtime": instance.runtime,
            "instance": instance.name,
            "incarnation": instance.incarnation,
            "limits": changed,
            "debug": settings.debug,
            "low_latency": settings.low_latency,
        }
    )
    return len(record).to_bytes(4, "little") + record


def handover_environment(endpoint: Endpoint) -> dict[str, str]:
    """The same for a program that looks into its environment."""
    return {
        "SERVICE_ADDR": str(endpoint.address),
        "SECRET": endpoint.secret.reveal().hex(),
        "SPEAR_INSTANCE": str(endpoint.instance_id),
    }


@asynccontextmanager
async def launch_process(
    settings: ProcessSettings,
    limits: Limits,
    starters: trio.CapacityLimiter,
    endpoint: Endpoint,
    book: LogBook,
) -> AsyncIterator[ProcessBody]:
    """A process that is about to log in at ``endpoint``, and what belongs to it.

    The block has to see to it that the process has ended; what is left of it is then removed.

    Args:
        settings: what to start.
        limits: what the process is to know of ours.
        starters: bounds how many are being started.
        endpoint: where it may log in.
        book: where what it writes is kept.

    Raises:
        SpawnFailed: it could not be started.
    """
    endpoint.expect_peer(lambda _: False)
    async with AsyncExitStack() as ours:
        try:
            directory = settings.working_directory
            if directory is None:
                directory = await ours.enter_async_context(open_working_directory())
            with ExitStack() as theirs:  # closed here as soon as the process has its own copies
                plumbing = _Plumbing(ours, theirs, book, has_gate=bool(settings.command))
                process = await _spawn(settings, endpoint, directory, plumbing, starters)
                body = ProcessBody(process, plumbing.outputs)
                ours.callback(body.close)
                try:
                    _prepare(body.pid, settings, limits, endpoint, plumbing)
                except BaseException:
                    body.kill()
                    with trio.CancelScope(shield=True):  # short: it has not done anything yet
                        await body.wait_exited()
                    raise
        except (OSError, ValueError) as error:  # ValueError is how prlimit refuses
            raise SpawnFailed(f"{endpoint.instance_id} could not be started: {error}") from error
        yield body


class _Plumbing:
    """The pipes of a process. All are closed on exec, but those that Popen hands on.

    Attributes:
        lifeline: the process's end, whose number it keeps.
        lifeline_end: ours.
        stdout, stderr: the process's ends.
        outputs: ours.
        gate: the doorman's end, or the number that stands for /dev/null.
        gate_end: ours, if there is a doorman.
    """

    def __init__(
        self, ours: AsyncExitStack, theirs: ExitStack, book: LogBook, *, has_gate: bool
    ) -> None:
        self.lifeline, self.lifeline_end = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, self.lifeline)
        ours.callback(os.close, self.lifeline_end)
        self.outputs: list[Output] = []
        self.stdout, self.stderr = (
            self._output(ours, theirs, book.tail(stream)) for stream in ("stdout", "stderr")
        )
        self.gate: int = subprocess.DEVNULL
        self.gate_end: int | None = None
        if has_gate:
            self.gate, self.gate_end = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, self.gate)
            theirs.callback(os.close, self.gate_end)

    def _output(self, ours: AsyncExitStack, theirs: ExitStack, tail: LogTail) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, writer)
        self.outputs.append(Output(reader, tail))
        ours.callback(self.outputs[-1].close)
        return writer


async def _spawn(
    settings: ProcessSettings,
    endpoint: Endpoint,
    directory: str,
    plumbing: _Plumbing,
    starters: trio.CapacityLimiter,
) -> subprocess.Popen[bytes]:
    environment = settings.full_environment()
    if settings.environment_handover:
        environment |= handover_environment(endpoint)
    if settings.command:
        command = [sys.executable, "-I", "-S", str(_GATE)]
        command += settings.own_command(plumbing.lifeline)
    else:
        command = settings.agent_command(plumbing.lifeline)
    # In a thread: a fork, and the exec that it waits for, take a millisecond or two. Not Trio's own
    # open_process: that shares its threads with whatever else blocks in threads, keeps a second
    # pidfd, and collects the process behind our back. If cancelled, run_sync still waits for the
    # thread, so no process is lost.
    return await trio.to_thread.run_sync(
        lambda: subprocess.Popen(  # noqa: S603  # no shell, and the command is its owner's
            command,
            stdin=plumbing.gate,
            stdout=plumbing.stdout,
            stderr=plumbing.stderr,
            env=environment,
            cwd=directory,
            pass_fds=(plumbing.lifeline,),
            start_new_session=True,
        ),
        limiter=starters,
    )


def _prepare(
    pid: int, settings: ProcessSettings, limits: Limits, endpoint: Endpoint, plumbing: _Plumbing
) -> None:
    """Let the process begin, after all that has to come before."""
    endpoint.expect_peer(process_or_its_session(pid))
    for kind, limit in settings.limits.to_resources().items():
        resource.prlimit(pid, kind, limit)
    if not settings.environment_handover:
        os.write(plumbing.lifeline_end, bootstrap_record(endpoint, settings, limits))
    # After the record: once armed, data in the pipe kills as its end does.
    lifeline = plumbing.lifeline
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -pid)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if plumbing.gate_end is not None:
        os.write(plumbing.gate_end, b"\n")
