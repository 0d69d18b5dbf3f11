"""The first part of `make demo`: functions of examples/documents.py run in several processes, on the
files of this repository.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import cast

import trio

import spear
from spear.calls import Execution, Function
from spear.spearlet import Deployment

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
REPLICAS = max(2, min(4, os.cpu_count() or 1))
BAR_CELLS = 36


async def main() -> None:
    texts = sorted(str(path) for path in REPOSITORY.glob("*.md"))
    sources = sorted((REPOSITORY / "spear").rglob("*.py"))
    begun = time.perf_counter()
    async with spear.open_spearlet() as spearlet:
        documents = await spearlet.deploy(HERE / "documents.py", replicas=REPLICAS)
        took = time.perf_counter() - begun
        print(f"{REPLICAS} processes are ready after {took * 1e3:.0f} ms.\n")
        await show_text(documents, texts)
        await show_stream(documents, texts[-1])
        await show_failure(documents, texts[0])
        await show_parallel(documents, sources)


async def show_text(documents: Deployment, texts: list[str]) -> None:
    print("words(): text in, a list out")
    for path in texts:
        found = await documents.words(path, most=3, timeout=5)
        counts = cast("list[tuple[str, int]]", found)
        summary = ", ".join(f"{word} {count}" for word, count in counts)
        print(f"  {Path(path).name:18} {summary}")


async def show_stream(documents: Deployment, path: str) -> None:
    print(f"\nheadings(): a stream, item by item, of {Path(path).name}")
    async with documents.headings.stream(path) as headings:
        async for heading in headings:
            print(f"  - {heading!s}")


async def show_failure(documents: Deployment, path: str) -> None:
    print("\npublish(): raises in its process, and the caller gets an exception")
    try:
        await documents.publish(path)
    except spear.FunctionRaised as error:
        print(f"  {error!r}")
    print("review() with timeout=0.05: the deadline travels along, and the function is cancelled")
    try:
        await documents.review(path, timeout=0.05)
    except spear.DeadlineExceeded as error:
        print(f"  {error!r}")


async def show_parallel(documents: Deployment, sources: list[Path]) -> None:
    print(f"\nsqueeze() and primes(): CPU-bound calls, in {REPLICAS} processes at once")
    largest = sorted(sources, key=lambda path: -path.stat().st_size)[:5]
    jobs: list[tuple[str, Function, bytes | int]] = [
        (f"squeeze {path.relative_to(REPOSITORY)}", documents.squeeze, path.read_bytes() * 20)
        for path in largest
    ]
    jobs += [
        (f"primes below {below:,}", documents.primes, below)
        for below in (2_000_000, 3_000_000, 4_000_000)
    ]

    begun = trio.current_time()
    alone = [await function(argument) for _, function, argument in jobs]
    one_by_one = trio.current_time() - begun

    begun = trio.current_time()
    running = [(label, function.submit(argument)) for label, function, argument in jobs]
    assert [await execution.result() for _, execution in running] == alone
    together = trio.current_time() - begun
    print_table(running, begun, together)
    print(f"\n  one by one {one_by_one:.2f} s, at once {together:.2f} s")


def print_table(rows: list[tuple[str, Execution]], begun: float, total: float) -> None:
    cell = total / BAR_CELLS
    print(f"  {'what':36} {'where':22} {'ms':>5}  when, of {total * 1e3:.0f} ms")
    for label, execution in rows:
        seconds = execution.execution_seconds or 0.0
        end = execution.submitted + execution.duration_seconds - begun
        first = max(0, round((end - seconds) / cell))
        bar = " " * first + "#" * max(1, round(end / cell) - first)
        print(f"  {label:36.36} {execution.instance!s:22} {seconds * 1e3:5.0f}  {bar}")


if __name__ == "__main__":
    trio.run(main)
