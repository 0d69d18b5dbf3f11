"""The lifecycle of a process: start, inheritance, output, end."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from spear import (
    ChannelBroken,
    ChannelCreationFailed,
    ConfigurationError,
    HostLimits,
    InstanceId,
    InstanceTimeouts,
    SpawnFailed,
    SpearError,
    WireLimits,
    WorkerDied,
)
from spear.channels import ChannelConfig, InboundCall
from spear.runtimes import (
    InstanceSpec,
    ProcessSettings,
    ResourceLimits,
    RuntimeSettings,
)
from spear.telemetry import InstanceState

from ..helpers import (
    PATIENCE_SECONDS,
    call,
    listening,
    no_signals,
    nothing_left,
    open_host,
    python,
    shell,
    wait_dead,
    worker,
)

if TYPE_CHECKING:
    from spear.wire import Head, Payload

QUICK = HostLimits(
    wire=WireLimits(reconnect_seconds=0.2),
    timeouts=InstanceTimeouts(drain_seconds=0.2, terminate_seconds=0.2),
)


async def test_an_instance_starts_answers_and_ends() -> None:
    with nothing_left():
        async with open_host() as host:
            async with host.run(worker()) as instance:
                assert host.states() == ["created", "starting"]
                assert instance.channel is None
                assert await instance.wait_ready() is instance.channel
                assert await call(instance, "echo", b"hello") == b"hello"
                health = instance.health()
                assert health.is_connected
                assert (health.heartbeats_missed, health.calls_in_flight) == (0, 0)
                assert "ready" in repr(instance)
                statistics = host.runtime.statistics()
                assert (statistics.instances, statistics.started, statistics.exited) == (1, 1, 0)
            assert instance.exit_status == 0
            assert instance.channel is None
            assert not instance.health().is_connected
            assert host.states() == [
                "created", "starting", "ready", "draining", "exited", "deleted",
            ]  # fmt: skip
            assert [each.state.value for each in instance.history] == host.states()
            assert host.runtime.statistics().instances == 0


@pytest.mark.slow
async def test_the_host_offers_functions_too() -> None:
    class Service:
        def refuse(self, function: int, head: Head | None) -> None:
            return None

        async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
            return call.payload.upper(), False

    async with open_host() as host, host.run(worker("call-back"), service=Service()) as instance:
        await instance.wait_ready()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await call(instance, "call_back", b"ping") == b"PING"


@pytest.mark.slow
async def test_metrics_are_those_of_the_process() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        first = await instance.metrics()
        assert first is not None
        await call(instance, "burn", b"0.1")
        second = await instance.metrics()
        assert second is not None
        # The kernel counts in ticks of 10 ms, and rounds each figure down.
        assert (second.cpu_seconds or 0) - (first.cpu_seconds or 0) >= 0.05
        assert (first.memory_bytes or 0) > 10 * 2**20
        assert first.descriptors == len(os.listdir(f"/proc/{instance.pid}/fd"))
        assert first.threads == len(os.listdir(f"/proc/{instance.pid}/task"))
        await instance.stop()
        assert await instance.metrics() is None


# -- the end ----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_calls_may_finish_while_it_is_stopped() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        answers = []

        async def last_call() -> None:
            answers.append(await call(instance, "until_leaving", b"done"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(last_call)
            await trio.testing.wait_all_tasks_blocked()
            status = await instance.stop()
        assert answers == [b"done"]
        assert status == instance.exit_status == 0
        assert await instance.stop() == status  # nothing more to do
        with pytest.raises(WorkerDied, match="exited with status 0, because it was stopped"):
            await instance.wait_ready()


@pytest.mark.slow
async def test_an_instance_that_ends_is_noticed_and_explained() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        await call(instance, "write", b"last words")
        with pytest.raises(WorkerDied, match="exited with status 7") as caught:
            await call(instance, "exit", b"7")
        assert caught.value.exit_status == 7
        assert caught.value.stderr_tail == "last words"
        assert caught.value.delivered == "maybe"
        assert isinstance(caught.value.__cause__, ChannelBroken)
        assert await instance.wait_exited() == 7
        assert instance.state is InstanceState.EXITED
        assert instance.channel is None
        with pytest.raises(WorkerDied):
            await instance.wait_ready()


@pytest.mark.slow
async def test_what_an_exception_leaves_is_killed_and_comes_out_bare() -> None:
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(ZeroDivisionError):
                async with host.ready(worker()) as instance:
                    raise ZeroDivisionError
            assert instance.exit_status == -signal.SIGKILL
            assert host.states()[-3:] == ["stopping", "exited", "deleted"]


@pytest.mark.slow
async def test_a_cancelled_owner_kills() -> None:
    with nothing_left():
        async with open_host() as host:
            with trio.CancelScope() as scope:
                async with host.ready(worker()) as instance:
                    scope.cancel()
                    await trio.sleep_forever()
                raise AssertionError("the code after a cancelled block was reached")
            assert instance.exit_status == -signal.SIGKILL


@pytest.mark.slow
async def test_killing_is_immediate_and_can_be_repeated() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        with trio.CancelScope() as scope:
            scope.cancel()
            await instance.kill("of the test")
        assert scope.cancelled_caught
        await instance.kill()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == -signal.SIGKILL
        await instance.kill()
        assert instance.state is InstanceState.EXITED
        assert "of the test" in instance.history[-1].reason


async def test_who_killed_it_is_told_once() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        await instance.kill()
        await instance.wait_exited()
        with pytest.raises(WorkerDied, match=r"SIGKILL, because kill\(\) was called$"):
            await instance.wait_ready()


async def test_a_cancelled_stop_can_be_taken_up_again() -> None:
    async with (
        open_host(HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.2))) as host,
        host.ready(worker()) as instance,
    ):
        with listening() as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_death, instance)
                await lines.wait_for("begun")
                async with trio.open_nursery() as stopping:
                    stopping.start_soon(instance.stop)
                    await trio.testing.wait_all_tasks_blocked()
                    stopping.cancel_scope.cancel()
                assert instance.state is InstanceState.DRAINING
                with trio.fail_after(PATIENCE_SECONDS):
                    await instance.stop(drain_seconds=0)


async def _expect_death(instance: object) -> None:
    with pytest.raises(SpearError):
        await call(instance, "stubborn")  # type: ignore[arg-type]  # only called with instances


@pytest.mark.slow
async def test_an_instance_that_leaves_by_itself_is_drained_and_gone() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        await call(instance, "leave")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == 0
        # The second status, if CLOSE and the end of the connection arrived together.
        assert host.states()[-2:] in (["draining", "exited"], ["unhealthy", "exited"])


async def test_an_instance_that_leaves_and_stays_is_killed() -> None:
    async with open_host(QUICK) as host, host.run(worker()) as instance:
        await instance.wait_ready()
        await call(instance, "leave", b"but stay")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == -signal.SIGKILL
        # The second status, if CLOSE and the end of the connection arrived together.
        reason = instance.history[-1].reason
        assert (
            "it closed its connection and did not exit" in reason or "did not reconnect" in reason
        )


# -- connections ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_lost_connection_may_be_resumed() -> None:
    async with open_host() as host, host.ready(worker("reconnect")) as instance:
        first = instance.channel
        with pytest.raises(WorkerDied, match="is lost"):
            await call(instance, "disconnect")
        with trio.fail_after(PATIENCE_SECONDS):
            second = await instance.wait_ready()
        assert second is not first
        assert instance.channel is second
        assert await call(instance, "echo", b"again") == b"again"
        assert host.states() == ["created", "starting", "ready", "unhealthy", "ready"]


@pytest.mark.slow
async def test_a_connection_that_stays_lost_costs_the_life() -> None:
    limits = HostLimits(wire=WireLimits(reconnect_seconds=0.1))
    async with open_host(limits) as host, host.ready(worker()) as instance:
        with pytest.raises(WorkerDied):
            await call(instance, "disconnect")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == -signal.SIGKILL
        assert "did not reconnect within 0" in instance.history[-1].reason


@pytest.mark.slow
async def test_a_host_that_stood_still_blames_nobody() -> None:
    async with (
        open_host(HostLimits(wire=WireLimits(heartbeat_seconds=0.05))) as host,
        host.ready(worker()) as instance,
    ):
        for _ in range(4):
            time.sleep(0.25)  # five heartbeats, in which this loop receives and sends nothing
            await trio.sleep(0.01)
            assert await call(instance, "echo", b"still there") == b"still there"
        assert instance.state is InstanceState.READY


# -- failing starts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (ProcessSettings(target="missing.py"), "missing.py was not found or is not readable"),
        (ProcessSettings(target="x.py", python="/no/python"), "/no/python was not found"),
        (ProcessSettings(command=("no-such-program",)), "no-such-program was not found"),
        (
            ProcessSettings(command=("true",), working_directory="/no/where"),
            "/no/where was not found",
        ),
        (RuntimeSettings(), "needs ProcessSettings, not RuntimeSettings"),
    ],
)
async def test_settings_are_checked_before_anything_starts(
    settings: RuntimeSettings, complaint: str
) -> None:
    async with open_host() as host:
        with pytest.raises(ConfigurationError, match=complaint):
            host.runtime.validate(settings)
        with pytest.raises(ConfigurationError, match=complaint):
            async with host.run(settings):
                pass
        assert host.events == []


async def test_what_cannot_be_executed_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    target = tmp_path / "functions.py"
    target.touch()
    with nothing_left():
        async with open_host() as host:
            settings = ProcessSettings(target=str(target), python=str(broken))
            with pytest.raises(SpawnFailed, match="could not be started"):
                async with host.run(settings):
                    pass
            assert host.states() == ["created", "failed", "deleted"]
            assert host.runtime.statistics().failed == 1

            with pytest.raises(SpawnFailed, match="exited with status 127") as caught:
                async with host.ready(ProcessSettings(command=(str(broken),))):
                    pass
            assert "cannot run" in caught.value.stderr_tail


async def test_without_a_thread_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with nothing_left():
        async with open_host() as host:
            monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
            with pytest.raises(SpawnFailed, match=r"could not be started: .*start new thread"):
                async with host.run(ProcessSettings(command=("true",))):
                    pass


async def test_a_limit_that_cannot_be_set_fails_the_start() -> None:
    settings = ProcessSettings(command=("true",), limits=ResourceLimits(open_files=2**40))
    # A limit that the kernel would refuse, above the host's own, is reported before the start.
    expected = SpawnFailed if os.geteuid() == 0 else ConfigurationError
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(expected, match=r"could not be started|above the host's own"):
                async with host.run(settings):
                    pass


async def test_without_a_transport_nothing_starts() -> None:
    spec = InstanceSpec(
        instance_id=InstanceId("process", "worker"),
        channel=ChannelConfig(transports=("grpc",)),
    )
    with nothing_left():
        async with open_host() as host:
            with pytest.raises(ChannelCreationFailed, match="grpc"):
                async with host.start(worker(), spec):
                    pass


async def test_two_instances_cannot_have_one_name() -> None:
    async with open_host() as host, host.run(shell("exec sleep 1000")):
        with pytest.raises(SpearError, match="has an endpoint already"):
            async with host.run(worker()):
                pass
        async with host.run(shell("exec sleep 1000"), incarnation=2):
            pass


async def test_the_number_of_instances_can_be_bounded() -> None:
    from spear.runtimes import ProcessRuntime

    async with open_host() as host:
        host.runtime = ProcessRuntime(max_instances=1)
        async with host.run(worker(), "first"):
            with pytest.raises(SpawnFailed, match="has 1 instances; at most 1 are allowed"):
                async with host.run(worker(), "second"):
                    pass
        async with host.run(worker(), "second"):
            pass


# -- environment and resources ----------------------------------------------------------------


async def test_s15_limits_hold_before_the_first_instruction() -> None:
    code = "ulimit -n; ulimit -v; ulimit -t; ulimit -c; exec sleep 1000"
    settings = ProcessSettings(
        command=("/bin/sh", "-c", code),
        limits=ResourceLimits(open_files=64, memory_bytes=2**30, cpu_seconds=9),
    )
    async with open_host() as host, host.run(settings) as instance:
        with listening() as lines:
            await lines.wait_for("stdout: 0")
        assert [line.text for line in instance.logs()] == ["64", "1048576", "9", "0"]


@pytest.mark.slow
async def test_too_much_cpu_time_has_its_own_exit_status() -> None:
    settings = ProcessSettings(
        command=("/bin/sh", "-c", "while :; do :; done"), limits=ResourceLimits(cpu_seconds=1)
    )
    async with open_host() as host, host.run(settings) as instance:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == -signal.SIGXCPU
        with pytest.raises(SpawnFailed, match="SIGXCPU"):
            await instance.wait_ready()


async def test_s15_the_working_directory_is_private_and_goes_with_the_instance() -> None:
    code = "pwd; mkdir -p a/b; touch a/b/c; exec sleep 1000"
    with nothing_left():
        async with open_host() as host:
            settings = attrs.evolve(shell(code), private_directory=True)
            async with host.run(settings) as instance:
                with listening() as lines:
                    await lines.wait_for("stdout: ")
                place = Path(instance.logs()[0].text)
                assert place == Path(f"/proc/{instance.pid}/cwd").readlink()
                assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert not place.exists()


async def test_an_instance_starts_where_its_host_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_host() as host, host.run(shell("touch here; echo begun; exec sleep 1000")):
        with listening() as lines:
            await lines.wait_for("begun")
    assert (tmp_path / "here").exists()


async def test_an_instance_whose_hosts_directory_was_removed_gets_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "release"
    place.mkdir()
    monkeypatch.chdir(place)
    settings = shell("pwd; exec sleep 1000")
    async with open_host() as host:
        async with host.forking(settings):  # a command is spawned all the same
            place.rmdir()
            async with host.run(settings):
                with listening() as lines:
                    await lines.wait_for("spear-work-")
        monkeypatch.chdir(tmp_path)


async def test_a_working_directory_that_was_named_stays(tmp_path: Path) -> None:
    settings = ProcessSettings(
        command=("/bin/sh", "-c", "touch here; pwd; exec sleep 1000"),
        working_directory=str(tmp_path),
    )
    async with open_host() as host, host.run(settings):
        with listening() as lines:
            await lines.wait_for(f"stdout: {tmp_path}")
    assert (tmp_path / "here").exists()


async def test_s15_signals_are_as_they_are_at_birth() -> None:
    code = "grep -E 'Sig(Ign|Blk)' /proc/self/status; exec sleep 1000"
    async with open_host() as host, host.run(shell(code)) as instance:
        with listening() as lines:
            await lines.wait_for("SigIgn")
        assert all(no_signals(line.text.split()[1]) for line in instance.logs())


@pytest.mark.slow
async def test_a_program_of_another_kind_finds_all_in_its_environment() -> None:
    code = """
import os, trio
from spear._ids import InstanceId, Secret
from spear.channels import connect_channel
from spear.transports import connect
async def main():
    assert os.environ["SPEAR_INSTANCE"] == "process:worker#1"
    instance = InstanceId("process", "worker")
    secret = Secret(bytes.fromhex(os.environ["SECRET"]))
    async with (
        connect(os.environ["SERVICE_ADDR"]) as stream,
        connect_channel(stream, instance, secret) as (channel, _),
    ):
        await channel.closed.wait()
trio.run(main)
"""
    settings = ProcessSettings(command=(sys.executable, "-c", code), environment_handover=True)
    async with open_host() as host, host.ready(settings) as instance:
        assert instance.health().is_connected


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.slow
async def test_each_local_transport_will_do(transport: str) -> None:
    spec = InstanceSpec(
        instance_id=InstanceId("process", "worker"),
        channel=ChannelConfig(transports=(transport,)),
    )
    async with open_host() as host, host.start(worker(), spec) as instance:
        await instance.wait_ready()
        assert await call(instance, "echo", b"hello") == b"hello"


# -- output -----------------------------------------------------------------------------------


async def test_output_is_drained_whatever_it_is() -> None:
    code = """
import os
for fd in 1, 2:
    for _ in range(64):
        os.write(fd, b"\\xff" * 65536)
