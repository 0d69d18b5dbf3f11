"""Effects of the number of instances on descriptors' numbers."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from spear.runtimes import ProcessSettings

from ..helpers import MOST_SELECTED, high_numbers, nothing_left, open_host, worker
from .test_agent import call

pytestmark = pytest.mark.slow

PROGRAM = """
import spear
app = spear.Agent()

@app.function
async def echo(value: int) -> int:
    return value
"""


def numbers_of(pid: int | None, *options: str) -> list[int]:
    """Return the descriptors that a process got as options."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [int(words[words.index(each) + 1]) for each in options]


async def test_instances_are_forked_by_a_host_with_more_than_1024_descriptors(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    settings = ProcessSettings(
        target=str(program), start="zygote", pass_environment=("COVERAGE_PROCESS_CONFIG",)
    )
    with nothing_left(), high_numbers():
        async with open_host() as host:
            async with host.forking(settings) as zygote:
                for name in "first", "second":
                    async with host.ready(settings, name) as instance:
                        assert await call(instance, "echo", 1) == 1
                    assert instance.exit_status == 0
                pid = zygote.statistics().pid
                told = numbers_of(pid, "--bootstrap-fd", "--zygote-fd")
                assert min(told) >= MOST_SELECTED
                assert zygote.statistics().died == 0
            spawned = attrs.evolve(settings, start="spawn")
            async with host.ready(spawned, "spawned") as instance:
                assert min(numbers_of(instance.pid, "--bootstrap-fd")) >= MOST_SELECTED
                assert await call(instance, "echo", 2) == 2
            async with host.ready(worker(), "foreign") as instance:
                assert instance.pid is not None
