"""R10: instances that the kernel kills because memory has run out."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear.runtimes import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LIMIT_BYTES = 300 * 1024 * 1024
"""Memory of the host and its instances together; one greedy function asks for more than that."""

FUNCTIONS = """
import spear

app = spear.Agent()

@app.function
def eat() -> int:
    eaten = bytearray(4 << 30)
    for at in range(0, len(eaten), 4096):
        eaten[at] = 1
    return len(eaten)

@app.function
async def wait() -> str:
    import pathlib, trio
    # While the memory of a process that was killed is not counted as free yet, the kernel may kill
    # another one: not those of this deployment.
    pathlib.Path("/proc/self/oom_score_adj").write_text("0")
    await trio.sleep(0.05)
    return "done"
"""

SCORE = """
import pathlib, spear

app = spear.Agent()

@app.function
def score() -> str:
    return pathlib.Path("/proc/self/oom_score_adj").read_text()
"""

HOST = """
import sys
import trio
import spear

outcomes = []

async def eat(deployment):
    try:
        await deployment.eat(timeout=60)
    except spear.WorkerDied as died:
        outcomes.append(died.exit_status)

async def main(path):
    async with spear.open_spearlet() as spearlet:
        greedy = await spearlet.deploy(path, name="greedy")
        modest = await spearlet.deploy(path, name="modest", replicas=2)
        for _ in range(20):
            assert await modest.wait() == "done"  # in both
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(eat, greedy)
                for _ in range(20):
                    assert await modest.wait() == "done"
            assert await greedy.wait() == "done"  # another process, by the same name
        assert [each.id.incarnation for each in modest.replicas] == [1, 1]
    assert outcomes == [-9] * 3, outcomes

trio.run(main, sys.argv[1])
print("well")
"""


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """Make a control group with this memory, of either version; skip the test if impossible."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    groups = {each.split(":")[1]: each.split(":", 2)[2] for each in lines}
    for root, own, file in (
        ("/sys/fs/cgroup/memory", groups.get("memory"), "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", groups.get(""), "memory.max"),
    ):
        if own is None:
            continue
        group = Path(f"{root}{own}") / f"spear-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            try:
                (group / file).write_text(str(limit_bytes))
            except OSError:
                continue
            yield group
            return
        finally:
            group.rmdir()
    pytest.skip("this user may not make a control group for memory")


async def test_r10_an_instance_that_the_kernel_kills_for_memory_costs_its_own_calls_only(
    tmp_path: Path,
) -> None:
    functions, host = tmp_path / "functions.py", tmp_path / "host.py"
    functions.write_text(FUNCTIONS)
    host.write_text(HOST)
    with memory_group(LIMIT_BYTES) as group:
        command = 'echo $$ > "$1" && shift && exec "$@"'
        ended = await trio.run_process(
            ["sh", "-c", command, "sh", f"{group}/cgroup.procs", sys.executable, host, functions],
            capture_stdout=True,
        )
    assert ended.stdout == b"well\n"


async def test_the_kernel_kills_an_instance_rather_than_its_host(tmp_path: Path) -> None:
    functions = tmp_path / "functions.py"
    functions.write_text(SCORE)
    own = int(Path("/proc/self/oom_score_adj").read_text())
    async with spear.open_spearlet() as spearlet:
        for start in ("spawn", "zygote"):
            settings = ProcessSettings(target=str(functions), start=start)
            deployment = await spearlet.deploy(settings, name=start)
            assert int(str(await deployment.score())) == min(own + 500, 1000)
