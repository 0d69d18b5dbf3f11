"""A program with a host, for tests in which the system denies it something."""

from __future__ import annotations

import os
import sys

import trio

import spear
from spear.runtimes import ProcessSettings

app = spear.Agent()


@app.function
async def measure(data: memoryview) -> int:
    return len(data)


@app.function
async def mark() -> str:
    return os.environ["MARK"]


async def main(*, everything: bool) -> None:
    async with spear.open_spearlet() as spearlet:
        own = await spearlet.deploy(__file__, name="own", replicas=2)
        if not everything:
            return
        with spear.SharedBuffer(100_000) as buffer:
            shared = await own.measure(buffer)
        for _ in range(4):  # a size that repeats gets a segment
            copied = await own.measure(bytes(200_000))
        command = (
            sys.executable,
            "-m",
            "spear.agent",
            __file__,
            "--bootstrap-fd",
            "{bootstrap_fd}",
        )
        settings = ProcessSettings(command=command, environment={"MARK": "command"})
        by_command = await spearlet.deploy(settings, name="command")
        print(shared, copied, await by_command.mark())  # noqa: T201


if __name__ == "__main__":
    try:
        trio.run(lambda: main(everything=len(sys.argv) > 1))
    except spear.SpearError as error:
        print(type(error).__name__, error)  # noqa: T201
