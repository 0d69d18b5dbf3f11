"""The function file of `bench.arrays`."""

from __future__ import annotations

from spear import Agent

app = Agent()


@app.function
async def back(array: object) -> object:
    return array
