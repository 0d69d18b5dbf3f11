"""Spawning a process: its pipes, and the lifeline that ends it with us.

What is in those pipes, and when, is known to those who use this: ``_launch``,
``_template``.

The lifeline is a pipe whose other end stays open here. The kernel closes it when this process dies,
however it dies, and that raises SIGKILL in the whole process group at the other end. The settings live
in the pipe's open file description, which the process shares with us, so it need not cooperate; it only
must not close the descriptor. There is one pipe to each process, because a pipe has one owner to
signal. (PR_SET_PDEATHSIG will not do: it fires when the *thread* ends that started the process, and
Trio's threads end after ten idle seconds.)
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

_F_SETSIG: Final = 10  # <fcntl.h>; Python's fcntl does not have it


@final
class Plumbing:
    """The pipes of a process. All are closed on exec, but those that Popen hands on.

    Attributes:
        lifeline: the process's end, whose number it keeps.
        lifeline_end: ours.
        stdout, stderr: the process's ends.
        outputs: ours.
        gate: standard input: the doorman's end, the lifeline, or the number that stands for /dev/null.
        gate_end: ours, if there is a doorman.
        handed_on: descriptors that the process gets under their numbers.
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
        # Before there is a process: a copy of the end may be made at any moment.
        guard.watch(self.lifeline_end)
        self.outputs: list[Output] = []
        self.stdout, self.stderr = (
            self._output(ours, theirs, book.tail(stream)) for stream in ("stdout", "stderr")
        )
        self.gate: int = self.lifeline if reads_lifeline else subprocess.DEVNULL
        self.gate_end: int | None = None
        self.handed_on = () if reads_lifeline else (self.lifeline,)
        if has_gate:
            self.gate, self.gate_end = _pipe()
            theirs.callback(close, self.gate)
            theirs.callback(_hang_up, self.gate_end, guard)
            guard.watch(self.gate_end)

    def _output(self, ours: AsyncExitStack, theirs: ExitStack, tail: LogTail) -> int:
        reader, writer = _pipe()
        theirs.callback(close, writer)
        self.outputs.append(Output(reader, tail))
        ours.callback(self.outputs[-1].close)
        return writer

    def arm(self, pid: int) -> None:
        """From now on the process and its group die with us. Whatever is written later kills, too."""
        fcntl.fcntl(self.lifeline, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self.lifeline, fcntl.F_SETOWN, -pid)
        flags = fcntl.fcntl(self.lifeline, fcntl.F_GETFL)
        fcntl.fcntl(self.lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return own(reader), own(writer)


def _hang_up(end: int, guard: Guard) -> None:
    """Close a write end, and end whoever still waits at the other one: the guard has a copy of ours."""
    guard.forget(end)
    with suppress(OSError):  # nobody is there, as usual
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
        command: absolute, or to be found by PATH.
        environment: all of it.
        directory: where it begins.
        plumbing: its pipes.
        starters: bounds how many are being started.
        more: descriptors that it gets besides, under their numbers.

    Raises:
        OSError: it cannot be started.
    """
    # In a thread: a fork, and the exec that it waits for, take a millisecond or two. Not Trio's own
    # open_process: that shares its threads with whatever else blocks in threads, keeps a second
    # pidfd, and collects the process behind our back. If cancelled, run_sync still waits for the
    # thread, so no process is lost.
    try:
        return await trio.to_thread.run_sync(
            lambda: subprocess.Popen(  # noqa: S603  # no shell, and the command is its owner's
                command,
                stdin=plumbing.gate,
                stdout=plumbing.stdout,
                stderr=plumbing.stderr,
                env=environment,
                cwd=directory,
                pass_fds=(*plumbing.handed_on, *more),
                start_new_session=True,
            ),
            limiter=starters,
        )
    except RuntimeError as error:  # the system starts no thread
        raise OSError(errno.EAGAIN, str(error)) from error
