"""A file of functions that take and return arrays."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

import spear

app = spear.Agent()

KEPT: list[object] = []


@app.function
def kind(value: object) -> str:
    """Return the type of what arrived."""
    return type(value).__name__


@app.function
def back(value: object) -> object:
    return value


@app.function
async def add_one(array: numpy.ndarray) -> object:  # type: ignore[explicit-any]  # mypy skips numpy
    return {"sum": array + 1, "type": type(array).__name__}


@app.function
def is_writable(array: numpy.ndarray) -> bool:  # type: ignore[explicit-any]  # likewise
    return bool(array.flags.writeable)


@app.function
def mean(array: NDArray[numpy.float64]) -> float:
    return float(array.mean())


@app.function
def small(array: NDArray[numpy.uint8]) -> list[int]:
    return [int(each) for each in array]


@app.function
def narrow(array: NDArray[numpy.floating]) -> str:
    return str(array.dtype)


@app.function
def only(array: spear.Array) -> str:
    return array.dtype


@app.function
async def items(count: int) -> object:
    for index in range(count):
        yield numpy.full(20_000, index, "f8")


@app.function
async def pass_on(array: object) -> object:
    """Send the argument to another function of the host, and return that function's result."""
    return await spear.call("add_one", array)


@app.function
def keep(array: object) -> int:
    KEPT.append(array)
    return len(KEPT)


@app.function
def first_numbers() -> list[float]:
    return [float(numpy.asarray(each)[0]) for each in KEPT]


@app.function
def wrong() -> object:
    return [numpy.array([None])]


@app.function
def large_bytes(size: int) -> bytes:
    return b"x" * size


@app.function
def length(data: bytes) -> int:
    return len(data)
