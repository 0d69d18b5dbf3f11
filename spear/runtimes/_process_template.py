"""A template: a process that has loaded a program, and forks instances of it.

Here is the host's side of one such process: starting it, asking it, ending it. What it is asked, and
what it answers, is described in ``spear/agent/_zygote.py``. When to have one, and what to do without,
is the affair of ``_process_zygote``.

It has run the program's code, so it is not trusted: what it says is a child of its must be one, and an
answer that makes no sense is its end.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import own_socket

from ._instance import KILL_SECONDS, describe_exit
from ._logs import LogBook
from ._process_body import ForkedBody, SpawnedBody
from ._process_directory import open_working_directory
from ._process_spawn import Plumbing, spawn

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear._limits import Limits

    from ._logs import OnLine
    from ._process_guard import Guard
    from ._process_settings import ProcessSettings

MOST_BYTES: Final = 64 * 1024
"""The largest answer."""

ANSWER_SECONDS: Final = 5.0
"""How long a template may take to fork or to collect: usually some milliseconds."""

MOST_DIGITS: Final = 10


class TemplateDied(Exception):
    """There is no template any more that could answer a request."""


@final
class _Answer:
    """What a template will answer to one request.

    Attributes:
        collects: the number of the child that is to be collected; 0 if one is to be forked.
        data: the answer; None if the template has died.
        came: it has answered, or never will.
        is_wanted: somebody waits for it.
    """

    __slots__ = ("came", "collects", "data", "is_wanted")

    def __init__(self, collects: int) -> None:
        self.collects = collects
        self.data: bytes | None = None
        self.came = trio.Event()
        self.is_wanted = True


@final
class Template:
    """One process that forks instances; made, run and given up by a zygote.

    Attributes:
        name: for log lines.
        settled: it is known whether instances can be forked.
        obstacle: why they cannot, because of what the program does, as the end of "it ...".
        failure: why they cannot, because the program cannot be loaded, as the end of "it ...".
        death: how it ended.
        is_current: more may be forked.
        pid: of the process, while it runs.
    """

    def __init__(self, name: InstanceId, limits: Limits, on_line: OnLine | None = None) -> None:
        self.name = name
        self.settled = trio.Event()
        self.obstacle = ""
        self.failure = ""
        self.death = ""
        self.is_current = True
        self.pid: int | None = None
        self._limits = limits
        self._book = LogBook(name, limits, on_line)
        self._sock: socket.socket | None = None
        self._sending = trio.Lock()
        self._answers: deque[_Answer] = deque()  # those that have not come, in order
        self._collecting: dict[int, _Answer] = {}
        self._children: set[int] = set()
        self._is_retired = False
        self._is_unwanted = trio.Event()
        self._has_exited = trio.Event()

    @property
    def has_died(self) -> bool:
        """Whether it was of use, and ended without being told to."""
        return bool(self.death) and not (self._is_retired or self.failure or self.obstacle)

    @property
    def stderr_tail(self) -> str:
        """What it wrote last."""
        return self._book.tail("stderr").text(self._limits.error_message_bytes)

    def retire(self) -> None:
        """Let it fork no more; it ends when all of its children have."""
        self.is_current = False
        self._is_retired = True
        if not self._children:
            self._is_unwanted.set()

    # -- its life -----------------------------------------------------------------------------

    async def run(
        self, settings: ProcessSettings, starters: trio.CapacityLimiter, guard: Guard
    ) -> None:
        """From its start to its end. If cancelled, it is ended."""
        try:
            async with AsyncExitStack() as ours:
                try:
                    body = await self._start(settings, starters, guard, ours)
                except OSError as error:
                    self._fail(f"could not be started: {error}")
                    return
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(body.watch)
                    nursery.start_soon(self._watch_exit, body)
                    nursery.start_soon(self._listen, body)
                    try:
                        await self._until_unwanted()
                    finally:
                        nursery.cancel_scope.cancel()
                        await self._end(body)
        finally:
            self._fail("was ended")

    async def _start(
        self,
        settings: ProcessSettings,
        starters: trio.CapacityLimiter,
        guard: Guard,
        ours: AsyncExitStack,
    ) -> SpawnedBody:
        directory = settings.working_directory
        if directory is None:
            directory = await ours.enter_async_context(open_working_directory())
        with ExitStack() as theirs:
            plumbing = Plumbing(ours, theirs, self._book, guard)
            sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            own_socket(sock)
            own_socket(other)
            theirs.callback(other.close)
            ours.callback(sock.close)
            sock.setblocking(False)
            command = settings.zygote_command(plumbing.lifeline, other.fileno())
            environment = settings.full_environment()
            process = await spawn(
                command, environment, directory, plumbing, starters, other.fileno()
            )
            body = SpawnedBody(process, plumbing.outputs)
            ours.callback(body.close)
            with suppress(OSError):  # it has ended already
                plumbing.arm(body.pid)
                _, most = resource.prlimit(body.pid, resource.RLIMIT_CORE)
                resource.prlimit(body.pid, resource.RLIMIT_CORE, (0, most))
        self._sock, self.pid = sock, body.pid
        return body

    async def _until_unwanted(self) -> None:
        seconds = self._limits.startup_seconds
        with trio.move_on_after(seconds):
            await self.settled.wait()
        if not self.settled.is_set():
            self._fail(f"did not load its program within {seconds:g} s (startup_seconds)")
        await self._is_unwanted.wait()

    async def _watch_exit(self, body: SpawnedBody) -> None:
        await body.wait_exited()
        self._has_exited.set()
        self._fail(describe_exit(body.exit_status))

    async def _end(self, body: SpawnedBody) -> None:
        """Let it run what programs run when they end, but not for long."""
        self.is_current = False
        self._close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self._limits.terminate_seconds):
                await body.wait_exited()
                return
            body.kill()
            with trio.move_on_after(KILL_SECONDS):
                await body.wait_exited()

    def _close(self) -> None:
        if self._sock is not None:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._sock = None

    def _fail(self, why: str) -> None:
        """It answers no more."""
        self.is_current = False
        self.pid = None
        self.death = self.death or why
        if not self.settled.is_set():
            self.failure = why
            self.settled.set()
        while self._answers:
            self._answers.popleft().came.set()
        self._is_unwanted.set()

    # -- asking it ----------------------------------------------------------------------------

    async def fork(self, directory: str, plumbing: Plumbing) -> ForkedBody | None:
        """A new instance; None if its files have changed, so that it forks no more.

        If cancelled, what is forked nevertheless is killed.

        Raises:
            OSError: the system refuses.
            TemplateDied: it has died. There may be a fork, which ends when its lifeline does.
        """
        answer = await self._ask(
            b"F" + os.fsencode(directory),
            descriptors=(plumbing.lifeline, plumbing.stdout, plumbing.stderr),
        )
        data = await self._wait_for(answer) or b""
        kind, rest = data[:1], data[1:]
        if kind == b"P":
            pid = _number(rest)
            pidfd = self._open_child(pid)
            return ForkedBody(pid, pidfd, plumbing.outputs, self._collect)
        if kind == b"S":
            self.retire()
            return None
        if kind == b"E":
            raise OSError(rest.decode(errors="replace"))
        raise TemplateDied

    def _open_child(self, pid: int) -> int:
        """A pidfd of what is certainly a child of the template."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise TemplateDied from None
        # It can be somebody else only if the template has died, or lies.
        if self.pid is None or _parent_of(pid) != self.pid:
            os.close(pidfd)
            self._fail(f"spoke of process {pid}, which is not its child")
            raise TemplateDied
        return pidfd

    async def _collect(self, pid: int) -> int | None:
        """The exit status of a child that has ended; None if nobody can tell any more."""
        try:
            if pid not in self._collecting:
                self._collecting[pid] = await self._ask(b"C%d" % pid, collects=pid)
            data = await self._wait_for(self._collecting[pid]) or b""
            digits = data[1:]
            if not digits:
                return None
            return -_number(digits[1:]) if digits[:1] == b"-" else _number(digits)
        except TemplateDied:
            return None
        finally:
            if self.pid is None or pid not in self._children:
                self._collecting.pop(pid, None)

    async def _ask(
        self, request: bytes, *, descriptors: Sequence[int] = (), collects: int = 0
    ) -> _Answer:
        async with self._sending:
            while True:
                if self._sock is None or self.pid is None:
                    raise TemplateDied
                try:
                    socket.send_fds(self._sock, [request], descriptors)
                except BlockingIOError:
                    with suppress(trio.ClosedResourceError):  # it is being ended
                        await trio.lowlevel.wait_writable(self._sock)
                except OSError:
                    raise TemplateDied from None
                else:
                    self._answers.append(answer := _Answer(collects))
                    return answer

    async def _wait_for(self, answer: _Answer) -> bytes | None:
        """The answer; if it takes too long, the template is given up. If cancelled, nobody wants it."""
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                await answer.came.wait()
        except BaseException:
            answer.is_wanted = False
            self._discard(answer)  # it may have come in this very moment
            raise
        if not answer.came.is_set():
            self._fail(f"did not answer within {ANSWER_SECONDS:g} s")
        return answer.data

    def _discard(self, answer: _Answer) -> None:
        """Have a child killed and collected that nobody wants any more."""
        data = answer.data or b""
        if answer.collects or data[:1] != b"P" or self._sock is None:
            return
        try:
            pid = _number(data[1:])
            self._sock.send(b"C%d" % pid)
        except (OSError, TemplateDied):  # it has died, or is far behind: then it is of no use
            self._fail("does not listen")
        else:
            self._answers.append(_Answer(pid))

    # -- hearing it ---------------------------------------------------------------------------

    async def _listen(self, body: SpawnedBody) -> None:
        sock = self._sock
        if sock is None:  # we were cancelled before this began
            return
        # It died with requests unread, or it speaks nonsense, or we have hung up meanwhile.
        with suppress(OSError, TemplateDied, trio.ClosedResourceError):
            while True:
                await trio.lowlevel.wait_readable(sock)
                with suppress(BlockingIOError):
                    message = sock.recv(MOST_BYTES)
                    if not message:
                        break
                    self._hear(message)
        with trio.move_on_after(self._limits.terminate_seconds):
            await self._has_exited.wait()
            return
        body.kill()  # whoever does not listen any more is of no use

    def _hear(self, message: bytes) -> None:
        kind, rest = message[:1], message[1:]
        if not self.settled.is_set():
            if kind != b"R":
                self.obstacle = _printable(rest, self._limits.error_message_bytes)
                self.is_current = False
                self._is_unwanted.set()
            self.settled.set()
            return
        if not self._answers:
            raise TemplateDied  # nobody has asked
        answer = self._answers.popleft()
        answer.data = message
        answer.came.set()
        if answer.collects:
            self._children.discard(answer.collects)
            if self._is_retired and not self._children:
                self._is_unwanted.set()
        elif kind == b"P":
            self._children.add(_number(rest))
            if not answer.is_wanted:
                self._discard(answer)


def _number(digits: bytes) -> int:
    """A positive number that a template has sent."""
    if not (digits.isdigit() and len(digits) <= MOST_DIGITS):
        raise TemplateDied
    return int(digits)


def _printable(data: bytes, most_bytes: int) -> str:
    text = data[:most_bytes].decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)


def _parent_of(pid: int) -> int | None:
    # By hand: this stands between a caller and its answer.
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.read(descriptor, 1024)
        finally:
            os.close(descriptor)
    except OSError:  # pragma: no cover  # it has gone this very moment
        return None
    return int(stat.rpartition(b")")[2].split()[1])  # see _process_metrics
