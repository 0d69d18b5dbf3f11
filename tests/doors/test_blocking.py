"""The door for programs without an event loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import spear
import spear.blocking
from spear import HostLimits
from spear.blocking import as_completed, open_spearlet
from spear.spearlet import DeploymentState, SpearletState

from .functions import Dish, Kitchen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear.blocking import Deployment, Function, Spearlet
    from spear.calls import Result
    from spear.telemetry import CallRecord

PATIENCE_SECONDS = 15.0

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def spearlet() -> Iterator[Spearlet]:
    with open_spearlet() as spearlet:
        yield spearlet


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def deployed(spearlet: Spearlet, kitchen: Kitchen) -> Deployment:
    return spearlet.deploy(kitchen.agent)


# -- one call ---------------------------------------------------------------------------------


def test_a_function_is_called_like_a_plain_one(deployed: Deployment) -> None:
    assert deployed.echo([1, b"\xff", "tea"]) == [1, b"\xff", "tea"]
    assert deployed.echo.call(value=2, timeout=PATIENCE_SECONDS) == 2
    assert deployed.function("echo").name == "echo"
    assert deployed.echo.deployment == "kitchen"
    assert not deployed.echo.is_stream
    assert deployed.count.is_stream
    assert deployed.echo.signature() == "echo(value: object) -> object"
    assert deployed.thread() != threading.get_ident()
    assert repr(deployed.echo) == "<blocking.Function echo of kitchen>"


def test_a_failure_is_that_of_the_function(deployed: Deployment) -> None:
    with pytest.raises(spear.FunctionRaised, match="no tea") as caught:
        deployed.fail("no tea")
    assert caught.value.type_name == "ValueError"
    with pytest.raises(spear.InvalidArguments):
        deployed.fail()
    with pytest.raises(AttributeError, match="fial"):
        _ = deployed.fial
    with pytest.raises(AttributeError):
        _ = deployed._private
    with pytest.raises(spear.NotFound):
        deployed.function("fial")


def test_a_deadline_is_kept(deployed: Deployment, kitchen: Kitchen) -> None:
    with pytest.raises(spear.DeadlineExceeded):
        deployed.hang(timeout=0.01)
    assert kitchen.cancelled.wait(PATIENCE_SECONDS)


def test_options_apply(deployed: Deployment) -> None:
    progress: list[Result] = []
    assert deployed.cook.options(on_progress=progress.append)(3) == "done"
    assert progress == [0, 1, 2]
    policy = spear.RetryPolicy(max_attempts=2)
    patient = deployed.echo.options(timeout=7, retry=policy)
    assert patient.timeout == 7
    assert patient.retry == policy
    assert deployed.echo.retry is None
    dish = deployed.echo.options(returns=Dish)({"name": "pie"})
    assert dish == Dish("pie")
    answer = deployed.echo.ask(4)
    assert answer.result == 4
    assert answer.instance is not None


def test_a_call_has_the_context_variables_of_its_caller(kitchen: Kitchen) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []

    def on_call(record: CallRecord) -> None:
        seen.append(user.get())

    with open_spearlet(on_call=on_call) as spearlet:
        deployed = spearlet.deploy(kitchen.agent)
        user.set("ann")
        deployed.echo(1)
    assert seen == ["ann"]


def test_many_threads_call_at_a_time(deployed: Deployment) -> None:
    results: list[int] = []

    def work(first: int) -> None:
        results.extend(cast("int", deployed.echo(first + each)) for each in range(20))

    threads = [threading.Thread(target=work, args=(20 * each,)) for each in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(results) == set(range(160))


def test_ctrl_c_cancels_the_call(deployed: Deployment, kitchen: Kitchen) -> None:
    with pytest.raises(KeyboardInterrupt):
        deployed.interrupt()
    assert kitchen.cancelled.wait(PATIENCE_SECONDS)
    assert deployed.echo(1) == 1


# -- submitted calls --------------------------------------------------------------------------


def test_submitted_calls_are_waited_for_as_they_end(deployed: Deployment, kitchen: Kitchen) -> None:
    slow = deployed.hang.submit()
    quick = [deployed.echo.submit(each) for each in range(3)]
    ended: list[str] = []
    for execution in as_completed([slow, *quick]):
        ended.append(execution.id)
        if len(ended) == len(quick):
            slow.cancel()
    assert ended[-1] == slow.id
    assert sorted(ended[:-1]) == sorted(each.id for each in quick)
    assert [each.result() for each in quick] == [0, 1, 2]
    assert quick[0].status is spear.ExecutionStatus.COMPLETED
    assert quick[0].instance is not None
    assert "completed" in repr(quick[0])
    with pytest.raises(spear.CallCancelled):
        slow.result()
    assert isinstance(slow.failure, spear.CallCancelled)
    assert list(as_completed([])) == []


def test_a_wait_for_a_submitted_call_may_end_before_it(
    deployed: Deployment, kitchen: Kitchen
) -> None:
    slow = deployed.hang.submit(timeout=PATIENCE_SECONDS)
    with pytest.raises(TimeoutError, match=r"has not ended in 0\.01 s"):
        slow.result(timeout=0.01)
    assert slow.status in (spear.ExecutionStatus.PENDING, spear.ExecutionStatus.RUNNING)
    slow.cancel()


# -- streams ----------------------------------------------------------------------------------


def test_a_stream_is_iterated_over(deployed: Deployment) -> None:
    with deployed.count.stream(1000) as numbers:
        assert list(numbers) == list(range(1000))
        assert list(numbers) == []
        assert numbers.instance is not None


def test_a_stream_fails_after_its_items(deployed: Deployment) -> None:
    with deployed.count.stream(-3) as numbers:
        assert [next(numbers), next(numbers), next(numbers)] == [0, 1, 2]
        with pytest.raises(spear.FunctionRaised):
            next(numbers)
        assert isinstance(numbers.failure, spear.FunctionRaised)


def test_items_are_sent_to_a_function(deployed: Deployment) -> None:
    with deployed.total.stream(sends_items=True) as stream:
        for each in range(100):
            stream.send(each)
        stream.send_eof()
        assert stream.result() == 4950
    with deployed.double.stream(sends_items=True) as stream:
        stream.send(4)
        assert next(stream) == 8


def test_a_stream_of_a_function_with_one_result_is_refused(deployed: Deployment) -> None:
    with pytest.raises(spear.Rejected), deployed.echo.stream(1):
        pytest.fail("the block was entered")


# -- maps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_a_map_gives_results_in_order(deployed: Deployment, *, lazy: bool) -> None:
    items = range(500)
    with deployed.echo.map((each for each in items) if lazy else items) as results:
        assert list(results) == list(items)


def test_a_map_keeps_failures(deployed: Deployment) -> None:
    with deployed.fail.map(iter(["a", "b"]), on_error="keep") as results:
        assert [(each.argument, type(each.error)) for each in results] == [
            ("a", spear.FunctionRaised),
            ("b", spear.FunctionRaised),
        ]
    with pytest.raises(spear.FunctionRaised, match="a"), deployed.fail.map("ab") as results:
        next(iter(results))
    failed = deployed.fail.for_each(iter("abc"), on_error="keep")
    assert sorted(each.argument for each in failed) == ["a", "b", "c"]
    assert deployed.echo.for_each([1, 2]) == []
    with deployed.echo.starmap([(1,), (2,)]) as results:
        assert list(results) == [1, 2]


def test_items_of_a_map_are_pulled_as_they_are_taken(deployed: Deployment) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            pulled.append(len(pulled))
            yield len(pulled)

    with deployed.echo.map(endless(), limit=1) as results:
        assert next(results) == 1
    # The thread has stopped, or stops at the next item.
    assert len(pulled) < 100_000


def test_a_failure_of_the_items_is_raised_after_their_results(deployed: Deployment) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with deployed.echo.map(broken()) as results:
        assert next(results) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)
    with pytest.raises(spear.InvalidArguments, match="must be an iterable"):
        deployed.echo.for_each(cast("list[object]", 5))


# -- deployments ------------------------------------------------------------------------------


def test_a_deployment_is_looked_at_and_changed(spearlet: Spearlet, deployed: Deployment) -> None:
    assert "echo" in deployed.functions
    assert "echo" in dir(deployed)
    assert deployed.streams >= {"count", "double"}
    assert deployed.descriptions()["echo"].summary == "Return the value."
    assert deployed.health().state is DeploymentState.READY
    assert deployed.statistics().ready == 1
    assert spearlet.statistics().deployments.keys() == {"kitchen"}
    assert spearlet.deployments["kitchen"].name == "kitchen"
    assert spearlet.find_function("kitchen.echo")(1) == 1
    assert spearlet.state is SpearletState.RUNNING
    assert repr(spearlet) == "<blocking.Spearlet, running>"
    assert repr(deployed) == "<blocking.Deployment kitchen>"
    assert deployed.logs(5) == ()
    deployed.restart()
    with deployed.follow_logs() as lines:
        deployed.stop()
        assert list(lines) == []
    assert deployed.health().state is DeploymentState.STOPPED


def test_the_end_of_its_block_stops_a_deployment(spearlet: Spearlet, kitchen: Kitchen) -> None:
    with spearlet.deploy(kitchen.agent, name="first") as first:
        assert first.echo(1) == 1
    assert spearlet.deployments == {}
    spearlet.drain()
    with pytest.raises(spear.SpearError, match="draining"):
        spearlet.deploy(kitchen.agent)
    spearlet.stop()


def test_a_number_of_replicas_that_cannot_be_is_refused(deployed: Deployment) -> None:
    with pytest.raises(spear.ConfigurationError):
        deployed.scale(0)


# -- the spearlet and its thread --------------------------------------------------------------


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "spear"]


def test_the_end_of_the_block_ends_the_thread(kitchen: Kitchen) -> None:
    with open_spearlet() as spearlet:
        deployed = spearlet.deploy(kitchen.agent)
        assert threads() == ["spear"]
    assert threads() == []
    assert spearlet.state is SpearletState.STOPPED
    with pytest.raises(spear.WorkerDied) as caught:
        deployed.echo(1)
    assert (caught.value.code, caught.value.delivered) == ("stopped", "no")
    with pytest.raises(spear.SpearError, match="this spearlet is stopped") as refused:
        spearlet.deploy(kitchen.agent)
    assert type(refused.value) is spear.SpearError
    spearlet.close()


def test_an_exception_in_the_block_kills_what_runs(kitchen: Kitchen) -> None:
    running: list[threading.Thread] = []
    failures: list[spear.SpearError] = []

    def hang(deployed: Deployment) -> None:
        try:
            deployed.hang()
        except spear.SpearError as error:
            failures.append(error)

    def fail() -> None:
        with open_spearlet() as spearlet:
            deployed = spearlet.deploy(kitchen.agent)
            running.append(threading.Thread(target=hang, args=(deployed,)))
            running[0].start()
            assert kitchen.begun.wait(PATIENCE_SECONDS)
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fail()
    running[0].join()
    assert kitchen.cancelled.is_set()
    assert len(failures) == 1


def test_a_spearlet_needs_no_block(kitchen: Kitchen) -> None:
    spearlet = open_spearlet()
    assert spearlet.deploy(kitchen.agent).echo(1) == 1
    spearlet.close()
    assert threads() == []


def test_a_spearlet_that_cannot_be_opened_leaves_no_thread() -> None:
    with pytest.raises(spear.ConfigurationError, match="limits"):
        open_spearlet(limits=cast("HostLimits", 5))
    assert threads() == []


async def test_a_task_of_trio_is_told_to_use_trio() -> None:
    with pytest.raises(spear.ConfigurationError, match="async with spear"):
        open_spearlet()


def test_a_call_from_its_own_thread_is_refused(spearlet: Spearlet) -> None:
    agent = spear.Agent("inner")
    echo: list[Function] = []

    @agent.function
    async def outer() -> object:
        return echo[0](1)

    deployed = spearlet.deploy(agent)
    echo.append(deployed.outer)
    with pytest.raises(spear.FunctionRaised, match="own thread") as caught:
        deployed.outer()
    assert caught.value.remote_code == "own_thread"


EXITING = """
import spear.blocking, sys
if __name__ == "__main__":
    spearlet = spear.blocking.open_spearlet()
    kept = spearlet.deploy(sys.argv[1])
    print(kept.pid(), flush=True)
"""

PID = """
import os, spear
app = spear.Agent("pid")
@app.function
def pid() -> int:
    print("asked")
    return os.getpid()
"""


@pytest.mark.slow
def test_an_interpreter_with_an_open_spearlet_exits(tmp_path: Path) -> None:
    (tmp_path / "exiting.py").write_text(EXITING)
    (tmp_path / "pid.py").write_text(PID)
    command = [sys.executable, "exiting.py", "pid.py"]
    ran = subprocess.run(  # our own program
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(ran.stdout), signal.SIGCONT)


@pytest.mark.slow
def test_a_program_runs_in_processes(spearlet: Spearlet, tmp_path: Path) -> None:
    (tmp_path / "pid.py").write_text(PID)
    deployed = spearlet.deploy(tmp_path / "pid.py", replicas=2)
    with deployed.follow_logs() as lines:
        assert deployed.pid() != os.getpid()
        assert next(lines).line.text == "asked"
    deployed.scale(1)
    assert deployed.statistics().ready == 1
    assert deployed.logs()[0].line.text == "asked"