os.write(1, b"\\nend\\n")
os.write(2, b"\\nend")
"""
    async with open_host() as host, host.run(python(code)) as instance:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await instance.wait_exited() == 0
        for stream in "stdout", "stderr":
            flood, end = (line.text for line in instance.logs() if line.stream == stream)
            assert flood.endswith(f" … {64 * 65536 - 8192} more bytes")
            assert end == "end"
        assert instance.stderr_tail == "end"  # the other line is too long for an error message


async def test_an_escaped_grandchild_with_our_pipes_holds_up_nobody() -> None:
    # Once it has a session of its own, it is not found; and it keeps stdout open.
    code = """
setsid sh -c 'echo $$; : >escaped; exec sleep 1000' &
until [ -e escaped ]; do :; done
exit 3
"""
    settings = attrs.evolve(shell(code), private_directory=True)
    with nothing_left():
        async with open_host() as host:
            async with host.run(settings) as instance:
                with trio.fail_after(PATIENCE_SECONDS):
                    assert await instance.wait_exited() == 3
            escaped = int(instance.logs()[0].text)
            pidfd = os.pidfd_open(escaped)
            os.kill(escaped, signal.SIGKILL)
            await wait_dead(pidfd)


@pytest.mark.slow
async def test_what_a_crash_leaves_behind_goes_with_it() -> None:
    async with open_host() as host, host.ready(worker()) as instance:
        grandchild = int(await call(instance, "grandchild"))
        pidfd = os.pidfd_open(grandchild)
        with pytest.raises(WorkerDied):
            await call(instance, "exit", b"1")
        with trio.fail_after(PATIENCE_SECONDS):
            await wait_dead(pidfd)
