"""Watching the files of programs, to notice that a developer has saved one.

The files are polled, by path. So editors that write a new file and rename it are no special case, and
neither are file systems that report no changes, such as those of containers and networks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias, final

import trio

LOOK_SECONDS: Final = 0.25
"""Seconds between two looks at all files, which take microseconds each."""

SETTLE_SECONDS: Final = 0.05
"""Seconds without a further change after which a save counts as complete."""

MISSING_SECONDS: Final = 2.0
"""Seconds for a file that has vanished to come back: some editors remove it before they write it."""

SavedState: TypeAlias = "tuple[int, int, int] | None"
"""A file's modification time, size and inode; None if there is no file."""


@final
class SourceWatch:
    """A watch over files, whose list may change with their contents.

    Args:
        find: returns the paths of the files; may read files, and is called in a thread.
    """

    def __init__(self, find: Callable[[], Iterable[str]]) -> None:
        self._find = find
        self._states: dict[str, SavedState] = {}

    async def begin(self) -> None:
        """Record the present state of the files. Cancellation leaves the former record."""
        self._states = await trio.to_thread.run_sync(lambda: _look(self._find()))

    async def wait_saved(self) -> list[str]:
        """Wait until files have changed since the last call, and are complete; return their paths.

        No change between two calls is missed. If cancelled, the change is returned by the next call.
        """
        before = self._states
        while (states := await self._look()) == before:  # noqa: ASYNC110  # there is no event
            await trio.sleep(LOOK_SECONDS)
        with trio.move_on_after(MISSING_SECONDS):
            last = None
            while states != last or None in states.values():
                await trio.sleep(SETTLE_SECONDS)
                last, states = states, await self._look()
        await self.begin()
        return [path for path in before if before[path] != states[path]]

    async def _look(self) -> dict[str, SavedState]:
        return await trio.to_thread.run_sync(_look, self._states)


def _look(paths: Iterable[str]) -> dict[str, SavedState]:
    return {path: _state_of(path) for path in paths}


def _state_of(path: str) -> SavedState:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
