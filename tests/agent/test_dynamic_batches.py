"""Functions that get the items of several calls at once: ``@app.batched``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import spear
from spear import Agent, ConfigurationError, DeadlineExceeded, FunctionRaised, InvalidArguments

from .helpers import NOTICED_THERE, Caller, calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from trio.testing import MockClock

WAIT = 0.005
"""The default of ``max_wait_seconds``."""


@attrs.define
class Model:
    """A batched function that doubles numbers, and records its batches.

    Attributes:
        seconds: the duration of a batch.
        batches: the time and the items of each batch.
        cancelled: the number of batches that were cancelled.
        running, most: batches that run, and the most at a time.
    """

    seconds: float = 0.0
    batches: list[tuple[float, list[int]]] = attrs.field(factory=list)
    cancelled: int = 0
    running: int = 0
    most: int = 0

    async def double(self, items: list[int]) -> list[int]:
        """Return twice the number."""
        self.batches.append((trio.current_time(), list(items)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return [2 * item for item in items]

    @property
    def items(self) -> list[list[int]]:
        return [items for _, items in self.batches]


Found = dict[int, "object"]


async def call(caller: Caller, item: int, found: Found, name: str = "double") -> None:
    try:
        found[item] = await caller.call(name, item)
    except spear.SpearError as error:
        found[item] = error


async def call_in_order(
    nursery: trio.Nursery, caller: Caller, items: Sequence[int], found: Found, name: str = "double"
) -> None:
    """Begin calls, one after the other, without any time between them."""
    for item in items:
        nursery.start_soon(call, caller, item, found, name)
        await trio.testing.wait_all_tasks_blocked()


async def test_calls_are_gathered_in_the_order_of_their_arrival(autojump_clock: MockClock) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        begun = trio.current_time()
        await call_in_order(nursery, caller, [3, 1, 2], found)
    assert model.items == [[3, 1, 2]]
    assert model.batches[0][0] == pytest.approx(begun + WAIT)
    assert found == {3: 6, 1: 2, 2: 4}


async def test_a_batch_waits_from_its_first_item_on_and_a_full_one_not_at_all(
    autojump_clock: MockClock,
) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(max_size=3, max_wait_seconds=10, max_concurrent_batches=9)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        begun = trio.current_time()
        await call_in_order(nursery, caller, [1, 2, 3, 4], found)
        assert model.items == [[1, 2, 3]]
        await trio.sleep(7)
        await call_in_order(nursery, caller, [5], found)
    assert model.items == [[1, 2, 3], [4, 5]]
    assert [time for time, _ in model.batches] == [begun, pytest.approx(begun + 10)]
    assert found == {item: 2 * item for item in range(1, 6)}


async def test_without_a_wait_a_batch_has_the_calls_that_are_there(
    autojump_clock: MockClock,
) -> None:
    app, model, found = Agent(), Model(seconds=1), Found()
    app.batched(max_wait_seconds=0)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        begun = trio.current_time()
        for item in range(5):  # their requests arrive together
            nursery.start_soon(call, caller, item, found)
        await trio.sleep(0.5)
        await call_in_order(nursery, caller, [5, 6], found)
    assert [time for time, _ in model.batches] == [begun, pytest.approx(begun + 1)]
    assert [sorted(items) for items in model.items] == [[0, 1, 2, 3, 4], [5, 6]]
    assert len(found) == 7


@pytest.mark.parametrize("most", [1, 2])
async def test_while_batches_run_the_next_one_collects(
    autojump_clock: MockClock, most: int
) -> None:
    app, model, found = Agent(), Model(seconds=1), Found()
    app.batched(max_size=2, max_concurrent_batches=most)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, range(7), found)
    assert model.items == [[0, 1], [2, 3], [4, 5], [6]]
    assert model.most == most
    assert len(found) == 7


async def test_the_weights_of_a_batch_are_bounded_and_a_heavy_item_travels_alone(
    autojump_clock: MockClock,
) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(max_size=10, weight=lambda item: item)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [4, 5, 2, 30, 0, 9, 1], found)
    assert model.items == [[4, 5], [2], [30], [0, 9, 1]]
    assert found[30] == 60


@pytest.mark.parametrize("weight", ["heavy", -1, float("nan"), float("inf"), None])
async def test_a_weight_that_is_no_number_fails_its_call_alone(
    autojump_clock: MockClock, weight: object
) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(weight=lambda item: weight if item == 1 else 1)(model.double)  # type: ignore[arg-type,return-value]  # on purpose
    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [0, 1, 2], found)
    failure = found.pop(1)
    assert isinstance(failure, FunctionRaised)
    assert failure.type_name == "TypeError"
    assert "the weight of an item must be a number" in failure.remote_message
    assert found == {0: 0, 2: 4}


async def test_a_function_weight_that_raises_fails_its_call_alone(
    autojump_clock: MockClock,
) -> None:
    app, model, found = Agent(), Model(), Found()

    def weigh(item: int) -> float:
        return 1 / item

    app.batched(weight=weigh)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [0, 1, 2], found)
    failure = found.pop(0)
    assert isinstance(failure, FunctionRaised)
    assert failure.type_name == "ZeroDivisionError"
    assert found == {1: 2, 2: 4}


# -- failures -----------------------------------------------------------------------------------------


async def test_an_exception_among_the_results_is_one_callers(autojump_clock: MockClock) -> None:
    app, found = Agent(), Found()

    @app.batched
    async def look_up(items: list[int]) -> list[object]:
        return [KeyError("two") if item == 2 else item for item in items]

    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [1, 2, 3], found, "look_up")
    failure = found.pop(2)
    assert isinstance(failure, FunctionRaised)
    assert (failure.type_name, failure.delivered) == ("KeyError", "yes")
    assert found == {1: 1, 3: 3}
    assert [(each.calls, each.failed) for each in app.service.statistics()] == [(3, 1)]


async def test_an_exception_that_the_function_raises_is_every_callers(
    autojump_clock: MockClock,
) -> None:
    app, found = Agent(), Found()

    @app.batched
    async def fail(items: list[int]) -> list[int]:
        raise ValueError(len(items))

    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [1, 2, 3], found, "fail")
        assert await caller.call("spear.describe")  # the agent goes on
    assert [str(each) for each in found.values()] == 3 * ["ValueError: 3"]
    assert len({id(each) for each in found.values()}) == 3


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ([1], "ValueError: double() returned 1 results for 2 items: return a list"),
        ([1, 2, 3], "ValueError: double() returned 3 results for 2 items: return a list"),
        (None, "TypeError: double() returned a value of type NoneType for 2 items: return a list"),
        ("ab", "TypeError: double() returned a value of type str for 2 items: return a list"),
    ],
)
async def test_a_function_that_does_not_return_a_result_for_each_item_fails_its_callers(
    autojump_clock: MockClock, returned: object, text: str
) -> None:
    app, found = Agent(), Found()

    @app.batched
    async def double(items: list[int]) -> object:
        return returned

    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [1, 2], found)
    assert len(found) == 2
    for failure in found.values():
        assert isinstance(failure, FunctionRaised)
        assert str(failure).startswith(text)
        assert failure.remote_code == "batch_results"


async def test_a_result_that_cannot_be_sent_and_a_wrong_argument_fail_one_call(
    autojump_clock: MockClock,
) -> None:
    app, found = Agent(), Found()
    batches: list[list[int]] = []

    @app.batched
    async def odd(items: list[int]) -> list[object]:
        batches.append(items)
        return [object() if item == 1 else item for item in items]

    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [0, 1], found, "odd")
        with pytest.raises(InvalidArguments, match=r"odd\(items=\.\.\.\): expected int, got str"):
            await caller.call("odd", "text")
        with pytest.raises(InvalidArguments, match="requires the argument 'items'"):
            await caller.call("odd")
        assert await caller.call("odd", items=3) == 3  # joins the others: no time has passed
    failure = found.pop(1)
    assert isinstance(failure, FunctionRaised)
    assert "which cannot be sent" in failure.remote_message
    assert found == {0: 0}
    assert batches == [[0, 1, 3]]


# -- cancellation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_call_that_is_cancelled_before_its_batch_begins_is_not_in_it(
    autojump_clock: MockClock, cancelled: int
) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(max_wait_seconds=1)(model.double)
    scope = trio.CancelScope()

    async def be_cancelled() -> None:
        with scope:
            await caller.call("double", cancelled)

    async with calling(app) as caller, trio.open_nursery() as nursery:
        for item in range(3):
            if item == cancelled:
                nursery.start_soon(be_cancelled)
            else:
                nursery.start_soon(call, caller, item, found)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.5)
        scope.cancel()
    others = [item for item in range(3) if item != cancelled]
    assert model.items == [others]
    assert found == {item: 2 * item for item in others}


async def test_a_late_call_leaves_before_its_batch_begins(autojump_clock: MockClock) -> None:
    app, model, found = Agent(), Model(), Found()
    app.batched(max_wait_seconds=1)(model.double)
    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [1], found)
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded):
            await caller.call("double", 2, timeout=0.2)
        assert trio.current_time() == pytest.approx(begun + 0.2)
    assert model.items == [[1]]


@pytest.mark.parametrize(("seconds", "delivered"), [(2, "no"), (0.5, "yes")])
async def test_a_late_call_tells_whether_its_batch_has_begun(
    autojump_clock: MockClock, seconds: float, delivered: str
) -> None:
    app, model = Agent(), Model(seconds=9)
    app.batched(max_wait_seconds=seconds)(model.double)
    async with calling(app) as caller:
        with pytest.raises(DeadlineExceeded) as raised:
            await caller.call("double", 1, timeout=NOTICED_THERE)
        assert raised.value.delivered == delivered
    assert model.items == ([[1]] if delivered == "yes" else [])


@pytest.mark.parametrize("leavers", [[0], [1], [0, 1], [0, 1, 2]])
async def test_a_batch_goes_on_until_its_last_call_is_cancelled(
    autojump_clock: MockClock, leavers: list[int]
) -> None:
    app, model, found = Agent(), Model(seconds=10), Found()
    app.batched(model.double)
    scopes: list[trio.CancelScope] = []

    async def be_cancelled(item: int) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await caller.call("double", item)

    async with calling(app) as caller:
        async with trio.open_nursery() as nursery:
            for item in range(3):
                if item in leavers:
                    nursery.start_soon(be_cancelled, item)
                else:
                    nursery.start_soon(call, caller, item, found)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(5)
            assert model.running == 1
            for scope in scopes:
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert model.running == 0
        assert await caller.call("double", 9) == 18
    assert model.items == [[0, 1, 2], [9]]
    assert found == {item: 2 * item for item in range(3) if item not in leavers}
    assert model.cancelled == (len(leavers) == 3)


async def test_each_call_of_a_running_batch_has_its_own_deadline(autojump_clock: MockClock) -> None:
    app, model, found = Agent(), Model(seconds=10), Found()
    app.batched(model.double)
    late: list[float] = []

    async def be_late(item: int, timeout: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await caller.call("double", item, timeout=timeout)
        late.append(trio.current_time() - begun)

    async with calling(app) as caller, trio.open_nursery() as nursery:
        begun = trio.current_time()
        nursery.start_soon(be_late, 0, 2)
        nursery.start_soon(be_late, 1, 3)
        nursery.start_soon(call, caller, 2, found)
    assert late == [pytest.approx(2), pytest.approx(3)]
    assert found == {2: 4}
    assert model.cancelled == 0


async def test_what_a_function_raises_when_all_calls_have_left_is_nobodys(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = Agent()

    @app.batched
    async def slow(items: list[int]) -> list[int]:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("at the end")

    async with calling(app) as caller:
        with pytest.raises(DeadlineExceeded):
            await caller.call("slow", 1, timeout=2)
        with pytest.raises(DeadlineExceeded):
            await caller.call("slow", 2, timeout=2)


async def test_a_function_that_cancels_the_nursery_of_its_batch_ends_its_own_calls(
    autojump_clock: MockClock,
) -> None:
    app, found = Agent(), Found()

    @app.batched
    async def rude(items: list[int]) -> list[int]:
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        nursery.cancel_scope.cancel()
        await trio.sleep(1)
        return items

    async with calling(app) as caller, trio.open_nursery() as nursery:
        await call_in_order(nursery, caller, [1, 2], found, "rude")
    assert found == {1: 1, 2: 2}


# -- kinds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "plain", "wrapped", "asyncio"])
async def test_functions_of_each_kind_can_be_batched(kind: str) -> None:
    app, found = Agent(), Found()
    batches: list[int] = []
    threads: set[int] = set()

    def double_all(items: list[int]) -> list[int]:
        batches.append(len(items))
        threads.add(threading.get_ident())
        with pytest.raises(spear.NotInCall, match=r"double\(\) gets several calls at once"):
            spear.context()
        return [2 * item for item in items]

    async def double_all_async(items: list[int]) -> list[int]:
        return double_all(items)

    functions: dict[str, Callable[[list[int]], object]] = {
        "async": double_all_async,
        "plain": double_all,
        "wrapped": lambda items: double_all_async(items),
        "asyncio": double_all_async,
    }
    app.batched(name="double", max_size=4, max_wait_seconds=60, asyncio=kind == "asyncio")(
        functions[kind]
    )
    async with calling(app) as caller, trio.open_nursery() as nursery:
        for item in range(8):
            nursery.start_soon(call, caller, item, found)
    assert found == {item: 2 * item for item in range(8)}
    assert batches == [4, 4]
    assert (threads == {threading.get_ident()}) is (kind in ("async", "wrapped"))


@attrs.frozen
class Line:
    item: str
    count: int = 1


async def test_callers_see_a_function_of_one_item() -> None:
    app = Agent()

    @app.batched
    async def price(lines: list[Line]) -> list[float | Exception]:
        """Return the price of a line."""
        return [each.count * 2.0 for each in lines]

    @app.batched
    def anything(items):  # type: ignore[no-untyped-def]  # without annotations on purpose
        return items

    async with calling(app) as caller:
        assert await caller.call("price", {"item": "tea", "count": 3}) == 6.0
        assert await caller.call("anything", [1, "two"]) == [1, "two"]
    assert app.describe() == [
        {
            "name": "price",
            "kind": "function",
            "signature": "price(lines: agent.test_dynamic_batches.Line) -> float",
            "summary": "Return the price of a line.",
        },
        {"name": "anything", "kind": "function", "signature": "anything(items)", "summary": ""},
    ]


def test_a_misspelled_annotation_is_found() -> None:
    app = Agent()

    @app.batched
    def misspelled(items: list[Lime]) -> list[Lime]:  # type: ignore[name-defined]  # noqa: F821
        return items

    with pytest.raises(ConfigurationError, match="the name 'Lime' is not defined"):
        app.prepare()


def two(first: list[int], second: int) -> list[int]:
    raise NotImplementedError


def none() -> list[int]:
    raise NotImplementedError


def rest(*items: int) -> list[int]:
    raise NotImplementedError


def text(items: str) -> list[int]:
    raise NotImplementedError


async def stream(items: list[int]) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (two, r"two\(\) must have one parameter, the list of items"),
        (none, r"none\(\) must have one parameter"),
        (rest, r"rest\(\) must have one parameter"),
        (
            text,
            r"text\(items\) must be annotated as a list of items, such as list\[str\], not as str",
        ),
        (stream, r"stream\(\) has a `yield`"),
        (dict.fromkeys, "one parameter"),
        (max, r"max\(\) (cannot be batched|must have one parameter)"),  # without a signature
        (7, "7 is not a function"),
    ],
)
def test_functions_that_do_not_take_one_list_are_refused(function: object, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        Agent().batched(function)  # type: ignore[call-overload]  # on purpose


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_size", 0),
        ("max_size", 1.5),
        ("max_wait_seconds", -1),
        ("max_wait_seconds", "soon"),
        ("max_concurrent_batches", 0),
        ("weight", 3),
    ],
)
def test_wrong_settings_are_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Agent().batched(**{option: value})(Model().double)  # type: ignore[call-overload]  # on purpose


async def test_a_size_that_no_batch_can_reach_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    app, weighted = Agent(concurrency=8), Agent(concurrency=8)
    app.batched(max_size=8, name="fits")(Model().double)
    app.batched(max_size=9, name="large")(Model().double)
    weighted.batched(max_size=9, weight=float)(Model().double)
    async with app.running(app.limits()), weighted.running(weighted.limits()):
        pass
    (record,) = caplog.records
    assert record.getMessage() == (
        "large(): no batch can have max_size=9 calls, because the agent accepts 8 calls at a time: "
        "set Agent(concurrency=9) or more"
    )


# -- all orders of events -----------------------------------------------------------------------------


@attrs.frozen
class Arrival:
    """A call of the test below: when it is made, its weight, and when it is cancelled, if ever."""

    after: int
    weight: int
    cancelled_after: int | None


arrivals = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 3),
        st.integers(0, 12),
        st.none() | st.integers(0, 20),
    ),
    max_size=20,
)


@pytest.mark.slow
@given(
    arrivals=arrivals,
    max_size=st.integers(1, 10),
    wait=st.integers(0, 6),
    most=st.integers(1, 3),
    seconds=st.integers(0, 5),
)
def test_each_call_has_one_outcome_and_batches_are_runs_of_arrivals(
    arrivals: list[Arrival], max_size: int, wait: int, most: int, seconds: int
) -> None:
    """Each call has its own result, or was cancelled; batches are runs of arrivals, none too large."""
    model, found = Model(seconds=seconds), Found()
    weights = {index: each.weight for index, each in enumerate(arrivals)}

    async def be_called(caller: Caller, index: int, arrival: Arrival) -> None:
        until = arrival.cancelled_after
        with trio.move_on_after(float("inf") if until is None else until + 0.5):
            await call(caller, index, found)

    async def main() -> None:
        app = Agent()
        app.batched(
            max_size=max_size,
            max_wait_seconds=wait,
            max_concurrent_batches=most,
            weight=lambda index: weights[index],
        )(model.double)
        async with calling(app) as caller, trio.open_nursery() as nursery:
            for index, arrival in enumerate(arrivals):
                await trio.sleep(arrival.after)
                nursery.start_soon(be_called, caller, index, arrival)
                await trio.testing.wait_all_tasks_blocked()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    # Batches that begin at the same time do so in any order.
    ran = [index for _, items in sorted(model.batches) for index in items]
    assert ran == sorted(ran)
    assert len(ran) == len(set(ran))
    assert model.most <= most
    for items in model.items:
        assert len(items) == 1 or sum(weights[index] for index in items) <= max_size
    for index, arrival in enumerate(arrivals):
        if arrival.cancelled_after is None:
            assert found[index] == 2 * index
        else:
            assert found.get(index, 2 * index) == 2 * index
