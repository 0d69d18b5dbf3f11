"""A process of functions that sends its arguments unchanged, as if they were encoded values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import spear
from spear.agent import _encoding, _functions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = spear.Agent("hostile")


class Lie(bytes):
    """Bytes to be sent unchanged."""


def encode_outcome(function: str, value: object, did: str) -> object:
    if type(value) is Lie:
        return bytes(value), True
    return _encoding.encode_outcome(function, value, did)


setattr(_functions, "encode_outcome", encode_outcome)  # noqa: B010  # mypy does not allow the assignment


@app.function
async def give(lie: bytes) -> object:
    return Lie(lie)


@app.function
async def report(lie: bytes) -> str:
    spear.context()._call.report_progress(lie, is_cbor=True)
    return "done"


@app.function
async def items(lie: bytes) -> AsyncIterator[object]:
    yield "first"
    yield Lie(lie)
    yield "last"


@app.function
async def ask(lie: bytes) -> str:
    """Call a function of another deployment; return the outcome."""
    try:
        await spear.context()._call.channel.request("victim.take", lie, is_cbor=True)
    except spear.SpearError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@app.function
async def echo(value: object) -> object:
    return value
