"""Calls at targets that are no channels, such as a connection to another node will be."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import outcome
import pytest
import trio
import trio.testing

from spear import ChannelBroken, ChannelClosed, InstanceId, WorkerDied
from spear.calls import (
    AssignedInstance,
    CallAttributes,
    CallOptions,
    enter_stream,
    execute_shared,
    perform,
)
from spear.channels import ExecutionResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.lowlevel import Abort, RaiseCancelT

    from spear import CallFailed, DeadlineExceeded, Delivered, SpearError
    from spear.calls import Choice

CALL = CallAttributes(function="price")
SECONDS = 10.0


@attrs.define(eq=False)
class Items:
    """A stream of items that are all there."""

    items: list[bytes]

    async def receive_item(self) -> tuple[bytes, bool]:
        await trio.lowlevel.checkpoint()
        if not self.items:
            raise trio.EndOfChannel
        return self.items.pop(0), False

    async def result(self) -> ExecutionResponse:
        await trio.lowlevel.checkpoint()
        return ExecutionResponse(b"3.5", 0, 0)


@attrs.define(eq=False)
class Node:
    """A target and its callee: another node, whose calls end as the test decides."""

    name: str
    outcome: bytes | SpearError | None = None
    """The result or failure of each call; None for calls that never end."""
    is_fast: bool = False
    is_connected: bool = True
    has_ended: bool = False
    has_capacity: bool = True
    calls_in_flight: int = 0
    max_calls: int = 100
    closed: trio.Event = attrs.field(factory=trio.Event)
    seen: list[str] = attrs.field(factory=list)
    parked: trio.lowlevel.Task | None = None

    @property
    def id(self) -> InstanceId:
        return InstanceId("node", self.name, 1)

    def when_free(self, call: Callable[[], None] | None) -> None: ...

    def start_request(
        self, function: str, payload: object, now: float, deadline: float, *, is_cbor: bool
    ) -> Node | None:
        if self.is_fast:
            self.seen.append(f"{function} until {deadline:g}")
            self.parked = trio.lowlevel.current_task()
        return self if self.is_fast else None

    def abort(self, _: RaiseCancelT, /) -> Abort:
        self.seen.append("abort")
        return trio.lowlevel.Abort.SUCCEEDED

    async def request(
        self, function: str, payload: object = b"", *, timeout: float | None = None, **_: object
    ) -> ExecutionResponse:
        self.seen.append(f"{function} within {timeout:g}")
        await trio.lowlevel.checkpoint()
        if self.outcome is None:
            await trio.sleep_forever()
        if isinstance(self.outcome, bytes):
            return ExecutionResponse(self.outcome, 0, 0)
        self.is_connected = False
        assert self.outcome is not None
        raise self.outcome

    @asynccontextmanager
    async def open_stream(
        self, function: str, payload: object = b"", **_: object
    ) -> AsyncIterator[Items]:
        await trio.lowlevel.checkpoint()
        if not isinstance(self.outcome, bytes):
            self.is_connected = False
            assert self.outcome is not None
            raise self.outcome
        self.seen.append(f"{function} opened")
        yield Items([b"1", b"2"])
        self.seen.append(f"{function} left")

    async def wait_exited(self) -> None:
        await trio.lowlevel.checkpoint()

    async def explain_loss(self, error: ChannelBroken | ChannelClosed) -> CallFailed:
        await trio.lowlevel.checkpoint()
        return WorkerDied(f"{self.name} is gone: {error}")


@attrs.define(eq=False)
class Router:
    """A chooser that gives each attempt the next node."""

    nodes: list[Node]
    call_seconds: float = SECONDS
    clock: Callable[[], float] = trio.current_time

    def pick(self, call: CallAttributes) -> Choice:
        node = self.nodes.pop(0)
        return node, node  # type: ignore[return-value]  # its streams are stand-ins

    async def wait_for_capacity(
        self, call: CallAttributes, deadline: float, *, is_accepted: bool = False
    ) -> Choice:
        raise AssertionError("there is always a node")

    def late(
        self, function: str, begun: float, deadline: float, delivered: Delivered
    ) -> DeadlineExceeded:
        raise AssertionError("no call is late")


@attrs.define(eq=False)
class Tally:
    ends: list[BaseException | None] = attrs.field(factory=list)

    def ended(self, seconds: float, failure: BaseException | None) -> None:
        self.ends.append(failure)


async def call(*nodes: Node, tally: Tally | None = None) -> bytes:
    now = trio.current_time()
    response = await perform(
        Router([*nodes]), CALL, b"", False, now, now + SECONDS, tally or Tally()
    )
    return bytes(response.payload)


def gone(delivered: Delivered) -> ChannelBroken:
    return ChannelBroken("the cable was cut", delivered=delivered)


async def test_a_target_without_a_faster_way_is_asked_and_awaited(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node, tally = Node("a", b"3.5"), Tally()
    assert await call(node, tally=tally) == b"3.5"
    assert node.seen == ["price within 10"]
    assert tally.ends == [None]


async def test_a_call_parks_at_a_target_with_a_faster_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = Node("a", is_fast=True)
    results: list[bytes] = []

    async def caller() -> None:
        results.append(await call(node))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await trio.testing.wait_all_tasks_blocked()
        assert node.parked is not None
        response = ExecutionResponse(b"3.5", 0, 0)
        trio.lowlevel.reschedule(node.parked, outcome.Value(response))
    assert results == [b"3.5"]
    assert node.seen == [f"price until {SECONDS:g}"]


async def test_a_cancelled_call_is_aborted_at_its_target(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node, tally = Node("a", is_fast=True), Tally()
    with trio.move_on_after(1) as scope:
        await call(node, tally=tally)
    assert scope.cancelled_caught
    assert node.seen[1:] == ["abort"]
    assert [type(each) for each in tally.ends] == [trio.Cancelled]


async def test_a_call_that_was_not_delivered_goes_to_the_next_target(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await call(Node("a", gone("no")), Node("b", b"3.5")) == b"3.5"


async def test_a_call_that_may_have_run_is_not_repeated_and_its_callee_explains_the_loss(
    autojump_clock: trio.testing.MockClock,
) -> None:
    second = Node("b", b"3.5")
    with pytest.raises(WorkerDied, match="a is gone: the cable was cut") as caught:
        await call(Node("a", gone("maybe")), second)
    assert caught.value.delivered == "maybe"
    assert second.seen == []


async def test_a_stream_is_opened_at_the_next_target_and_ended_with_its_block(
    autojump_clock: trio.testing.MockClock,
) -> None:
    second, now = Node("b", b""), trio.current_time()
    router = Router([Node("a", gone("no")), second])
    async with AsyncExitStack() as stack:
        stream = await enter_stream(
            stack, router, CALL, b"", False, now, now + SECONDS, sends_items=False
        )
        assert [item async for item in stream] == [b"1", b"2"]
        assert stream.instance == second.id
    assert second.seen == ["price opened", "price left"]


@attrs.define(eq=False)
class Run:
    """The execution that the callers of one key share."""

    assignment: AssignedInstance = attrs.field(factory=AssignedInstance)
    is_accepted: bool = False
    is_lost: bool = False
    has_reported: bool = False

    def assigned(self, instance: InstanceId) -> None:
        self.assignment.assigned(instance)

    def report(self, payload: bytes, is_cbor: bool) -> None:
        raise AssertionError("nothing is reported")


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_call_with_a_key_is_repeated_only_if_the_lost_callee_has_ended(
    has_ended: bool, autojump_clock: trio.testing.MockClock
) -> None:
    first, second = Node("a", gone("maybe"), has_ended=has_ended), Node("b", b"3.5")
    keyed, run = attrs.evolve(CALL, key="7"), Run()
    execute = execute_shared(Router([first, second]), keyed, b"", False, CallOptions(), run)
    if has_ended:
        assert (await execute).payload == b"3.5"
        assert run.assignment.instance == second.id
    else:
        with pytest.raises(WorkerDied, match="a is gone"):
            await execute
        assert second.seen == []
