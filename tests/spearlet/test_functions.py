"""Calls: arguments, results, options, deadlines, cancellation. With an agent in this process."""

from __future__ import annotations

import array
import enum
import math
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from spear import (
    Agent,
    Array,
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    HostLimits,
    InvalidArguments,
    NotFound,
    Rejected,
    RemoteProtocolError,
    RetryPolicy,
    WireLimits,
    WorkerDied,
    context,
    open_spearlet,
)
from spear.calls import decode_result_untrusted
from spear.testing import Functions, cancel_sweep

from .bench import open_bench
from .helpers import PATIENCE_SECONDS, Probe, deployed, number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from spear.calls import Result
    from spear.channels import InboundCall
    from spear.spearlet import Deployment
    from spear.telemetry import CallRecord
    from spear.transports import TransportRegistry
    from spear.wire import BootstrapRecord


# -- finding functions ------------------------------------------------------------------------


async def test_functions_are_attributes() -> None:
    async with deployed(Probe().agent) as deployment:
        assert deployment.add is deployment.function("add")
        assert await deployment.add(1, 2) == 3
        assert {"add", "ticks"} <= set(dir(deployment))
        assert {"stop", "function", "statistics"} <= set(dir(deployment))
        assert repr(deployment.add) == "<Function add on 1 replicas>"
        assert not deployment.add.is_stream
        assert deployment.ticks.is_stream


async def test_a_name_that_is_nearly_right_gets_a_hint() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(NotFound, match=r"probe has no function 'ad'; did you mean 'add'\?"):
            deployment.function("ad")
        with pytest.raises(AttributeError, match=r"did you mean 'echo'\?"):
            _ = deployment.ecko
        with pytest.raises(NotFound, match="no function 'x'; known functions: echo, add, "):
            deployment.function("x")
        with pytest.raises(AttributeError, match="_private"):
            _ = deployment._private


async def test_a_deployment_without_functions_says_so() -> None:
    import spear

    async with deployed(spear.Agent("nothing")) as deployment:
        with pytest.raises(NotFound, match="known functions: none"):
            deployment.function("anything")


async def test_a_function_may_have_the_name_of_an_attribute() -> None:
    import spear

    app = spear.Agent()

    @app.function(name="stop")
    async def whatever() -> str:
        return "stop"

    async with deployed(app) as deployment:
        assert await deployment.function("stop")() == "stop"


async def test_a_function_tells_how_it_is_called() -> None:
    async with deployed(Probe().agent) as deployment:
        add = deployment.add.options(keywords={"a": 1}, timeout=5)
        assert await add.signature() == (
            "add(a: int, b: int = 1, *, timeout: int = 0, metadata: int = 0) -> int"
        )
        assert await deployment.ticks.signature() == (
            "ticks(count: int, *, fails: bool = False) -> AsyncIterator[int]"
        )


class Foreign:
    """An agent that is not Spear's: it has one function, and describes nothing."""

    def __init__(self) -> None:
        self.name, self.debug = "foreign", False
        self.functions, self.streams, self.retry_policies = ("price",), (), dict[str, RetryPolicy]()
        self.service = Functions({"price": self.price})

    async def price(self, _: InboundCall) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"3.5"

    @asynccontextmanager
    async def running(self, limits: WireLimits, *, debug: bool = False) -> AsyncIterator[None]:
        yield

    async def serve(
        self, record: BootstrapRecord, *, stop: trio.Event, transports: TransportRegistry
    ) -> None:
        raise AssertionError("only for transports other than memory")

    async def wait_failed(self) -> str:
        await trio.sleep_forever()
        raise AssertionError

    def limits(self, base: WireLimits) -> WireLimits:
        return base


async def test_an_agent_that_is_not_ours_has_no_descriptions() -> None:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Foreign())
        assert await deployment.price() == b"3.5"
        assert await deployment.descriptions() == {}
        with pytest.raises(NotFound, match="price has no description: its agent does not have"):
            await deployment.price.signature()
        assert list(deployment.statistics().functions) == ["price"]


async def test_asking_for_descriptions_is_counted_nowhere() -> None:
    records: list[CallRecord] = []
    async with open_spearlet(on_call=records.append) as spearlet:
        deployment = await spearlet.deploy(Probe().agent)
        assert "echo" in await deployment.descriptions()
        assert await deployment.echo.signature() == "echo(value: object) -> object"
        with pytest.raises(DeadlineExceeded):
            await deployment.echo.options(timeout=0).signature()
        assert records == []
        assert [each.calls for each in deployment.statistics().functions.values()] == [0]  # of echo
        await deployment.echo(1)
        assert [each.function for each in records] == ["echo"]
        assert list(deployment.statistics().functions) == ["echo"]


