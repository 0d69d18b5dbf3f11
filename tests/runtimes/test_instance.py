"""The life of an instance, with a body that does whatever a test wants to see survived."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from spear import HostLimits, InstanceTimeouts
from spear._errors import SpawnFailed, SpearError
from spear._ids import InstanceId
from spear._limits import WireLimits
from spear.channels import ChannelConfig, open_communication_factory
from spear.runtimes import Instance, InstanceBody, InstanceMetrics, InstanceSpec
from spear.runtimes._instance import KILL_SECONDS, LATE_SECONDS, describe_exit, host_instance
from spear.runtimes.process._metrics import read_metrics

from .helpers import listening, nothing_left, open_host, python, worker

if TYPE_CHECKING:
    from spear.channels import Endpoint
    from spear.runtimes._logs import LogBook


class Body(InstanceBody):
    """Ends when it is killed, if it can be."""

    def __init__(self, *, can_die: bool = True) -> None:
        self.description = "a body"
        self.signals: list[str] = []
        self._can_die = can_die
        self._ended = trio.Event()

    async def wait_exited(self) -> None:
        await self._ended.wait()

    async def watch(self) -> None:
        await trio.sleep_forever()

    def terminate(self) -> None:
        self.signals.append("terminate")

    def kill(self) -> None:
        self.signals.append("kill")
        if self._can_die:
            self.end(-signal.SIGKILL)

    def end(self, exit_status: int | None) -> None:
        self.exit_status = exit_status
        self._ended.set()

    def metrics(self) -> InstanceMetrics | None:
        return None


@asynccontextmanager
async def living(body: Body, limits: HostLimits | None = None) -> AsyncIterator[Instance]:
    @asynccontextmanager
    async def launch(endpoint: Endpoint, book: LogBook) -> AsyncIterator[Body]:
        yield body

    spec = InstanceSpec(instance_id=InstanceId("process", "fake"))
    async with (
        open_communication_factory(limits or HostLimits()) as factory,
        host_instance(spec, factory, ChannelConfig(), launch) as instance,
    ):
        yield instance


async def test_a_body_that_cannot_die_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = HostLimits()
    with listening("spear.runtimes") as lines:
        begun = trio.current_time()
        async with living(Body(can_die=False)) as instance:
            with pytest.raises(SpawnFailed, match="does not end, because it did not log in within"):
                await instance.wait_ready()
            assert trio.current_time() - begun == limits.timeouts.startup_seconds + LATE_SECONDS
            assert not instance.health().is_connected
            begun = trio.current_time()
            assert await instance.stop() is None
            assert trio.current_time() - begun == limits.timeouts.terminate_seconds + KILL_SECONDS
            begun = trio.current_time()
        assert (
            trio.current_time() - begun < limits.timeouts.terminate_seconds + 2 * KILL_SECONDS + 0.1
        )
    assert any("does not end, though it was killed" in text for text in lines.texts)
    assert [each.state.value for each in instance.history] == [
        "created", "starting", "stopping", "exited", "deleted",
    ]  # fmt: skip


async def test_stopping_during_the_start_is_not_cut_short_by_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = Body()
    async with living(
        body, HostLimits(timeouts=InstanceTimeouts(startup_seconds=1, terminate_seconds=5))
    ) as instance:
        await trio.sleep(0.5)
        begun = trio.current_time()
        assert await instance.stop() == -signal.SIGKILL
        assert trio.current_time() - begun == 5
        assert body.signals == ["terminate", "kill"]


async def test_two_who_stop_it_wait_for_the_same_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = Body()
    async with living(body) as instance, trio.open_nursery() as nursery:
        nursery.start_soon(instance.stop)
        nursery.start_soon(instance.stop)
        await trio.testing.wait_all_tasks_blocked()
        assert body.signals == ["terminate"]
        body.end(5)
    assert body.signals == ["terminate"]
    assert instance.exit_status == 5


async def test_waiting_is_a_checkpoint_and_can_be_cancelled() -> None:
    body = Body()
    async with living(body) as instance:
        for wait in instance.wait_ready, instance.wait_exited, partial(instance.stop, 0):
            with trio.CancelScope() as scope, trio.testing.assert_checkpoints():
                scope.cancel()
                await wait()
            assert scope.cancelled_caught
        body.end(None)
        with trio.testing.assert_checkpoints():
            await instance.wait_exited()
        with trio.testing.assert_checkpoints():
            await instance.stop()
        with pytest.raises(SpawnFailed, match="ended, nobody knows how"):
            await instance.wait_ready()


async def test_instances_are_made_by_runtimes_only() -> None:
    with pytest.raises(TypeError, match="no public constructor"):
        Instance()  # type: ignore[call-arg]  # the metaclass asks for nothing, and refuses


@pytest.mark.parametrize(
    ("exit_status", "words"),
    [
        (None, "ended, nobody knows how"),
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_exit_statuses_are_told_in_words(exit_status: int | None, words: str) -> None:
    assert describe_exit(exit_status) == words


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert read_metrics(2**22 + 1) is None  # more than the largest pid


def is_runnable(pid: int) -> bool:
    metrics = read_metrics(pid)
    assert metrics is not None
    return metrics.is_runnable


def test_a_process_that_waits_for_a_processor_is_runnable_and_one_that_waits_for_input_is_not() -> (
    None
):
    """However little of a processor it gets, so that a starved instance is not taken for dead."""
    program = (
        "import sys; print(flush=True); sys.stdin.read(1); print(flush=True)\nwhile True: pass"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdout.readline()
            while is_runnable(process.pid):
                pass  # it goes to sleep
            process.stdin.write(b"x")
            process.stdin.flush()
            process.stdout.readline()
            # From here on it computes, or waits for its turn to.
            assert all(is_runnable(process.pid) for _ in range(100))
        finally:
            process.kill()


@pytest.mark.parametrize("call", ["pidfd_open", "pipe2"])
async def test_without_descriptors_nothing_starts_and_nothing_stays(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with nothing_left():
        async with open_host() as host:
            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(SpawnFailed, match="Too many open files"):
                    async with host.run(worker()):
                        pass
            assert host.states() == ["created", "failed", "deleted"]
            async with host.run(worker()):
                pass


async def test_low_latency_reaches_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; fd = int(sys.argv[1]); sys.stdout.buffer.write(os.read(fd, 9999))"
    async with open_host() as host:
        for low_latency, mark in (True, "low_latency\\xf5"), (False, "low_latency\\xf4"):
            settings = attrs.evolve(python(code), low_latency=low_latency)
            async with host.run(settings) as instance:
                await instance.wait_exited()
                assert mark in "".join(line.text for line in instance.logs())


async def test_only_limits_that_differ_are_handed_over() -> None:
    code = "import os, sys; fd = int(sys.argv[1]); sys.stdout.buffer.write(os.read(fd, 9999))"
    async with (
        open_host(HostLimits(wire=WireLimits(max_calls=7))) as host,
        host.run(python(code)) as instance,
    ):
        await instance.wait_exited()
        text = "".join(line.text for line in instance.logs())
        assert "max_calls\\x07" in text
        assert "max_message_bytes" not in text


async def test_an_endpoint_is_not_left_behind_by_a_failed_launch() -> None:
    async with open_communication_factory() as factory:

        @asynccontextmanager
        async def launch(endpoint: Endpoint, book: LogBook) -> AsyncIterator[Body]:
            raise SpawnFailed("no reason")
            yield Body()

        spec = InstanceSpec(instance_id=InstanceId("process", "fake"))
        with pytest.raises(SpearError, match="no reason"):
            async with host_instance(spec, factory, ChannelConfig(), launch):
                pass
        assert factory.manager.endpoints == ()
