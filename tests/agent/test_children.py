"""Children that functions start by ``multiprocessing``, or fork: they end on request, find the functions'
file, and inherit nothing of the channel."""

from __future__ import annotations

import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio

from spear.channels import open_communication_factory

from . import test_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear.channels import CommunicationFactory, Endpoint

    from .helpers import Caller
    from .test_process import Child

pytestmark = pytest.mark.slow


@asynccontextmanager
async def hosted(
    factory: CommunicationFactory, target: Path
) -> AsyncIterator[tuple[Caller, Child, Endpoint]]:
    """Run a process that serves ``target``; ask it to exit at the end."""
    async with test_process.hosted(factory, target) as (caller, child, endpoint):
        yield caller, child, endpoint
        await caller.channel.drain(5)


WORKER = """
import multiprocessing, os, signal, time
import spear, trio

app = spear.Agent()
fork = multiprocessing.get_context("fork")

def own_handler(number, frame):
    os._exit(99)

def sleep(ready):
    ready.set()
    while True:
        time.sleep(0.01)
        # After a fork in a thread, CPython 3.13 looks for signals only when it is asked to.
        signal.pthread_sigmask(signal.SIG_BLOCK, ())

def started(**options):
    ready = fork.Event()
    process = fork.Process(target=sleep, args=(ready,), **options)
    process.start()
    ready.wait()
    return process

def status_after(number):
    process = started()
    os.kill(process.pid, number)
    process.join()
    return process.exitcode

@app.function
def from_a_thread(number: int) -> int:
    return status_after(number)

@app.function
async def from_trios_thread(number: int) -> int:
    return status_after(number)

@app.function
def pool() -> list[int]:
    with fork.Pool(2) as workers:
        found = workers.map(abs, [-1, -2])
    workers.join()
    return found

@app.function
def leave_a_daemon() -> int:
    return started(daemon=True).pid

@app.function
async def handle(number: int) -> None:
    signal.signal(number, own_handler)

@app.function
def links() -> list[dict[str, str]]:
    def of(process):
        found = {}
        for number in os.listdir(f"/proc/{process}/fd"):
            try:
                found[number] = os.readlink(f"/proc/{process}/fd/{number}")
            except FileNotFoundError:
                pass
        return found
    process = started()
    try:
        return [of("self"), of(process.pid)]
    finally:
        process.kill()
        process.join()
"""

AT_IMPORT = (
    "\nsignal.signal(signal.SIGTERM, own_handler)\nsignal.signal(signal.SIGINT, own_handler)\n"
)


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER, encoding="utf-8")
    return path


@pytest.mark.parametrize("where", ["from_a_thread", "from_trios_thread"])
async def test_a_forked_child_obeys_sigterm_and_sigint(worker: Path, where: str) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, child, _),
    ):
        with trio.fail_after(10):
            assert await caller.call(where, signal.SIGTERM) == -signal.SIGTERM
            assert await caller.call(where, signal.SIGINT) == 1
            while "KeyboardInterrupt" not in child.stderr:  # from multiprocessing itself
                await trio.sleep(0.01)  # the output may be written but not read yet


async def test_a_forked_pool_ends(worker: Path) -> None:
    async with open_communication_factory() as factory, hosted(factory, worker) as (caller, _, _):
        with trio.fail_after(10):
            assert await caller.call("pool") == [1, 2]


async def test_a_daemonic_child_does_not_delay_the_end(worker: Path) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, child, _),
    ):
        await caller.call("leave_a_daemon")
        with trio.fail_after(10):
            await caller.channel.drain(5)
            assert await child.process.wait() == 0


async def test_a_forked_child_has_the_handlers_that_the_program_has_set(tmp_path: Path) -> None:
    path = tmp_path / "worker.py"
    path.write_text(WORKER + AT_IMPORT, encoding="utf-8")
    async with open_communication_factory() as factory, hosted(factory, path) as (caller, _, _):
        with trio.fail_after(10):
            assert await caller.call("from_a_thread", signal.SIGTERM) == 99
            assert await caller.call("from_a_thread", signal.SIGINT) == 99


async def test_a_forked_child_has_the_handlers_that_a_function_has_set(worker: Path) -> None:
    async with open_communication_factory() as factory, hosted(factory, worker) as (caller, _, _):
        with trio.fail_after(10):
            await caller.call("handle", signal.SIGTERM)
            assert await caller.call("from_a_thread", signal.SIGTERM) == 99
            assert await caller.call("from_a_thread", signal.SIGINT) == 1


EARLY = """
import os, signal

def signal_to_itself():  # before any other hook can run
    os.kill(os.getpid(), signal.SIGTERM)

os.register_at_fork(after_in_child=signal_to_itself)
from spear.agent import _children

_children.remember_handlers()
signal.signal(signal.SIGTERM, lambda *_: None)
_children.keep_from_children()
child = os.fork()
if not child:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


async def test_a_signal_that_comes_while_a_child_is_being_forked_is_not_lost() -> None:
    ended = await trio.run_process([sys.executable, "-c", EARLY], capture_stdout=True)
    assert ended.stdout == f"-{int(signal.SIGTERM)} set()\n".encode()


async def test_a_forked_child_has_neither_channel_nor_lifeline(worker: Path) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, child, _),
    ):
        ours, its = cast("list[dict[str, str]]", await caller.call("links"))
        assert ours[str(child.fd)].startswith("pipe:")
        lost = [ours[key] for key in ours if its.get(key) == "/dev/null"]
        assert sum(link.startswith("socket:") for link in lost) == 1
        assert lost.count("anon_inode:[eventpoll]") == 2  # Trio's, and the one of the channels
        assert "anon_inode:[eventpoll]" not in its.values()
        assert its[str(child.fd)] == "/dev/null"
        assert await caller.call("pool") == [1, 2]  # the parent still works


# -- spawned ------------------------------------------------------------------------------------------

SPAWNING = """
import dataclasses, multiprocessing
import spear
import helper_beside

app = spear.Agent()

@dataclasses.dataclass
class Item:
    number: int

def double(item):
    return Item(helper_beside.twice(item.number))

@app.function
def doubled(number: int, method: str) -> int:
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(double, [Item(number)])[0].number
"""


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("shop.py", "spawn"),
        ("my-shop.py", "spawn"),
        ("shop.v2.py", "spawn"),
        ("queue.py", "spawn"),  # multiprocessing imports queue
        ("queue.py", "forkserver"),
        ("trio.py", "spawn"),
        ("shop", "spawn"),
        ("__main__.py", "spawn"),
        ("package.py", "spawn"),
    ],
)
async def test_a_spawned_child_finds_a_file_of_any_name(
    tmp_path: Path, name: str, method: str
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "helper_beside.py").write_text("def twice(number): return 2 * number\n")
    path = tmp_path / name
    path.write_text(SPAWNING, encoding="utf-8")
    async with open_communication_factory() as factory, hosted(factory, path) as (caller, _, _):
        with trio.fail_after(15):
            assert await caller.call("doubled", 4, method) == 8
