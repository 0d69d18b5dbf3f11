"""Forked instances: they behave like spawned ones, and only start faster."""

from __future__ import annotations

import os
import py_compile
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
import pytest
import trio
import trio.testing

from spear import (
    ConfigurationError,
    HostLimits,
    InstanceId,
    InstanceTimeouts,
    SpawnFailed,
    WorkerDied,
)
from spear.runtimes import ProcessSettings, ResourceLimits
from spear.runtimes.process._body import ForkedBody
from spear.runtimes.process._template import Template, TemplateDied, _Reply

from ..helpers import (
    PATIENCE_SECONDS,
    Host,
    children,
    is_alive,
    listening,
    nothing_left,
    open_host,
    wait_dead,
)
from .test_agent import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.runtimes import Instance

pytestmark = pytest.mark.slow

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

PROGRAM = """
import atexit, os, random, resource, signal, subprocess, sys, tempfile, types, uuid
import trio
import spear

app = spear.Agent()
LOADED_BY = os.getpid()
MODULES = set()
os.register_at_fork(after_in_child=lambda: MODULES.update(sys.modules))
atexit.register(lambda: print("atexit", flush=True))
signal.signal(signal.SIGUSR1, lambda *_: os.write(2, b"usr1\\n"))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
SEEDED = []
sys.modules["numpy.random"] = types.SimpleNamespace(seed=lambda: SEEDED.append(os.getpid()))
print("unfinished", end="")

@app.function
async def echo(value: int) -> int:
    return value

@app.function
def plain(value: int) -> int:
    return value

@app.function
async def items(count: int):
    for number in range(count):
        yield number

@app.function
async def foreign() -> list[str]:
    return sorted(set(sys.modules) - MODULES)

@app.function
async def about() -> dict:
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return {
        "signals": [status[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")],
        "argv": sys.argv, "cwd": os.getcwd(), "environment": dict(os.environ), "umask": status["Umask"],
        "leads": os.getsid(0) == os.getpgrp() == os.getpid(), "threads": status["Threads"],
        "forked": os.getpid() != LOADED_BY,
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    }

@app.function
async def numbers() -> list:
    return [random.random(), str(uuid.uuid4()), tempfile.mktemp(), *map(str, SEEDED)]

@app.function
async def grandchild() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid

@app.function
async def end(status: int) -> None:
    os._exit(status)
"""


@pytest.fixture
def program(tmp_path: Path) -> ProcessSettings:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return settings_of(path)


def settings_of(path: Path) -> ProcessSettings:
    return ProcessSettings(target=str(path), pass_environment=("COVERAGE_PROCESS_CONFIG",))


def change(settings: ProcessSettings, old: str, new: str) -> None:
    path = Path(settings.target or "")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def open_files(instance: Instance) -> list[str]:
    """Return the open files of an instance, without descriptor numbers."""
    place = Path(f"/proc/{instance.pid}/fd")
    return sorted(re.sub(r"\d+", "", os.readlink(each)) for each in place.iterdir())


def parent_of(pid: int | None) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.01)


# -- the state of a forked process ------------------------------------------------------------


