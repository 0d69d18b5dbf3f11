"""The context of a call inside a function, and calls from a function back to the host."""

from __future__ import annotations

import logging
import math
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import (
    Agent,
    CallFailed,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    NotInCall,
    Overloaded,
    WireLimits,
)
from spear.wire import decode_result

from .helpers import INSTANCE, Caller, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.channels import CommunicationChannel, InboundCall
    from spear.wire import Head, Payload, Value


class Switchboard:
    """A host that forwards calls of its agents to other agents of its own."""

    def __init__(self) -> None:
        self.channels: dict[str, CommunicationChannel] = {}

    def refuse(self, function: int, head: Head | None) -> CallFailed | None:
        name = (head or {}).get("function")
        return None if name in self.channels else NotFound(f"the host has no {name!r}")

    async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
        name = str((call.head or {})["function"])
        remaining = call.deadline - trio.current_time()
        channel = self.channels[name]
        if call.wants_stream:
            async with channel.open_stream(
                name, call.payload, timeout=remaining, is_cbor=call.is_cbor
            ) as stream:
                while True:
                    try:
                        payload, is_cbor = await stream.receive_item()
                    except trio.EndOfChannel:
                        return b"", False
                    await call.send(payload, is_cbor=is_cbor)
        response = await channel.request(
            name,
            call.payload,
            timeout=remaining,
            is_cbor=call.is_cbor,
            metadata={"caller": "a"},
            key=call.key,
        )
        return response.payload, response.is_cbor


