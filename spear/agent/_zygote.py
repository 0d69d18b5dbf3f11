"""A zygote: a process that loads a program once, and forks instances of the program for its host.

The host sends requests over a socket, and gets one answer to each request, in the order of requests:

===================  ===============================  ==============================================
request              answer                           meaning
===================  ===============================  ==============================================
none                 ``R``; or ``N`` and a reason     ready; or the program cannot be forked
``F`` and a          ``P`` and a pid; ``S``; or       an instance was forked; no instance, because the
directory; with a    ``E`` and a reason               program's files have changed; the system refuses
lifeline, stdout,                                     to fork
stderr
``C`` and a pid      ``X`` and an exit status, if     the instance was reaped, and the rest of its
                     it is known                      process group killed
===================  ===============================  ==============================================

The program is loaded once, in this process; all other work is done in the forks. This process starts no
thread, has no event loop when it forks, receives no secret, and dies with its host, as instances do.

A fork becomes an instance when it receives a request over its own socket. After a while without requests,
this process forks a few processes in advance. A pre-forked process has started Trio, warms up and waits.
It ends when this process ends.

A fork is a child of this process, and its pid stays valid until this process reaps it. An instance is
reaped only at the host's request. The host can therefore safely send a last signal to its process group.
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
"""The largest request, which contains a path of at most 4 KiB."""

READY, UNFIT = b"R", b"N"
FORK, FORKED, STALE, REFUSED = b"F", b"P", b"S", b"E"
COLLECT, COLLECTED = b"C", b"X"

QUIET_SECONDS: Final = 0.05
"""Seconds without a request before a process is pre-forked; until then, an instance may be starting."""

MOST_AHEAD: Final = 2
"""Most pre-forked processes, which are ready at once for the first requests of a burst."""

ENDED: Final = 0

_ForkedChild: TypeAlias = tuple[int, socket.socket]
"""The pid of a fork, and the socket for its request."""


def run_zygote(target: str, lifeline: int, control: int) -> int:
    """Load a program, fork instances of it, and return the exit status of this process or of a fork.

    Args:
        target: the program; see ``load_agent``.
        lifeline: the read end of the pipe that kills this process when the host dies.
        control: the socket for the host's requests.
    """
    os.set_inheritable(control, False)
    sock = socket.socket(fileno=control)
    known, unseen = frozenset[int](), ""
    try:
        known = open_descriptors()
    except OSError as error:  # no /proc
        unseen = f"cannot list its open files: {error}"
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
    zygote = _ForkServer(sock, lifeline, files)
    settle()
    if zygote.serve():  # pragma: no cover  # this is a fork: see _ForkServer
        gc.enable()
        return run(agent, zygote.take_request)
    return ENDED


@final
class _ForkServer:
    """A server of the host's requests; in a fork, the receiver of the request to become an instance.

    In a fork, coverage does not measure the functions that were on the stack when it was forked.
    """

    def __init__(self, sock: socket.socket, lifeline: int, files: Files) -> None:
        self._sock = sock
        self._lifeline = lifeline
        self._files = files
        self._children: set[int] = set()
        self._ahead: deque[_ForkedChild] = deque()
        self._requests: socket.socket | None = None  # in a fork: the socket for its request
        # The program may ignore SIGCHLD, so that children need not be reaped, or reap them itself.
        self._on_child: Disposition = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._has_own_on_child = self._on_child not in (signal.SIG_DFL, None)

    def serve(self) -> bool:
        """Answer requests until the host ends this process, and return False; return True in a fork."""
        try:
            self._sock.sendall(READY)
        except BrokenPipeError:  # the host ended this template during the load
            return False
        while True:
            while len(self._ahead) < MOST_AHEAD and not _is_readable(self._sock, QUIET_SECONDS):
                try:
                    fork = self._fork()
                except OSError:  # the answer to the next request will report the error
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
        """Pass a request to a fork, and return the answer; return an empty answer in the fork."""
        try:
            if self._files.have_changed():
                self._dismiss()
                return STALE
            while True:
                fork = self._ahead.popleft() if self._ahead else self._fork()
                if fork is None:  # pragma: no cover
                    return b""
                pid, sock = fork
                with sock, suppress(OSError):  # the fork was killed
                    socket.send_fds(sock, [request], descriptors)
                    return FORKED + b"%d" % pid
                self._collect(pid)
        except OSError as error:
            return REFUSED + str(error).encode()
        finally:
            for each in descriptors:
                os.close(each)

    def _fork(self) -> _ForkedChild | None:
        """Fork, and return the new child; return None in the fork."""
        for stream in sys.stdout, sys.stderr:
            with suppress(Exception):  # the program may have replaced the stream
                stream.flush()  # otherwise each fork would write the buffer again
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
        """Kill and reap the pre-forked processes."""
        while self._ahead:
            pid, sock = self._ahead.popleft()
            self._collect(pid)
            sock.close()

    def _collect(self, pid: int) -> bytes:
        """Kill a child and its process group, reap it, and return its exit status."""
        if pid not in self._children:
            return b""
        self._children.discard(pid)
        for kill in os.kill, os.killpg:
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        return b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    # -- in a fork ------------------------------------------------------------------------------------

    def _begin(self, theirs: int, ours: int) -> None:
        """Start a session of this fork's own, and close everything that belongs to the zygote."""
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
            # Python itself reseeds `random` in a fork.
            if numbers := sys.modules.get("numpy.random"):
                numbers.seed()
        except BaseException:  # pragma: no cover  # what could it be?
            _fail()

    async def take_request(self) -> BootstrapRecord:
        """Wait for the request to become an instance, and return its bootstrap record."""
        assert self._requests is not None
        try:
            if not _is_readable(self._requests):
                await _try_to_warm_up()
            await trio.lowlevel.wait_readable(self._requests)
            request, descriptors, _, _ = socket.recv_fds(self._requests, MOST_BYTES, 3)
            self._requests.close()
            if not request:  # pragma: no cover  # the zygote has died, or will kill this fork
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
    except Exception as error:  # a warm-up only makes the fork faster
        logger.warning("a pre-forked process could not warm up: %r", error)


def _is_readable(sock: socket.socket, seconds: float = 0) -> bool:
    # Not select.select, which refuses descriptors above 1,023, as in a host with 150 instances.
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _fail() -> NoReturn:
    """Exit a fork that has not become an instance, without running exit handlers of the zygote."""
    with suppress(BaseException):
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(HOST_GONE)
