"""Zygotes that break the rules: each start ends in time, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from spear import HostLimits, InstanceId, InstanceTimeouts, SpawnFailed
from spear.runtimes import ProcessSettings
from spear.runtimes.process import _template as template
from spear.runtimes.process._zygote import MOST_ATTEMPTS, ForkedStart
from spear.telemetry import InstanceState

from ..helpers import (
    PATIENCE_SECONDS,
    Host,
    is_alive,
    listening,
    nothing_left,
    open_host,
    wait_dead,
)
from .liar import FAILED, FORKED, LIARS, SPAWNED
from .test_agent import call

if TYPE_CHECKING:
    from spear.runtimes import Instance

pytestmark = pytest.mark.slow

PROGRAM = """
import spear
app = spear.Agent()

@app.function
async def echo(value: int) -> int:
    return value
"""

ROOM_SECONDS = 2.0
"""Seconds for a busy machine; much shorter than the limits that must not be waited for."""

MOST_TEXT = 5000

MOST_FORKS = 4
"""A start uses at most three zygotes; one of the faulty ones is asked twice."""


class Lie:
    """A program whose zygotes break a rule, and the processes that they have forked."""

    def __init__(self, name: str, directory: Path) -> None:
        self.journal = directory / "forks"
        self.journal.touch()
        program = directory / "program.py"
        program.write_text(PROGRAM)
        python = directory / "python"
        python.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"import liar\nliar.main({name!r}, {str(self.journal)!r})\n"
        )
        python.chmod(0o755)
        self.settings = ProcessSettings(target=str(program), python=str(python))

    def forks(self) -> list[int]:
        return [int(line) for line in self.journal.read_text().split()]


async def start(host: Host, lie: Lie, *names: str) -> list[str]:
    """Start instances, each while the previous ones run; return their outcomes."""
    if not names:
        return []
    limit = host.factory.manager.limits.timeouts.startup_seconds + ROOM_SECONDS
    begun = trio.current_time()
    try:
        async with host.run(lie.settings, names[0]) as instance:
            await instance.wait_ready()
            assert trio.current_time() - begun < limit
            outcome = SPAWNED if parent_of(instance) == os.getpid() else FORKED
            outcomes = [outcome, *await start(host, lie, *names[1:])]
            assert await call(instance, "echo", 2) == 2
    except SpawnFailed as failure:
        assert trio.current_time() - begun < limit
        told = str(failure)
        assert len(told) < MOST_TEXT
        return [FAILED, *await start(host, lie, *names[1:])]
    # It was asked to end, and did; only its zygote could have reported how.
    assert instance.exit_status in (0, -signal.SIGTERM, None)
    return outcomes


def parent_of(instance: Instance) -> int:
    stat = Path(f"/proc/{instance.pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.parametrize("name", LIARS)
async def test_r16_a_template_that_lies_costs_no_start_more_than_its_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(template, "HANG_UP_SECONDS", 0.3)
    liar, lie = LIARS[name], Lie(name, tmp_path)
    # The deadline is near where it must be reached, and far where a start must not use all of it.
    startup_seconds = 2 if liar.outcomes == (FAILED,) else PATIENCE_SECONDS
    limits = HostLimits(
        timeouts=InstanceTimeouts(
            startup_seconds=startup_seconds, terminate_seconds=1, drain_seconds=1
        )
    )
    with nothing_left():
        async with open_host(limits) as host, host.forking(lie.settings):
            outcomes = await start(host, lie, *("first", "second")[: liar.starts])
    assert outcomes[0] in liar.outcomes
    assert outcomes[1:] == [FORKED] * (liar.starts - 1)
    assert len(lie.forks()) <= MOST_FORKS
    with trio.fail_after(PATIENCE_SECONDS):
        while any(map(is_alive, lie.forks())):
            await trio.sleep(0.01)


async def test_an_instance_that_has_ended_is_not_said_to_go_on(tmp_path: Path) -> None:
    """Although its zygote has not reported its exit, and still might."""
    lie = Lie("NeverCollects", tmp_path)
    with nothing_left(), listening("spear.runtimes") as lines:
        async with open_host() as host, host.forking(lie.settings):
            with trio.CancelScope() as scope:
                async with host.ready(lie.settings) as instance:
                    scope.cancel()
                    await trio.sleep_forever()
            assert instance.state is InstanceState.DELETED
    assert not any("was killed, but did not exit" in line for line in lines.texts)


async def test_a_child_is_collected_once_though_its_instance_is_left_meanwhile(
    tmp_path: Path,
) -> None:
    lie = Lie("CollectsLate", tmp_path)
    with nothing_left():
        async with open_host() as host, host.forking(lie.settings) as zygote:
            with trio.CancelScope() as scope:
                async with host.ready(lie.settings) as instance:
                    assert instance.pid is not None
                    pidfd = os.pidfd_open(instance.pid)
                    os.kill(instance.pid, signal.SIGKILL)
                    await wait_dead(pidfd)
                    await trio.testing.wait_all_tasks_blocked()  # its zygote has been asked
                    scope.cancel()
            assert instance.exit_status == -signal.SIGKILL
            assert zygote.statistics().died == 0


@pytest.mark.parametrize("name", ["NeverAnswers", "IsAlwaysStale"])
async def test_r16_a_start_that_must_be_forked_fails_by_its_deadline(
    name: str, tmp_path: Path
) -> None:
    """Although each zygote, taken alone, might still answer."""
    lie = Lie(name, tmp_path)
    settings = attrs.evolve(lie.settings, start="zygote")
    with nothing_left():
        async with (
            open_host(HostLimits(timeouts=InstanceTimeouts(startup_seconds=2))) as host,
            host.forking(settings),
        ):
            begun = trio.current_time()
            with pytest.raises(SpawnFailed, match=r"within 2 s \(startup_seconds\)"):
                async with host.run(settings):
                    pass
            assert trio.current_time() - begun < 2 + ROOM_SECONDS


async def test_a_start_that_has_lost_half_of_its_time_is_spawned(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = ForkedStart(InstanceId("process", "shop"), "/", 10)
    assert start.is_hopeful
    start.attempts = MOST_ATTEMPTS - 1
    assert start.is_hopeful
    await trio.sleep(5)
    assert not start.is_hopeful
    start = ForkedStart(InstanceId("process", "shop"), "/", 10)
    start.attempts = MOST_ATTEMPTS
    assert not start.is_hopeful


async def test_a_fork_that_gets_no_descriptor_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its zygote has reported its pid, but the host has no descriptor for it."""
    lie = Lie("Honest", tmp_path)

    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with nothing_left():
        async with (
            open_host() as host,
            host.forking(lie.settings) as zygote,
            host.ready(lie.settings, "first"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(os, "pidfd_open", refuse)
                with pytest.raises(SpawnFailed, match="Too many open files"):
                    async with host.run(lie.settings, "second"):
                        pass
            async with host.ready(lie.settings, "third") as third:
                assert await call(third, "echo", 3) == 3
            first, second, _ = lie.forks()
            assert zygote.statistics().died == 0
            template_pid = zygote.statistics().pid
            left = Path(f"/proc/{template_pid}/task/{template_pid}/children").read_text()
            assert str(first) in left.split()
            assert str(second) not in left.split()  # nor is it a zombie
