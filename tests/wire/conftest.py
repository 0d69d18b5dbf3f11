"""Fixtures of the wire protocol's tests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from spear.testing import Cut, byte_cuts, random_cuts, uncut
from spear.wire._assembly import keep_freed_memory

if TYPE_CHECKING:
    import random


def bytewise(data: bytes) -> list[bytes]:
    """Return each byte on its own, except inside of long payloads, where all bytes are alike."""
    pieces: list[bytes] = []
    while data:
        end = 8 + int.from_bytes(data[:8], "little")
        frame, data = data[:end], data[end:]
        inside = range(400, len(frame) - 50, 97)
        pieces += byte_cuts(frame[: inside.start])
        pieces += [frame[at : min(at + inside.step, inside.stop)] for at in inside]
        pieces += byte_cuts(frame[max(inside.start, inside.stop) :])
    return pieces


@pytest.fixture(scope="session", autouse=True)
def set_up_the_c_library() -> None:
    """Allocate the 31 MiB that a process needs once, before a test measures memory."""
    keep_freed_memory()


@pytest.fixture(params=["whole", "bytewise", "random"])
def cut(request: pytest.FixtureRequest, seed: random.Random) -> Cut:
    """Each way of cutting bytes."""
    cuts: dict[str, Cut] = {
        "whole": uncut,
        "bytewise": bytewise,
        "random": partial(random_cuts, rng=seed),
    }
    return cuts[request.param]
