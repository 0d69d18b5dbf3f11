"""The terminal of ``spear dev`` itself, attached to an instance that waits at a breakpoint.

It is read as it is, with the editing of the terminal driver: so reading can be cancelled, and the
settings of the terminal never change. ``spear attach`` in a second terminal has a history, too.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import SpearError

from ._say import complain
from ._text import printable

if TYPE_CHECKING:
    from ._terminals import Terminals

KEYBOARD: Final = 0
MAX_LINE_CHARACTERS: Final = 4096
"""Longest line that the driver of a terminal passes on."""


@final
class OwnTerminal:
    """The terminal of this process.

    Attributes:
        is_reading: whether the debugger of an instance waits for a line, and gets Ctrl-C.
    """

    def __init__(self) -> None:
        self.is_reading = False
        self._dropped = trio.Event()
        self._wanted, self._names = trio.open_memory_channel[str](100)

    @staticmethod
    def exists() -> bool:
        """Return whether this process has a terminal, and is not in its background."""
        try:
            return sys.stdout.isatty() and os.tcgetpgrp(KEYBOARD) == os.getpgrp()
        except (OSError, AttributeError):
            return False

    def offer(self, name: str) -> None:
        """Attach the terminal to an instance as soon as it is free."""
        with suppress(trio.WouldBlock):
            self._wanted.send_nowait(name)

    def interrupt(self) -> None:
        """Drop the line that is being entered, as Ctrl-C does."""
        self._dropped.set()

    async def serve(self, terminals: Terminals) -> None:
        """Attach the terminal to one instance after the other, until cancelled."""
        async for name in self._names:
            if self.exists():
                try:
                    await self._attach(terminals, name)
                except SpearError as error:  # attached elsewhere meanwhile, or gone
                    complain(f"spear: {error}")

    async def _attach(self, terminals: Terminals, name: str) -> None:
        async with terminals.attach(name) as terminal:
            if terminal.stop is None:  # the breakpoint has gone
                return
            async for message in terminal:
                assert isinstance(message, dict)
                if "text" in message:
                    await self._write(message["text"])
                elif "prompt" in message:
                    self.is_reading = True
                    try:
                        line = await self._read(message["prompt"])
                    finally:
                        self.is_reading = False
                    if line is None:
                        return
                    await terminal.enter(line)
                elif "end" in message and terminal.stop is None:
                    return

    async def _read(self, prompt: str) -> str | None:
        """Return a line from the keyboard; None at the end of input."""
        while True:
            self._dropped = trio.Event()
            await self._write(prompt)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_dropped, nursery.cancel_scope)
                await trio.lowlevel.wait_readable(KEYBOARD)
                nursery.cancel_scope.cancel()
            if self._dropped.is_set():
                await self._write("\n")
                continue
            try:
                data = os.read(KEYBOARD, MAX_LINE_CHARACTERS)
            except OSError:  # the terminal has gone
                return None
            if not data:
                await self._write("\n")
                return None
            return data.decode(errors="replace").rstrip("\n")

    async def _cancel_when_dropped(self, scope: trio.CancelScope) -> None:
        await self._dropped.wait()
        scope.cancel()

    @staticmethod
    async def _write(text: str) -> None:
        with suppress(OSError):
            await trio.to_thread.run_sync(os.write, 1, printable(text).encode())
