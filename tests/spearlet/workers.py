"""Functions for processes that tests start, kill and look into."""

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
    """The process."""
    return os.getpid()


@app.function
async def hold(number: int) -> int:
    """Until somebody calls `release` in the same process. Reports the process when it has begun."""
    spear.context().progress(os.getpid())
    await released.wait()
    return number


@app.function
async def release() -> int:
    released.set()
    return os.getpid()


@app.function
def read(path: str) -> str:
    """What is in a file; of a pipe, as soon as somebody has written it."""
    with open(path, encoding="utf-8") as file:
        return file.read()


@app.function
def stubborn() -> None:
    """Blocks a thread for ever, and ignores SIGTERM in the whole process."""
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
    """A line in a file; the line is written by one system call."""
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
    """Items without end."""
    number = 0
    while True:
        yield number
        number += 1
        await trio.lowlevel.checkpoint()


@app.function
async def budget(hops: int) -> list[float]:
    """The time that is left here, and in so many further functions, each called by the one before."""
    here = spear.context().remaining_seconds()
    if not hops:
        return [here]
    further = await spear.call("budget", hops - 1)
    assert isinstance(further, list)
    return [here, *further]  # type: ignore[list-item]  # they are such lists, too


@app.function
async def blob(size: int) -> bytes:
    return bytes(size)


@app.function
async def modules() -> list[str]:
    return sorted(sys.modules)


@app.function
async def directory() -> str:
    return os.getcwd()
