"""Instances at breakpoints, and the terminals that developers attach to instances.

Each ``breakpoint()`` of an instance is a connection to this host; see ``spear._breakpoints``. A terminal
is attached to the name of an instance, and stays attached when the instance is replaced. It serves one
breakpoint at a time, in the order in which they came. Without a terminal a breakpoint waits.

Invariant: when a terminal or an instance goes away, in whatever way, the other one is notified.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._breakpoints import MAX_LINE_BYTES, pid_of_peer
from spear._errors import NotFound, Rejected
from spear.channels import open_private_nursery, protected_block

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.spearlet import Replica, Spearlet

logger: Final = logging.getLogger("spear.cli")

MAX_UNREAD: Final = 100
"""Messages of a debugger that a terminal has not read; beyond these the debugger waits."""


@final
@attrs.define(eq=False)
class _Stop:
    """An instance at a breakpoint: it waits, or its debugger runs on a terminal."""

    instance: InstanceId
    place: str
    stream: trio.SocketStream
    terminal: Terminal | None = None
    sending: trio.Lock = attrs.field(factory=trio.Lock)

    async def send(self, key: str, text: str = "") -> None:
        """Send a message; ignored if the instance has gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self.sending:
                await self.stream.send_all(json.dumps({key: text}).encode() + b"\n")