async def test_s15_a_forked_instance_finds_what_a_spawned_one_does(
    program: ProcessSettings,
) -> None:
    program = attrs.evolve(program, limits=ResourceLimits(open_files=100), private_directory=True)
    with nothing_left():
        async with open_host() as host:
            async with host.ready(program, "spawned") as spawned:
                told = await call(spawned, "about")
                files = open_files(spawned)
                of_spawned = await spawned.metrics()
            async with host.forking(program) as zygote, host.ready(program, "forked") as forked:
                found = await call(forked, "about")
                assert isinstance(found, dict)
                assert isinstance(told, dict)
                assert parent_of(forked.pid) == zygote.statistics().pid
                assert (told.pop("forked"), found.pop("forked")) == (False, True)
                places = [Path(str(each.pop("cwd"))).name for each in (found, told)]
                assert all(place.startswith("spear-work-") for place in places)
                theirs = found["environment"]
                assert isinstance(theirs, dict)
                # Only a forked instance has its threads of numerics limited.
                assert {theirs.pop(name) for name in THREAD_VARIABLES} == {"1"}
                assert found == told
                assert open_files(forked) == files
                assert zygote.statistics().forked == 1
                assert repr(zygote).endswith("program.py: forks>")
                # Its figures are its own, without the imports for which the zygote has paid.
                metrics = await forked.metrics()
                assert metrics is not None
                assert metrics.cpu_seconds is not None
                assert of_spawned is not None
                assert of_spawned.cpu_seconds is not None
                assert metrics.cpu_seconds < of_spawned.cpu_seconds
            assert forked.exit_status == 0
            # Exit handlers of the program run at the end of each instance, and output of its import is
            # written once.
            assert [line.text for line in forked.logs()] == ["atexit"]
            assert host.states("forked") == host.states("spawned")
            assert host.runtime.statistics().exited == 2


