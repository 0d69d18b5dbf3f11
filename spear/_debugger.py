"""``breakpoint()`` in the process of an instance: a debugger on a terminal that a developer attaches.

Only a development host (``spear dev``) has terminals; see ``spear._breakpoints`` for the exchange with
it. Under any other host a breakpoint is logged once and passed over, so that a forgotten one does not
stop a service.

The debugger runs in the thread of the function and blocks it. A breakpoint in an ``async def`` therefore
stops all calls of the instance until the function goes on; other instances are unaffected.
"""

from __future__ import annotations

import json
import logging
import os
import pdb
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Final, final

from ._breakpoints import MAX_LINE_BYTES, VARIABLE, pid_of_peer

logger: Final = logging.getLogger("spear.function.breakpoint")

HOST_SECONDS: Final = 5.0
"""Seconds that the host has to accept a connection; it does so at once unless it is overloaded."""

MAX_CHARACTERS: Final = MAX_LINE_BYTES // 16
"""Most characters of a message: JSON has up to 12 bytes for each, and has to fit into a line."""

MAX_PLACES: Final = 1000
"""Most breakpoints that are logged as passed over."""

NOT_STOPPED_IN: Final = (
    "spear", "spear.*", "trio", "trio.*", "outcome", "outcome.*", "asyncio", "asyncio.*", "contextlib",
    "concurrent.*", "threading", "bdb", "pdb", "importlib.*", "_frozen_importlib*",
)  # fmt: skip
"""Modules in which stepping does not stop: a step out of a function leads to code of the developer."""

_passed: Final[set[str]] = set()
_of_thread = threading.local()


def stop_at(frame: FrameType, header: str = "", commands: Iterable[str] = ()) -> None:
    """Stop a function until a developer lets it go on.

    Args:
        frame: where the function stops.
        header: a text to show first, as in ``pdb.set_trace()``.
        commands: commands of the debugger to run first, as in ``pdb.set_trace()``.
    """
    place = (
        f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
    )
    debugger: _Debugger | None = getattr(_of_thread, "debugger", None)
    if debugger is None or not debugger.exchange.is_open:
        name = os.environ.get(VARIABLE)
        if not name:
            _pass_over(place, "only `spear dev` has a debugger")
            return
        try:
            exchange = Exchange(_connect(name))
        except OSError as error:
            _pass_over(place, f"the debugger of the host cannot be reached: {error}")
            return
        if not exchange.wait_attached(place):
            _pass_over(place, "the host has stopped its debugger", again=True)
            return
        debugger = _of_thread.debugger = _Debugger(exchange)
    if header:
        debugger.message(header)
    debugger.rcLines.extend(commands)
    debugger.set_trace(frame)  # last: from here on, every line is traced


def _pass_over(place: str, why: str, *, again: bool = False) -> None:
    if again or (place not in _passed and len(_passed) < MAX_PLACES):
        _passed.add(place)
        logger.warning("breakpoint() at %s was passed over: %s", place, why)


def _connect(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(HOST_SECONDS)
        sock.connect(f"\0{name}")
        if pid_of_peer(sock) is None:
            raise PermissionError("another user listens there")
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


@final
class Exchange:
    """The connection of one debugger, as the files that it reads lines from and writes its output to.

    Attributes:
        is_open: whether a terminal is attached.
    """

    encoding = "utf-8"

    def __init__(self, sock: socket.socket) -> None:
        self.is_open = False
        self._sock = sock
        self._received = sock.makefile("rb")
        self._written = ""  # output since the last message

    def wait_attached(self, place: str) -> bool:
        """Wait until a terminal is attached; return False if the host has stopped its debugger."""
        self.is_open = True
        self._send("place", place)
        if self._receive("attached") is None:
            self.close()
        return self.is_open

    def write(self, text: str) -> int:
        """Keep output until the next line is wanted, or for :meth:`flush`."""
        self._written += text
        return len(text)

    def flush(self) -> None:
        """Send the complete lines of the output; the rest is the prompt if a line is wanted next."""
        lines, newline, rest = self._written.rpartition("\n")
        self._written = rest
        if newline:
            self._send("text", lines + newline)

    def readline(self) -> str:
        """Return the next line that the developer enters; empty if the terminal was detached."""
        self.flush()
        prompt, self._written = self._written, ""
        self._send("prompt", prompt)
        line = self._receive("line")
        if line is None:
            self.close()
            return ""
        return f"{line}\n"

    def end(self, how: str) -> None:
        """Report the end of the debugger, and close the connection."""
        self.flush()
        self._send("end", how)
        self.close()

    def close(self) -> None:
        """Close the connection. Output is ignored from now on."""
        self.is_open = False
        with suppress(OSError):
            self._received.close()
        self._sock.close()

    def _send(self, key: str, text: str) -> None:
        if not self.is_open:
            return
        cut = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ...\n"
        try:
            self._sock.sendall(json.dumps({key: cut}).encode() + b"\n")
        except OSError:  # the host has gone
            self.close()

    def _receive(self, key: str) -> str | None:
        """Return the value of the next message if it has this key; otherwise None."""
        if not self.is_open:
            return None
        try:
            message = json.loads(self._received.readline(MAX_LINE_BYTES))
            return str(message[key])
        except (OSError, ValueError, KeyError):  # the host has gone, or the terminal was detached
            return None


@final
class _Debugger(pdb.Pdb):
    """Python's debugger on an :class:`Exchange`.

    The end of the input, which is a detached terminal, lets the function go on without breakpoints.
    ``quit`` raises ``bdb.BdbQuit`` in the function, as on a terminal: the call fails.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(
            stdin=exchange,  # type: ignore[arg-type]  # has the methods that cmd.Cmd uses
            stdout=exchange,  # type: ignore[arg-type]  # likewise
            skip=NOT_STOPPED_IN,
            nosigint=True,
            readrc=False,
        )
        self.use_rawinput = False
        self.exchange = exchange

    def do_EOF(self, arg: str) -> bool:  # noqa: N802  # the name that cmd.Cmd looks for
        """Go on without a debugger: the terminal was detached."""
        self.clear_all_breaks()
        self.set_continue()
        return True

    def set_continue(self) -> None:
        """Let the function go on; the debugger ends unless it has breakpoints of its own."""
        super().set_continue()
        if not self.breaks:
            self.exchange.end("continued")

    def set_quit(self) -> None:
        """End the function with ``bdb.BdbQuit``."""
        super().set_quit()
        sys.settrace(None)
        self.exchange.end("quit")
