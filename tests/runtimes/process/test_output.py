"""Reading the output of instances: complete, in order, and without delays for other instances."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from spear import HostLimits, InstanceId
from spear.runtimes import LogBook
from spear.runtimes.process._output import LAST_BYTES, LINES_AT_ONCE, READ_BYTES, Output

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from spear.runtimes._logs import LogTail


@attrs.define
class Written:
    """A pipe whose read end is an output.

    Attributes:
        output: the object that reads it.
        writer: the write end.
        tail: the lines that are kept.
        size: number of bytes written.
    """

    output: Output
    writer: int
    tail: LogTail
    size: int = 0

    @property
    def handled(self) -> int:
        """Number of lines handled so far."""
        return self.tail.lines[-1].number if self.tail.lines else 0

    def write(self, data: bytes) -> None:
        """Write as much of the data as the pipe takes now."""
        while data:
            try:
                count = os.write(self.writer, data)
            except BlockingIOError:
                return
            self.size += count
            data = data[count:]

    def unread(self) -> int:
        """Number of bytes still in the pipe."""
        (found,) = struct.unpack("i", fcntl.ioctl(self.writer, termios.FIONREAD, bytes(4)))
        return int(found)

    def hang_up(self) -> None:
        os.close(self.writer)
        self.writer = -1


@contextmanager
def written() -> Iterator[Written]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    tail = LogBook(InstanceId("process", "worker"), HostLimits()).tail("stdout")
    pipe = Written(Output(reader, tail), writer, tail)
    try:
        yield pipe
    finally:
        pipe.output.close()
        if pipe.writer >= 0:
            pipe.hang_up()


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["while it runs", "when it has ended"])
async def test_empty_lines_leave_everybody_a_turn_and_fill_the_pipe_of_their_writer(
    reads: str,
) -> None:
    with written() as pipe:
        pipe.write(b"\n" * LAST_BYTES)
        assert pipe.size > 2 * READ_BYTES
        handled: list[int] = []

        async def look_on() -> None:
            while True:
                handled.append(pipe.handled)
                # One read was taken out of the pipe, and otherwise only the handled bytes.
                assert pipe.size - pipe.unread() - handled[-1] <= READ_BYTES
                if reads == "while it runs" and handled[-1] == pipe.size:
                    pipe.output.close()
                    return
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_on)
            if reads == "while it runs":
                await pipe.output.drain()
            else:
                await pipe.output.finish()
                nursery.cancel_scope.cancel()
        assert pipe.handled == pipe.size
        # Of two tasks, each runs once in every pass of Trio, in random order.
        assert max(after - before for before, after in pairwise(handled)) <= 2 * LINES_AT_ONCE


@pytest.mark.parametrize("closed", [False, True])
async def test_no_line_is_lost_wherever_a_turn_ends(closed: bool, seed: random.Random) -> None:
    """The output is read while the process runs, up to any turn, and then finished."""
    sent = [b"x" * seed.choice([0, 0, 0, 1, 10, 200]) for _ in range(500)]
    expected = [text.decode() for text in sent] + ["no end"]
    for _ in range(10):
        with written() as pipe:
            pipe.write(b"\n".join([*sent, b"no end"]))
            if closed:
                pipe.hang_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.output.drain)
                for _ in range(seed.randrange(30)):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            with trio.CancelScope() as scope:
                scope.cancel()
                await pipe.output.finish()
            await pipe.output.finish()
            assert [line.text for line in pipe.tail.lines] == expected[-len(pipe.tail.lines) :]
            assert pipe.handled == len(expected)


@pytest.mark.slow
async def test_whoever_still_writes_when_the_process_has_ended_is_not_waited_for() -> None:
    line = b"x" * 999 + b"\n"
    with written() as pipe:

        async def go_on() -> None:
            with suppress(BrokenPipeError):
                while True:
                    pipe.write(line * 200)
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            pipe.write(line * 200)
            nursery.start_soon(go_on)
            await pipe.output.finish()
        assert LAST_BYTES <= pipe.size - pipe.unread() <= LAST_BYTES + READ_BYTES


async def test_reading_ends_when_the_output_is_closed() -> None:
    with written() as pipe:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.output.drain)
            await trio.testing.wait_all_tasks_blocked()
            pipe.output.close()
        await pipe.output.drain()
        await pipe.output.finish()
    assert pipe.handled == 0