async def test_a_forked_instance_starts_where_its_host_runs(
    program: ProcessSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_host() as host, host.forking(program), host.ready(program) as forked:
        found = await call(forked, "about")
        assert isinstance(found, dict)
        assert (found["forked"], found["cwd"]) == (True, str(tmp_path))


async def test_forks_import_nothing_and_do_not_share_their_luck(program: ProcessSettings) -> None:
    async with (
        open_host() as host,
        host.forking(program),
        host.ready(program, "first") as first,
        host.ready(program, "second") as second,
    ):
        for instance in first, second:
            assert await call(instance, "echo", 1) == 1
            assert await call(instance, "plain", 2) == 2
            assert await call(instance, "foreign") == []
        one, two = await call(first, "numbers"), await call(second, "numbers")
        assert isinstance(one, list)
        assert isinstance(two, list)
        assert len(one) == len(two) == 4
        assert not set(one) & set(two)
        assert first.pid is not None
        with listening() as lines:
            os.kill(first.pid, signal.SIGUSR1)
            await lines.wait_for("first#1 stderr: usr1")


async def test_a_burst_of_starts_is_forked_one_by_one(program: ProcessSettings) -> None:
    answers: list[object] = []
    with nothing_left():
        async with open_host() as host, host.forking(program) as zygote:

            async def start(number: int) -> None:
                async with host.ready(program, f"worker-{number}") as instance:
                    answers.append(await call(instance, "echo", number))

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(start, number)
            assert zygote.statistics().forked == 12
            assert zygote.statistics().loaded == 1
    assert sorted(map(str, answers)) == sorted(map(str, range(12)))


async def test_s3_a_zygote_is_told_no_secret(program: ProcessSettings) -> None:
    async with (
        open_host() as host,
        host.forking(program) as zygote,
        host.ready(program) as instance,
    ):
        endpoint = host.factory.manager.endpoint(instance.id)
        assert endpoint is not None
        secret = endpoint.secret.reveal()
        pid = zygote.statistics().pid
        found = 0
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                area, rights, *_ = line.split()
                if rights.startswith("rw"):
                    begin, end = (int(each, 16) for each in area.split("-"))
                    memory.seek(begin)
                    found += secret in memory.read(end - begin)
        assert found == 0


# -- lifecycle of forked processes ------------------------------------------------------------


async def test_r10_a_killed_fork_is_mourned_and_replaced(program: ProcessSettings) -> None:
    with nothing_left():
        async with (
            open_host() as host,
            host.forking(program),
            host.ready(program, "other") as other,
        ):
            async with host.ready(program) as instance:
                pidfd = os.pidfd_open(int(str(await call(instance, "grandchild"))))
                assert instance.pid is not None
                os.kill(instance.pid, signal.SIGKILL)
                with trio.fail_after(PATIENCE_SECONDS):
                    assert await instance.wait_exited() == -signal.SIGKILL
                    await wait_dead(pidfd)
            async with host.ready(program) as instance:
                with pytest.raises(WorkerDied) as caught:
                    await call_and_explain(instance, "end", 7)
                assert caught.value.exit_status == 7
            assert await call(other, "echo", 3) == 3


async def call_and_explain(instance: Instance, function: str, *arguments: object) -> None:
    from spear import ChannelBroken

    try:
        await call(instance, function, *arguments)
    except ChannelBroken as error:
        raise await instance.explain_loss(error) from error


async def test_instances_live_on_when_their_zygote_dies(program: ProcessSettings) -> None:
    with nothing_left():
        async with open_host() as host, host.forking(program) as zygote:
            async with host.ready(program, "first") as first:
                os.kill(zygote.statistics().pid or 0, signal.SIGKILL)
                await until(lambda: zygote.statistics().pid is None)
                assert await call(first, "echo", 1) == 1
                pidfd = os.pidfd_open(int(str(await call(first, "grandchild"))))
                # The next start makes another zygote.
                async with host.ready(program, "second") as second:
                    assert await call(second, "echo", 2) == 2
                assert second.exit_status == 0
                await first.kill()
                with trio.fail_after(PATIENCE_SECONDS):
                    await first.wait_exited()
                    await wait_dead(pidfd)
            assert first.exit_status in (None, -signal.SIGKILL)  # known if this process is an init
            assert zygote.statistics().died == 1
            assert zygote.statistics().loaded == 2


async def test_a_zygote_that_dies_again_and_again_is_given_up(program: ProcessSettings) -> None:
    async with open_host() as host, host.forking(program) as zygote:
        for times in range(1, 4):
            async with host.ready(program):
                os.kill(zygote.statistics().pid or 0, signal.SIGKILL)
                await until(lambda: zygote.statistics().died == times)  # noqa: B023  # awaited here
        async with host.ready(program) as instance:
            assert parent_of(instance.pid) == os.getpid()
        assert "died each time" in zygote.statistics().obstacle
        assert zygote.statistics().spawned == 1
        zygote.refresh()
        async with host.ready(program) as instance:
            assert parent_of(instance.pid) == zygote.statistics().pid


async def test_forks_outlive_the_block_of_their_zygote(program: ProcessSettings) -> None:
    async def live(host: Host, task_status: trio.TaskStatus[Instance]) -> None:
        async with host.ready(program) as instance:
            task_status.started(instance)
            await instance.wait_exited()

    with nothing_left():
        async with open_host() as host, trio.open_nursery() as nursery:
            async with host.forking(program) as zygote:
                instance: Instance = await nursery.start(live, host)
            assert await call(instance, "echo", 5) == 5
            host.template = zygote
            with pytest.raises(ConfigurationError, match="the block of its template has ended"):
                async with host.ready(program, "too-late"):
                    pass
            with trio.fail_after(PATIENCE_SECONDS):
                await instance.stop()
        assert not is_alive(instance.pid or 0)


# -- programs that cannot be forked -----------------------------------------------------------


async def test_what_cannot_be_forked_is_spawned_and_says_why(program: ProcessSettings) -> None:
    change(
        program,
        "app = spear.Agent()",
        "app = spear.Agent()\nimport threading\n"
        "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()",
    )
    with nothing_left(), listening("spear.runtimes") as lines:
        async with open_host() as host, host.forking(program) as zygote:
            for _ in range(2):
                async with host.ready(program) as instance:
                    assert await call(instance, "echo", 1) == 1
            assert zygote.statistics().obstacle == "has other threads: poller"
            assert zygote.statistics().spawned == 2
            assert (
                len([line for line in lines.texts if "poller" in line and "spawned" in line]) == 1
            )
            assert "poller" in repr(zygote)
            must = attrs.evolve(program, start="zygote")
            async with host.forking(must):
                with pytest.raises(ConfigurationError, match="other threads: poller"):
                    async with host.ready(must):
                        pass


async def test_r16_a_program_that_cannot_be_loaded_says_why_and_may_be_mended(
    program: ProcessSettings,
) -> None:
    change(program, "app = spear.Agent()", "app = spear.Agent()\nraise RuntimeError('half done')")
    with nothing_left():
        async with open_host() as host, host.forking(program) as zygote:
            for _ in range(2):
                with pytest.raises(SpawnFailed, match="exited with status 2") as caught:
                    async with host.ready(program):
                        pass
                assert "half done" in caught.value.stderr_tail
            assert host.states()[-3:] == ["created", "failed", "deleted"]
            change(program, "raise", "# raise")
            async with host.ready(program) as instance:
                assert await call(instance, "echo", 1) == 1
            assert zygote.statistics().forked == 1


async def test_r16_a_program_that_never_stops_loading_fails_in_time(
    program: ProcessSettings,
) -> None:
    change(program, "import trio", "print('hm', file=sys.stderr, flush=True)\nsignal.pause()")
    with nothing_left():
        async with (
            open_host(HostLimits(timeouts=InstanceTimeouts(startup_seconds=2))) as host,
            host.forking(program),
        ):
            begun = trio.current_time()
            told = r"it did not load its program within 2 s \(startup_seconds\)"
            with pytest.raises(SpawnFailed, match=told) as caught:
                async with host.ready(program):
                    pass
            failed = trio.current_time()
            assert caught.value.stderr_tail == "hm"
        ended = trio.current_time()
    assert failed - begun < 2 + 0.2 + 1
    # The zygote has ended by now, too: without a request, which would have taken as long again.
    assert ended - failed < failed - begun


async def test_new_files_are_loaded_anew(program: ProcessSettings) -> None:
    data = Path(program.target or "").with_name("data.txt")
    data.write_text("1")
    change(
        program, "return value", f"return value + OFFSET\nOFFSET = int(open({str(data)!r}).read())"
    )
    async with open_host() as host, host.forking(program) as zygote:
        async with host.ready(program, "old") as old:
            assert await call(old, "echo", 1) == 2
            change(program, "value + OFFSET", "value + 10 * OFFSET")
            async with host.ready(program, "new") as new:
                assert await call(new, "echo", 1) == 11
            data.write_text("2")
            async with host.ready(program, "same") as same:
                assert await call(same, "echo", 1) == 11
            zygote.refresh()
            async with host.ready(program, "fresh") as fresh:
                assert await call(fresh, "echo", 1) == 21
            assert zygote.statistics().loaded == 3
            assert await call(old, "echo", 1) == 2
        # A zygote ends when the last of its instances has been reaped.
        assert old.exit_status == 0
        await until(lambda: children() == {zygote.statistics().pid})


@pytest.mark.parametrize("start", ["spawn", "zygote"])
async def test_a_change_that_keeps_size_and_time_is_loaded(
    start: Literal["spawn", "zygote"], program: ProcessSettings
) -> None:
    """The change may come within a second, or from a build that sets one time for all files."""
    program = attrs.evolve(program, start=start)
    path = program.target or ""
    change(program, "return value", "return value + 1")
    os.utime(path, (1, 1))
    assert py_compile.compile(path, doraise=True)
    async with open_host() as host, host.forking(program), host.ready(program, "old") as old:
        assert await call(old, "echo", 1) == 2
        change(program, "value + 1", "value + 2")
        os.utime(path, (1, 1))
        async with host.ready(program, "new") as new:
            assert await call(new, "echo", 1) == 3


async def test_a_change_while_a_template_loads_is_one(program: ProcessSettings) -> None:
    change(
        program,
        "app = spear.Agent()",
        "app = spear.Agent()\nfrom pathlib import Path\ntext = Path(__file__).read_text()\n"
        "if 'return value\\n' in text:\n"
        "    Path(__file__).write_text(text.replace('return value\\n', 'return -value\\n'))",
    )
    async with open_host() as host, host.forking(program) as zygote:
        async with host.ready(program) as instance:
            assert await call(instance, "echo", 1) == -1
        assert zygote.statistics().loaded == 2


async def test_settings_say_whether_to_fork(program: ProcessSettings) -> None:
    async with open_host() as host:
        spawn = attrs.evolve(program, start="spawn")
        async with host.forking(spawn) as zygote, host.ready(spawn) as instance:
            assert parent_of(instance.pid) == os.getpid()
            assert zygote.statistics().loaded == 0
            assert "start='spawn'" in zygote.statistics().obstacle
        command = ProcessSettings(command=("sleep", "1000"))
        async with host.forking(command) as zygote, host.run(command) as instance:
            assert parent_of(instance.pid) == os.getpid()
        # Although only one instance is expected.
        async with host.ready(attrs.evolve(program, start="zygote")) as instance:
            assert parent_of(instance.pid) != os.getpid()


# -- cancelled --------------------------------------------------------------------------------


async def test_r4_a_start_that_is_cancelled_leaves_nothing(program: ProcessSettings) -> None:
    """At many moments, before and after the fork."""
    with nothing_left():
        async with open_host() as host, host.forking(program) as zygote:
            async with host.ready(program, "first"):
                pass
            for milliseconds in range(12):
                with trio.move_on_after(milliseconds / 1000):
                    async with host.ready(program, f"worker-{milliseconds}"):
                        pass
            async with host.ready(program, "last") as last:
                assert await call(last, "echo", 1) == 1
            # All of them have been reaped; the pre-forked processes are left.
            await until(lambda: len(children_of(zygote.statistics().pid)) == 2)


def children_of(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def test_a_zygote_that_is_not_wanted_any_more_stops_loading(program: ProcessSettings) -> None:
    change(program, "import trio", "signal.pause()")
    with nothing_left():
        async with (
            open_host(HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.1))) as host,
            host.forking(program) as zygote,
        ):
            await until(lambda: zygote.statistics().pid is not None)


