"""A host that will be killed: ``host.py NUMBER [FORK]`` starts so many workers of every difficult kind.

When all workers are busy as intended, the host forks in the way that FORK names, and prints two lists as
one line of JSON: the pids of workers and their children, and the pids of copies of the host. Then it
waits to be killed.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import attrs
import trio

from runtimes.helpers import call, listening, open_host, shell, worker
from spear import HostLimits, InstanceTimeouts, WireLimits
from spear.runtimes import Instance, ProcessSettings, ProcessTemplate

AGENT = """
import os, re
import spear
app = spear.Agent()
@app.function
async def nothing() -> None:
    pass
@app.function
async def hold_gil(body: bytes) -> None:
    os.write(2, b"begun\\n")
    re.match(r"(a+)+$", "a" * 100 + "b")
"""
DAY_SECONDS = 24 * 3600
KEPT: list[object] = []
"""Objects that would be cleaned up in a copy if they were collected."""


def stay() -> None:
    """Run in a copy: keep all descriptors, and do nothing."""
    while True:
        time.sleep(DAY_SECONDS)


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        stay()
    return pid


def fork_in_c() -> int:
    """Fork without Python's notice."""
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        stay()
    return int(pid)


def fork_for_an_executor() -> int:
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    KEPT.append(executor)
    return executor.submit(os.getpid).result()


def ask_a_fork_server() -> int:
    process = multiprocessing.get_context("forkserver").Process(target=stay, daemon=True)
    process.start()
    KEPT.append(process)
    assert process.pid is not None
    return process.pid


def become_a_daemon() -> int:
    """Continue in a grandchild, while the original process, which is the host, exits."""
    reader, writer = os.pipe()
    if os.fork():
        return int(os.read(reader, 100))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(writer, b"%d" % os.getpid())
    stay()
    raise AssertionError


FORKS: dict[str, Callable[[], int]] = {
    "fork": fork,
    "fork in C": fork_in_c,
    "fork for an executor": fork_for_an_executor,
    "fork server": ask_a_fork_server,
    "daemon": become_a_daemon,
}


FOREIGN = "sleep 1000 & echo $! begun; while :; do :; done"


async def main() -> None:
    count, pids = int(sys.argv[1]), list[int]()
    agent = Path("agent.py").absolute()
    agent.write_text(AGENT)
    kinds = ["busy", "hold_gil", "grandchild", "wait", "foreign", "agent", "forked"]
    program = ProcessSettings(target=str(agent), private_directory=True)
    settings = {"foreign": shell(FOREIGN), "agent": program, "forked": program}
    # Here a busy worker may miss heartbeats, and a foreign one may never log in.
    limits = HostLimits(
        wire=WireLimits(heartbeat_misses=10_000, call_seconds=3600),
        timeouts=InstanceTimeouts(startup_seconds=3600),
    )
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        host = await stack.enter_async_context(open_host(limits))
        opening = host.runtime.open_template(program, host.factory, several=True)
        template = await stack.enter_async_context(opening)
        assert isinstance(template, ProcessTemplate)
        # They become busy last, so that they do not slow down others that are still starting.
        busy: list[tuple[Instance, str]] = []
        for kind in sorted((kinds * count)[:count], key=lambda kind: kind == "foreign"):
            number = len(pids)
            host.template = template if kind == "forked" else None
            with listening() as lines:
                instance = await stack.enter_async_context(
                    host.run(
                        attrs.evolve(settings.get(kind, worker()), private_directory=True),
                        f"worker-{number}",
                    )
                )
                if kind == "foreign":
                    line = await lines.wait_for("begun")
                    pids.append(int(line.split()[-2]))
                else:
                    await instance.wait_ready()
                if kind == "grandchild":
                    pids.append(int(await call(instance, kind)))
                elif kind in ("busy", "hold_gil"):
                    busy.append((instance, kind))
                elif kind == "forked":
                    busy.append((instance, "hold_gil"))
            assert instance.pid is not None
            pids.append(instance.pid)
        # The zygote, its pre-forked processes, and the instances that it has forked.
        pid = template.statistics().pid
        assert pid is not None
        pids += [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        for instance, kind in busy:
            with listening() as lines:
                nursery.start_soon(call, instance, kind)
                await lines.wait_for("begun")
        copies: list[int] = []
        for way in sys.argv[2:]:
            copies.append(FORKS[way]())
            copies.append(await trio.to_thread.run_sync(FORKS[way]))
        sys.stdout.write(json.dumps([pids, copies]) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