class Town:
    """Agents that can call each other; each runs in a task of the nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.switchboard = Switchboard()

    async def settle(self, agent: Agent) -> Caller:
        caller: Caller = await self._nursery.start(self._live, agent)
        for name in agent.functions:
            self.switchboard.channels[name] = caller.channel
        return caller

    async def _live(self, agent: Agent, task_status: trio.TaskStatus[Caller]) -> None:
        async with calling(agent, host=self.switchboard) as caller:
            task_status.started(caller)
            await trio.sleep_forever()


@pytest.fixture
def town(nursery: trio.Nursery) -> Town:
    return Town(nursery)


# -- outside a call -----------------------------------------------------------------------------------


async def test_outside_a_call_there_is_none() -> None:
    with pytest.raises(NotInCall, match="this code runs outside of a call"):
        spear.context()
    with pytest.raises(LookupError):
        await spear.call("price")


# -- the context's data -------------------------------------------------------------------------------


async def test_a_call_knows_itself(caplog: pytest.LogCaptureFixture) -> None:
    app = Agent()
    caplog.set_level(logging.INFO)

    def look() -> dict[str, object]:
        context = spear.context()
        context.logger.info("looked at %s", "it")
        return {
            "function": context.function,
            "call": context.call_id,
            "instance": str(context.instance_id),
            "caller": context.caller,
            "metadata": dict(context.metadata),
            "cancelled": context.is_cancelled,
            "repr": repr(context),
        }

    @app.function(name="look")
    async def async_look() -> dict[str, object]:
        return look()

    app.function(name="plain_look")(look)
    async with calling(app) as caller:
        for number, name in [(1, "look"), (3, "plain_look")]:
            assert await caller.call(name) == {
                "function": name,
                "call": number,
                "instance": str(INSTANCE),
                "caller": "host",
                "metadata": {},
                "cancelled": False,
                "repr": f"<CallContext {name}, call {number} of {INSTANCE}>",
            }
            record = caplog.records[-1]
            assert (record.name, record.getMessage()) == (f"spear.function.{name}", "looked at it")
            assert record.__dict__["call"] == number
        found = await caller.call("look", metadata={"caller": "process:a#1", "n": 5})
        assert isinstance(found, dict)
        assert found["caller"] == "process:a#1"
        assert found["metadata"] == {"caller": "process:a#1", "n": 5}
        found = await caller.call("look", metadata={"caller": 5})
        assert isinstance(found, dict)
        assert found["caller"] == "host"


async def test_the_remaining_time_is_known(autojump_clock: trio.testing.MockClock) -> None:
    app = Agent()

    @app.function
    async def wait(seconds: float) -> list[float]:
        await trio.sleep(seconds)
        context = spear.context()
        return [context.remaining_seconds(), context.deadline - trio.current_time()]

    async with calling(app) as caller:
        assert await caller.call("wait", 2, timeout=5) == pytest.approx([3, 3])
        assert await caller.call("wait", 2, timeout=math.inf) == [math.inf, math.inf]


async def test_the_remaining_time_is_known_in_threads(mock_clock: trio.testing.MockClock) -> None:
    app = Agent()

    @app.function
    def plain() -> float:
        return spear.context().remaining_seconds()

    async with calling(app) as caller:
        assert await caller.call("plain", timeout=5) == 5
        assert await caller.call("plain") == WireLimits().call_seconds


async def test_r8_no_time_is_left_when_the_deadline_has_passed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = Agent()
    seen: list[object] = []
    looked = trio.Event()

    @app.function
    async def clean_up() -> None:
        try:
            await trio.sleep_forever()
        finally:
            context = spear.context()
            seen.extend([context.remaining_seconds(), context.is_cancelled, trio.current_time()])
            looked.set()

    async with calling(app) as caller:
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await caller.call("clean_up", timeout=2)
        assert trio.current_time() - begun == pytest.approx(2)
        await looked.wait()
    assert seen == [0.0, True, pytest.approx(begun + 2)]


async def test_a_plain_function_sees_that_it_is_cancelled() -> None:
    app = Agent()
    go = threading.Event()
    started, looked = trio.Event(), trio.Event()
    seen: list[object] = []

    @app.function
    def work() -> None:
        trio.from_thread.run_sync(started.set)
        go.wait()
        context = spear.context()
        seen.extend([context.is_cancelled, context.remaining_seconds()])
        trio.from_thread.run_sync(looked.set)

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "work")
            await started.wait()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        go.set()
        await looked.wait()
    assert seen == [True, 0.0]


# -- progress -----------------------------------------------------------------------------------------


async def test_progress_arrives_from_tasks_and_threads() -> None:
    app = Agent()
    gate = trio.Semaphore(0)

    @app.function
    async def work() -> None:
        for percent in (10, b"raw"):
            spear.context().progress(percent)
            await gate.acquire()

    @app.function
    def plain_work() -> None:
        context = spear.context()
        thread = threading.Thread(target=context.progress, args=({"at": "other thread"},))
        context.progress([1, 2])
        trio.from_thread.run(gate.acquire)
        thread.start()
        thread.join()
        trio.from_thread.run(gate.acquire)

    seen: list[Value] = []

    def on_progress(payload: bytes, is_cbor: bool) -> None:
        seen.append(decode_result(payload, is_cbor))
        gate.release()

    async with calling(app) as caller:
        await caller.call("work", on_progress=on_progress)
        assert seen == [10, b"raw"]
        seen.clear()
        await caller.call("plain_work", on_progress=on_progress)
        assert seen == [[1, 2], {"at": "other thread"}]


async def test_progress_must_be_something_that_can_be_sent() -> None:
    app = Agent()

    @app.function
    async def work() -> None:
        spear.context().progress(object())

    async with calling(app) as caller:
        with pytest.raises(FunctionRaised, match="TypeError: cannot send a value of type object"):
            await caller.call("work")


# -- calls back ---------------------------------------------------------------------------------------


async def test_functions_call_other_functions_of_the_host(town: Town) -> None:
    shop, stock = Agent(), Agent()

    @shop.function
    async def price(item: str) -> Value:
        return await spear.call("count", item, at_least=2)

    @shop.function
    async def raw(data: bytes) -> Value:
        return await spear.context().call("flip", data)

    @shop.function
    def plain_price(item: str) -> Value:
        return spear.context().call_sync("count", item, at_least=3)

    @stock.function
    async def count(item: str, *, at_least: int) -> list[object]:
        return [item, at_least, spear.context().caller]

    @stock.function
    def flip(data: bytes) -> bytes:
        return data[::-1]

    caller = await town.settle(shop)
    await town.settle(stock)
    assert await caller.call("price", "tea") == ["tea", 2, "a"]
    assert await caller.call("plain_price", "tea") == ["tea", 3, "a"]
    assert await caller.call("raw", b"abc") == b"cba"


async def test_a_key_goes_with_what_must_happen_once(town: Town) -> None:
    shop, bank = Agent(), Agent()

    @shop.function
    async def order(item: str) -> Value:
        return await spear.call_once(f"pay {item}", "transfer", 5, to="shop", timeout=3)

    @bank.function
    async def transfer(amount: int, *, to: str) -> list[object]:
        here = spear.context()
        return [amount, to, here.key, here.remaining_seconds() <= 3]

    caller = await town.settle(shop)
    await town.settle(bank)
    assert await caller.call("order", "tea") == [5, "shop", "pay tea", True]


async def test_functions_take_streams_of_other_functions(town: Town) -> None:
    shop, stock = Agent(), Agent()

    @shop.function
    async def some(n: int) -> list[object]:
        async with spear.context().stream("numbers", n) as numbers:
            return [number async for number in numbers]

    @shop.function
    async def mine() -> None:
        async with spear.context().stream("numbers", 1):
            raise Overloaded("mine")

    @stock.function
    async def numbers(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        if n > 5:
            raise ValueError("enough")

    caller = await town.settle(shop)
    await town.settle(stock)
    assert await caller.call("some", 5) == [0, 1, 2, 3, 4]
    with pytest.raises(FunctionRaised, match="ValueError: enough"):
        await caller.call("some", 6)
    with pytest.raises(Overloaded, match="mine"):
        await caller.call("mine")


async def hops(town: Town) -> list[float]:
    """Return the milliseconds that each function of a chain of three had left when it began."""
    seen: list[float] = []
    agents = [Agent(), Agent(), Agent()]

    def add(agent: Agent, name: str, following: str | None) -> None:
        async def hop() -> None:
            seen.append(spear.context().remaining_seconds() * 1000)
            if following:
                await spear.call(following)

        agent.function(name=name)(hop)

    for agent, name, following in zip(agents, "abc", ["b", "c", None], strict=True):
        add(agent, name, following)
    callers = [await town.settle(agent) for agent in agents]
    await callers[0].call("a", timeout=5)
    return seen


async def test_r8_remaining_budget_strictly_decreases_over_three_hops(town: Town) -> None:
    first, second, third = await hops(town)
    assert 5000 >= first > second > third


async def test_r8_it_decreases_even_if_no_time_passes(
    town: Town, mock_clock: trio.testing.MockClock
) -> None:
    first, second, third = await hops(town)
    assert [round(each, 3) for each in (first, second, third)] == [5000, 4999, 4998]


async def test_r8_functions_that_call_each_other_come_to_an_end(
    town: Town, mock_clock: trio.testing.MockClock
) -> None:
    app = Agent()
    depth = 0

    @app.function
    async def again() -> None:
        nonlocal depth
        depth += 1
        await spear.call("again")

    caller = await town.settle(app)
    with pytest.raises(DeadlineExceeded, match="again took longer than") as raised:
        await caller.call("again", timeout=0.020)
    assert raised.value.delivered == "yes"
    assert depth == 20  # one millisecond per hop, although the clock stands still


async def test_r8_a_call_back_gets_no_more_time_than_is_left(
    town: Town, autojump_clock: trio.testing.MockClock
) -> None:
    app = Agent()

    @app.function
    async def left() -> float:
        return spear.context().remaining_seconds()

    @app.function
    async def ask(timeout: float | None) -> list[Value]:
        context = spear.context()
        return [context.remaining_seconds(), await spear.call("left", timeout=timeout)]

    caller = await town.settle(app)
    assert await caller.call("ask", None, timeout=5) == pytest.approx([5, 4.999])
    assert await caller.call("ask", 2.0, timeout=5) == pytest.approx([5, 2])
    assert await caller.call("ask", 9.0, timeout=5) == pytest.approx([5, 4.999])
    assert await caller.call("ask", math.inf, timeout=5) == pytest.approx([5, 4.999])
    # Without a deadline of its own: the call that it makes gets the default, or none with inf.
    assert await caller.call("ask", None, timeout=math.inf) == [math.inf, WireLimits().call_seconds]
    assert await caller.call("ask", math.inf, timeout=math.inf) == [math.inf, math.inf]


async def test_r8_time_that_runs_out_deeper_in_runs_out_for_the_caller(
    town: Town, autojump_clock: trio.testing.MockClock
) -> None:
    app = Agent()

    @app.function
    async def sleep() -> None:
        await trio.sleep_forever()

    @app.function
    async def ask() -> None:
        await spear.call("sleep")

    caller = await town.settle(app)
    with pytest.raises(DeadlineExceeded) as raised:
        await caller.call("ask", timeout=5)
    assert raised.value.delivered == "yes"


async def test_r14_a_failed_call_back_does_not_look_as_if_we_had_not_run(town: Town) -> None:
    app = Agent()

    @app.function
    async def busy() -> None:
        raise Overloaded("busy")

    @app.function
    async def fail() -> None:
        raise ValueError("wrong")

    @app.function
    async def ask(name: str) -> Value:
        return await spear.call(name)

    @app.function
    def plain_ask(name: str) -> Value:
        return spear.context().call_sync(name)

    @app.function
    async def handle(name: str) -> str:
        try:
            await spear.call(name)
        except CallFailed as failure:
            return f"{type(failure).__name__} {failure.delivered}"
        raise AssertionError

    @app.function
    async def in_nursery(name: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, name)

    caller = await town.settle(app)
    for ask_name in ("ask", "plain_ask"):
        for name, kind in [("nowhere", "NotFound"), ("fail", "ValueError")]:
            with pytest.raises(FunctionRaised) as raised:
                await caller.call(ask_name, name)
            assert raised.value.type_name == kind
            assert raised.value.delivered == "yes"
        with pytest.raises(Overloaded) as overloaded:
            await caller.call(ask_name, "busy")
        assert overloaded.value.delivered == "yes"
    assert await caller.call("handle", "busy") == "Overloaded yes"
    assert await caller.call("handle", "nowhere") == "NotFound no"
    with pytest.raises(FunctionRaised, match="NotFound: the host has no 'nowhere'"):
        await caller.call("in_nursery", "nowhere")


async def test_r9_a_cancelled_call_cancels_what_it_has_called(town: Town) -> None:
    app = Agent()
    started, ended = trio.Event(), trio.Event()

    @app.function
    async def sleep() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    @app.function
    async def ask() -> None:
        await spear.call("sleep")

    @app.function
    def plain_ask() -> None:
        spear.context().call_sync("sleep")

    caller = await town.settle(app)
    for name in ("ask", "plain_ask"):
        started, ended = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, name)
            await started.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()


async def test_call_sync_is_for_threads(town: Town) -> None:
    app = Agent()

    @app.function
    async def wrong() -> Value:
        return spear.context().call_sync("wrong")

    caller = await town.settle(app)
    with pytest.raises(FunctionRaised, match="LocalProtocolError: call_sync"):
        await caller.call("wrong")


async def test_arguments_of_a_call_back_must_be_something_that_can_be_sent(town: Town) -> None:
    app = Agent()

    @app.function
    async def odd(kind: str) -> str:
        context = spear.context()
        try:
            if kind == "object":
                await spear.call("odd", 1, [object()])
            elif kind == "fraction":
                await context.call("odd", part=Fraction(1, 2))
            async with context.stream("odd", "\ud800"):
                raise AssertionError
        except InvalidArguments as error:
            return f"{error.delivered}: {error}"

    @app.function
    def plain_odd() -> object:
        return spear.context().call_sync("odd", object())

    caller = await town.settle(app)
    assert await caller.call("odd", "object") == (
        "no: odd(argument 2[0]): cannot send a value of type object: "
        "send numbers, text, bytes, lists, dicts, attrs or dataclass objects, or an object with a "
        "codec (spear.codec) instead"
    )
    assert await caller.call("odd", "fraction") == (
        "no: odd(part=...): cannot send a value of type Fraction: send text, such as str(value) instead"
    )
    assert await caller.call("odd", "text") == (
        "no: odd(argument 1): cannot send text that is not Unicode: "
        "send bytes, such as os.fsencode() instead"
    )
    with pytest.raises(
        FunctionRaised, match=r"InvalidArguments: odd\(argument 1\): cannot"
    ) as raised:
        await caller.call("plain_odd")
    assert raised.value.delivered == "yes"


async def test_a_host_that_answers_nonsense_fails_the_call_back() -> None:
    app = Agent()

    @app.function
    async def ask() -> Value:
        return await spear.call("anything")

    @app.function
    async def follow() -> list[Value]:
        async with spear.context().stream("anything") as items:
            return [item async for item in items]

    class Nonsense:
        def refuse(self, function: int, head: Head | None) -> CallFailed | None:
            return None

        async def handle(self, call: InboundCall) -> tuple[Payload, bool]:
            if call.wants_stream:
                await call.send(b"\xff", is_cbor=True)
            return b"\xff", True

    async with calling(app, host=Nonsense()) as caller:
        for name in ("ask", "follow"):
            with pytest.raises(
                FunctionRaised, match=r"CallFailed: anything: cannot decode .*: not a valid"
            ):
                await caller.call(name)
