"""Ctrl-C at any moment: no call gets another call's result, no slot is lost, and nothing is left.

These tests call trio.run themselves, because the interrupt ends the run.
"""

from __future__ import annotations

import json
import sys
import threading
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import pytest
import trio
from trio.lowlevel import currently_ki_protected

import spear
from spear import Agent, Items, Scale, open_spearlet
from spear.testing import interrupt_sweep
from spear.wire import encode_call

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import FrameType

    from spear.spearlet import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.repetitive]

FEW = 60
"""Moments that are tried per operation; the soak run tries all."""

NEVER = 1 << 40
"""A moment that no operation has: the sweep only counts moments."""

FILE = """
import spear

app = spear.Agent()

@app.function
async def echo(value: str) -> str:
    spear.context().progress("half")
    return value

@app.function
def plain(value: str) -> str:
    return value

@app.function
async def repeat(items: spear.Items[str]):
    async for item in items:
        yield item

@app.function
async def relay(value: str) -> str:
    return await spear.call("echo", value)
"""

app = Agent(name="app", concurrency=2)


@app.function
async def echo(value: str) -> str:
    await trio.lowlevel.checkpoint()
    return value


@app.function
async def repeat(items: Items[str]) -> AsyncIterator[str]:
    async for item in items:
        yield item


@app.function
async def relay(value: str) -> str:
    return cast("str", await spear.call("echo", value))


@asynccontextmanager
async def open_deployment() -> AsyncIterator[Deployment]:
    async with open_spearlet() as spearlet:
        yield await spearlet.deploy(app)


async def call(deployment: Deployment) -> None:
    assert await deployment.echo("mine") == "mine"


async def call_back(deployment: Deployment) -> None:
    assert await deployment.relay("mine") == "mine"


async def call_once(deployment: Deployment) -> None:
    assert await deployment.echo.options(key="1")("mine") == "mine"


async def submit(deployment: Deployment) -> None:
    assert await deployment.echo.submit("mine").result() == "mine"


async def stream(deployment: Deployment) -> None:
    async with deployment.repeat.stream(sends_items=True) as items:
        await items.send("mine")
        assert await anext(items) == "mine"


async def wait_in_the_queue(deployment: Deployment) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):  # one more than the function takes
            nursery.start_soon(call, deployment)


