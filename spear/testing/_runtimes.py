"""The conformance suite for runtimes: the behaviour that a host expects of instances of any runtime.

A runtime under test comes with settings with which its instances run :data:`RUNTIME_PROGRAM`. Each case
uses a new runtime object and opens templates with a communication factory of their own.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias, final

import attrs
import trio
import trio.testing

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    FunctionRaised,
    SpearError,
    WorkerDied,
)
from spear._host_limits import HostLimits, InstanceTimeouts
from spear._ids import InstanceId
from spear.channels import (
    CommunicationChannel,
    CommunicationFactory,
    open_communication_factory,
    open_private_nursery,
    protected_block,
)
from spear.runtimes import (
    Instance,
    InstanceSpec,
    InstanceTemplate,
    Runtime,
    RuntimeRegistry,
    RuntimeSettings,
)
from spear.telemetry import InstanceEvent
from spear.wire import decode_result, encode_arguments

from ._conformance import caught

RUNTIME_PROGRAM: Final = str(Path(__file__).with_name("_runtimes_program.py"))
"""Path of the file with the functions of the instances: ``echo``, ``nap``, ``wait`` and ``fail``."""

HANG_SECONDS: Final = 30.0
"""Seconds after which a case fails; more than any case needs, even on a slow machine."""

MANY: Final = 4


@final
@attrs.frozen(kw_only=True)
class RuntimeUnderTest:
    """A runtime, and settings with which it runs :data:`RUNTIME_PROGRAM`.

    Attributes:
        runtime: a new runtime object.
        settings: an object of the runtime's ``settings_class``.
        timeouts: timeouts of the instances; a slow runtime needs longer ones than the default.
    """

    runtime: Runtime
    settings: RuntimeSettings
    timeouts: InstanceTimeouts = attrs.field(factory=InstanceTimeouts)

    @protected_block
    async def template(self, *, several: bool = False) -> AsyncIterator[InstanceTemplate]:
        """Open a template with a new factory; after the block, assert that no instance is left."""
        limits = HostLimits(timeouts=self.timeouts)
        async with open_communication_factory(limits) as factory:
            opening = self.runtime.open_template(self.settings, factory, several=several)
            async with opening as template:
                yield template
            _expect_nothing(self.runtime, factory)

    def spec(self, name: str = "tested", events: list[InstanceEvent] | None = None) -> InstanceSpec:
        """Return the description of an instance to open."""
        return InstanceSpec(
            instance_id=InstanceId(self.runtime.name, name),
            on_event=None if events is None else events.append,
        )


RuntimeCase: TypeAlias = Callable[[RuntimeUnderTest], Awaitable[None]]

MakeRuntime: TypeAlias = Callable[[], RuntimeUnderTest]
"""A function that makes a new runtime for each case."""

RUNTIME_CASES: Final[dict[str, Callable[[MakeRuntime], Awaitable[None]]]] = {}
"""All cases by name, for running them one by one."""


def _case(function: RuntimeCase) -> RuntimeCase:
    async def limited(make: MakeRuntime) -> None:
        with trio.fail_after(HANG_SECONDS):
            await function(make())

    RUNTIME_CASES[function.__name__] = limited
    return function


async def check_runtime(make: MakeRuntime) -> None:
    """Run all of :data:`RUNTIME_CASES` against a runtime. Raises AssertionError for a failing case.

    A test parametrized over :data:`RUNTIME_CASES` reports every failing case, with its name.

    Args:
        make: makes a new runtime, with settings that run :data:`RUNTIME_PROGRAM`.
    """
    for run in RUNTIME_CASES.values():
        await run(make)


def _expect_nothing(runtime: Runtime, factory: CommunicationFactory) -> None:
    statistics = runtime.statistics()
    assert statistics.instances == 0, "an instance outlived its block"
    assert statistics.exited == statistics.started, "an instance was started and has not ended"
    assert factory.manager.endpoints == (), "an endpoint outlived its instance"


async def _call(channel: CommunicationChannel, function: str, *arguments: object) -> object:
    payload, is_cbor = encode_arguments(arguments, {})
    response = await channel.request(function, payload, is_cbor=is_cbor, timeout=HANG_SECONDS)
    return decode_result(response.payload, response.is_cbor)


@protected_block
async def _ready(
    template: InstanceTemplate, spec: InstanceSpec
) -> AsyncIterator[tuple[Instance, CommunicationChannel]]:
    async with template.open_instance(spec) as instance:
        yield instance, await instance.wait_ready()


# -- description ----------------------------------------------------------------------------------


@_case
async def has_a_name_and_is_found_by_it(tested: RuntimeUnderTest) -> None:
    """A runtime has a name that is valid in an instance id, and a registry finds the runtime by it."""
    runtime = tested.runtime
    assert InstanceId(runtime.name, "x").runtime == runtime.name
    assert RuntimeRegistry([runtime]).find(runtime.name) is runtime
    runtime.capabilities()
    await trio.lowlevel.checkpoint()


@_case
async def takes_its_own_settings_and_no_others(tested: RuntimeUnderTest) -> None:
    """A runtime takes and validates settings of its own class, and no settings of other runtimes."""
    runtime = tested.runtime
    taken = runtime.takes(tested.settings)
    assert isinstance(taken, runtime.settings_class)
    assert runtime.takes(taken) == taken, "takes() changed settings that it had returned"
    runtime.validate(taken)
    other = RuntimeSettings()
    assert runtime.takes(other) is None, "takes() accepted settings of another runtime"
    assert runtime.takes(17) is None, "takes() accepted a number as a program"
    try:
        runtime.validate(other)
    except ConfigurationError:
        pass
    else:
        raise AssertionError("validate() accepted settings of another runtime")
    await trio.lowlevel.checkpoint()


# -- lifecycle ---------------------------------------------------------------------------------------


@_case
async def an_instance_answers_and_ends_with_its_block(tested: RuntimeUnderTest) -> None:
    """An instance logs in, answers calls, and passes through its states in order."""
    events: list[InstanceEvent] = []
    async with tested.template() as template:
        async with _ready(template, tested.spec(events=events)) as (instance, channel):
            assert await _call(channel, "echo", {"a": [1, "b", None]}) == {"a": [1, "b", None]}
            assert instance.health().is_connected
            assert tested.runtime.statistics().instances == 1
            await instance.metrics()
        states = [each.state.value for each in events]
        assert states[:3] == ["created", "starting", "ready"], states
        assert states[-2:] == ["exited", "deleted"], states
        assert await instance.metrics() is None


@_case
async def several_instances_live_side_by_side(tested: RuntimeUnderTest) -> None:
    """A template starts several instances at a time, each under its own id, and later new ones."""
    async with tested.template(several=True) as template, open_private_nursery() as nursery:
        answers: list[object] = []

        async def live(number: int) -> None:
            async with _ready(template, tested.spec(f"tested-{number}")) as (instance, channel):
                assert instance.id.name == f"tested-{number}"
                answers.append(await _call(channel, "echo", number))

        for _ in range(2):
            answers.clear()
            async with trio.open_nursery() as living:
                for number in range(MANY):
                    living.start_soon(live, number)
            assert sorted(map(str, answers)) == [str(each) for each in range(MANY)]
        nursery.cancel_scope.cancel()


@_case
async def stopping_lets_calls_finish(tested: RuntimeUnderTest) -> None:
    """An instance that is stopped finishes its calls in flight before it exits."""
    async with (
        tested.template() as template,
        _ready(template, tested.spec()) as (instance, channel),
    ):
        results: list[object] = []

        async def call() -> None:
            results.append(await _call(channel, "nap", 0.2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while not channel.calls_in_flight:
                await trio.lowlevel.checkpoint()
            await instance.stop()
        assert results == ["rested"]
        assert instance.health().state.value == "exited"


@_case
async def terminating_ends_it(tested: RuntimeUnderTest) -> None:
    """An idle instance exits when its body is asked to terminate, without a kill or a closed channel."""
    async with tested.template() as template, _ready(template, tested.spec()) as (instance, _):
        assert instance._body is not None
        await instance._body.terminate()
        with trio.move_on_after(tested.timeouts.terminate_seconds):
            await instance.wait_exited()
        state = instance.health().state.value
        assert state == "exited", f"{state} after terminate() and terminate_seconds"


@_case
async def killing_ends_it_whatever_it_does(tested: RuntimeUnderTest) -> None:
    """A call in a killed instance fails with WorkerDied, and a second kill or stop does nothing."""
    async with (
        tested.template() as template,
        _ready(template, tested.spec()) as (instance, channel),
    ):
        failures: list[SpearError] = []

        async def call() -> None:
            try:
                await _call(channel, "wait")
            except (ChannelBroken, ChannelClosed) as error:
                failures.append(await instance.explain_loss(error))
            except SpearError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            while not channel.calls_in_flight:
                await trio.lowlevel.checkpoint()
            with trio.testing.assert_checkpoints():
                await instance.kill()
            await instance.wait_exited()
        (failure,) = failures
        assert isinstance(failure, WorkerDied), failure
        assert instance.id.name in str(failure)
        await instance.kill()
        await instance.stop()


@_case
async def a_block_that_is_cancelled_leaves_nothing(tested: RuntimeUnderTest) -> None:
    """A block that is cancelled during the start, or while the instance serves, leaves no instance."""
    async with tested.template() as template:
        for pause in (0.0, 0.001, 0.01, 0.05, 0.1, 0.3):
            with trio.move_on_after(pause):
                async with _ready(template, tested.spec()) as (_, channel):
                    await _call(channel, "wait")
            assert tested.runtime.statistics().instances == 0


@_case
async def what_the_block_raises_comes_out_as_it_is(tested: RuntimeUnderTest) -> None:
    """An exception of the block leaves the block unchanged: not in a group, not replaced."""
    failure = KeyError("tea")
    caught: BaseException | None = None
    async with tested.template() as template:
        try:
            async with _ready(template, tested.spec()):
                raise failure
        except BaseException as error:
            caught = error
    assert caught is failure, repr(caught)


@_case
async def a_function_that_raises_ends_only_its_call(tested: RuntimeUnderTest) -> None:
    """After a function has raised, the instance serves further calls."""
    async with tested.template() as template, _ready(template, tested.spec()) as (_, channel):
        failure = await caught(_call, channel, "fail")
        assert isinstance(failure, FunctionRaised), failure
        assert failure.remote_message == "on purpose"
        assert await _call(channel, "echo", 1) == 1


@_case
async def one_id_is_one_instance(tested: RuntimeUnderTest) -> None:
    """A second instance with the id of an open one is refused, and the first one serves on."""
    async with tested.template() as template, _ready(template, tested.spec()) as (_, channel):
        try:
            async with template.open_instance(tested.spec()):
                raise AssertionError("open_instance() accepted the id of an open instance")
        except SpearError:
            pass
        assert await _call(channel, "echo", 1) == 1


@_case
async def no_more_instances_than_it_may_have(tested: RuntimeUnderTest) -> None:
    """``max_instances`` limits the open instances; an instance that has ended does not count."""
    tested.runtime.max_instances = 1
    async with tested.template(several=True) as template:
        async with _ready(template, tested.spec("first")):
            try:
                async with template.open_instance(tested.spec("second")):
                    raise AssertionError("open_instance() exceeded max_instances")
            except SpearError:
                pass
        async with _ready(template, tested.spec("second")) as (_, channel):
            assert await _call(channel, "echo", 2) == 2
    gc.collect()  # makes unclosed resources warn here, in the test of this runtime
