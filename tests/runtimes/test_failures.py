"""R10, R11, R13, R16, R28: a failing process fails only its own calls, and ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from watching import WatchedConnections

from spear import (
    CallFailed,
    ChannelClosed,
    HostLimits,
    InstanceId,
    InstanceTimeouts,
    SpawnFailed,
    WireLimits,
    WorkerDied,
)
from spear._util import leaves_of
from spear.channels import ChannelConfig
from spear.runtimes import InstanceSpec
from spear.telemetry import InstanceState

from .helpers import (
    HERE,
    PATIENCE_SECONDS,
    Host,
    call,
    listening,
    nothing_left,
    open_host,
    private_files,
    python,
    shell,
    the_guard,
    wait_dead,
    worker,
)

if TYPE_CHECKING:
    import random

    from spear.runtimes import Instance, ProcessSettings
    from spear.telemetry import InstanceEvent, LogLine

NOISE_SECONDS = 1.0
"""Seconds that a busy machine may add to a bound."""


# -- Ctrl-C at a change of state ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "state",
    [
        InstanceState.STARTING,
        InstanceState.READY,
        InstanceState.DRAINING,
        InstanceState.STOPPING,
        InstanceState.EXITED,
        InstanceState.FAILED,
        InstanceState.DELETED,
    ],
)
async def test_an_interrupted_observer_of_a_state_leaves_no_process_behind(
    state: InstanceState,
) -> None:
    seen: list[InstanceState] = []

    def interrupted(event: InstanceEvent) -> None:
        seen.append(event.state)
        if event.state is state:
            raise KeyboardInterrupt

    # Without a transport, no process is started.
    transports = ("none",) if state is InstanceState.FAILED else None
    spec = InstanceSpec(
        instance_id=InstanceId("process", "worker"),
        channel=ChannelConfig(transports=transports),
        on_event=interrupted,
    )
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012  # perhaps a group
                async with host.start(worker(), spec) as instance:
                    await instance.wait_ready()
                    if state is InstanceState.STOPPING:
                        await instance.kill()
            assert {type(each) for each in leaves_of(caught.value)} == {KeyboardInterrupt}
            assert state in seen
            assert seen[-1] is InstanceState.DELETED
            assert host.factory.manager.endpoint(spec.instance_id) is None


@pytest.mark.slow
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(3), KeyError("tea")], ids=repr)
async def test_what_the_block_of_an_instance_raises_comes_out_of_it(failure: BaseException) -> None:
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(type(failure)) as caught:
                async with host.ready(worker()):
                    raise failure
        assert caught.value is failure


@pytest.mark.slow
async def test_what_the_block_of_an_instance_raises_comes_out_beside_a_cancellation() -> None:
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(ExceptionGroup) as caught, trio.CancelScope() as scope:  # noqa: PT012
                async with host.ready(worker()), trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    scope.cancel()
                    raise KeyError("tea")
        assert [type(each) for each in leaves_of(caught.value)] == [KeyError]


# -- R10: killed ------------------------------------------------------------------------------


@attrs.define
class Fleet:
    """Eight workers; a killed worker is replaced by its next incarnation."""

    host: Host
    nursery: trio.Nursery
    instances: list[Instance] = attrs.Factory(list)

    async def start(self, number: int, incarnation: int) -> Instance:
        instance: Instance = await self.nursery.start(self._keep, number, incarnation)
        return instance

    async def _keep(
        self, number: int, incarnation: int, task_status: trio.TaskStatus[Instance]
    ) -> None:
        name = f"worker-{number}"
        async with self.host.run(worker(), name, incarnation=incarnation) as instance:
            await instance.wait_ready()
            task_status.started(instance)
            await instance.wait_exited()

    async def kill_one(self, number: int) -> float:
        """Kill a worker while each of the eight works on eight calls.

        Return the seconds until the last of the worker's own calls has failed.
        """
        victim = self.instances[number]
        bodies: dict[bytes, bytes] = {}
        deaths: list[tuple[WorkerDied, float]] = []
        killed_at = 0.0

        async def wait(instance: Instance, each: int) -> None:
            body = f"{instance.id} {each}".encode()
            try:
                bodies[body] = await call(instance, "wait", body)
            except WorkerDied as error:
                assert instance is victim
                deaths.append((error, time.monotonic() - killed_at))

        async with trio.open_nursery() as nursery:
            for instance in self.instances:
                for each in range(8):
                    nursery.start_soon(wait, instance, each)
            for instance in self.instances:
                await call(instance, "wait_for_waiters", b"8")
            assert victim.pid is not None
            killed_at = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            await victim.wait_exited()
            assert victim.channel is None  # no call can choose it any more
            for instance in self.instances:
                if instance is not victim:
                    await call(instance, "release")
        assert len(bodies) == 56
        assert all(sent == received for sent, received in bodies.items())
        assert len(deaths) == 8
        for death, _ in deaths:
            assert death.exit_status == -signal.SIGKILL
            assert death.delivered == "maybe"
        self.instances[number] = await self.start(number, victim.id.incarnation + 1)
        return max(seconds for _, seconds in deaths)


async def kill_workers(seed: random.Random, times: int) -> None:
    async with open_host() as host, trio.open_nursery() as nursery:
        fleet = Fleet(host, nursery)
        for number in range(8):
            fleet.instances.append(await fleet.start(number, 1))
        slowest: list[float] = []
        for _ in range(times):
            with trio.fail_after(PATIENCE_SECONDS):
                slowest.append(await fleet.kill_one(seed.randrange(8)))
        nursery.cancel_scope.cancel()
    # One may have been delayed by other work of the machine; half of them have not.
    assert median(slowest) < 0.25
    assert max(slowest) < 0.25 + NOISE_SECONDS


@pytest.mark.slow
@pytest.mark.repetitive
async def test_r10_a_killed_worker_fails_only_its_own_calls(seed: random.Random) -> None:
    await kill_workers(seed, 10)


@pytest.mark.soak
async def test_r10_a_hundred_killed_workers(seed: random.Random) -> None:
    await kill_workers(seed, 100)


# -- R11: frozen ------------------------------------------------------------------------------


async def test_r11_a_frozen_worker_is_found_out_and_fenced() -> None:
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=0.2, heartbeat_misses=3))
    with nothing_left():
        async with open_host(limits) as host, host.ready(worker()) as instance:
            failures: list[WorkerDied] = []

            async def wait() -> None:
                with pytest.raises(WorkerDied, match="no heartbeat") as caught:
                    await call(instance, "wait")
                failures.append(caught.value)

            assert instance.pid is not None
            pidfd = os.pidfd_open(instance.pid)
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(wait)
                await call(instance, "wait_for_waiters", b"8")
                os.kill(instance.pid, signal.SIGSTOP)
                begun = trio.current_time()
                with trio.fail_after(PATIENCE_SECONDS):
                    await instance.wait_exited()
            assert trio.current_time() - begun < 3 * 0.2 + 0.5 + NOISE_SECONDS
            assert [each.exit_status for each in failures] == 8 * [-signal.SIGKILL]
            # The process is not frozen any more, but dead: SIGCONT has no effect, and no frame arrives.
            with trio.fail_after(PATIENCE_SECONDS):
                await trio.lowlevel.wait_readable(pidfd)
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)
            assert host.factory.manager.statistics().heartbeats_lost == 1
            assert host.states()[-2:] == ["stopping", "exited"]


async def test_r11_a_worker_that_thaws_in_time_goes_on() -> None:
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=0.2, heartbeat_misses=100))
    async with open_host(limits) as host, host.ready(worker()) as instance:
        assert instance.pid is not None
        os.kill(instance.pid, signal.SIGSTOP)
        with trio.fail_after(PATIENCE_SECONDS):
            while not instance.health().heartbeats_missed:
                await trio.sleep(0.01)  # statistics have no event to wait for
        os.kill(instance.pid, signal.SIGCONT)
        assert await call(instance, "echo", b"awake") == b"awake"
        assert instance.state is InstanceState.READY


# -- R13: stubborn ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_r13_a_handler_that_ignores_everything_is_ended_step_by_step() -> None:
    limits = HostLimits(
        wire=WireLimits(heartbeat_seconds=0.1),
        timeouts=InstanceTimeouts(drain_seconds=0.5, terminate_seconds=0.3),
    )
    with nothing_left():
        async with open_host(limits) as host, host.ready(worker()) as instance:
            pidfd = os.pidfd_open(int(await call(instance, "grandchild")))
            with listening() as lines:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_call_in_vain, instance, "stubborn")
                    await lines.wait_for("begun")
                    begun = trio.current_time()
                    status = await instance.stop()
            seconds = trio.current_time() - begun
            # It had its full time, and answered heartbeats meanwhile, or it would have been fenced.
            assert 0.5 + 0.3 <= seconds < 0.5 + 0.3 + 0.5 + NOISE_SECONDS
            assert status == -signal.SIGKILL
            assert host.factory.manager.statistics().heartbeats_lost == 0
            assert host.states()[-3:] == ["draining", "stopping", "exited"]
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_dead(pidfd)


async def _call_in_vain(instance: Instance, function: str) -> None:
    with pytest.raises((CallFailed, ChannelClosed)):
        await call(instance, function)


async def test_r13_sigterm_is_tried_before_sigkill() -> None:
    limits = HostLimits(timeouts=InstanceTimeouts(drain_seconds=0.1))
    async with open_host(limits) as host, host.ready(worker()) as instance:
        with listening() as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_call_in_vain, instance, "wait")
                await call(instance, "wait_for_waiters", b"1")
                await call(instance, "write", b"begun\n")
                await lines.wait_for("begun")
                assert await instance.stop() == -signal.SIGTERM


@pytest.mark.parametrize("function", ["busy", "hold_gil"])
async def test_r13_a_worker_that_is_deaf_for_all_signs_is_ended_too(function: str) -> None:
    limits = HostLimits(timeouts=InstanceTimeouts(drain_seconds=0.1, terminate_seconds=0.1))
    with nothing_left():
        async with open_host(limits) as host, host.ready(worker()) as instance:
            with listening() as lines:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_call_in_vain, instance, function)
                    await lines.wait_for("begun")
                    begun = trio.current_time()
                    await instance.stop()
            assert instance.exit_status in (-signal.SIGTERM, -signal.SIGKILL)
            # The CLOSE frame that the worker does not read takes up to one of the two steps.
            assert trio.current_time() - begun < 0.1 + 0.1 + 0.5 + NOISE_SECONDS


@pytest.mark.slow
async def test_r13_a_function_that_holds_the_interpreter_in_c_is_not_taken_for_dead() -> None:
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=0.2, heartbeat_misses=3))
    async with open_host(limits) as host, host.ready(worker()) as instance:
        seconds = float(await call(instance, "hold_gil_for", b"2"))
        assert seconds > 2 * 3 * 0.2
        assert await call(instance, "echo", b"still here") == b"still here"
        assert host.factory.manager.statistics().heartbeats_lost == 0


@pytest.mark.slow
async def test_r13_a_worker_that_waits_for_its_host_to_read_its_output_is_not_taken_for_dead() -> (
    None
):
    """Its write blocks the event loop, and at a full pipe it uses next to no CPU time."""
    interval, misses = 0.2, 2
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=interval, heartbeat_misses=misses))

    def take_time(instance: InstanceId, line: LogLine) -> None:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass

    async with open_host(limits) as host:
        instance_id = InstanceId("process", "worker")
        spec = InstanceSpec(instance_id=instance_id, on_line=take_time)
        async with host.start(worker(), spec) as instance:
            await instance.wait_ready()
            begun = trio.current_time()
            await call(instance, "write", 3000 * (60 * b"x" + b"\n"))  # a pipe takes a third
            assert trio.current_time() - begun > 2 * misses * interval
            assert await call(instance, "echo", b"still here") == b"still here"
        assert host.factory.manager.statistics().heartbeats_lost == 0


@pytest.mark.slow
async def test_r13_who_is_busy_and_silent_for_too_long_is_ended() -> None:
    # In 0.4 s even a process that waits for a CPU has used some milliseconds of CPU time.
    limits = HostLimits(wire=WireLimits(heartbeat_seconds=0.4, heartbeat_misses=2, busy_seconds=2))
    with nothing_left():
        async with open_host(limits) as host, host.ready(worker()) as instance:
            begun = trio.current_time()
            with pytest.raises(WorkerDied, match="no heartbeat"):
                await call(instance, "busy")
            assert trio.current_time() - begun > 1.9
            assert host.factory.manager.statistics().heartbeats_lost == 1


async def test_r13_a_process_that_does_not_even_log_in_can_be_stopped() -> None:
    limits = HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.1))
    with nothing_left():
        settings = shell("trap '' TERM; echo begun; exec sleep 1000")
        async with open_host(limits) as host, host.run(settings) as instance:
            with listening() as lines:
                await lines.wait_for("begun")
            assert await instance.stop() == -signal.SIGKILL
            with pytest.raises(SpawnFailed, match="it was stopped"):
                await instance.wait_ready()


# -- R16: bad starters ------------------------------------------------------------------------

CONNECTS_TWICE = f"""
import sys, socket, signal
print("no idea what to do", file=sys.stderr, flush=True)
sys.path.insert(0, {str(HERE)!r})
from worker import identity, read_record
address, instance, secret = identity(read_record(int(sys.argv[1])))
socks = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for sock in socks:
    sock.connect(address.removeprefix("unix:"))