async def is_clean(deployment: Deployment) -> None:
    """Assert that all slots can be used at a time, and that each call gets its own answer."""

    async def check(number: int) -> None:
        assert await deployment.echo(str(number)) == str(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(check, number)
    while deployment.statistics().calls_in_flight:
        await trio.sleep(0.001)
    async with (
        deployment.repeat.stream(sends_items=True),
        deployment.repeat.stream(sends_items=True),
    ):
        assert deployment.statistics().calls_in_flight == 2


OPERATIONS = {
    each.__name__: each for each in (call, call_back, call_once, submit, stream, wait_in_the_queue)
}


def strides(moments: int, few: int, rng: random.Random) -> tuple[int, int]:
    """Return the first moment, and the distance between moments."""
    stride = max(moments // few, 1)
    return rng.randint(1, stride), stride


@pytest.mark.parametrize("name", OPERATIONS)
def test_r4_ctrl_c_at_any_moment_of_a_call(name: str, seed: random.Random) -> None:
    operation = OPERATIONS[name]
    moments = interrupt_sweep(open_deployment, operation, first=NEVER).moments
    first, stride = strides(moments, FEW, seed)
    swept = interrupt_sweep(open_deployment, operation, is_clean, first=first, stride=stride)
    assert swept.runs >= FEW // 2


@pytest.mark.soak
@pytest.mark.parametrize("name", OPERATIONS)
def test_r4_ctrl_c_at_each_moment_of_a_call(name: str) -> None:
    swept = interrupt_sweep(open_deployment, OPERATIONS[name], is_clean)
    assert swept.runs >= swept.moments // 2


# -- a whole program --------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(FILE)
    return str(path)


def children() -> set[str]:
    """Return the child processes of this one."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


async def live_in_here(_: None) -> None:
    async with open_spearlet() as spearlet:
        await call(await spearlet.deploy(app))


def live_in_processes(program: str) -> Callable[[None], Awaitable[None]]:
    async def live(_: None) -> None:
        async with open_spearlet() as spearlet, await spearlet.deploy(program) as deployment:
            await call(deployment)

    return live


def sweep_life(live: Callable[[None], Awaitable[None]], few: int, rng: random.Random) -> None:
    moments = interrupt_sweep(nullcontext, live, first=NEVER).moments
    first, stride = strides(moments, few, rng)
    before = children()
    swept = interrupt_sweep(nullcontext, live, first=first, stride=stride)
    assert swept.runs >= min(few, moments) // 2
    assert children() == before


def test_r4_ctrl_c_at_any_moment_of_a_spearlet(seed: random.Random) -> None:
    sweep_life(live_in_here, FEW, seed)


def test_r4_ctrl_c_at_any_moment_of_a_host_with_processes(
    program: str, seed: random.Random
) -> None:
    sweep_life(live_in_processes(program), 10, seed)


@pytest.mark.soak
def test_r4_ctrl_c_at_each_moment_of_a_spearlet(seed: random.Random) -> None:
    sweep_life(live_in_here, 10_000, seed)


@pytest.mark.soak
def test_r4_ctrl_c_at_many_moments_of_a_host(program: str, seed: random.Random) -> None:
    sweep_life(live_in_processes(program), 1_000, seed)


# -- protected code ---------------------------------------------------------------------------------


class UnprotectedCode:
    """A tracer of the functions of Spear in which Trio would raise KeyboardInterrupt."""

    HOME = str(Path(spear.__file__).parent) + "/"
    EXCEPT = (
        "_", "testing/", "spearlet/_settings.py",
        "annotations/", "agent/_item_annotations.py", "agent/_describe.py", "agent/_wrappers.py",
    )  # fmt: skip
    """Leaves, values that users create, and code that inspects functions: they change no state."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)  # type: ignore[arg-type]  # a method that returns itself
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> object:
        path = frame.f_code.co_filename.removeprefix(self.HOME)
        if path == frame.f_code.co_filename or path.startswith(self.EXCEPT):
            return None
        if (
            event == "line"
            and threading.current_thread() is threading.main_thread()
            and not is_import(frame)
            and not currently_ki_protected()
        ):
            self.found.add(f"{path}: {frame.f_code.co_qualname}")
        return self._trace


MAY_BE_INTERRUPTED = {
    "agent/_context.py: context",
    "agent/_functions.py: AsyncFunction.run",
    "agent/_functions.py: AsyncStream.run",
    "agent/_outgoing_calls.py: call",
    "channels/_interrupts.py: call_unprotected",
}
"""Functions that only call user code from Spear, or Spear from user code."""


def is_import(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame is not None and "importlib" in str(frame.f_back)


async def use_everything(deployment: Deployment) -> None:
    for operation in OPERATIONS.values():
        await operation(deployment)
    with trio.move_on_after(0):
        await call(deployment)
    await deployment.descriptions()
    await deployment.echo.signature()
    await deployment.echo.ask("mine")
    async with deployment.follow_logs():
        pass
    deployment.statistics()
    deployment.health()


async def host_everything(program: str) -> None:
    async with open_spearlet() as spearlet:
        await use_everything(await spearlet.deploy(app))
        await spearlet.stop()
        deployment = await spearlet.deploy(program, replicas=2)
        await use_everything(deployment)
        await deployment.scale(1)
        await deployment.restart()
        await deployment.stop()
        async with await spearlet.deploy(
            program, name="scaled", replicas=Scale(min=0, max=2)
        ) as scaled:
            assert await scaled.plain("mine") == "mine"
        await spearlet.drain()
        spearlet.statistics()


def test_no_line_of_spear_is_open_to_ctrl_c(program: str) -> None:
    with UnprotectedCode() as unprotected:
        trio.run(host_everything, program)
    assert unprotected.found - MAY_BE_INTERRUPTED == set()


async def test_callbacks_of_the_user_are_open_to_ctrl_c(program: str) -> None:
    """Otherwise Ctrl-C could not end a loop in a callback."""
    protected: list[tuple[str, bool]] = []

    def observe(name: str) -> Callable[[object], None]:
        return lambda _: protected.append((name, currently_ki_protected()))

    async with open_spearlet(on_call=observe("on_call")) as spearlet:
        deployment = await spearlet.deploy(program, on_event=observe("on_event"))
        await deployment.echo.options(on_progress=observe("call"))("mine")
        await deployment.echo.options(key="1", on_progress=observe("keyed"))("mine")
        await deployment.echo.options(on_progress=observe("submit")).submit("mine").result()
        (replica,) = deployment.replicas
        assert replica.channel is not None
        watch = observe("request")
        arguments = encode_call("echo", ("mine",), {})[0]
        await replica.channel.request(
            "echo", arguments, is_cbor=True, on_progress=lambda *_: watch(None)
        )
    assert {name for name, _ in protected} == {
        "on_call", "on_event", "call", "keyed", "submit", "request",
    }  # fmt: skip
    assert not any(is_protected for _, is_protected in protected)


# -- many interrupts --------------------------------------------------------------------------------


async def endure(calls: int, interrupts: int) -> None:
    command = [sys.executable, "-m", "tests.spearlet.storm", str(calls), str(interrupts)]
    ended = await trio.run_process(command, capture_stdout=True)
    story = json.loads(ended.stdout)
    assert story["wrong"] == 0
    assert story["calls"] >= calls
    assert story["interrupts"] >= interrupts
    assert story["children"] == []


async def test_an_interrupt_gives_no_call_the_result_of_another() -> None:
    await endure(calls=1_000, interrupts=40)


@pytest.mark.soak
async def test_a_storm_of_interrupts_gives_no_call_the_result_of_another() -> None:
    await endure(calls=64_000, interrupts=1_600)
