"""The private working directory of a process, and those that killed hosts have left behind.

What functions write there may be much. So it is removed in a thread, and nobody waits long for that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from spear._directories import OwnedDirectory, abandoned

KIND: Final = "work"

REMOVAL_SECONDS: Final = 5.0
"""How long the end of an instance waits for its directory to be emptied."""

SWEEP_SECONDS: Final = 1.0
"""How long the first start of a host waits for what others have left."""


@asynccontextmanager
async def open_working_directory() -> AsyncIterator[str]:
    """A directory that only we can enter; removed with all that is in it when the block is left.

    Raises:
        OSError: it cannot be made.
    """
    directory = OwnedDirectory.make(tempfile.gettempdir(), KIND)
    try:
        yield directory.path
    finally:
        try:
            if directory.is_in_place():
                os.rmdir(directory.path)
        except OSError:  # not empty
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVAL_SECONDS):
                await trio.to_thread.run_sync(_remove, directory, abandon_on_cancel=True)
        else:
            directory.release()


async def sweep_working_directories() -> None:
    """Remove those whose hosts are gone. If cancelled, or if it takes long, that goes on by itself."""
    with trio.move_on_after(SWEEP_SECONDS):
        await trio.to_thread.run_sync(_sweep, tempfile.gettempdir(), abandon_on_cancel=True)


def _sweep(parent: str) -> None:
    with suppress(OSError):  # it cannot be looked into
        for directory in abandoned(parent, KIND):
            _remove(directory)


def _remove(directory: OwnedDirectory) -> None:
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.release()
