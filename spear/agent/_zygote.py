"""A zygote: it loads a program once, and forks instances of it whenever its host asks.

The host asks on a socket, and gets one answer to each request, in the order of the requests:

===================  ===============================  ==============================================
request              answer                           means
===================  ===============================  ==============================================
none                 ``R``; or ``N`` and a reason     ready; or the program cannot be forked
``F`` and a          ``P`` and a pid; ``S``; or       here is an instance; the program's files have
directory; with a    ``E`` and a reason               changed, so that there will be none; the system
lifeline, stdout,                                     refuses
stderr
``C`` and a pid      ``X`` and an exit status, if     collected, and what is left of its group is
                     it is known                      killed
===================  ===============================  ==============================================

What a program does when it is loaded is done once, here; all else is done in the forks. This process
starts no thread, has no event loop when it forks, is given no secret, and dies with its host, as
instances do.

A fork is nobody's instance until it gets a request, over a socket of its own. One is made ahead, when
there was nothing to do for a while: it has started Trio, warms up, and waits. It ends when this process
does.

A fork is a child of this process, and its number belongs to it until it is collected here, which happens
only when the host asks. So the number is good for the last signal to its group.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, final

import trio

from spear.wire import BootstrapRecord

from ._forkable import Files, find_obstacle, open_descriptors
from ._launch import CANNOT_START, run
from ._lifeline import HOST_GONE, take_record
from ._program import load
from ._rehearsal import prepare, rehearse, settle
from ._warm_up import warm_up

if TYPE_CHECKING:
    from types import FrameType

logger: Final = logging.getLogger("spear.agent")

Disposition: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

MOST_BYTES: Final = 64 * 1024
"""The largest request: a path has at most 4 KiB."""

READY, UNFIT = b"R", b"N"
FORK, FORKED, STALE, REFUSED = b"F", b"P", b"S", b"E"
COLLECT, COLLECTED = b"C", b"X"

QUIET_SECONDS: Final = 0.05
"""Without a request for so long, a fork is made ahead: not earlier, as an instance may be starting."""

MOST_AHEAD: Final = 2
"""Forks that are made ahead: so many of a burst are ready when the others have yet to be forked."""

ENDED: Final = 0

_Fork: TypeAlias = tuple[int, socket.socket]
"""Its pid, and where its request goes."""


def run_zygote(target: str, lifeline: int, control: int) -> int:
    """Load a program and fork instances of it; returns the exit status, of this process or of a fork.

    Args:
        target: the program; see ``load_agent``.
        lifeline: the end of a pipe, which kills this process when the host is gone.
        control: where the host asks.
    """
    os.set_inheritable(control, False)
    sock = socket.socket(fileno=control)
    known, unseen = frozenset[int](), ""
    try:
        known = open_descriptors()
    except OSError as error:  # there is no /proc
        unseen = f"cannot find out what it has open: {error}"
    files = Files(target)
    agent = load(target)
    if agent is None:
        return CANNOT_START
    if obstacle := unseen or find_obstacle(known):
        sock.sendall(UNFIT + obstacle.encode("utf-8", "backslashreplace")[: MOST_BYTES // 2])
        return ENDED
    prepare(agent)
    rehearse()
    files.add_modules()
    zygote = _Zygote(sock, lifeline, files)
    settle()
    if zygote.serve():  # pragma: no cover  # this is a fork: see _Zygote
        gc.enable()
        return run(agent, zygote.take_request)
    return ENDED


@final
class _Zygote:
    """Answers the host's requests; in a fork, waits for the one that makes it an instance.

    What is on the stack when a fork begins is not measured in it by coverage.
    """

    def __init__(self, sock: socket.socket, lifeline: int, files: Files) -> None:
        self._sock = sock
        self._lifeline = lifeline
        self._files = files
        self._children: set[int] = set()
        self._ahead: deque[_Fork] = deque()
        self._requests: socket.socket | None = None  # in a fork: where its request comes
        # The program may have said that it wants no children to collect, or collects them itself.
        self._on_child: Disposition = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._has_own_on_child = self._on_child not in (signal.SIG_DFL, None)

    def serve(self) -> bool:
        """Answer requests. Returns False when the host has had enough, True in each fork."""
        try:
            self._sock.sendall(READY)
        except BrokenPipeError:  # it was ended while it was loading
            return False
        while True:
            while len(self._ahead) < MOST_AHEAD and not _is_readable(self._sock, QUIET_SECONDS):
                try:
                    fork = self._fork()
                except OSError:  # the host will be told, when it asks
                    break
                if fork is None:  # pragma: no cover
                    return True
                self._ahead.append(fork)
            request, descriptors, _, _ = socket.recv_fds(self._sock, MOST_BYTES, 3)
            if not request:
                self._dismiss()
                return False
            if request[:1] == COLLECT:
                answer = COLLECTED + self._collect(int(request[1:]))
            else:
                answer = self._hand_over(request, descriptors)
                if not answer:  # pragma: no cover
                    return True
            self._sock.sendall(answer)

    def _hand_over(self, request: bytes, descriptors: list[int]) -> bytes:
        """Give a request to a fork; returns the answer, nothing in a fork."""
        try:
            if self._files.have_changed():
                self._dismiss()
                return STALE
            while True:
                fork = self._ahead.popleft() if self._ahead else self._fork()
                if fork is None:  # pragma: no cover
                    return b""
                pid, sock = fork
                with sock, suppress(OSError):  # it was killed
                    socket.send_fds(sock, [request], descriptors)
                    return FORKED + b"%d" % pid
                self._collect(pid)
        except OSError as error:
            return REFUSED + str(error).encode()
        finally:
            for each in descriptors:
                os.close(each)

    def _fork(self) -> _Fork | None:
        """None in the fork."""
        for stream in sys.stdout, sys.stderr:
            with suppress(Exception):  # whatever the program has put there
                stream.flush()  # else each fork would write it again
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:  # pragma: no cover
                self._begin(ours.detach(), its.detach())
                return None
            self._children.add(pid)
            return pid, ours

    def _dismiss(self) -> None:
        """Let go of those that were made ahead."""
        while self._ahead:
            pid, sock = self._ahead.popleft()
            self._collect(pid)
            sock.close()

    def _collect(self, pid: int) -> bytes:
        """End a child and its group, and collect it; returns its exit status."""
        if pid not in self._children:
            return b""
        self._children.discard(pid)
        for kill in os.kill, os.killpg:
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        return b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    # -- in a fork ------------------------------------------------------------------------------------

    def _begin(self, theirs: int, ours: int) -> None:
        """Have a session of our own, and nothing that belongs to the zygote."""
        try:
            os.setsid()
            os.close(theirs)
            os.close(self._sock.detach())
            os.close(self._lifeline)
            for _, other in self._ahead:
                other.close()
            self._requests = socket.socket(fileno=ours)
            if self._has_own_on_child:
                signal.signal(signal.SIGCHLD, self._on_child)
            # Python itself has given `random` another state.
            if numbers := sys.modules.get("numpy.random"):
                numbers.seed()
        except BaseException:  # pragma: no cover  # what could it be?
            _fail()

    async def take_request(self) -> BootstrapRecord:
        """Wait for a request, and become an instance."""
        assert self._requests is not None
        try:
            if not _is_readable(self._requests):
                await _try_to_warm_up()
            await trio.lowlevel.wait_readable(self._requests)
            request, descriptors, _, _ = socket.recv_fds(self._requests, MOST_BYTES, 3)
            self._requests.close()
            if not request:  # pragma: no cover  # the zygote has died, or will kill us now
                os._exit(ENDED)
            lifeline, *outputs = descriptors
            for number, descriptor in enumerate(outputs, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.chdir(request[1:])
            return BootstrapRecord.decode(take_record(lifeline))
        except Exception:
            _fail()


async def _try_to_warm_up() -> None:
    try:
        await warm_up()
    except Exception as error:  # it would have made us faster, no more
        logger.warning("a fork that waits could not warm up: %r", error)


def _is_readable(sock: socket.socket, seconds: float = 0) -> bool:
    # Not select.select, which refuses numbers above 1,023: those of a host with 150 instances.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _fail() -> NoReturn:
    """End a fork that has not become an instance, and nothing of what it was forked from."""
    with suppress(BaseException):
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(HOST_GONE)
