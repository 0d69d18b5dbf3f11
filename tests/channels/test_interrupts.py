"""R4: Ctrl-C at any moment of an operation leaves its channel clean.

These tests call trio.run themselves, because the interrupt ends the run.
"""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, cast

import pytest
import trio

from spear.channels import (
    call_unprotected,
    open_private_nursery,
    protected_block,
    protected_exit,
    run_to_its_end,
)
from spear.testing import Functions, InterruptSweep, interrupt_sweep

from .helpers import MEMORY_STREAM, echo, open_in_memory

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import FrameType

    from spear.channels import CommunicationChannel, InboundCall

pytestmark = [pytest.mark.slow, pytest.mark.repetitive]

FEW = 60
"""Moments that are tried per operation; the soak run tries all."""

NEVER = 1 << 40
"""A moment that no operation has: the sweep only counts moments."""


async def repeat(call: InboundCall) -> bytes:
    """Send each of the caller's items back."""
    async for item in call:
        await call.send(item)
    return b"end"


async def report(call: InboundCall) -> bytes:
    """Report progress."""
    call.report_progress(b"half")
    return call.payload


FUNCTIONS = Functions({"echo": echo, "repeat": repeat, "report": report})


@asynccontextmanager
async def open_memory() -> AsyncIterator[CommunicationChannel]:
    async with open_in_memory(agent_service=FUNCTIONS, functions=FUNCTIONS.names) as (host, _):
        yield host


@asynccontextmanager
async def open_stream() -> AsyncIterator[CommunicationChannel]:
    async with MEMORY_STREAM.open_pair(agent_service=FUNCTIONS, functions=FUNCTIONS.names) as (
        host,
        _,
    ):
        yield host


async def request(channel: CommunicationChannel) -> None:
    assert (await channel.request("echo", b"mine")).payload == b"mine"


async def request_with_reports(channel: CommunicationChannel) -> None:
    response = await channel.request("report", b"mine", on_progress=lambda *_: None)
    assert response.payload == b"mine"


async def exchange_items(channel: CommunicationChannel) -> None:
    async with channel.open_stream("repeat", sends_items=True) as stream:
        await stream.send(b"item")
        assert await stream.receive() == b"item"
        await stream.send_eof()
        assert (await stream.result()).payload == b"end"


async def is_clean(channel: CommunicationChannel) -> None:
    """Assert that the next calls get their own answers, and that no slot is lost."""
    for number in range(3):
        answer = await channel.request("echo", b"%d" % number)
        assert answer.payload == b"%d" % number
    while channel.calls_in_flight:
        await trio.sleep(0.001)


OPERATIONS = {each.__name__: each for each in (request, request_with_reports, exchange_items)}
CHANNELS = {"memory": open_memory, "stream": open_stream}


