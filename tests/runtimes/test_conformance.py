"""Spear's own runtimes pass the suite that every runtime must pass."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from spear import InstanceTimeouts
from spear.runtimes import MemoryRuntime, MemorySettings, ProcessRuntime, ProcessSettings
from spear.testing import RUNTIME_CASES, RUNTIME_PROGRAM, RuntimeUnderTest

from .helpers import Spoiled, nothing_left

if TYPE_CHECKING:
    from spear.runtimes import InstanceBody
    from spear.testing import MakeRuntime


def spawned() -> RuntimeUnderTest:
    return RuntimeUnderTest(
        runtime=ProcessRuntime(), settings=ProcessSettings(target=RUNTIME_PROGRAM, start="spawn")
    )


def forked() -> RuntimeUnderTest:
    return RuntimeUnderTest(
        runtime=ProcessRuntime(), settings=ProcessSettings(target=RUNTIME_PROGRAM, start="zygote")
    )


def in_memory() -> RuntimeUnderTest:
    agent = runpy.run_path(RUNTIME_PROGRAM)["app"]
    return RuntimeUnderTest(runtime=MemoryRuntime(), settings=MemorySettings(agent=agent))


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNTIME_CASES)
@pytest.mark.parametrize("make", [spawned, forked, in_memory], ids=lambda make: make.__name__)
async def test_every_runtime_passes(make: MakeRuntime, case: str) -> None:
    with nothing_left():
        await RUNTIME_CASES[case](make)


async def test_a_body_that_does_not_end_when_it_is_asked_to_is_found() -> None:
    async def ignore() -> None:
        await trio.lowlevel.checkpoint()

    def spoil(body: InstanceBody) -> None:
        body.terminate = ignore  # type: ignore[method-assign]  # the fault

    timeouts = InstanceTimeouts(terminate_seconds=0.1)
    tested = attrs.evolve(in_memory(), runtime=Spoiled(spoil=spoil), timeouts=timeouts)
    with pytest.raises(AssertionError, match=r"terminate\(\) was called"):
        await RUNTIME_CASES["terminating_ends_it"](lambda: tested)