async def test_what_is_no_agent_of_ours_cannot_tell_how_it_is_called() -> None:
    async with open_bench(1) as bench:
        bench.services[0].failure = NotFound("the agent has no function 'spear.describe'")
        with pytest.raises(NotFound, match=r"spear\.describe"):
            await bench.function.signature()
        bench.services[0].failure = None  # it answers with its name
        with pytest.raises(NotFound, match="where has no description"):
            await bench.function.signature()


# -- arguments and results --------------------------------------------------------------------


async def test_arguments_by_position_and_by_name() -> None:
    async with deployed(Probe().agent) as deployment:
        add = deployment.add
        assert [await add(1), await add(1, 2), await add(1, b=3), await add(b=4, a=5)] == [
            2,
            3,
            4,
            9,
        ]
        assert await add.call(1, 2) == 3


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**63, 2**200, -(2**200), 1.5, "", "größe 商店", [], [1, [2, "three"]], {},
        {"a": {"b": [None, b"bytes"]}}, b"", b"raw", [b"inside"],
    ],
    ids=repr,
)  # fmt: skip
async def test_values_come_back_as_they_were(value: Result) -> None:
    async with deployed(Probe().agent) as deployment:
        result = await deployment.echo(value)
        assert result == value
        assert type(result) is type(value)


async def test_not_a_number_is_one() -> None:
    async with deployed(Probe().agent) as deployment:
        assert math.isnan(number(await deployment.echo(math.nan)))


async def test_bytes_are_not_copied() -> None:
    probe = Probe()
    data = bytes(1_000_000)
    async with deployed(probe.agent) as deployment:
        result = await deployment.echo(data)
    assert probe.seen[0] is data
    assert result is data


@pytest.mark.parametrize(
    "buffer",
    [bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"a-b-c-d-")[::2]],
    ids=["bytearray", "memoryview", "every second byte"],
)
async def test_any_buffer_is_bytes(buffer: bytearray | memoryview) -> None:
    async with deployed(Probe().agent) as deployment:
        assert await deployment.echo(buffer) == b"abcd"


async def test_a_buffer_of_numbers_arrives_as_an_array() -> None:
    numbers = array.array("i", [1, 2, 3])
    async with deployed(Probe().agent) as deployment:
        result = await deployment.echo(memoryview(numbers))
        assert isinstance(result, Array)
        assert result.tolist() == [1, 2, 3]


class Size(enum.Enum):
    SMALL = "s"


@attrs.frozen
class Line:
    item: str
    size: Size


async def test_objects_become_maps() -> None:
    async with deployed(Probe().agent) as deployment:
        sent = [Line("tea", Size.SMALL)]
        assert await deployment.echo(sent) == [{"item": "tea", "size": "s"}]


@pytest.mark.parametrize(
    ("positional", "keywords", "message"),
    [
        (
            (1, iter([])),
            {},
            r"add\(argument 2\): cannot send a value of type list_iterator: send a l",
        ),
        ((1,), {"b": ...}, r"add\(b=\.\.\.\): cannot send a value of type ellipsis: send numbers"),
        ((object(),), {}, r"add\(argument 1\): cannot send a value of type object: send numbers"),
        (
            (Fraction(1, 2),),
            {},
            r"add\(argument 1\): .* type Fraction: send text, such as str\(value\)",
        ),
        ((1,), {"b": {"c": [Fraction(1)]}}, r"add\(b\['c'\]\[0\]\): .* type Fraction: send text"),
        (
            ({None: 2},),
            {},
            r"add\(argument 1\): cannot send a dict with a key of type NoneType: send",
        ),
        (("\ud800",), {}, r"add\(argument 1\): cannot send text that is not Unicode"),
        ((1,), {"\ud800": 1}, r"add\(\): cannot send text that is not Unicode"),
    ],
)
async def test_what_cannot_travel_is_named(
    positional: tuple[object, ...], keywords: dict[str, object], message: str
) -> None:
    async with deployed(Probe().agent) as deployment:
        add = deployment.add.options(keywords=keywords)
        with pytest.raises(InvalidArguments, match=message) as caught:
            await add(*positional)
        assert caught.value.delivered == "no"
        with pytest.raises(InvalidArguments, match=message):
            add.submit(*positional)


@pytest.mark.parametrize(
    ("positional", "keywords", "message"),
    [
        ((), {}, r"add\(\) requires the argument 'a'"),
        ((1, 2, 3), {}, r"add\(\) takes 2 arguments by position, not 3"),
        ((1,), {"c": 1}, r"add\(\) takes no argument 'c'"),
        ((1,), {"metadate": 1}, r"did you mean 'metadata'\?"),
        (("one",), {}, r"add\(a=...\): expected int, got str"),
        ((1,), {"a": 1}, "'a' twice"),
    ],
)
async def test_wrong_arguments_name_the_parameter(
    positional: tuple[object, ...], keywords: dict[str, int], message: str
) -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match=message):
            await deployment.add.options(keywords=keywords)(*positional)


async def test_parameters_may_have_the_names_of_ours() -> None:
    async with deployed(Probe().agent) as deployment:
        add = deployment.add
        assert await add(1, metadata=10) == 12
        assert await add.options(keywords={"timeout": 100, "metadata": 10})(1, metadata=20) == 122
        named = add.options(keywords={"timeout": 100})
        assert await named.submit(1).result() == 102
        echo = deployment.echo.options(keywords={"value": b"raw"})
        assert await echo() == b"raw"
        with pytest.raises(InvalidArguments, match="takes no argument 'self'"):
            await add(1, self=2)


async def test_more_than_a_message_may_hold_is_refused_here() -> None:
    async with deployed(
        Probe().agent, limits=HostLimits(wire=WireLimits(max_message_bytes=1000))
    ) as deployment:
        with pytest.raises(InvalidArguments, match=r"echo\(\): .*1001 bytes"):
            await deployment.echo(bytes(1001))
        with pytest.raises(InvalidArguments, match=r"echo\(\): .*1001 bytes"):
            await deployment.echo.submit(bytes(1001)).result()
        with pytest.raises(Rejected, match="1002 bytes") as caught:
            await deployment.twice(bytes(501))
        assert caught.value.delivered == "yes"
        assert await deployment.echo(bytes(1000)) == bytes(1000)


async def test_a_function_that_raises_raises_here() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(FunctionRaised) as caught:
            await deployment.boom()
    assert caught.value.type_name == "KeyError"
    assert caught.value.remote_message == "'nothing there'"
    assert caught.value.delivered == "yes"


def test_a_result_that_is_no_result_is_the_peers_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="cannot decode the result") as caught:
        decode_result_untrusted(b"\xff", True)
    assert caught.value.delivered == "yes"


# -- options ----------------------------------------------------------------------------------


async def test_metadata_reaches_the_handler() -> None:
    async with deployed(Probe().agent) as deployment:
        context = deployment.context
        assert await context() == {"caller": "host", "metadata": {}}
        marked = context.options(metadata={"trace": "7", "caller": "me"})
        assert await marked() == {"caller": "me", "metadata": {"trace": "7", "caller": "me"}}
        assert await context() == {"caller": "host", "metadata": {}}  # unchanged


async def test_what_is_too_large_comes_with_what_to_do() -> None:
    async with deployed(
        Probe().agent, limits=HostLimits(wire=WireLimits(max_message_bytes=1024))
    ) as deployment:
        with pytest.raises(
            InvalidArguments, match=r"^twice\(\): .*1024; send the data in parts, as items"
        ):
            await deployment.twice(bytes(1025))
        large = deployment.context.options(metadata={"a": "x" * 70_000})
        with pytest.raises(InvalidArguments, match="65536 are allowed; shorten metadata and key"):
            await large()


@pytest.mark.parametrize("odd", [print, 2**64, {1, 2}])
async def test_metadata_that_cannot_be_sent_is_refused_with_what_it_takes(odd: object) -> None:
    async with deployed(Probe().agent) as deployment:
        marked = deployment.context.options(metadata={"a": odd})  # type: ignore[dict-item]  # the mistake
        with pytest.raises(
            InvalidArguments,
            match=r"cannot be encoded: .*; metadata may contain text, bytes, numbers",
        ) as caught:
            await marked()
        assert "too large" not in str(caught.value)


async def test_metadata_that_is_no_map_is_refused_at_once() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match="metadata must be a map, not 'trace'"):
            deployment.context.options(metadata="trace")  # type: ignore[call-overload]  # the mistake
        for keywords in 3, {1: 2}:
            with pytest.raises(
                InvalidArguments, match="keywords must be a map with text keys, not "
            ):
                deployment.context.options(keywords=keywords)  # type: ignore[arg-type]  # the mistake
        with pytest.raises(InvalidArguments, match="timeout must be a number of seconds, not '5'"):
            await deployment.context(timeout="5")  # type: ignore[arg-type]  # the mistake


