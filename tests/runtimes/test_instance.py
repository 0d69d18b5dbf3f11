"""The lifecycle of an instance, with a body that misbehaves as a test wants."""

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

from spear import HostLimits, InstanceId, InstanceTimeouts, SpawnFailed, SpearError, WireLimits
from spear.channels import ChannelConfig, open_communication_factory
from spear.runtimes import Instance, InstanceBody, InstanceMetrics, InstanceSpec, host_instance
from spear.runtimes._health import describe_exit
from spear.runtimes._instance import METRICS_SECONDS
from spear.runtimes.process._metrics import Pulse, is_runnable, read_metrics
from spear.telemetry import InstanceState

from .helpers import listening, nothing_left, open_host, python, worker

if TYPE_CHECKING:
    from spear.channels import Endpoint
    from spear.runtimes import LogBook


class Body(InstanceBody):
    """A body that ends when it is killed, if it can be killed."""

    def __init__(self, *, can_die: bool = True, kill_takes: float = 0.0) -> None:
        self.description = "a body"
        self.signals: list[str] = []
        self.is_watched = False
        self._can_die = can_die
        self._kill_takes = kill_takes
        self._ended = trio.Event()

    async def wait_exited(self) -> None:
        await self._ended.wait()

    async def watch(self) -> None:
        self.is_watched = True
        try:
            await trio.sleep_forever()
        finally:
            self.is_watched = False

    async def terminate(self) -> None:
        self.signals.append("terminate")
        await trio.lowlevel.checkpoint()

    async def kill(self) -> None:
        self.signals.append("kill")
        await trio.sleep(self._kill_takes)
        if self._can_die:
            self.end(-signal.SIGKILL)

    def end(self, exit_status: int | None) -> None:
        self.exit_status = exit_status
        self.has_ended = True
        self._ended.set()


class RemoteBody(Body):
    """A body that notices its end by watching, as for a Pod; each operation takes a while."""

    def __init__(self, *, kill_takes: float = 0.5) -> None:
        super().__init__(kill_takes=kill_takes)
        self._is_deleted = trio.Event()

    async def kill(self) -> None:
        self.signals.append("kill")
        await trio.sleep(self._kill_takes)
        self._is_deleted.set()

    async def watch(self) -> None:
        await self._is_deleted.wait()
        await trio.sleep(0.5)
        self.end(None)

    async def metrics(self) -> InstanceMetrics:
        await trio.sleep_forever()
        return InstanceMetrics()


@asynccontextmanager
async def living(
    body: Body, limits: HostLimits | None = None, timeouts: InstanceTimeouts | None = None
) -> AsyncIterator[Instance]:
    @asynccontextmanager
    async def launch(
        endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[Body]:
        yield body

    spec = InstanceSpec(instance_id=InstanceId("process", "fake"), timeouts=timeouts)
    async with (
        open_communication_factory(limits or HostLimits()) as factory,
        host_instance(spec, factory, ChannelConfig(), launch) as instance,
    ):
        yield instance


async def test_a_body_that_cannot_die_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    timeouts = HostLimits().timeouts
    with listening("spear.runtimes") as lines:
        begun = trio.current_time()
        async with living(Body(can_die=False)) as instance:
            with pytest.raises(SpawnFailed, match="was killed, because it did not log in within"):
                await instance.wait_ready()
            assert trio.current_time() - begun == timeouts.startup_seconds + timeouts.exit_seconds
            assert not instance.health().is_connected
            assert await instance.stop() is None
            assert trio.current_time() - begun == timeouts.startup_seconds + timeouts.kill_seconds
            begun = trio.current_time()
        most = timeouts.terminate_seconds + 2 * timeouts.kill_seconds + 0.1
        assert trio.current_time() - begun < most
    assert any("was killed, but did not exit" in text for text in lines.texts)
    assert [each.state.value for each in instance.history] == [
        "created", "starting", "stopping", "exited", "deleted",
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["left", "raised", "cancelled"])
async def test_a_body_that_learns_of_its_end_by_watching_is_watched_until_it_is_down(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    body = RemoteBody()
    with listening("spear.runtimes") as lines, trio.CancelScope() as scope:
        try:
            async with living(body) as instance:
                await trio.testing.wait_all_tasks_blocked()
                begun = trio.current_time()
                if way == "raised":
                    raise KeyError("tea")
                if way == "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
        except KeyError:
            assert way == "raised"
    assert scope.cancelled_caught == (way == "cancelled")
    took = trio.current_time() - begun
    assert took == 1 + (HostLimits().timeouts.terminate_seconds if way == "left" else 0)
    assert body.has_ended
    assert not [text for text in lines.texts if "was killed, but did not exit" in text]
    assert [each.state.value for each in instance.history][-2:] == ["exited", "deleted"]


async def test_a_body_whose_killing_takes_for_ever_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = RemoteBody(kill_takes=1000.0)
    with listening("spear.runtimes") as lines, trio.CancelScope() as scope:
        async with living(body, timeouts=InstanceTimeouts(kill_seconds=3)):
            begun = trio.current_time()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - begun == 6
    assert body.signals == ["kill"]
    assert any("could not be killed within 3 s (kill_seconds)" in text for text in lines.texts)
    assert any("was killed, but did not exit" in text for text in lines.texts)


async def test_a_kill_that_is_cancelled_is_told_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    body = RemoteBody()
    async with living(body) as instance:
        with trio.move_on_after(0.1) as scope:
            await instance.kill()
        assert scope.cancelled_caught
        assert await instance.wait_exited() is None
    assert body.signals == ["kill"]


async def test_a_runtime_that_cannot_kill_hides_no_failure_of_the_block() -> None:
    class Broken(Body):
        async def kill(self) -> None:
            self.end(None)
            raise OSError("the API server refuses")

    with listening("spear.runtimes") as lines, pytest.raises(KeyError, match="tea"):
        async with living(Broken()):
            raise KeyError("tea")
    assert any("could not be killed" in text for text in lines.texts)


async def test_each_instance_has_timeouts_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    patient = InstanceTimeouts(startup_seconds=60, terminate_seconds=7, exit_seconds=0.5)
    body = Body()
    async with living(body, timeouts=patient) as instance:
        begun = trio.current_time()
        with pytest.raises(SpawnFailed, match=r"did not log in within 60 s \(startup_seconds\)"):
            await instance.wait_ready()
        assert trio.current_time() - begun == 60
    body = Body()
    async with living(body, timeouts=patient) as instance:
        begun = trio.current_time()
        await instance.stop()
        assert trio.current_time() - begun == 7


async def test_metrics_that_do_not_come_are_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with living(RemoteBody()) as instance:
        begun = trio.current_time()
        assert await instance.metrics() is None
        assert trio.current_time() - begun == METRICS_SECONDS


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
        with pytest.raises(SpawnFailed, match="ended without a known exit status"):
            await instance.wait_ready()


async def test_instances_are_made_by_runtimes_only() -> None:
    with pytest.raises(TypeError, match="no public constructor"):
        Instance()  # type: ignore[call-arg]  # the metaclass takes no arguments, and refuses


@pytest.mark.parametrize(
    ("exit_status", "words"),
    [
        (None, "ended without a known exit status"),
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_exit_statuses_are_told_in_words(exit_status: int | None, words: str) -> None:
    assert describe_exit(exit_status) == words


def test_a_process_that_is_gone_uses_nothing() -> None:
    gone = 2**22 + 1  # larger than any pid
    assert read_metrics(gone) is None
    assert not is_runnable(gone)
    assert not Pulse(gone).is_busy()


def test_a_process_that_waits_for_a_processor_is_runnable_and_one_that_waits_for_input_is_not() -> (
    None
):
    """A process is runnable however little CPU time it gets, so a starved one does not count as dead."""
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
                pass  # the process goes to sleep
            process.stdin.write(b"x")
            process.stdin.flush()
            process.stdout.readline()
            # From here on it computes, or waits for a CPU.
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
        async def launch(
            endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
        ) -> AsyncIterator[Body]:
            raise SpawnFailed("no reason")
            yield Body()

        spec = InstanceSpec(instance_id=InstanceId("process", "fake"))
        with pytest.raises(SpearError, match="no reason"):
            async with host_instance(spec, factory, ChannelConfig(), launch):
                pass
        assert factory.manager.endpoints == ()


class FaultyBody(Body):
    """A body with a bug in one of its methods."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    async def wait_exited(self) -> None:
        if self._where == "wait_exited":
            raise ZeroDivisionError("a bug")
        await super().wait_exited()

    async def watch(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._where == "watch":
            raise ZeroDivisionError("a bug")

    def is_busy(self) -> bool:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("where", ["wait_exited", "watch"])
async def test_a_runtime_that_cannot_watch_ends_its_instance_and_nothing_else(
    where: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    body = FaultyBody(where)
    async with living(body) as instance:
        with pytest.raises(SpawnFailed, match="its runtime failed: ZeroDivisionError: a bug"):
            await instance.wait_ready()
        assert instance.state is InstanceState.EXITED
        assert body.signals == ["kill"]
    assert "is no longer watched" in caplog.text


async def test_a_body_that_cannot_tell_whether_it_is_busy_counts_as_idle(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with living(FaultyBody("is_busy")) as instance:
        assert instance._is_busy() is False
    assert "could not be asked whether it is busy" in caplog.text
