"""A deployment of hundreds of replicas, for which a host needs more than 1,024 descriptors."""

from __future__ import annotations

import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from spear import open_spearlet

from .helpers import pid, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spear.spearlet import Deployment

pytestmark = pytest.mark.soak

REPLICAS = 400
DESCRIPTORS = 10 * REPLICAS
"""Descriptors of the host; each instance needs seven."""

LOOK_SECONDS = 0.05

PROGRAM = """
import spear
app = spear.Agent()

@app.function
async def echo(value: int) -> int:
    return value
"""


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"{DESCRIPTORS} descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def pids(deployment: Deployment) -> set[int]:
    return {pid(each) for each in deployment.replicas}


async def test_hundreds_of_replicas_are_forked_however_often_they_are_replaced(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "program.py", PROGRAM)
    async with open_spearlet() as spearlet:
        begun = trio.current_time()
        deployment = await spearlet.deploy(path, replicas=REPLICAS)
        deploy_seconds = trio.current_time() - begun
        assert len(os.listdir("/proc/self/fd")) > 1024

        before = pids(deployment)
        assert len(before) == REPLICAS
        begun = trio.current_time()
        for each in before:
            os.kill(each, signal.SIGKILL)
        while len(after := pids(deployment)) < REPLICAS or after & before:
            await trio.sleep(LOOK_SECONDS)
        # They are forked like the first ones: spawning takes ten times as long.
        assert trio.current_time() - begun < 4 * deploy_seconds
        assert deployment.statistics().spawned_because == ""

        await deployment.restart()
        assert not pids(deployment) & after
        assert deployment.statistics().spawned_because == ""
        answers: list[object] = []

        async def call(value: int) -> None:
            answers.append(await deployment.echo(value))

        async with trio.open_nursery() as nursery:
            for value in range(REPLICAS):
                nursery.start_soon(call, value)
        assert sorted(map(str, answers)) == sorted(map(str, range(REPLICAS)))
        last = pids(deployment)
        await deployment.stop()
    assert not any(os.path.exists(f"/proc/{each}") for each in last)