signal.pause()
"""

SENDS_GARBAGE = CONNECTS_TWICE.replace(
    "signal.pause()", "socks[0].sendall(b'GET / HTTP/1.1\\r\\n\\r\\n' * 100); signal.pause()"
)

LOGS_IN_TWICE = f"""
import sys, trio
sys.path.insert(0, {str(HERE)!r})
from worker import identity, read_record
from spear.channels import connect_channel
from spear.transports import connect
async def main():
    address, instance, secret = identity(read_record(int(sys.argv[1])))
    async with connect(address) as stream, connect_channel(stream, instance, secret) as (channel, _):
        try:
            async with connect(address) as again, connect_channel(again, instance, secret):
                pass
        except Exception as error:
            print(repr(error), file=sys.stderr, flush=True)
        await channel.closed.wait()
trio.run(main)
"""

BAD_STARTERS = {
    "never-connects": (shell("echo no idea what to do >&2; exec sleep 1000"), "did not log in"),
    "exits-at-once": (shell("echo no idea what to do >&2; exit 3"), "exited with status 3"),
    "is-content": (
        shell("echo no idea what to do >&2"),
        "exited with status 0 before it logged in",
    ),
    "is-killed": (shell("echo no idea what to do >&2; kill -SEGV $$"), "killed by SIGSEGV"),
    "connects-twice": (python(CONNECTS_TWICE), "did not log in"),
    "sends-garbage": (python(SENDS_GARBAGE), "did not log in"),
}


@pytest.mark.parametrize("kind", BAD_STARTERS)
@pytest.mark.slow
async def test_r16_a_bad_start_fails_in_time_and_leaves_nothing(kind: str) -> None:
    settings, complaint = BAD_STARTERS[kind]
    limits = HostLimits(timeouts=InstanceTimeouts(startup_seconds=1.5))
    with nothing_left():
        async with open_host(limits) as host:
            begun = trio.current_time()
            with pytest.raises(SpawnFailed, match=complaint) as caught:
                async with host.run(settings) as instance:
                    await instance.wait_ready()
            assert trio.current_time() - begun < 1.5 + 0.2 + NOISE_SECONDS
            assert "no idea what to do" in caught.value.stderr_tail
            assert caught.value.delivered == "no"
            assert host.states() == _never_ready(host)
            # The secret is void: no endpoint is left that would accept it.
            assert host.factory.manager.endpoints == ()
            assert not [path for path in private_files() if path.endswith(".sock")]


def _never_ready(host: Host) -> list[str]:
    middle = ["stopping"] if "stopping" in host.states() else []
    return ["created", "starting", *middle, "exited", "deleted"]


async def test_r16_a_second_login_with_the_same_secret_is_refused() -> None:
    async with open_host() as host:
        watched = WatchedConnections(host.factory.manager.instruments)
        with listening() as lines:
            async with host.ready(python(LOGS_IN_TWICE)) as instance:
                await lines.wait_for("AuthenticationFailed")
                assert instance.health().is_connected  # the first one is not affected
    assert watched.refusals == ["second_login"]


# -- R28: order -------------------------------------------------------------------------------


async def live_some_life(host: Host, name: str, seed: random.Random) -> None:
    kind = seed.choice(["exit", "crash", "kill", "stop", "leave", "cancel", "raise", "start"])
    settings: ProcessSettings = {"exit": shell("exit 0"), "crash": shell("kill -9 $$")}.get(
        kind, shell("exec sleep 1000")
    )
    with trio.CancelScope() as scope:
        try:
            async with host.run(settings, name) as instance:
                if kind in ("exit", "crash"):
                    await instance.wait_exited()
                elif kind == "kill":
                    await instance.kill()
                elif kind == "stop":
                    await instance.stop()
                elif kind == "cancel":
                    scope.cancel()
                    await trio.sleep_forever()
                elif kind == "raise":
                    raise ZeroDivisionError
                elif kind == "start":
                    await instance.kill()
                    with pytest.raises(SpawnFailed):
                        await instance.wait_ready()
        except ZeroDivisionError:
            assert kind == "raise"


async def live_random_lives(seed: random.Random, number: int) -> None:
    with nothing_left():
        async with open_host() as host:
            async with trio.open_nursery() as nursery:
                for each in range(number):
                    nursery.start_soon(live_some_life, host, f"life-{each}", seed)
            for each in range(number):
                states = host.states(f"life-{each}")
                assert states[:2] == ["created", "starting"]
                assert states[-2:] == ["exited", "deleted"]
                assert len(set(states)) == len(states)
                times = [e.time for e in host.events if e.instance_id.name == f"life-{each}"]
                assert times == sorted(times)
            statistics = host.runtime.statistics()
            assert (statistics.started, statistics.exited) == (number, number)


@pytest.mark.slow
async def test_r28_every_life_is_told_in_order(seed: random.Random) -> None:
    for _ in range(2):  # more at once need more descriptors than some systems grant
        await live_random_lives(seed, 20)


@pytest.mark.soak
async def test_r28_ten_thousand_lives_are_told_in_order(seed: random.Random) -> None:
    for _ in range(100):
        await live_random_lives(seed, 100)


# -- R4: cancelled ----------------------------------------------------------------------------


class CancelAtStep(trio.abc.Instrument):
    """An instrument that cancels a scope before the n-th step of the task that owns it."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


@pytest.mark.slow
async def test_r4_cancelling_a_start_at_any_step_leaves_nothing() -> None:
    async with open_host() as host:
        async with host.run(worker()):
            pass  # the factory has its directory now
        await the_guard()
        for steps in range(1, 100):
            with nothing_left(), trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with host.run(worker()) as instance:
                        await instance.wait_ready()
                        await call(instance, "echo")
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            assert host.factory.manager.endpoints == ()
            assert host.states()[-1] == "deleted"
            if not scope.cancel_called:
                break
        else:
            raise AssertionError("the last step was never reached")
        assert steps > 10  # it was cancelled at ten steps at least
        assert sys.exc_info() == (None, None, None)
