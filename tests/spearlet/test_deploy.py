"""Deployments: valid and invalid targets, and clean-up after them."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from runtimes.helpers import is_alive, listening, nothing_left

import spear
from spear import (
    ConfigurationError,
    FunctionRaised,
    HostLimits,
    InstanceTimeouts,
    Rejected,
    SpawnFailed,
    SpearError,
    WorkerDied,
    open_spearlet,
)
from spear._ids import MAX_DEPLOYMENT_NAME
from spear._targets import name_of
from spear.runtimes import MemorySettings, ProcessSettings
from spear.runtimes.process._runtime import _search_path
from spear.spearlet import Deployment
from spear.spearlet._programs import _default_name
from spear.spearlet._settings import MAX_REPLICAS
from spear.telemetry import InstanceEvent, InstanceState
from spear.testing import cancel_sweep

from .helpers import PATIENCE_SECONDS, WORKERS, Probe, deployed, instance, pid, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.spearlet import Replica

SMALL = """
import spear
app = spear.Agent()
@app.function
async def hello(name: str = "you") -> str:
    return f"hello {name}"
"""

# -- valid targets ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_file_by_name_by_path_and_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "small.py", SMALL)
    monkeypatch.chdir(tmp_path)
    with nothing_left():
        async with open_spearlet() as spearlet:
            targets: list[str | Path] = [str(path), path, "small.py", "./small.py"]
            for number, target in enumerate(targets):
                deployment = await spearlet.deploy(target, name=f"small-{number}")
                assert await deployment.hello() == "hello you"
                await deployment.stop()


async def test_a_module_is_found_where_this_process_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "company"
    package.mkdir()
    write(package, "__init__.py", "")
    write(package, "names.py", "NAME = 'module'")
    write(
        package,
        "shop.py",
        SMALL.replace('"you"', "names.NAME").replace(
            "import spear", "import spear\nfrom . import names"
        ),
    )
    monkeypatch.syspath_prepend(tmp_path)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy("company.shop")
        assert deployment.name == "shop"
        assert await deployment.hello() == "hello module"


async def test_settings_say_more_about_the_process(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "small.py",
        SMALL
        + "\n@app.function\ndef variable() -> str:\n    import os\n    return os.environ['COLOUR']",
    )
    settings = ProcessSettings(
        target=str(path), environment={"COLOUR": "blue"}, working_directory=str(tmp_path)
    )
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(settings)
        assert deployment.name == "small"
        assert await deployment.variable() == "blue"


async def test_any_program_that_speaks_the_protocol() -> None:
    program = (
        sys.executable,
        "-m",
        "spear.agent",
        str(WORKERS),
        "--bootstrap-fd",
        "{bootstrap_fd}",
    )
    settings = ProcessSettings(
        command=program, environment={"PYTHONPATH": str(Path(spear.__file__).parents[1])}
    )
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(settings)
        assert deployment.name == name_of(sys.executable)
        assert await deployment.echo(1) == 1


async def test_an_agent_runs_in_this_process() -> None:
    app = spear.Agent("here")

    @app.function
    async def where() -> int:
        return os.getpid()

    async with deployed(app, replicas=3) as deployment:
        assert deployment.name == "here"
        assert {await deployment.where() for _ in range(3)} == {os.getpid()}
        assert {str(each.id) for each in deployment.replicas} == {
            "memory:here-1#1", "memory:here-2#1", "memory:here-3#1",
        }  # fmt: skip


@pytest.mark.slow
async def test_one_of_several_agents(tmp_path: Path) -> None:
    path = write(tmp_path, "two.py", SMALL + "\nother = spear.Agent()\nother.function(hello)\n")
    async with open_spearlet() as spearlet:
        with pytest.raises(SpawnFailed, match=r"2 agents: choose one of two.py:app, two.py:other"):
            await spearlet.deploy(path)
        deployment = await spearlet.deploy(f"{path}:other")
        assert deployment.name == "two"
        assert await deployment.hello() == "hello you"


@pytest.mark.slow
async def test_the_same_file_under_two_names() -> None:
    async with open_spearlet() as spearlet:
        one = await spearlet.deploy(WORKERS, name="one")
        two = await spearlet.deploy(WORKERS, name="two")
        assert await one.who() != await two.who()
        assert spearlet.deployments == {"one": one, "two": two}
        statistics = spearlet.statistics()
        assert set(statistics.deployments) == {"one", "two"}
        assert statistics.refused_connections == {}


@pytest.mark.slow
async def test_replicas_start_at_the_same_time() -> None:
    with listening("spear.runtimes") as lines:
        async with deployed(WORKERS, replicas=3) as deployment:
            assert repr(deployment) == "<Deployment workers: 3 replicas ready>"
            statistics = deployment.statistics()
            assert (statistics.ready, statistics.started, statistics.lost) == (3, 3, 0)
            moves = [each.split()[2] for each in lines.texts]
            assert moves.index("ready") > 2  # all were created by then
            assert moves[:3] == ["created"] * 3


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("shop.py", "shop"), ("a/b/shop.py", "shop"), ("shop.py:app", "shop"), ("company.shop", "shop"),
        ("company.shop:app", "shop"), ("größe.py", "gr-e"), ("商店.py", "functions"), ("", "functions"),
        ("_private.py", "private"), ("a b.py", "a-b"), ("x" * 99 + ".py", "x" * MAX_DEPLOYMENT_NAME),
        ("/usr/bin/python3", "python3"),
    ],
)  # fmt: skip
def test_names_come_from_targets(target: str, name: str) -> None:
    assert _default_name(target) == name


@pytest.mark.slow
async def test_a_relative_path_means_the_same_after_the_working_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").mkdir()
    write(tmp_path, "small.py", SMALL)
    monkeypatch.chdir(tmp_path / "release")
    async with open_spearlet() as spearlet:
        small = await spearlet.deploy("../small.py")
        os.rmdir(tmp_path / "release")
        await small.restart()
        assert await small.hello() == "hello you"
        other = await spearlet.deploy(tmp_path / "small.py", name="other", replicas=2)
        assert await other.hello("there") == "hello there"
        with pytest.raises(
            ConfigurationError, match=r"^small\.py is relative to the working direct"
        ):
            await spearlet.deploy("small.py", name="third")


def test_a_directory_that_was_removed_is_searched_for_no_module(
    gone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", ".", "/etc"])
    assert _search_path() == ("/etc",)


def test_what_is_installed_needs_no_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = [each for each in sys.path if "site-packages" in each]
    assert installed
    monkeypatch.setattr(
        sys, "path", ["", str(tmp_path), str(tmp_path / "missing"), os.__file__, *installed]
    )
    monkeypatch.chdir(tmp_path.parent)
    assert _search_path() == (str(tmp_path.parent), str(tmp_path))


# -- invalid targets --------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [-1, 0, MAX_REPLICAS + 1])
async def test_a_number_of_replicas_that_makes_no_sense(replicas: int) -> None:
    async with open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match=f"from 1 to {MAX_REPLICAS}, not {replicas}"):
            await spearlet.deploy(WORKERS, replicas=replicas)


@pytest.mark.parametrize("replicas", ["2", 2.5, True])
async def test_a_number_of_replicas_that_is_none(replicas: object) -> None:
    async with open_spearlet() as spearlet:
        message = re.escape(f"a whole number or spear.Scale(...), not {replicas!r}")
        with pytest.raises(ConfigurationError, match=message):
            await spearlet.deploy(WORKERS, replicas=replicas)  # type: ignore[arg-type]  # the mistake


async def test_limits_that_are_none() -> None:
    with pytest.raises(
        ConfigurationError, match=r"limits must be spear\.HostLimits\(\.\.\.\), not \{\}"
    ):
        async with open_spearlet(limits={}):  # type: ignore[arg-type]  # the mistake
            raise AssertionError


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a.b", "a/b", "ü", "x" * (MAX_DEPLOYMENT_NAME + 1), "a\n"]
)
async def test_a_name_that_cannot_be_one(name: str) -> None:
    async with open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match="is not a valid name of a deployment"):
            await spearlet.deploy(Probe().agent, name=name)
        with pytest.raises(ConfigurationError, match="5 is not a valid name of a deployment"):
            await spearlet.deploy(Probe().agent, name=5)  # type: ignore[arg-type]  # the mistake
        assert spearlet.deployments == {}


async def test_a_longest_name_with_the_most_replicas_is_a_name() -> None:
    name = f"{'x' * MAX_DEPLOYMENT_NAME}-{MAX_REPLICAS}"
    assert str(spear.InstanceId("process", name)) == f"process:{name}#1"


async def test_a_name_that_is_taken() -> None:
    async with open_spearlet() as spearlet:
        first = await spearlet.deploy(Probe().agent)
        with pytest.raises(ConfigurationError, match="a deployment 'probe' already exists"):
            await spearlet.deploy(Probe().agent)
        await first.stop()
        assert spearlet.deployments == {}
        assert await (await spearlet.deploy(Probe().agent)).add(1) == 2


@pytest.mark.parametrize("target", [None, 7, sys, print, b"shop.py", ["shop.py"]], ids=repr)
async def test_what_is_no_target(target: object) -> None:
    async with open_spearlet() as spearlet:
        with pytest.raises(ConfigurationError, match="cannot be deployed: no runtime takes it"):
            await spearlet.deploy(target)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/does/not/exist.py", "/does/not/exist.py was not found"),
        ("missing.py", "missing.py was not found"),
        ("", r"deploy\(\) needs a file"),
        ("nul\0.py", "NUL"),
    ],
)
async def test_a_target_that_is_not_there(target: str, message: str) -> None:
    with nothing_left():
        async with open_spearlet() as spearlet:
            with pytest.raises(ConfigurationError, match=message):
                await spearlet.deploy(target)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(:", "broken.py, line 1: SyntaxError: "),
        (
            "import no_such_library",
            "broken.py, line 1: ModuleNotFoundError: No module named 'no_such",
        ),
        ("import spear", "broken.py defines no spear.Agent; add `app = spear.Agent"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
        (
            "import os\nos.write(2, b'last words')\nos._exit(9)",
            "status 9\n--- stderr ---\nlast words",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
    ids=["syntax", "import", "no agent", "exit", "words", "killed"],
)
async def test_r16_a_file_that_does_not_load_fails_with_what_it_wrote(
    tmp_path: Path, code: str, message: str
) -> None:
    path = write(tmp_path, "broken.py", code)
    with nothing_left():
        async with open_spearlet() as spearlet:
            with pytest.raises(SpawnFailed) as caught:
                await spearlet.deploy(path)
            assert "process:broken-1#1 did not start" in str(caught.value)
            assert message in str(caught.value)
            assert spearlet.deployments == {}


@pytest.mark.slow
async def test_r16_a_file_that_never_logs_in_fails_at_the_startup_deadline(tmp_path: Path) -> None:
    path = write(tmp_path, "slow.py", "print('loading')\nimport time\ntime.sleep(1000)")
    with nothing_left():
        async with open_spearlet(
            limits=HostLimits(timeouts=InstanceTimeouts(startup_seconds=0.5))
        ) as spearlet:
            with pytest.raises(
                SpawnFailed, match=r"did not log in within 0\.5 s \(startup_seconds\)"
            ):
                await spearlet.deploy(path)


@pytest.mark.slow
async def test_one_bad_replica_stops_the_others(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"""
import os, time
try:
    os.close(os.open({str(marker)!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    raise RuntimeError("I am the first")
"""
    path = write(tmp_path, "broken.py", code + SMALL)
    with nothing_left():
        async with open_spearlet() as spearlet:
            with pytest.raises(SpawnFailed, match="RuntimeError: I am the first"):
                await spearlet.deploy(path, replicas=3)
            deployment = await spearlet.deploy(path)  # the name is free again
            assert await deployment.hello() == "hello you"


async def test_nobody_waits_for_the_others_if_one_has_failed(tmp_path: Path) -> None:
    code = f"""
import os, time
try:
    os.mkdir({str(tmp_path / "marker")!r})
except FileExistsError:
    raise RuntimeError("I am the second") from None
time.sleep(1000)
"""
    path = write(tmp_path, "broken.py", code)
    with nothing_left():
        async with open_spearlet(
            limits=HostLimits(timeouts=InstanceTimeouts(startup_seconds=1000))
        ) as spearlet:
            with pytest.raises(SpawnFailed, match="RuntimeError: I am the second"):
                await spearlet.deploy(ProcessSettings(target=str(path), start="spawn"), replicas=2)


async def test_an_agent_that_cannot_start_fails_in_the_same_way() -> None:
    app = spear.Agent("bad")

    @app.lifespan
    async def life() -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    async with open_spearlet() as spearlet:
        with pytest.raises(SpawnFailed, match="memory:bad-1#1 did not start: OSError: no database"):
            await spearlet.deploy(app)
        good = await spearlet.deploy(Probe().agent)
        assert await good.add(1) == 2


async def test_an_agent_that_runs_elsewhere_says_so() -> None:
    app = Probe().agent

    async def in_another_thread() -> None:
        async with open_spearlet() as spearlet:
            with pytest.raises(ConfigurationError, match="already runs in another thread"):
                await spearlet.deploy(app)

    async with open_spearlet() as spearlet:
        await spearlet.deploy(app)
        await trio.to_thread.run_sync(trio.run, in_another_thread)


async def test_nothing_is_deployed_after_the_end() -> None:
    async with open_spearlet() as spearlet:
        pass
    with pytest.raises(SpearError, match="this spearlet is stopped"):
        await spearlet.deploy(Probe().agent)


# -- cancelled deployments --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("state", ["is created", "is starting", "is ready"])
async def test_a_deployment_that_is_cancelled_leaves_nothing(state: str) -> None:
    with nothing_left(), listening("spear.runtimes") as lines:
        async with open_spearlet() as spearlet:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def cancel() -> None:
                    await lines.wait_for(state)
                    nursery.cancel_scope.cancel()

                await spearlet.deploy(WORKERS, replicas=2)
                raise AssertionError
            assert spearlet.deployments == {}
            assert await (await spearlet.deploy(WORKERS)).echo(1) == 1


@pytest.mark.slow
async def test_cancelled_anywhere_a_deployment_leaves_nothing_behind() -> None:
    async def deploy(spearlet: spear.Spearlet) -> None:
        several = MemorySettings(agent=Probe().agent, shares_process=True)
        deployment = await spearlet.deploy(several, replicas=2)
        assert await deployment.add(1) == 2
        await deployment.stop()

    async def check(spearlet: spear.Spearlet) -> None:
        for deployment in spearlet.deployments.values():
            await deployment.stop()
        await deploy(spearlet)

    sweep = await cancel_sweep(open_spearlet, deploy, check)
    assert sweep.runs > 10


# -- the end ----------------------------------------------------------------------------------


async def test_leaving_the_block_stops_everything() -> None:
    with nothing_left():
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(WORKERS, replicas=2)
            instances = [instance(each) for each in deployment.replicas]
        assert [each.exit_status for each in instances] == [0, 0]
        assert spearlet.deployments == {}
        assert spearlet.statistics().deployments == {}


async def test_an_exception_comes_out_as_it_is_and_kills_at_once() -> None:
    replicas: list[Replica] = []

    async def fail() -> None:
        async with open_spearlet() as spearlet:
            deployment = await spearlet.deploy(WORKERS)
            replicas.extend(deployment.replicas)
            raise ZeroDivisionError

    with nothing_left(), pytest.raises(ZeroDivisionError):
        await fail()
    assert instance(replicas[0]).exit_status == -signal.SIGKILL


async def test_a_group_comes_out_as_it_is() -> None:
    async def fail() -> None:
        async with open_spearlet() as spearlet:
            await spearlet.deploy(Probe().agent)
            async with trio.open_nursery():
                raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await fail()
    assert [type(each) for each in caught.value.exceptions] == [ZeroDivisionError]


async def test_a_cancelled_block_kills_at_once() -> None:
    with nothing_left():
        with trio.CancelScope() as scope:
            async with open_spearlet() as spearlet:
                deployment = await spearlet.deploy(WORKERS)
                replica = instance(deployment.replicas[0])
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
    assert replica.exit_status == -signal.SIGKILL


async def test_a_deployment_is_a_block_too() -> None:
    with nothing_left():
        async with open_spearlet() as spearlet:
            async with await spearlet.deploy(WORKERS) as deployment:
                assert await deployment.echo(1) == 1
                replica = instance(deployment.replicas[0])
            assert replica.exit_status == 0
            assert replica.state is InstanceState.DELETED
            assert spearlet.deployments == {}


@pytest.mark.slow
async def test_the_block_of_a_deployment_that_fails_kills_at_once() -> None:
    replicas: list[Replica] = []

    async def fail(spearlet: spear.Spearlet) -> None:
        async with await spearlet.deploy(WORKERS) as deployment:
            replicas.extend(deployment.replicas)
            raise ZeroDivisionError

    async with open_spearlet() as spearlet:
        with pytest.raises(ZeroDivisionError):
            await fail(spearlet)
        assert instance(replicas[0]).exit_status == -signal.SIGKILL
        with trio.CancelScope() as scope:
            async with await spearlet.deploy(WORKERS) as deployment:
                replica = instance(deployment.replicas[0])
                scope.cancel()
                await trio.sleep_forever()
        with trio.fail_after(PATIENCE_SECONDS):
            await deployment.stop()
        assert replica.exit_status == -signal.SIGKILL


async def test_r15_what_runs_may_finish_when_its_deployment_is_stopped(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS)
        running = [deployment.read.submit(str(gate))]
        with listening("spear.runtimes") as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deployment.stop)
                await lines.wait_for("is draining")
                with pytest.raises(Rejected, match="takes no new calls") as caught:
                    await deployment.echo(1)
                assert caught.value.delivered == "no"
                await trio.Path(gate).write_text("the end")
        assert [await each.result() for each in running] == ["the end"]


@pytest.mark.slow
async def test_what_does_not_finish_is_lost() -> None:
    limits = HostLimits(timeouts=InstanceTimeouts(drain_seconds=0.1, terminate_seconds=0.1))
    begun = trio.Event()
    async with open_spearlet(limits=limits) as spearlet:
        deployment = await spearlet.deploy(WORKERS)
        stubborn = deployment.stubborn.options(on_progress=lambda _: begun.set())
        execution = stubborn.submit()
        await begun.wait()
        process = pid(deployment.replicas[0])
        await deployment.stop()
        assert not is_alive(process)
        with pytest.raises(WorkerDied, match="process:workers-1#1") as caught:
            await execution.result()
        assert caught.value.delivered == "yes"


async def test_several_may_stop_it_and_none_has_to_wait() -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS)
        with trio.CancelScope() as scope:
            scope.cancel()
            await deployment.stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployment.stop)
            nursery.start_soon(spearlet.stop)
        assert spearlet.deployments == {}


@pytest.mark.slow
async def test_debug_sends_tracebacks(tmp_path: Path) -> None:
    code = SMALL + "\n@app.function\nasync def boom():\n    raise KeyError(1)\n"
    path = write(tmp_path, "small.py", code)
    async with open_spearlet() as spearlet:
        plain = await spearlet.deploy(path)
        with pytest.raises(FunctionRaised) as caught:
            await plain.boom()
        assert caught.value.remote_traceback is None
        for number, deployment in enumerate(
            [
                await spearlet.deploy(path, debug=True, name="debug"),
                await spearlet.deploy(ProcessSettings(target=str(path), debug=True), name="too"),
            ]
        ):
            with pytest.raises(FunctionRaised, match="raise KeyError") as caught:
                await deployment.boom()
            assert caught.value.remote_traceback is not None, number


async def test_debug_sends_tracebacks_in_this_process_too() -> None:
    async with open_spearlet() as spearlet:
        plain = await spearlet.deploy(Probe().agent, name="plain")
        with pytest.raises(FunctionRaised) as caught:
            await plain.boom()
        assert caught.value.remote_traceback is None
        debug = await spearlet.deploy(Probe().agent, name="debug", debug=True)
        with pytest.raises(FunctionRaised, match="raise KeyError"):
            await debug.boom()


async def test_who_deploys_is_told_what_becomes_of_the_processes() -> None:
    events: list[InstanceEvent] = []
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(WORKERS, replicas=2, on_event=events.append)
        assert [each.state.value for each in events].count("ready") == 2
        await deployment.stop()
    for replica in ("workers-1", "workers-2"):
        states = [each.state.value for each in events if each.instance_id.name == replica]
        assert states == ["created", "starting", "ready", "draining", "exited", "deleted"]


@pytest.mark.parametrize("target", [WORKERS, Probe], ids=["a process", "an agent"])
async def test_a_replica_tells_the_same_whatever_it_lives_in(target: Path | type[Probe]) -> None:
    is_process = isinstance(target, Path)
    async with deployed(target if isinstance(target, Path) else target().agent) as deployment:
        replica: spear.Replica
        (replica,) = deployment.replicas
        assert replica.state is InstanceState.READY
        assert (replica.pid is not None, replica.exit_status) == (is_process, None)
        assert (await replica.metrics() is not None) == is_process
        assert replica.logs() == ()
        health = replica.health()
        assert (health.state, health.reason, health.is_connected) == (InstanceState.READY, "", True)
        assert (health.heartbeats_missed, health.calls_in_flight) == (0, 0)
        assert health.age_seconds >= 0
        execution = deployment.function("hold" if is_process else "wait").submit(
            *([1] if is_process else [])
        )
        while not replica.health().calls_in_flight:
            await trio.testing.wait_all_tasks_blocked()
        assert deployment.statistics().calls_in_flight == 1
        execution.cancel()
        await deployment.stop()
        assert not replica.health().is_connected
        assert replica.state in (InstanceState.EXITED, InstanceState.DELETED)
    assert deployment.replicas == ()


async def test_a_deployment_needs_no_spearlets_help_to_be_copied_or_shown() -> None:
    async with deployed(Probe().agent) as deployment:
        assert not hasattr(deployment, "__deepcopy__")
        assert isinstance(deployment, Deployment)


@pytest.mark.slow
async def test_a_deployment_that_is_stopped_leaves_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shop.py"
    path.write_text("import spear\napp = spear.Agent()\n@app.function\ndef price(): return 3.5\n")
    async with open_spearlet() as spearlet:
        for stop in ("deployment", "spearlet"):
            deployment = await spearlet.deploy(path, replicas=spear.Scale(min=2, max=4))
            assert await deployment.price() == 3.5
            await (deployment if stop == "deployment" else spearlet).stop()
            assert deployment.statistics().spawned_because == ""
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == []
