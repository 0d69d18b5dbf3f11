"""An exception of a function whose caller has left is logged in one line, and counted."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import Agent, DeadlineExceeded

from .helpers import NOTICED_THERE, Caller, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.agent import RegisteredFunctionStatistics


class Late:
    """Functions of every kind that raise when they are cancelled, or later.

    Attributes:
        begun: set when a function waits.
        release: set by a test to let the plain functions continue.
    """

    def __init__(self, how: str = "raise") -> None:
        self.begun = trio.Event()
        self.release = threading.Event()
        self.how = how
        self.agent = Agent()
        for function in (self.waits, self.nursery, self.plain, self.items, self.plain_items):
            self.agent.function(function)
        for function in (self.in_asyncio, self.asyncio_items):
            self.agent.function(asyncio=True)(function)

    def begin(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.begun.set()
        else:
            self.agent.service.token.run_sync_soon(self.begun.set)

    def clean_up(self) -> None:
        if self.how == "raise":
            raise ValueError("while\ncleaning up " + "x" * 1000)

    async def waits(self) -> None:
        try:
            self.begin()
            await trio.sleep_forever()
        finally:
            self.clean_up()

    async def nursery(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.waits)
            nursery.start_soon(trio.sleep_forever)

    def plain(self) -> None:
        self.begin()
        self.release.wait()
        self.clean_up()

    async def in_asyncio(self) -> None:
        try:
            self.begin()
            await asyncio.sleep(1000)
        finally:
            self.clean_up()

    async def items(self) -> AsyncIterator[int]:
        try:
            yield 1
            self.begin()
            await trio.sleep_forever()
        finally:
            self.clean_up()

    def plain_items(self) -> Iterator[int]:
        try:
            yield 1
            self.begin()
            self.release.wait()
            yield 2
        finally:
            self.clean_up()

    async def asyncio_items(self) -> AsyncIterator[int]:
        try:
            yield 1
            self.begin()
            await asyncio.sleep(1000)
        finally:
            self.clean_up()

    def of(self, name: str) -> RegisteredFunctionStatistics:
        return next(each for each in self.agent.service.statistics() if each.name == name)


async def leave(late: Late, caller: Caller, name: str) -> None:
    """Call a function, cancel the call while the function runs, and wait until the function has ended."""
    async with trio.open_nursery() as nursery:
        is_stream = name in late.agent.streams
        nursery.start_soon(caller.items if is_stream else caller.call, name)
        await late.begun.wait()
        nursery.cancel_scope.cancel()
    late.release.set()
    while caller.channel.statistics().calls_in_flight:
        await trio.sleep(0.001)


NAMES = Late().agent.functions


@pytest.mark.parametrize("name", NAMES)
async def test_what_a_function_raises_when_its_caller_has_gone_is_logged_and_counted(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    late = Late()
    async with calling(late.agent) as caller:
        await leave(late, caller, name)
        assert late.of(name).late == 1
    (record,) = [each for each in caplog.records if each.name == f"spear.function.{name}"]
    assert record.getMessage().startswith(
        "after the end of the call (cancelled by the caller), the function raised ValueError: while "
        "cleaning up xxx"
    )
    assert len(record.getMessage()) < 600
    assert record.levelname == "WARNING"
    assert record.__dict__["call"] > 0


@pytest.mark.parametrize("name", NAMES)
async def test_a_function_that_ends_as_it_was_told_to_leaves_no_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    late = Late("end")
    async with calling(late.agent) as caller:
        await leave(late, caller, name)
        assert (late.of(name).late, late.of(name).failed) == (0, 0)
    assert not [each for each in caplog.records if each.name.startswith("spear.function")]


async def test_what_is_about_the_call_itself_is_told_to_nobody_twice(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    app = Agent()

    @app.function
    async def ask(raises: bool) -> None:
        call = spear.context()._call
        call.cancel(DeadlineExceeded("the call's deadline has passed", delivered="yes"))
        if raises:
            raise KeyError("tea")
        spear.agent._failures.about_call(failure := spear.InvalidArguments("of this call"))
        raise failure

    async with calling(app) as caller:
        for raises in (False, True):
            with pytest.raises(DeadlineExceeded):
                await caller.call("ask", raises)
    assert caplog.messages == [
        "after the end of the call (the call's deadline has passed), the function raised KeyError: 'tea'"
    ]
    assert app.service.statistics()[0].late == 1


@pytest.mark.parametrize("name", ["plain", "items"])
async def test_a_call_that_was_late_before_it_got_a_thread_was_certainly_not_delivered(
    name: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spear.agent._app.MAX_THREADS", 1)
    app, release, holding = Agent(), threading.Event(), trio.Event()
    ran: list[str] = []

    @app.function
    def hold() -> None:
        app.service.token.run_sync_soon(holding.set)
        release.wait()

    @app.function
    def plain() -> None:
        ran.append("plain")

    @app.function
    def items() -> Iterator[None]:
        ran.append("items")
        yield

    async def call(caller: Caller) -> None:
        if name == "plain":
            await caller.call(name, timeout=NOTICED_THERE)
        async with caller.channel.open_stream(name, timeout=NOTICED_THERE) as stream:
            await stream.receive()

    async with calling(app) as caller, trio.open_nursery() as nursery:
        nursery.start_soon(partial(caller.call, "hold", timeout=inf))
        try:
            await holding.wait()
            with pytest.raises(DeadlineExceeded) as raised:
                await call(caller)
            assert raised.value.delivered == "no"
        finally:
            release.set()
    assert ran == []
