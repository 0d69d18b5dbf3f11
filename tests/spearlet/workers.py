"""Functions for processes that tests start, kill and inspect."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

import spear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = spear.Agent("workers")
released = trio.Event()
holding = 0


@app.function
async def echo(value: object) -> object:
    return value


@app.function
async def who() -> int:
    """Return the pid of the process."""
    return os.getpid()


@app.function
async def hold(number: int) -> int:
    """Wait until `release` is called in the same process. Report the pid when it has begun."""
    spear.context().progress(os.getpid())
    await released.wait()
    return number


@app.function
async def release() -> int:
    released.set()
    return os.getpid()


@app.function
def read(path: str) -> str:
    """Return the contents of a file; for a pipe, wait until they are written."""
    with open(path, encoding="utf-8") as file:
        return file.read()


@app.function
def stubborn() -> None:
    """Block a thread for ever, and ignore SIGTERM in the whole process."""
    spear.context().progress(os.getpid())
    while True:
        signal.pause()


@app.function
async def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@app.function
async def die(status: int) -> None:
    sys.stderr.write("so long\n")
    sys.stderr.flush()
    os._exit(status)


@app.function
async def note(path: str, text: str) -> str:
    """Append a line to a file, by one system call."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)
    return text


@app.function
async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@app.function
async def fountain() -> AsyncIterator[int]:
    """Yield items without end."""
    number = 0
    while True:
        yield number
        number += 1
        await trio.lowlevel.checkpoint()


@app.function
async def budget(hops: int) -> list[float]:
    """Return the remaining time here and in ``hops`` further functions, each called by the one before."""
    here = spear.context().remaining_seconds()
    if not hops:
        return [here]
    further = await spear.call("budget", hops - 1)
    assert isinstance(further, list)
    return [here, *further]  # type: ignore[list-item]  # lists of numbers as well


@app.function
async def blob(size: int) -> bytes:
    return bytes(size)


@app.function
async def modules() -> list[str]:
    return sorted(sys.modules)


@app.function
async def directory() -> str:
    return os.getcwd()
