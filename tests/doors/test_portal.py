"""The thread that runs Trio, when it fails, and in a forked child."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

import pytest
import trio

import spear
from spear.blocking import open_spearlet
from spear.portal import Portal, PortalCall

from .functions import Kitchen

if TYPE_CHECKING:
    from spear.blocking import Deployment

T = TypeVar("T")

PATIENCE_SECONDS = 15.0


def test_no_call_waits_for_a_thread_that_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    kitchen = Kitchen()
    failures: list[spear.WorkerDied] = []

    def hang(deployed: Deployment) -> None:
        try:
            deployed.hang()
        except spear.WorkerDied as error:
            failures.append(error)

    def fail() -> None:
        raise ValueError("a bug in the scheduler")

    spearlet = open_spearlet()
    deployed = spearlet.deploy(kitchen.agent)
    waiting = threading.Thread(target=hang, args=(deployed,))
    waiting.start()
    assert kitchen.begun.wait(PATIENCE_SECONDS)
    with caplog.at_level(logging.CRITICAL, "spear.portal"):
        spearlet._portal.run_soon(fail)
        waiting.join()
        with pytest.raises(spear.WorkerDied):
            deployed.echo(1)
        with pytest.raises(spear.WorkerDied):
            spearlet.close()
    with pytest.raises(spear.WorkerDied) as caught:
        deployed.echo(1)
    assert [each.code for each in failures] == ["stopped"]
    assert (caught.value.code, caught.value.delivered) == ("stopped", "no")
    assert caplog.messages == ["a spearlet's thread has failed"]
    assert "spear" not in [each.name for each in threading.enumerate()]


@final
class NotedCall(PortalCall[T]):
    """A call whose end is noted."""

    def __init__(self, function: Callable[[], Coroutine[object, object, T]]) -> None:
        super().__init__(function)
        self.ended = threading.Event()

    def end(self) -> None:
        self.ended.set()


def test_many_calls_run_at_a_time_and_most_of_their_tasks_end_with_them() -> None:
    inside: list[int] = []
    all_inside = trio.Event()

    async def meet(number: int) -> int:
        inside.append(number)
        if len(inside) == 300:
            all_inside.set()
        await all_inside.wait()
        return number

    async def count_tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    portal = Portal.open()
    try:
        calls = [NotedCall(partial(meet, each)) for each in range(300)]
        for each in calls:
            portal.submit(each)
        for each in calls:
            assert each.ended.wait(PATIENCE_SECONDS)
        counting = NotedCall(count_tasks)
        portal.submit(counting)
        assert counting.ended.wait(PATIENCE_SECONDS)
    finally:
        portal.close()
    assert [each.result() for each in calls] == inside == list(range(300))  # in their order
    assert counting.result() < 100


# A program of its own, as a process with the threads of other tests should not fork.
FORKING = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
import spear.asyncio, spear.blocking
from spear import Agent, ConfigurationError

agent = Agent("forked")

@agent.function
async def echo(value: int) -> int:
    return value

def print_code_of_child(call):
    pid = os.fork()
    if pid == 0:
        try:
            call()
        except ConfigurationError as error:
            print(error.code, flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

async def with_asyncio():
    async with spear.asyncio.open_spearlet() as spearlet:
        deployed = await spearlet.deploy(agent)
        print_code_of_child(lambda: deployed.echo.call(1).send(None))
        print(await deployed.echo(1), flush=True)

with spear.blocking.open_spearlet() as spearlet:
    deployed = spearlet.deploy(agent)
    print_code_of_child(lambda: deployed.echo(1))
    print(deployed.echo(1), flush=True)  # a child would inherit what is not flushed
asyncio.run(with_asyncio())
"""


@pytest.mark.slow
def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(FORKING)
    ran = subprocess.run(  # our own program
        [sys.executable, str(program)], capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS
    )
    assert ran.stdout.split() == ["forked", "1", "forked", "1"], ran.stderr
    assert ran.returncode == 0
