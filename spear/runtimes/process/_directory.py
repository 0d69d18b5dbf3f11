"""The private working directory of a process, and those that killed hosts have left behind.

What functions write there may be much. So it is removed in a thread, and nobody waits long for that.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from spear._directories import OwnedDirectory, abandoned, temporary_directory
from spear.channels import protected_block

KIND: Final = "work"

REMOVAL_SECONDS: Final = 5.0
"""How long the end of an instance waits for its directory to be emptied."""

SWEEP_SECONDS: Final = 1.0
"""How long the first start of a host waits for what others have left."""


@protected_block
async def open_working_directory() -> AsyncIterator[str]:
    """A directory that only we can enter; removed with all that is in it when the block is left.

    Raises:
        ConfigurationError: there is no temporary directory.
        OSError: it cannot be made.
    """
    directory = OwnedDirectory.make(temporary_directory(), KIND)
    try:
        yield directory.path
    finally:
        try:
            if directory.is_in_place():
                os.rmdir(directory.path)
        except OSError:  # not empty
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVAL_SECONDS):
                await _run_in_thread(partial(_remove, directory))
        else:
            directory.release()


async def sweep_working_directories(parent: str) -> None:
    """Remove those in ``parent`` whose hosts are gone.

    If cancelled, or if it takes long, that goes on by itself.
    """
    with trio.move_on_after(SWEEP_SECONDS):
        await _run_in_thread(partial(_sweep, parent))


async def _run_in_thread(work: Callable[[], None]) -> None:
    """Do something in a thread, where it goes on if this is cancelled."""
    try:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except RuntimeError:  # the system starts no thread
        work()


def _sweep(parent: str) -> None:
    with suppress(OSError):  # it cannot be looked into
        for directory in abandoned(parent, KIND):
            _remove(directory)


def _remove(directory: OwnedDirectory) -> None:
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.release()
