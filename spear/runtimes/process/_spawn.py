"""Spawning a process: its pipes, and the lifeline that kills it when the host dies.

The users of this module (``_launch``, ``_template``, ``_command``) decide what is written to the pipes.

The lifeline is a pipe whose write end stays open in the host. When the host dies in any way, the kernel
closes the write end and sends SIGKILL to the whole process group at the read end. The signal is set up in
the open file description of the read end, which the host shares with the process. The process need not
cooperate; it only must not close the file descriptor. Each process has its own pipe, because a pipe
signals one owner only. (PR_SET_PDEATHSIG is unsuitable: it fires when the *thread* ends that started the
process, and Trio's threads end after ten idle seconds.)
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import close, own

from ._guard_program import WORD
from ._output import Output

if TYPE_CHECKING:
    from .._logs import LogBook, LogTail
    from ._guard import Guard

_F_SETSIG: Final = 10  # from <fcntl.h>, because Python's fcntl lacks it


@final
class Plumbing:
    """The pipes between a host and one child process. All are close-on-exec but those given to Popen.

    The *lifeline* is a pipe whose end kills the child when the host dies. The *gate* is a pipe from which
    a launcher (``_gate``) reads a line before it runs the program.

    Attributes:
        lifeline: the child's end of the lifeline; the descriptor has the same number in the child.
        lifeline_end: the host's end of the lifeline.
        stdout, stderr: the child's ends of the output pipes.
        outputs: the host's ends of the output pipes.
        stdin: the child's standard input: the gate, the lifeline, or ``subprocess.DEVNULL``.
        gate_end: the host's end of the gate, if there is a launcher.
        handed_on: the ``pass_fds`` of Popen: the lifeline, unless it is the standard input.
    """

    def __init__(
        self,
        ours: AsyncExitStack,
        theirs: ExitStack,
        book: LogBook,
        guard: Guard,
        *,
        has_gate: bool = False,
        reads_lifeline: bool = False,
    ) -> None:
        self.lifeline, self.lifeline_end = _pipe()
        theirs.callback(close, self.lifeline)
        ours.callback(_hang_up, self.lifeline_end, guard)
        # Before the process starts: the host may fork, and so copy the end, at any moment.
        guard.watch(self.lifeline_end)
        self.outputs: list[Output] = []
        self.stdout, self.stderr = (
            self._output(ours, theirs, book.tail(stream)) for stream in ("stdout", "stderr")
        )
        self.stdin: int = self.lifeline if reads_lifeline else subprocess.DEVNULL
        self.gate_end: int | None = None
        self.handed_on = () if reads_lifeline else (self.lifeline,)
        if has_gate:
            self.stdin, self.gate_end = _pipe()
            theirs.callback(close, self.stdin)
            theirs.callback(_hang_up, self.gate_end, guard)
            guard.watch(self.gate_end)

    def _output(self, ours: AsyncExitStack, theirs: ExitStack, tail: LogTail) -> int:
        reader, writer = _pipe()
        theirs.callback(close, writer)
        self.outputs.append(Output(reader, tail))
        ours.callback(self.outputs[-1].close)
        return writer

    def arm(self, pid: int) -> None:
        """Have the process group killed when the host dies or writes to the lifeline from now on."""
        fcntl.fcntl(self.lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self.lifeline, fcntl.F_SETOWN, -pid)
        flags = fcntl.fcntl(self.lifeline, fcntl.F_GETFL)
        fcntl.fcntl(self.lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return own(reader), own(writer)


def _hang_up(end: int, guard: Guard) -> None:
    """Write to a pipe before closing it, since the guard has a copy: this ends a waiting reader."""
    guard.forget(end)
    with suppress(OSError):  # usually the reader has already exited
        os.write(end, WORD)
    close(end)


async def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    plumbing: Plumbing,
    starters: trio.CapacityLimiter,
    *more: int,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own.

    Args:
        command: a program, absolute or found by PATH, and its command-line arguments.
        environment: the complete environment.
        directory: the working directory.
        plumbing: the pipes.
        starters: limits the number of simultaneous starts.
        more: additional descriptors to inherit under the same numbers.

    Raises:
        OSError: the process cannot be started.
    """
    # In a thread: a fork, and the exec for which it waits, take a millisecond or two. Not Trio's
    # open_process, which shares its threads with all other blocking work, keeps a second pidfd, and
    # reaps the process without our knowledge. A cancelled run_sync still waits for the thread, so no
    # process is lost.
    try:
        return await trio.to_thread.run_sync(
            lambda: subprocess.Popen(  # noqa: S603  # no shell, and the command is its owner's
                command,
                stdin=plumbing.stdin,
                stdout=plumbing.stdout,
                stderr=plumbing.stderr,
                env=environment,
                cwd=directory,
                pass_fds=(*plumbing.handed_on, *more),
                start_new_session=True,
            ),
            limiter=starters,
        )
    except RuntimeError as error:  # no thread can be started
        raise OSError(errno.EAGAIN, str(error)) from error
