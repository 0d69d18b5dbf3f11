"""R12: when the host is killed, all of its instances die, whatever they do, and whatever processes have
copies of its descriptors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ..helpers import HERE, is_alive, open_host, shell

NOISE_SECONDS = 1.0
"""Seconds that a busy machine may add to the bound."""


async def line_of(stream: trio.abc.ReceiveStream) -> bytes:
    """Return the line that a host prints."""
    line = b""
    while not line.endswith(b"\n"):
        received = await stream.receive_some()
        assert received, "the host has ended"
        line += received
    return line


async def kill_a_host(number: int, *forks: str) -> None:
    environment = dict(os.environ)
    environment["TMPDIR"] = tempfile.gettempdir()  # files that it leaves are removed with this test
    # A killed process saves no coverage, so none is measured.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    process = await trio.lowlevel.open_process(
        [sys.executable, str(HERE / "host.py"), str(number), *forks],
        stdout=subprocess.PIPE,
        cwd=tempfile.gettempdir(),
        env=environment,
    )
    assert process.stdout is not None
    with trio.fail_after(20 + number):
        line = await line_of(process.stdout)
    pids: list[int]
    copies: list[int]
    pids, copies = json.loads(line)
    assert len(pids) > number
    assert all(is_alive(pid) for pid in pids)
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        begun = time.monotonic()
        process.kill()
        with trio.move_on_after(5):
            for pidfd in pidfds:
                await trio.lowlevel.wait_readable(pidfd)
        seconds = time.monotonic() - begun
        assert [pid for pid in pids if is_alive(pid)] == []
        assert seconds < 1 + NOISE_SECONDS
        assert all(is_alive(pid) for pid in copies)
    finally:
        for pid in copies:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pidfd in pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        await process.wait()
        await process.stdout.aclose()


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r12_no_instance_survives_its_host() -> None:
    for _ in range(3):
        await kill_a_host(8)


FORKS = ["fork", "fork in C", "fork for an executor", "fork server", "daemon"]


@pytest.mark.slow
@pytest.mark.repetitive
@pytest.mark.parametrize("fork", FORKS)
async def test_r12_no_instance_survives_its_host_in_the_hands_of_a_copy(fork: str) -> None:
    await kill_a_host(7, fork)


def directories() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("spear-*")}


@pytest.mark.slow
async def test_r12_what_a_killed_host_has_left_goes_when_the_next_one_starts() -> None:
    sleeper = attrs.evolve(shell("exec sleep 1000"), private_directory=True)
    async with open_host() as living, living.run(sleeper):
        ours = directories()
        await kill_a_host(3)
        left = directories() - ours
        assert sorted(name.split("-")[1] for name in left) == ["run", *4 * ["work"]]
        async with open_host() as starting, starting.run(sleeper):
            found = directories()
            assert not left & found
            assert ours < found
    assert directories() == set()


@pytest.mark.soak
async def test_r12_no_instance_of_three_thousand_survives_its_host() -> None:
    for _ in range(100):
        await kill_a_host(32)


SUSPENDED = """
import sys
import trio
import spear

async def main():
    limits = spear.HostLimits(wire=spear.WireLimits(heartbeat_seconds=0.05))
    async with spear.open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(sys.argv[1], replicas=3)
        before = sorted(each.pid for each in deployment.instances)
        running = deployment.wait.submit()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)  # it is suspended meanwhile
        assert await running.result() == "done"
        assert await deployment.wait() == "done"
        assert sorted(each.pid for each in deployment.instances) == before
    print("well", flush=True)

trio.run(main)
"""

WAITING = """
import spear, trio
app = spear.Agent()

@app.function
async def wait() -> str:
    await trio.sleep(0.5)
    return "done"
"""


@pytest.mark.slow
async def test_r12_a_host_that_was_suspended_finds_its_instances_again(tmp_path: Path) -> None:
    """The silence of a host proves nothing: only the end of its process does."""
    (tmp_path / "host.py").write_text(SUSPENDED)
    (tmp_path / "waiting.py").write_text(WAITING)
    async with trio.open_nursery() as nursery:
        host: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, tmp_path / "host.py", tmp_path / "waiting.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        assert host.stdin is not None
        assert host.stdout is not None
        assert await line_of(host.stdout) == b"ready\n"
        host.send_signal(signal.SIGSTOP)
        await trio.sleep(1.5)  # thirty heartbeats; processes have no virtual clock
        host.send_signal(signal.SIGCONT)
        await host.stdin.send_all(b"\n")
        assert await line_of(host.stdout) == b"well\n"