@final
class Terminal:
    """A terminal that is attached to an instance: an iterator of messages for it.

    Attributes:
        name: the name of the instance.
        stop: the breakpoint that the terminal serves now.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stop: _Stop | None = None
        self._sending, self._receiving = trio.open_memory_channel[object](MAX_UNREAD)

    def __aiter__(self) -> Terminal:
        return self

    async def __anext__(self) -> object:
        """Wait for the next message, and return it."""
        return await self._receiving.receive()

    async def put(self, message: object) -> None:
        """Add a message, and wait while too many are unread; ignored if the terminal has gone."""
        with suppress(trio.BrokenResourceError):
            await self._sending.send(message)

    async def enter(self, line: str) -> None:
        """Pass a line to the debugger; ignored if the debugger has ended meanwhile."""
        if self.stop is not None:
            await self.stop.send("line", line)

    def close(self) -> None:
        """Drop all messages from now on."""
        self._receiving.close()


@final
class Terminals:
    """All breakpoints and terminals of a development host.

    Args:
        listener: a listening Unix socket, to which instances connect; see :func:`listen`.
        on_waiting: called with the name of an instance that waits at a breakpoint, if no terminal is
            attached to it. Must not block.
    """

    def __init__(self, listener: socket.socket, on_waiting: Callable[[str], None]) -> None:
        self._listener = listener
        self._on_waiting = on_waiting
        self._spearlet: Spearlet | None = None
        self._waiting: deque[_Stop] = deque()
        self._attached: dict[str, Terminal] = {}

    @property
    def waiting(self) -> int:
        """Number of breakpoints that wait for a terminal."""
        return len(self._waiting)

    # -- instances ----------------------------------------------------------------------------

    async def serve(self, spearlet: Spearlet) -> None:
        """Accept connections of instances until cancelled; then all of them go on without a debugger."""
        self._spearlet = spearlet
        listener = trio.socket.from_stdlib_socket(self._listener)
        async with open_private_nursery() as nursery:
            while True:
                sock, _ = await listener.accept()
                nursery.start_soon(self._serve_one, trio.SocketStream(sock))

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        async with stream:
            pid = pid_of_peer(stream.socket)  # type: ignore[arg-type]  # Trio's has the same method
            instance = None if pid is None else self._instance_of(pid)
            messages = _Messages(stream)
            first = await anext(messages, None)
            if instance is None or first is None:
                return
            stop = _Stop(instance, first.get("place", ""), stream)
            logger.warning("%s waits at a breakpoint: %s", instance, stop.place)
            self._waiting.append(stop)
            terminal = self._attached.get(instance.name)
            if terminal is None:
                self._on_waiting(instance.name)
            elif terminal.stop is None:
                await self._begin(terminal, self._next(terminal))
            try:
                await self._pass_on(stop, messages)
            finally:
                with suppress(ValueError):  # it has left the queue
                    self._waiting.remove(stop)

    async def _pass_on(self, stop: _Stop, messages: _Messages) -> None:
        """Pass the messages of a debugger to its terminal, until the debugger or the instance ends."""
        how = "lost"
        async for message in messages:
            if "end" in message:
                how = message["end"]
                break
            if stop.terminal is not None:
                await stop.terminal.put(message)
        terminal = stop.terminal
        if terminal is not None:
            terminal.stop = None
            following = self._next(terminal)  # before a reader of "end" can detach the terminal
            await terminal.put({"end": how})
            await self._begin(terminal, following)

    def _instance_of(self, pid: int) -> InstanceId | None:
        """Return the instance whose process, or whose session, has this pid."""
        with suppress(ProcessLookupError):
            pids = {pid, os.getsid(pid)}
            for each in self._instances():
                if each.pid in pids:
                    return each.id
        return None

    def _instances(self) -> list[Replica]:
        assert self._spearlet is not None
        return [each for one in self._spearlet.deployments.values() for each in one.instances]

    # -- terminals ----------------------------------------------------------------------------

    @protected_block
    async def attach(self, name: str) -> AsyncIterator[Terminal]:
        """Attach a terminal to an instance while the block runs.

        A debugger that runs on it when the block is left ends, and its function goes on.

        Args:
            name: an instance's id or name, or the name of a deployment with a single instance.

        Raises:
            NotFound: there is no such instance.
            Rejected: another terminal is attached to it.
        """
        name = self._find(name)
        if name in self._attached:
            raise Rejected(
                f"another terminal is attached to {name}: detach it there with Ctrl-D",
                code="attached",
            )
        terminal = self._attached[name] = Terminal(name)
        try:
            await terminal.put({"attached": name})
            await self._begin(terminal, self._next(terminal))
            yield terminal
        finally:
            del self._attached[name]
            terminal.close()
            if terminal.stop is not None:
                stop, terminal.stop = terminal.stop, None
                stop.terminal = None
                logger.warning("%s goes on: its terminal was detached", stop.instance)
                with trio.move_on_after(1) as scope:
                    scope.shield = True
                    await stop.send("detached")
                    await stop.stream.aclose()
            if any(each.instance.name == name for each in self._waiting):
                self._on_waiting(name)

    def _next(self, terminal: Terminal) -> _Stop | None:
        """Give a terminal the first breakpoint that waits for it, and return the breakpoint, if any."""
        for stop in self._waiting:
            if stop.instance.name == terminal.name:
                self._waiting.remove(stop)
                stop.terminal, terminal.stop = terminal, stop
                return stop
        return None

    async def _begin(self, terminal: Terminal, stop: _Stop | None) -> None:
        """Begin the debugger of a breakpoint on the terminal that has been given it."""
        if stop is not None:
            await terminal.put({"place": stop.place, "instance": str(stop.instance)})
            await stop.send("attached")

    async def enter(self, name: str, line: str) -> None:
        """Pass a line to the debugger on the terminal of an instance.

        Raises:
            NotFound: no terminal is attached to the instance.
        """
        terminal = self._attached.get(name)
        if terminal is None:
            raise NotFound(f"no terminal is attached to {name[:100]!r}")
        await terminal.enter(line)

    def _find(self, name: str) -> str:
        instances = self._instances()
        for each in instances:
            if name in (str(each.id), str(each.id).partition(":")[2], each.id.name):
                return each.id.name
        assert self._spearlet is not None
        deployment = self._spearlet.deployments.get(name)
        if deployment is not None and len(deployment.instances) == 1:
            return deployment.instances[0].id.name
        known = ", ".join(each.id.name for each in instances) or "none"
        raise NotFound(f"there is no instance {name[:100]!r}; instances: {known[:500]}")


def listen() -> tuple[socket.socket, str]:
    """Return a listening socket for breakpoints, and its name; the kernel chooses a free name."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("")
        listener.listen()
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener, listener.getsockname()[1:].decode()


@final
class _Messages:
    """An iterator of the messages of an instance, until it closes the connection or sends no message."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._begun = b""  # an incomplete line

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> dict[str, str]:
        """Wait for the next message, and return it."""
        while not self._lines:
            if len(self._begun) > MAX_LINE_BYTES:
                raise StopAsyncIteration
            try:
                piece = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                piece = b""
            if not piece:
                raise StopAsyncIteration
            *lines, self._begun = (self._begun + piece).split(b"\n")
            self._lines.extend(lines)
        try:
            message = json.loads(self._lines.popleft())
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise StopAsyncIteration
        return {str(key): str(value) for key, value in message.items()}