async def test_a_progress_handler_that_cannot_be_called_is_refused_at_once() -> None:
    async def later(report: object) -> None:
        raise AssertionError

    async with deployed(Probe().agent) as deployment:
        for odd in later, 3:
            with pytest.raises(InvalidArguments, match="on_progress must be a plain function"):
                deployment.context.options(on_progress=odd)  # type: ignore[arg-type]  # the mistake


async def test_metadata_that_cannot_travel_is_refused_here() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(InvalidArguments, match="the head cannot be encoded"):
            await deployment.context.options(metadata={"a": object()})()  # type: ignore[dict-item]  # on purpose


async def test_a_key_reaches_the_handler() -> None:
    app = Agent()
    keys: list[str | None] = []

    @app.function
    async def pay() -> None:
        keys.append(context().key)

    async with deployed(app) as deployment:
        await deployment.pay()
        await deployment.pay.options(key="order 7")()
    assert keys == [None, "order 7"]


async def test_options_add_up() -> None:
    async with deployed(Probe().agent) as deployment:
        first = deployment.context.options(metadata={"a": 1}, timeout=5)
        second = first.options(key="key")
        assert second._calls.options.timeout == 5
        assert second._calls.options.key == "key"
        assert await second() == {"caller": "host", "metadata": {"a": 1}}


async def test_progress_arrives_as_it_is_made(autojump_clock: trio.testing.MockClock) -> None:
    reports: list[tuple[float, Result]] = []
    async with deployed(Probe().agent) as deployment:
        begun = trio.current_time()
        steps = deployment.steps.options(
            on_progress=lambda report: reports.append((trio.current_time() - begun, report))
        )
        assert await steps(3) == "done"
    assert reports == [(0, {"step": 0}), (1, {"step": 1}), (2, {"step": 2})]


async def test_a_progress_handler_that_fails_fails_its_own_call() -> None:
    def fail(report: Result) -> None:
        raise ZeroDivisionError

    async with deployed(Probe().agent) as deployment:
        with pytest.raises(ZeroDivisionError):
            await deployment.steps.options(on_progress=fail)(1)
        assert await deployment.echo(1) == 1


# -- deadlines --------------------------------------------------------------------------------


async def test_the_default_deadline_is_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    async with deployed(
        Probe().agent, limits=HostLimits(wire=WireLimits(call_seconds=7))
    ) as deployment:
        assert await deployment.remaining() == pytest.approx(7, abs=0.002)
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="wait took longer than 7 s"):
            await deployment.wait()
        assert trio.current_time() - begun == pytest.approx(7)


async def test_infinity_must_be_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        assert await deployment.remaining(timeout=math.inf) == math.inf
        assert await deployment.remaining.options(timeout=math.inf)() == math.inf
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def release_later() -> None:
                await trio.sleep(600)
                probe.release.set()

            assert await deployment.wait(timeout=math.inf) == "released"


async def test_r8_what_is_no_number_is_no_timeout() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        with pytest.raises(InvalidArguments, match="timeout must be a number of seconds, not nan"):
            await deployment.remaining(timeout=math.nan)
        with pytest.raises(InvalidArguments, match="timeout must be a number of seconds, not nan"):
            deployment.remaining.options(timeout=math.nan)
        channel = deployment.replicas[0].channel
        assert channel is not None
        with pytest.raises(InvalidArguments, match="timeout must be a number of seconds, not nan"):
            await channel.request("remaining", timeout=math.nan)


async def test_an_explicit_timeout_travels(autojump_clock: trio.testing.MockClock) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        remaining = deployment.remaining
        assert await remaining(timeout=3) == pytest.approx(3, abs=0.002)
        assert await remaining.options(timeout=4)() == pytest.approx(4, abs=0.002)
        assert await remaining.options(timeout=4)(timeout=5) == pytest.approx(5, abs=0.002)
        begun = trio.current_time()
        with pytest.raises(DeadlineExceeded, match="wait took longer than 2 s"):
            await deployment.wait(timeout=2)
        assert trio.current_time() - begun == pytest.approx(2)
        await probe.cancelled.wait()


async def test_who_has_reported_progress_has_certainly_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(Probe().agent) as deployment:
        steps = deployment.steps.options(on_progress=lambda _: None, timeout=1.5)
        # This side's deadline comes first: only a report can tell that the function runs.
        with pytest.raises(DeadlineExceeded, match=r"^steps took longer than 1.5 s$") as caught:
            await steps(9)
        assert caught.value.delivered == "yes"


