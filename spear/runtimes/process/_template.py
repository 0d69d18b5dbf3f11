"""A template: a process that has loaded a program, and forks instances of it.

This module is the host's side of one template: start it, send it requests, end it. The requests and
answers are described in ``spear/agent/_zygote.py``. ``_zygote`` decides when to start a template,
and what to do without one.

A template has run the program's code, so the host does not trust it. Each answer must fit the oldest
request and come in time. A process that an answer names must be a child of the template, and must not be
an instance already. A template that breaks one of these rules is killed at once; its instances live on.
"""

from __future__ import annotations

import os
import resource
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

import trio

from spear._forks import own_socket
from spear.channels import protected_class

from .._health import describe_exit
from .._logs import LogBook
from ._body import ForkedBody, SpawnedBody
from ._directory import open_working_directory
from ._oom import prefer_to_host
from ._spawn import Plumbing, spawn

if TYPE_CHECKING:
    from spear._host_limits import HostLimits
    from spear._ids import InstanceId
    from spear.telemetry import Instruments

    from .._logs import OnLine
    from ._guard import Guard
    from ._settings import ProcessSettings

MOST_BYTES: Final = 64 * 1024
"""The largest answer."""

ANSWER_SECONDS: Final = 5.0
"""Time limit for one request, counted from the request or from the previous answer, whichever is later,
since a burst of requests waits in a queue. A template usually answers within some milliseconds."""

HANG_UP_SECONDS: Final = 1.0
"""Seconds that a template has to exit after its socket was closed. One that lives longer broke a rule."""

EXCERPT_BYTES: Final = 40
"""Bytes of an invalid answer that a log line shows."""

MOST_DIGITS: Final = 7
"""Most digits of a process number: Linux numbers processes up to 4,194,304."""

EXIT_STATUSES: Final = range(-64, 256)
"""Exit statuses as ``subprocess`` counts them: the negated number of a signal, or a byte."""


class TemplateDied(Exception):
    """A template has died, or forks no more, and does not answer the request."""


class _Nonsense(Exception):
    """A message of a template is not a valid answer to the oldest request."""


@final
class _Reply:
    """A template's answer to one request, or the place for an answer that is still to come.

    Attributes:
        collects: the pid of the child to reap; 0 if a child is to be forked.
        kind: the answer's first byte; empty until it comes, and if the template has died.
        pid: the pid of the new child, if the answer names one.
        exit_status: the exit status of the reaped child, if the template knows it.
        reason: the reason why the system refuses to fork.
        is_asked: whether the request has been sent.
        came: set when the template has answered or has died.
        is_wanted: whether a task waits for the answer.
    """

    __slots__ = (
        "came",
        "collects",
        "exit_status",
        "is_asked",
        "is_wanted",
        "kind",
        "pid",
        "reason",
    )

    def __init__(self, collects: int = 0) -> None:
        self.collects = collects
        self.kind = b""
        self.pid = 0
        self.exit_status: int | None = None
        self.reason = ""
        self.is_asked = False
        self.came = trio.Event()
        self.is_wanted = True


