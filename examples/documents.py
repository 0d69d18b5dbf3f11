"""Functions on files: for text, for bytes, as a stream, one that keeps a core busy, and ones that fail.

examples/demo.py runs them on the files of this repository.
"""

from __future__ import annotations

import lzma
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import spear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = spear.Agent("documents")


@app.function
async def words(path: str, *, most: int = 3) -> list[list[str | int]]:
    """Return the most frequent long words of a text."""
    text = await trio.Path(path).read_text(encoding="utf-8")
    counts = Counter(re.findall(r"[a-z]{6,}", text.lower()))
    return [[word, count] for word, count in counts.most_common(most)]


@app.function
def squeeze(data: bytes) -> bytes:
    """Return the data, compressed as well as possible. A plain function runs in a thread."""
    return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)


@app.function
async def headings(path: str) -> AsyncIterator[str]:
    """Yield the headings of a Markdown file, one by one: a stream."""
    inside_code = False
    async with await trio.open_file(path, encoding="utf-8") as file:
        async for line in file:
            if line.startswith("```"):
                inside_code = not inside_code
            elif line.startswith("#") and not inside_code:
                yield line.strip("# \n")


@app.function
def primes(below: int) -> int:
    """Return how many primes there are below a number. Keeps a core busy."""
    sieve = bytearray([1]) * below
    sieve[:2] = b"\0\0"
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return sum(sieve)


@app.function
async def review(path: str) -> str:
    """Never return, to show a call that reaches its deadline."""
    await trio.sleep_forever()
    return f"{path} is fine"


@app.function
async def publish(path: str) -> None:
    """Raise an error, to show how a caller sees it."""
    raise PermissionError(f"{Path(path).name} is not ready to be published")
