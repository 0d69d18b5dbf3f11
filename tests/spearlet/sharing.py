"""Functions that take and return large data; test_shared.py runs them in processes."""

from __future__ import annotations

import spear

app = spear.Agent()
kept: list[memoryview] = []


def described(data: bytes | bytearray | memoryview | None) -> list[object]:
    """Return the type of the data, its length, its first and its last bytes."""
    if data is None:
        return ["None"]
    return [type(data).__name__, len(data), bytes(data[:2]), data[-1]]


@app.function
async def as_it_comes(data) -> list[object]:  # type: ignore[no-untyped-def]  # that is the test
    return described(data)


@app.function
async def anything(data: object) -> list[object]:
    assert isinstance(data, bytes | memoryview)
    return described(data)


@app.function
async def viewed(data: memoryview) -> list[object]:
    assert data.readonly
    return described(data)


@app.function
def viewed_in_a_thread(data: memoryview) -> list[object]:
    return described(data)


@app.function
async def in_bytes(data: bytes) -> list[object]:
    return described(data)


@app.function
def in_bytes_in_a_thread(data: bytes) -> list[object]:
    return described(data)


@app.function
async def maybe(data: bytes | None = None) -> list[object]:
    return described(data)


@app.function
async def in_a_bytearray(data: bytearray) -> list[object]:
    data[0] += 1
    return described(data)


@app.function
async def many(*data: memoryview) -> list[object]:
    return described(data[0])


@app.function
async def length(data: str) -> int:
    return len(data)


@app.function
def make(size: int) -> spear.SharedBuffer:
    buffer = spear.SharedBuffer(size)
    buffer.view[:2] = b"ab"
    buffer.view[-1] = 9
    return buffer


@app.function
async def make_bytes(size: int) -> bytes:
    return b"ab" + bytes(size - 3) + b"\x09"


@app.function
async def make_and_look(size: int) -> spear.SharedBuffer:
    buffer = make(size)
    kept.append(buffer.view[:2])
    return buffer


@app.function
async def nested() -> list[spear.SharedBuffer]:
    return [spear.SharedBuffer(3)]


@app.function
async def pieces(size: int):  # type: ignore[no-untyped-def]  # an async generator
    for _ in range(2):
        yield make(size)


@app.function
async def ask(name: str, size: int) -> object:
    """Call another function of the host with a buffer, and one that returns a buffer."""
    buffer = make(size)
    seen = await spear.call(name, buffer)
    assert buffer.view.readonly or size < 1_000_000  # small ones are sent as bytes
    given = await spear.call("make", size)
    assert isinstance(given, memoryview)
    return [seen, described(given)]