async def test_the_time_of_surrounding_scopes_travels(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with deployed(Probe().agent) as deployment:
        remaining = deployment.remaining
        with trio.fail_after(3):
            assert await remaining() == pytest.approx(3, abs=0.002)
            assert await remaining(timeout=5) == pytest.approx(3, abs=0.002)
            assert await remaining(timeout=2) == pytest.approx(2, abs=0.002)
            assert await remaining(timeout=math.inf) == pytest.approx(3, abs=0.002)
        with trio.fail_after(300):
            assert await remaining() == pytest.approx(60, abs=0.002)
            assert await remaining(timeout=math.inf) == pytest.approx(300, abs=0.002)


async def test_a_surrounding_scope_ends_in_its_own_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        with trio.move_on_after(1) as scope:
            await deployment.wait()
        assert scope.cancelled_caught
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(1):
                await deployment.wait(timeout=5)
        await trio.testing.wait_all_tasks_blocked()
        assert probe.cancelled.is_set()


async def test_a_scope_without_time_is_left_without_a_call() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        with trio.move_on_after(0) as scope:
            await deployment.echo(1)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await deployment.echo(1)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            async with deployment.ticks.stream(1):
                raise AssertionError
        with pytest.raises(DeadlineExceeded, match="there was no time left to call echo") as caught:
            await deployment.echo(1, timeout=0)
        assert caught.value.delivered == "no"
        assert probe.calls == 0


async def test_a_task_that_was_cancelled_may_still_call_behind_a_shield() -> None:
    async with deployed(Probe().agent) as deployment:
        with trio.CancelScope() as scope:
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await deployment.echo(1) == 1


# -- cancellation -----------------------------------------------------------------------------


async def test_cancelling_the_caller_cancels_the_function() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment, trio.open_nursery() as nursery:
        nursery.start_soon(deployment.wait)
        await probe.begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE_SECONDS):
            await probe.cancelled.wait()


async def test_cancelled_anywhere_a_call_leaves_nothing_behind() -> None:
    async def call(deployment: Deployment) -> None:
        assert await deployment.add(1, b=2) == 3

    sweep = await cancel_sweep(lambda: deployed(Probe().agent), call, call)
    assert sweep.runs > 3


async def test_public_functions_are_checkpoints() -> None:
    async with deployed(Probe().agent) as deployment:
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await deployment.echo(b"")
        with trio.testing.assert_checkpoints():
            await deployment.stop()
        with trio.testing.assert_checkpoints():
            await deployment.stop()


# -- the wrong kind of function ---------------------------------------------------------------


async def test_a_stream_is_not_called() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        with pytest.raises(Rejected, match=r"ticks\(\) returns a stream: use ticks.stream\("):
            await deployment.ticks(1)
        with pytest.raises(Rejected, match=r"ticks\(\) returns a stream: use ticks.stream\("):
            deployment.ticks.submit(1)
    assert not probe.begun.is_set()


async def test_what_is_called_is_not_streamed() -> None:
    probe = Probe()
    async with deployed(probe.agent) as deployment:
        with pytest.raises(
            Rejected, match=r"echo\(\) returns one result, not a stream: call echo\("
        ):
            async with deployment.echo.stream(1):
                raise AssertionError
    assert probe.calls == 0


async def test_options_that_streams_do_not_have_are_refused() -> None:
    async with deployed(Probe().agent) as deployment:
        with pytest.raises(ConfigurationError, match="key is not supported for streams"):
            async with deployment.ticks.options(key="1").stream(1):
                raise AssertionError


async def test_calls_after_the_end_say_what_happened() -> None:
    async with deployed(Probe().agent) as deployment:
        await deployment.stop()
        with pytest.raises(
            WorkerDied, match=r"probe has no replica that takes calls: the deployment was stopped"
        ):
            await deployment.echo(1)
        with pytest.raises(WorkerDied):
            async with deployment.ticks.stream(1):
                raise AssertionError


async def test_nobody_makes_these_by_hand() -> None:
    from spear import Spearlet
    from spear.calls import Execution, Function, FunctionStream
    from spear.spearlet import Deployment as DeploymentClass

    for cls in (Spearlet, DeploymentClass, Function, FunctionStream, Execution):
        with pytest.raises(TypeError, match="no public constructor"):
            cls()  # type: ignore[call-arg]  # on purpose
