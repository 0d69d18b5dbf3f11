"""The private working directory of a process, and the removal of directories left by killed hosts.

Functions may write many files there. A thread therefore removes the directory, with a time limit.
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
"""Seconds that the end of an instance waits for the removal of its directory."""

SWEEP_SECONDS: Final = 1.0
"""Seconds that a host's first start waits for the removal of directories left by killed hosts."""


@protected_block
async def open_working_directory() -> AsyncIterator[str]:
    """Make a directory that only this user can enter; leaving the block removes it with its contents.

    Raises:
        ConfigurationError: there is no temporary directory.
        OSError: the directory cannot be made.
    """
    directory = OwnedDirectory.make(temporary_directory(), KIND)
    try:
        yield directory.path
    finally:
        try:
            if directory.is_in_place():
                os.rmdir(directory.path)
        except OSError:  # the directory is not empty
            with trio.CancelScope(shield=True, deadline=trio.current_time() + REMOVAL_SECONDS):
                await _run_in_thread(partial(_remove, directory))
        else:
            directory.release()


async def sweep_working_directories(parent: str) -> None:
    """Remove the working directories in ``parent`` whose hosts no longer run.

    After ``SWEEP_SECONDS`` or a cancellation, a thread continues the removal.
    """
    with trio.move_on_after(SWEEP_SECONDS):
        await _run_in_thread(partial(_sweep, parent))


async def _run_in_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in a thread, which continues after a cancellation."""
    try:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except RuntimeError:  # no thread can be started
        work()


def _sweep(parent: str) -> None:
    with suppress(OSError):  # the directory cannot be read
        for directory in abandoned(parent, KIND):
            _remove(directory)


def _remove(directory: OwnedDirectory) -> None:
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.release()