@final
@protected_class
class Template:
    """A process that forks instances; made, run and replaced by a zygote.

    Attributes:
        name: the name for log lines.
        settled: set when it is known whether instances can be forked.
        obstacle: why the program cannot be forked, as text to follow "it" ("runs Trio"); else empty.
        failure: why the program could not be loaded, as text to follow "it"; else empty.
        death: a description of the template's end; empty while it runs.
        is_current: whether more instances may be forked.
        pid: the pid of the process, while it runs.
    """

    def __init__(
        self,
        name: InstanceId,
        limits: HostLimits,
        on_line: OnLine | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        self.name = name
        self.settled = trio.Event()
        self.obstacle = ""
        self.failure = ""
        self.death = ""
        self.is_current = True
        self.pid: int | None = None
        self._limits = limits
        self._book = LogBook(name, limits, on_line, instruments)
        self._sock: socket.socket | None = None
        self._sending = trio.Lock()
        self._answers: deque[_Reply] = deque()  # answers still to come, oldest request first
        self._has_asked = trio.Event()  # replaced whenever no answer is due
        self._children: set[int] = set()
        self._is_retired = False
        self._is_unwanted = trio.Event()
        self._has_exited = trio.Event()

    @property
    def has_died(self) -> bool:
        """Whether the template was able to fork instances, and then ended by itself."""
        return bool(self.death) and not (self._is_retired or self.failure or self.obstacle)

    @property
    def stderr_tail(self) -> str:
        """The last lines that the process has written to stderr."""
        return self._book.tail("stderr").text(self._limits.wire.error_message_bytes)

    def retire(self) -> None:
        """Stop forking; the process ends when all of its children have ended."""
        self.is_current = False
        self._is_retired = True
        if not self._children:
            self._is_unwanted.set()

    # -- start and end ------------------------------------------------------------------------

    async def run(
        self, settings: ProcessSettings, starters: trio.CapacityLimiter, guard: Guard
    ) -> None:
        """Start the process, and run until it ends. Cancellation ends the process."""
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
                    nursery.start_soon(self._listen)
                    nursery.start_soon(self._watch_answers)
                    try:
                        await self._until_unwanted()
                    finally:
                        nursery.cancel_scope.cancel()
                        await self._end(body)
        finally:
            self._is_retired = self._is_retired or not self.death  # the zygote has ended it
            self._fail("was stopped")

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
            environment = settings.template_environment()
            process = await spawn(
                command, environment, directory, plumbing, starters, other.fileno()
            )
            body = SpawnedBody(process, plumbing.outputs)
            ours.callback(body.close)
            with suppress(OSError):  # the process has already ended
                plumbing.arm(body.pid)
                prefer_to_host(body.pid)
                _, most = resource.prlimit(body.pid, resource.RLIMIT_CORE)
                resource.prlimit(body.pid, resource.RLIMIT_CORE, (0, most))
        self._sock, self.pid = sock, body.pid
        return body

    async def _until_unwanted(self) -> None:
        seconds = self._limits.timeouts.startup_seconds
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
        """End the process: let it run its exit handlers for at most ``terminate_seconds``.

        A template that has failed, and a template that still loads its program and cannot receive
        messages yet, are killed at once.
        """
        is_in_order = self.settled.is_set() and not self.death
        self.is_current = False
        self._close()
        with trio.CancelScope(shield=True):
            if is_in_order:
                with trio.move_on_after(self._limits.timeouts.terminate_seconds):
                    await body.wait_exited()
                    return
            body.kill_now()
            with trio.move_on_after(self._limits.timeouts.kill_seconds):
                await body.wait_exited()

    def _close(self) -> None:
        if self._sock is not None:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._sock = None

    def _fail(self, why: str) -> None:
        """Record that the template answers no more requests, and release all waiting tasks."""
        self.is_current = False
        self.pid = None
        self.death = self.death or why
        if not self.settled.is_set():
            self.failure = why
            self.settled.set()
        while self._answers:
            self._answers.popleft().came.set()
        self._is_unwanted.set()

    def _distrust(self, why: str) -> None:
        """End a template that broke the rules. If it was still loading, its program is spawned."""
        if not self.settled.is_set():
            self.obstacle = f"{why} while it was being loaded"
            self.settled.set()
        self._fail(why)

    async def _lose(self) -> None:
        """End a template whose socket is closed, after waiting briefly whether the process exits."""
        with trio.move_on_after(HANG_UP_SECONDS):
            await self._has_exited.wait()
        if not self._has_exited.is_set():
            self._distrust("closed the socket of its host")

    # -- requests -----------------------------------------------------------------------------

    async def fork(self, directory: str, plumbing: Plumbing) -> ForkedBody:
        """Fork a new instance.

        After a cancellation, the template may still fork the instance, which is then killed.

        Raises:
            OSError: the system refuses to fork.
            TemplateDied: the template has died, or the program's files have changed and it forks no more.
                An unknown fork may exist, which ends when its lifeline is closed.
        """
        answer = _Reply()
        request = b"F" + os.fsencode(directory)
        await self._ask(request, answer, (plumbing.lifeline, plumbing.stdout, plumbing.stderr))
        await self._wait_for(answer)
        if answer.kind == b"P":
            pidfd = self._open_child(answer)
            collect = partial(self._collect, _Reply(answer.pid))
            return ForkedBody(answer.pid, pidfd, plumbing.outputs, collect)
        if answer.kind == b"S":
            self.retire()
        if answer.kind == b"E":
            raise OSError(answer.reason)
        raise TemplateDied

    def _open_child(self, answer: _Reply) -> int:
        """Return a pidfd of the new child, after checking that it is a child of the template."""
        pid = answer.pid
        try:
            with ExitStack() as stack:
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
                # The pid belongs to another process only if the template has died, or lies.
                if self.pid is not None and _parent_of(pid) == self.pid:
                    stack.pop_all()
                    return pidfd
        except (ProcessLookupError, FileNotFoundError):  # not even a zombie
            pass
        except OSError:  # no descriptor left
            self._discard(answer)
            raise
        self._distrust(f"named process {pid}, which is not its child")
        raise TemplateDied

    async def _collect(self, answer: _Reply, pid: int) -> int | None:
        """Have an ended child reaped, and return its exit status; None if the template cannot tell."""
        try:
            if not answer.is_asked:
                await self._ask(b"C%d" % pid, answer)
            await self._wait_for(answer)
        except TemplateDied:
            return None
        return answer.exit_status

    async def _ask(self, request: bytes, answer: _Reply, descriptors: Sequence[int] = ()) -> None:
        async with self._sending:
            while True:
                if self._sock is None or self.pid is None:
                    raise TemplateDied
                try:
                    socket.send_fds(self._sock, [request], descriptors)
                except BlockingIOError:
                    with suppress(trio.ClosedResourceError):  # the template is being ended
                        await trio.lowlevel.wait_writable(self._sock)
                except OSError:
                    await self._lose()
                    raise TemplateDied from None
                else:
                    self._expect(answer)
                    return

    def _expect(self, answer: _Reply) -> None:
        answer.is_asked = True
        self._answers.append(answer)
        self._has_asked.set()

    async def _wait_for(self, answer: _Reply) -> None:
        """Wait for the answer or the template's end. If cancelled, have the forked child killed."""
        try:
            await answer.came.wait()
        except BaseException:
            answer.is_wanted = False
            self._discard(answer)  # the answer may have come just now
            raise

    def _discard(self, answer: _Reply) -> None:
        """Have the child that an answer names killed and reaped."""
        if answer.kind != b"P" or self._sock is None:
            return
        try:
            self._sock.send(b"C%d" % answer.pid)
        except OSError:  # the template has died, or does not read its socket
            self._fail("did not read its requests")
        else:
            self._expect(_Reply(answer.pid))

    # -- answers ------------------------------------------------------------------------------

    async def _watch_answers(self) -> None:
        """End the template when an answer takes too long."""
        while True:
            if not self._answers:
                self._has_asked = trio.Event()
                await self._has_asked.wait()
                continue  # the template may have answered meanwhile
            answer = self._answers[0]
            with trio.move_on_after(ANSWER_SECONDS):
                await answer.came.wait()
            if not answer.came.is_set():
                self._fail(f"did not answer within {ANSWER_SECONDS:g} s")

    async def _listen(self) -> None:
        sock = self._sock
        if sock is None:  # cancelled before this task began
            return
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                with suppress(BlockingIOError):
                    message = sock.recv(MOST_BYTES)
                    if not message:
                        break
                    self._hear(message)
        except _Nonsense as error:
            self._distrust(str(error))
        except OSError:  # the template died with unread requests
            pass
        await self._lose()

    def _hear(self, message: bytes) -> None:
        if not self.settled.is_set():
            if message[:1] == b"N":
                self.obstacle = self._printable(message[1:])
                self.is_current = False
                self._is_unwanted.set()
            elif message != b"R":
                raise _Nonsense(f"sent {_excerpt(message)}")
            self.settled.set()
            return
        if not self._answers:
            raise _Nonsense(f"sent {_excerpt(message)} without a request")
        answer = self._answers[0]
        self._read(message, answer)
        self._answers.popleft()
        answer.kind = message[:1]
        answer.came.set()
        if answer.collects:
            self._children.discard(answer.collects)
            if self._is_retired and not self._children:
                self._is_unwanted.set()
        elif answer.pid:
            self._children.add(answer.pid)
            if not answer.is_wanted:
                self._discard(answer)

    def _read(self, message: bytes, answer: _Reply) -> None:
        """Parse a message as the answer to the oldest request.

        Raises:
            _Nonsense: the message is not a valid answer to this request.
        """
        kind, rest = message[:1], message[1:]
        if answer.collects:
            sign, digits = (-1, rest[1:]) if rest[:1] == b"-" else (1, rest)
            if message == b"X":
                return
            if kind == b"X" and _is_number(digits) and sign * int(digits) in EXIT_STATUSES:
                answer.exit_status = sign * int(digits)
                return
        elif kind == b"P":
            if _is_number(rest) and int(rest) and int(rest) not in self._children:
                answer.pid = int(rest)
                return
        elif kind == b"E":
            answer.reason = self._printable(rest)
            return
        elif message == b"S":
            return
        raise _Nonsense(f"answered {_excerpt(message)}")

    def _printable(self, data: bytes) -> str:
        return _printable(data, self._limits.wire.error_message_bytes)


def _is_number(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= MOST_DIGITS


def _excerpt(message: bytes) -> str:
    more = " and more" if len(message) > EXCERPT_BYTES else ""
    return f"{message[:EXCERPT_BYTES]!r}{more}"


def _printable(data: bytes, most_bytes: int) -> str:
    text = data[:most_bytes].decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)[:most_bytes]


def _parent_of(pid: int) -> int:
    # Without open() and Path, because a caller waits for this result.
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(descriptor, 1024)
    finally:
        os.close(descriptor)
    return int(stat.rpartition(b")")[2].split()[1])  # see _metrics