def sweep_some(
    open_subject: Callable[[], AbstractAsyncContextManager[CommunicationChannel]],
    operation: Callable[[CommunicationChannel], Awaitable[object]],
    check: Callable[[CommunicationChannel], Awaitable[object]] | None,
    rng: random.Random,
) -> InterruptSweep:
    """Sweep over about ``FEW`` moments, which depend on the seed."""
    moments = interrupt_sweep(open_subject, operation, check, first=NEVER).moments
    stride = max(moments // FEW, 1)
    return interrupt_sweep(
        open_subject, operation, check, first=rng.randint(1, stride), stride=stride
    )


@pytest.mark.parametrize("opened", CHANNELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_r4_ctrl_c_at_any_moment_of_a_call(name: str, opened: str, seed: random.Random) -> None:
    swept = sweep_some(CHANNELS[opened], OPERATIONS[name], is_clean, seed)
    assert swept.runs >= FEW // 2


@pytest.mark.soak
@pytest.mark.parametrize("opened", CHANNELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_r4_ctrl_c_at_each_moment_of_a_call(name: str, opened: str) -> None:
    swept = interrupt_sweep(CHANNELS[opened], OPERATIONS[name], is_clean)
    assert swept.runs > swept.moments // 2


# -- the tools --------------------------------------------------------------------------------------


def press_ctrl_c() -> str:
    signal.raise_signal(signal.SIGINT)
    return "not interrupted"


async def press_ctrl_c_later() -> str:
    await trio.lowlevel.checkpoint()
    return press_ctrl_c()


@trio.lowlevel.enable_ki_protection
async def run_protected(function: Callable[[], Awaitable[str]]) -> str:
    """Run ``function`` in protected code; return its result or exception, and the delayed interrupt."""
    try:
        return await function()
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        with suppress(KeyboardInterrupt):
            await trio.lowlevel.checkpoint()


async def call_it() -> str:
    return call_unprotected(press_ctrl_c)


def test_ctrl_c_ends_what_the_user_wrote_and_nothing_else() -> None:
    assert trio.run(run_protected, call_it) == "interrupted"
    assert trio.run(run_protected, press_ctrl_c_later) == "not interrupted"


def test_ctrl_c_ends_a_handler_of_progress_reports_and_its_call() -> None:
    def on_progress(*_: object) -> None:
        press_ctrl_c()

    async def main() -> None:
        async with open_memory() as channel:
            with pytest.raises(KeyboardInterrupt):
                await channel.request("report", on_progress=on_progress)
            await is_clean(channel)

    trio.run(main)


def test_a_clean_up_comes_to_its_end_and_then_the_interrupt_is_raised() -> None:
    steps: list[str] = []

    async def clean_up() -> None:
        with trio.CancelScope(shield=True):
            press_ctrl_c()
            await trio.sleep(0)
            steps.append("cleaned up")

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        await run_to_its_end(trio.lowlevel.enable_ki_protection(clean_up))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert steps == ["cleaned up"]


def test_an_interrupt_leaves_a_private_nursery_as_it_is() -> None:
    async def main() -> None:
        async with open_private_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


class Counted:
    """Blocks that count how often they are entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    @protected_block
    async def open_block(self) -> AsyncIterator[None]:
        self.entered += 1
        yield
        self.left += 1

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> None:
        self.entered += 1

    @protected_exit
    async def __aexit__(self, *_: object) -> None:
        self.left += 1

    @trio.lowlevel.disable_ki_protection
    async def use(self) -> None:
        """Enter and leave blocks for longer than it takes until the interrupt."""
        for _ in range(200):
            async with self.open_block():
                pass
            async with self:
                pass


def test_a_block_that_was_entered_is_left_whenever_ctrl_c_is_pressed(seed: random.Random) -> None:
    counted = Counted()

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = cast("Callable[[int, FrameType | None], None]", signal.getsignal(signal.SIGINT))
        handler(signal.SIGINT, frame)

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        for _ in range(500):
            signal.setitimer(signal.ITIMER_REAL, seed.uniform(1e-6, 2e-4))
            with suppress(KeyboardInterrupt):
                await counted.use()
            with suppress(KeyboardInterrupt):
                await trio.lowlevel.checkpoint()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        trio.run(main)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert counted.entered == counted.left


async def test_a_block_can_be_entered_by_an_exit_stack() -> None:
    counted = Counted()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(counted.open_block())
        await stack.enter_async_context(counted)
    assert (counted.entered, counted.left) == (2, 2)


def test_a_sweep_finds_what_an_interrupt_leaves_behind() -> None:
    @asynccontextmanager
    async def leaky() -> AsyncIterator[None]:
        descriptors.append(os.open(os.devnull, os.O_RDONLY))
        yield
        os.close(descriptors.pop())

    async def use(_: None) -> None:
        async with leaky():
            await trio.lowlevel.checkpoint()
            begin()

    descriptors: list[int] = []
    with pytest.raises(AssertionError, match=r"before: .* after: ") as caught:
        interrupt_sweep(nullcontext, use)
    assert caught.value.__notes__[0].startswith("interrupted at moment ")
    os.close(descriptors.pop())


def begin() -> None:
    """Provide a moment: the beginning of a function."""


def test_a_sweep_finds_who_swallows_the_interrupt() -> None:
    async def swallow(_: None) -> None:
        with suppress(KeyboardInterrupt):
            begin()

    with pytest.raises(AssertionError, match="no KeyboardInterrupt was raised"):
        interrupt_sweep(nullcontext, swallow)


async def hang(_: None) -> None:
    await trio.sleep_forever()


def test_a_sweep_ends_what_hangs() -> None:
    with pytest.raises(AssertionError, match="the operation did not end within"):
        interrupt_sweep(nullcontext, hang, hang_seconds=0.01)