# -- faulty zygotes ---------------------------------------------------------------------------

HOSTILE = {
    "speaks-unasked": "",
    "names-another-process": "sock.send(b'P%d' % os.getppid())",
    "names-no-process": "sock.send(b'P4194304')",
    "names-no-number": "sock.send(b'Pwho knows')",
    "speaks-nonsense": "sock.send(bytes(1000))",
    "hangs-up": "sock.close()",
    "stays-silent": "pass",
}

INTERPRETER = """#!{python}
import os, signal, socket, sys
if "--zygote-fd" not in sys.argv:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sock = socket.socket(fileno=int(sys.argv[-1]))
sock.send(b"R")
if not {answer!r}:
    sock.send(b"X1")
sock.recv(1000)
exec({answer!r})
signal.pause()
"""


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_template_that_lies_is_ended_and_done_without(
    kind: str, program: ProcessSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.runtimes.process._template.ANSWER_SECONDS", 0.1)
    python = tmp_path / "python"
    python.write_text(INTERPRETER.format(python=sys.executable, answer=HOSTILE[kind]))
    python.chmod(0o755)
    program = attrs.evolve(program, python=str(python))
    with nothing_left():
        async with (
            open_host(HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.1))) as host,
            host.forking(program) as zygote,
        ):
            async with host.ready(program) as instance:
                assert await call(instance, "echo", 1) == 1
            assert zygote.statistics().died == 3
            assert "died each time" in zygote.statistics().obstacle


