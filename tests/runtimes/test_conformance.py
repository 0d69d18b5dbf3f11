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
    from spear.runtimes import InstanceBody, RuntimeCapabilities, RuntimeSettings
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


def sound(body: InstanceBody) -> None: ...


class Greedy(Spoiled):
    """A runtime that takes every target for its own."""

    def takes(self, target: object) -> RuntimeSettings | None:
        return target if isinstance(target, MemorySettings) else in_memory().settings


class Unknown(Spoiled):
    """A runtime that cannot tell what it can do."""

    def capabilities(self) -> RuntimeCapabilities:
        raise AssertionError("no capabilities")


class Lenient(Spoiled):
    """A runtime that finds settings of every class good."""

    def validate(self, settings: RuntimeSettings) -> None: ...


@pytest.mark.parametrize(
    ("kind", "case", "fault"),
    [
        (Greedy, "takes_its_own_settings_and_no_others", "accepted settings of another runtime"),
        (Lenient, "takes_its_own_settings_and_no_others", "accepted settings of another runtime"),
        (Unknown, "has_a_name_and_is_found_by_it", "no capabilities"),
    ],
)
async def test_a_runtime_with_a_fault_is_found(kind: type[Spoiled], case: str, fault: str) -> None:
    tested = attrs.evolve(in_memory(), runtime=kind(spoil=sound))
    with pytest.raises(AssertionError, match=fault):
        await RUNTIME_CASES[case](lambda: tested)


async def test_a_body_that_does_not_end_when_it_is_asked_to_is_found() -> None:
    async def ignore() -> None:
        await trio.lowlevel.checkpoint()

    def spoil(body: InstanceBody) -> None:
        body.terminate = ignore  # type: ignore[method-assign]  # the fault

    timeouts = InstanceTimeouts(terminate_seconds=0.1)
    tested = attrs.evolve(in_memory(), runtime=Spoiled(spoil=spoil), timeouts=timeouts)
    with pytest.raises(AssertionError, match=r"ready after terminate\(\)"):
        await RUNTIME_CASES["terminating_ends_it"](lambda: tested)
