"""Large data from a program to functions and back: how it is sent, and as which type it arrives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import spear
from spear import Deployment, FunctionRaised, InvalidArguments, Rejected, SharedBuffer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FILE = Path(__file__).with_name("sharing.py")
MIB = 1024 * 1024
SIZES = [10, 1 * MIB, 3 * MIB, 40 * MIB]
"""Sent as bytes; by descriptor; in a segment even if given as bytes; more than a message."""


@asynccontextmanager
async def deployed() -> AsyncIterator[Deployment]:
    async with spear.open_spearlet() as spearlet:
        yield await spearlet.deploy(FILE)


def filled(size: int) -> SharedBuffer:
    buffer = SharedBuffer(size)
    buffer.view[:2] = b"ab"
    buffer.view[-1] = 9
    return buffer


@pytest.mark.slow
async def test_the_annotation_says_what_a_shared_argument_becomes() -> None:
    async with deployed() as sharing:
        for size in SIZES:
            buffer = filled(size)
            view: list[object] = ["memoryview", size, b"ab", 9]
            copy: list[object] = ["bytes", size, b"ab", 9]
            assert await sharing.as_it_comes(buffer) == view
            assert await sharing.anything(buffer) == view
            assert await sharing.viewed(buffer) == view
            assert await sharing.viewed_in_a_thread(buffer) == view
            assert await sharing.many(buffer) == view
            assert await sharing.in_bytes(buffer) == copy
            assert await sharing.in_bytes_in_a_thread(buffer) == copy
            assert await sharing.maybe(buffer) == copy
            assert await sharing.in_a_bytearray(buffer) == ["bytearray", size, b"bb", 9]
            with pytest.raises(InvalidArguments, match=r"length\(data=\.\.\.\): expected str, got"):
                await sharing.length(buffer)
            assert bytes(buffer.view[:2]) == b"ab"  # the buffer is unchanged
            buffer.close()


@pytest.mark.slow
async def test_bytes_stay_bytes_however_many_there_are() -> None:
    async with deployed() as sharing:
        for size in (10, 100_000, 3 * MIB):
            given = b"ab" + bytes(size - 3) + b"\x09"
            for _ in range(12):  # enough calls for segments to be used
                assert await sharing.as_it_comes(given) == ["bytes", size, b"ab", 9]
                assert await sharing.in_bytes(given) == ["bytes", size, b"ab", 9]
                assert await sharing.viewed(given) == ["memoryview", size, b"ab", 9]
                assert await sharing.in_a_bytearray(given) == ["bytearray", size, b"bb", 9]
                result = await sharing.make_bytes(size)
                assert type(result) is bytes
                assert result == given


@pytest.mark.slow
async def test_shared_results_are_views() -> None:
    async with deployed() as sharing:
        views = []
        for size in SIZES:
            result = await sharing.make(size)
            assert isinstance(result, memoryview)
            assert result.readonly
            assert (len(result), bytes(result[:2]), result[-1]) == (size, b"ab", 9)
            views.append(result)
            execution = sharing.make.submit(size)
            submitted = await execution.result()
            assert isinstance(submitted, memoryview)
            assert submitted[-1] == 9
    assert [view[-1] for view in views] == [9] * len(SIZES)  # they outlive their instance


@pytest.mark.slow
async def test_functions_share_with_functions() -> None:
    async with deployed() as sharing:
        for size in SIZES:
            view: list[object] = ["memoryview", size, b"ab", 9]
            assert await sharing.ask("as_it_comes", size) == [view, view]
            copy: list[object] = ["bytes", size, b"ab", 9]
            assert await sharing.ask("in_bytes", size) == [copy, view]


@pytest.mark.slow
async def test_what_cannot_be_shared_is_refused_with_advice() -> None:
    async with deployed() as sharing:
        with pytest.raises(FunctionRaised, match=r"SharedBuffer at \[0\], which cannot be sent"):
            await sharing.nested()
        with pytest.raises(
            InvalidArguments, match=r"argument 1\[0\].*SharedBuffer: send the buffer as"
        ):
            await sharing.as_it_comes([SharedBuffer(3)])
        with pytest.raises(Rejected, match="while views of it exist: release"):
            await sharing.make_and_look(40 * MIB)
        small = await sharing.make_and_look(1 * MIB)
        assert isinstance(small, memoryview)
        async with sharing.pieces.stream(1000) as items:
            assert [type(item) async for item in items] == [bytes, bytes]


async def test_an_agent_in_this_process_gets_the_memory_itself() -> None:
    from .sharing import app

    async with spear.open_spearlet() as spearlet:
        sharing = await spearlet.deploy(app)
        buffer = filled(1 * MIB)
        assert await sharing.viewed(buffer) == ["memoryview", 1 * MIB, b"ab", 9]
        assert await sharing.in_bytes(buffer) == ["bytes", 1 * MIB, b"ab", 9]
        result = await sharing.make(50 * MIB)
        assert isinstance(result, memoryview)
        assert result[-1] == 9