async def test_a_template_may_refuse_to_fork(program: ProcessSettings, tmp_path: Path) -> None:
    python = tmp_path / "python"
    answer = "sock.send(b'Eno more memory'); sock.recv(1)"
    python.write_text(INTERPRETER.format(python=sys.executable, answer=answer))
    python.chmod(0o755)
    program = attrs.evolve(program, python=str(python))
    with nothing_left():
        async with (
            open_host(HostLimits(timeouts=InstanceTimeouts(terminate_seconds=0.1))) as host,
            host.forking(program),
        ):
            with pytest.raises(SpawnFailed, match="could not be started: no more memory"):
                async with host.ready(program):
                    pass


async def test_a_system_may_refuse_to_fork(program: ProcessSettings) -> None:
    change(program, "app =", "os.fork = lambda: os.open('/no/such/thing', 0)\napp =")
    async with open_host() as host, host.forking(program):
        with pytest.raises(SpawnFailed, match=r"could not be started: .*No such file"):
            async with host.ready(program):
                pass


async def test_r16_an_interpreter_that_cannot_be_executed(
    program: ProcessSettings, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/no/such/interpreter\n")
    python.chmod(0o755)
    program = attrs.evolve(program, python=str(python))
    with nothing_left():
        async with open_host() as host, host.forking(program):
            with pytest.raises(SpawnFailed, match=r"it could not be started: .*No such file"):
                async with host.ready(program):
                    pass


async def test_forks_that_were_made_ahead_may_die(program: ProcessSettings) -> None:
    async with open_host() as host, host.forking(program) as zygote, host.ready(program, "first"):
        await until(lambda: len(children_of(zygote.statistics().pid)) == 3)
        first, *ahead = children_of(zygote.statistics().pid)
        for pid in ahead:
            os.kill(int(pid), signal.SIGKILL)
        await until(lambda: not any(is_alive(int(pid)) for pid in ahead))
        async with host.ready(program, "second") as second:
            assert await call(second, "echo", 2) == 2
            assert str(second.pid) not in (first, *ahead)


# -- a single zygote --------------------------------------------------------------------------


async def test_requests_wait_until_a_template_reads() -> None:
    template = Template(InstanceId("process", "shop-zygote"), HostLimits())
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    template._sock, template.pid = ours, os.getpid()
    with ours, other:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(template._ask, bytes(1000), _Reply())
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(50):
                await trio.lowlevel.wait_readable(other)
                assert other.recv(2000) == bytes(1000)
        other.close()
        with pytest.raises(TemplateDied):
            await template._ask(b"C1", _Reply(1))
        assert template.death == "closed the socket of its host"
        assert not template._answers


async def test_a_child_that_cannot_be_discarded_ends_its_template() -> None:
    template = Template(InstanceId("process", "shop-zygote"), HostLimits())
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    template._sock, template.pid = ours, os.getpid()
    with ours:
        with other:
            await template._ask(b"F/", pending := _Reply())
            template.settled.set()
        unwanted = _Reply()
        unwanted.kind, unwanted.pid = b"P", 17
        template._discard(unwanted)
    assert template.death == "did not read its requests"
    assert pending.came.is_set()


@pytest.mark.parametrize("flag", [4, 1 << 30])
async def test_a_fork_is_signalled_also_where_groups_cannot_be(
    flag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process leads no group yet, or the kernel is too old to signal a group by a pidfd."""
    monkeypatch.setattr("spear.runtimes.process._body._PIDFD_SIGNAL_PROCESS_GROUP", flag)

    async def nobody_knows(pid: int) -> int | None:
        await trio.lowlevel.checkpoint()
        return None

    with subprocess.Popen(["sleep", "1000"]) as process:
        body = ForkedBody(process.pid, os.pidfd_open(process.pid), (), nobody_knows)
        await body.terminate()
        with trio.fail_after(PATIENCE_SECONDS):
            await body.wait_exited()
        assert body.exit_status == -signal.SIGTERM
        assert await body.metrics() is None
        await body.kill()
        body.close()
        process.returncode = body.exit_status  # it has been reaped
