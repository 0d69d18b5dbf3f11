"""Numbers that a program passes to Spear: each is checked where it enters, with an error that names it.

An unchecked number would fail only where it is used, in a task that serves the whole host.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Final, Never, TypeAlias, cast

import attrs
import pytest
import trio

import spear
from spear import (
    HostLimits,
    InstanceId,
    InstanceTimeouts,
    ResourceLimits,
    RestartPolicy,
    Scale,
    SpearError,
    WireLimits,
)
from spear._ids import Secret
from spear.agent import serve
from spear.calls import CallOptions
from spear.channels import (
    ChannelConfig,
    CommunicationStrategy,
    LatencyHistogram,
    ThreadedFunctions,
)
from spear.gateway import GatewaySettings
from spear.runtimes import Instance
from spear.spearlet import SpearletState
from spear.transports import (
    Address,
    ConnectOptions,
    MemoryAddress,
    TcpAddress,
    TcpTransport,
    TlsClient,
    Transport,
    connect_memory,
    connect_tcp,
    connect_tls,
    connect_unix,
    open_tcp_listener,
)

if TYPE_CHECKING:
    from pathlib import Path

    from spear.channels import CommunicationChannel
    from spear.spearlet import Deployment, Spearlet

PACKAGES: Final = (
    "spear", "spear.agent", "spear.channels", "spear.config", "spear.gateway", "spear.runtimes",
    "spear.calls", "spear.spearlet", "spear.transports",
)  # fmt: skip
"""All packages but ``spear.wire``, whose callers check numbers, and ``spear.testing``, used by tests."""

MADE_BY_SPEAR: Final = frozenset(
    {
        "AcceptorStatistics", "Answer", "CallStream", "ChannelStatistics",
        "ConnectionEvent", "DeploymentStatistics", "ExecutionResponse",
        "FunctionStatistics", "GatewayStatistics", "InboundCall", "IncomingConnection",
        "InstanceEvent", "InstanceHealth", "InstanceMetrics", "LogLine", "ManagerStatistics",
        "PeerCredentials", "RuntimeCapabilities", "RegisteredFunctionStatistics",
        "ReplicaFailure", "RuntimeStatistics", "ScalingDecision", "SpearletStatistics", "WorkerDied",
        "ZygoteStatistics",
    }
)  # fmt: skip
"""Records and handles whose numbers come from Spear, and go to programs."""

CALLED_BY_SPEAR: Final = re.compile(
    r"AgentService\.|CallTally\.|CommunicationChannel\.start_request|HostAddresses\."
    r"|ConnectionManager\.|Service\.refuse|Timers\.|ProcessSettings\.\w+_command"
    r"|DeadlineExceeded\.of_call|process_or_its_session"
    r"|FunctionConfiguration\("  # whose fields are checked by a schema
    r"|\w+Stream\.receive_some"  # like Trio's streams
    r"|LatencyHistogram\((counts|total_seconds)"
    r"|CallMaker\.|CallTarget\.|Candidates?\b|Chooser\.|Outcomes\.|KeyedCall|encode_item|enter_stream"
    r"|ItemRunner\.|leave_it_to_scope|\w+Settings\.check_replicas|execute_shared|expect_bytes"
    r"|may_try_again|open_extension|perform"
    r"|RemoteDeployment\.|RemoteHost\."  # a host checks them: tests/remote/test_many.py
    r"|Attempts\(|Mapper\b|RetryBudget\.|RetryPolicy\.delay_seconds"
)
"""Functions that Spear itself calls, with numbers of its own."""


def numeric_parameters() -> Iterator[str]:
    """Yield each public parameter that may be a number, as ``Deployment.stop(seconds)``."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in dir(module):
            thing: object = getattr(module, name)
            if name in MADE_BY_SPEAR or name.startswith("_") or not is_ours(thing):
                continue
            if name.startswith("Typed") or name == "DeployedProgram":
                continue  # of type checkers; the base of Deployment, which has its methods
            if inspect.isroutine(thing):
                yield from numeric_of(name, thing)
            elif inspect.isclass(thing):
                # Skip classes without a public constructor.
                if type(thing) is type or issubclass(thing, Address | Transport):
                    yield from numeric_of(name, thing.__init__)
                for method, function in inspect.getmembers(thing, inspect.isroutine):
                    if is_ours(function) and (method == "__call__" or method[0] != "_"):
                        yield from numeric_of(f"{name}.{method}", function)


def is_ours(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("spear.")


def numeric_of(name: str, function: object) -> Iterator[str]:
    assert callable(function)
    for parameter in inspect.signature(function).parameters.values():
        annotations = {parameter.name: str(parameter.annotation)}
        if options := re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation)):
            table = getattr(importlib.import_module(function.__module__), options[1])
            annotations = {key: str(each) for key, each in table.__annotations__.items()}
        for key, annotation in annotations.items():
            kinds = re.sub(r"\w+\[.*\]", "", annotation)  # not of list elements
            if re.search(r"\b(int|float)\b", kinds):
                yield f"{name}({key})"


# -- an agent that calls other agents -------------------------------------------------------------

TOLD: Final[list[object]] = []
"""The number for the calling function; passed here, because some numbers cannot be arguments."""

AGENT: Final = spear.Agent("numbers")


@AGENT.function
async def echo(value: object) -> object:
    return value


@AGENT.function
async def ticks() -> AsyncIterator[int]:
    yield 1


def reporting(call: Callable[[float], Awaitable[object]]) -> Callable[[], Awaitable[str]]:
    async def report() -> str:
        try:
            await call(TOLD.pop())  # type: ignore[arg-type]  # the mistake
        except SpearError as error:
            return type(error).__name__
        return "nothing was raised"

    return report


async def take_ticks(timeout: float) -> None:
    async with spear.context().stream("ticks", timeout=timeout):
        raise AssertionError("the block was entered")


async def call_sync(timeout: float) -> None:
    await trio.to_thread.run_sync(partial(spear.context().call_sync, "echo", 1, timeout=timeout))


AGENT.function(name="call")(reporting(lambda timeout: spear.call("echo", 1, timeout=timeout)))
AGENT.function(name="call_sync")(reporting(call_sync))
AGENT.function(name="stream_other")(reporting(take_ticks))
AGENT.function(name="call_once")(
    reporting(lambda timeout: spear.call_once("key", "echo", 1, timeout=timeout))
)


# -- invalid numbers ------------------------------------------------------------------------------

NO_NUMBERS: Final[tuple[object, ...]] = (
    math.nan, True, "3", "x", b"3", Decimal("2.5"), 10**400, -(10**400), 10**5000, [3], object(),
)  # fmt: skip
NO_COUNTS: Final = (*NO_NUMBERS, -1, 2.5, math.inf, -math.inf)
NO_SECONDS: Final = (*NO_NUMBERS, -1, -0.5, -math.inf)
NO_TIMEOUTS: Final = NO_NUMBERS  # a negative timeout means that no time is left, and is valid


@attrs.frozen
class World:
    """The objects to which numbers are passed."""

    spearlet: Spearlet
    deployment: Deployment
    process: Deployment


Give: TypeAlias = Callable[[World, Never], object]
"""A function that passes a number. ``Never`` stands for any type, because the value has a wrong type."""


def made(cls: type, name: str, **others: object) -> Give:
    return lambda _, value: cls(**{name: value}, **others)


def batched(name: str) -> Give:
    return lambda _, value: spear.Agent().batched(**{name: value})


async def opened(block: object) -> None:
    async with block:  # type: ignore[attr-defined]  # an object of this file
        raise AssertionError("the block was entered")


def told(function: str) -> Give:
    """Return a function that passes a number inside an agent, which reports the error's type."""

    async def give(world: World, value: Never) -> None:
        TOLD.append(value)
        kind = await getattr(world.deployment, function)()
        if kind != "InvalidArguments":
            raise AssertionError(kind)
        raise spear.InvalidArguments("as the function has seen")

    return give


GIVE: Final[dict[str, tuple[Give, tuple[object, ...]]]] = {
    "Agent(concurrency)": (made(spear.Agent, "concurrency"), NO_COUNTS),
    "Agent.batched(max_concurrent_batches)": (batched("max_concurrent_batches"), NO_COUNTS),
    "Agent.batched(max_size)": (batched("max_size"), NO_COUNTS),
    "Agent.batched(max_wait_seconds)": (batched("max_wait_seconds"), NO_SECONDS),
    "CallContext.call(timeout)": (told("call"), NO_TIMEOUTS),
    "CallContext.call_sync(timeout)": (told("call_sync"), NO_TIMEOUTS),
    "CallContext.stream(timeout)": (told("stream_other"), NO_TIMEOUTS),
    "CallOptions(key_seconds)": (made(CallOptions, "key_seconds"), NO_TIMEOUTS),
    "CallOptions(queue_timeout)": (made(CallOptions, "queue_timeout"), NO_TIMEOUTS),
    "CallOptions(timeout)": (made(CallOptions, "timeout"), NO_TIMEOUTS),
    "ChannelConfig(connect_seconds)": (made(ChannelConfig, "connect_seconds"), NO_SECONDS),
    "CommunicationChannel.drain(seconds)": (lambda w, v: channel(w).drain(v), NO_SECONDS),
    "CommunicationChannel.open_stream(timeout)": (
        lambda w, v: opened(channel(w).open_stream("ticks", timeout=v)), NO_TIMEOUTS,
    ),
    "CommunicationChannel.request(timeout)": (
        lambda w, v: channel(w).request("echo", b"", timeout=v), NO_TIMEOUTS,
    ),
    "CommunicationStrategy(most)": (
        made(CommunicationStrategy, "most", transports=("unix",)), (*NO_COUNTS, 0),
    ),
    "ConnectOptions(seconds)": (made(ConnectOptions, "seconds"), NO_SECONDS),
    "Deployment.logs(most)": (lambda w, v: w.deployment.logs(v), NO_COUNTS),
    "Deployment.scale(replicas)": (lambda w, v: w.deployment.scale(v), NO_COUNTS),
    "Deployment.stop(seconds)": (lambda w, v: w.deployment.stop(v), NO_SECONDS),
    "Executions.list(most)": (lambda w, v: w.spearlet.executions.list(most=v), NO_COUNTS),
    "Function.__call__(timeout)": (lambda w, v: w.deployment.echo(1, timeout=v), NO_TIMEOUTS),
    "Function.call(timeout)": (lambda w, v: w.deployment.echo.call(1, timeout=v), NO_TIMEOUTS),
    "Function.forward(timeout)": (lambda w, v: w.deployment.echo.forward(b"", False, v), NO_TIMEOUTS),
    "Function.forward_stream(timeout)": (
        lambda w, v: opened(w.deployment.ticks.forward_stream(b"", False, v)), NO_TIMEOUTS,
    ),
    "Function.for_each(limit)": (
        lambda w, v: w.deployment.echo.for_each([1], limit=v), (*NO_COUNTS, 0),
    ),
    "Function.for_each(timeout)": (
        lambda w, v: w.deployment.echo.for_each([1], timeout=v), NO_TIMEOUTS,
    ),
    "Function.map(limit)": (
        lambda w, v: opened(w.deployment.echo.map([1], limit=v)), (*NO_COUNTS, 0),
    ),
    "Function.map(timeout)": (
        lambda w, v: opened(w.deployment.echo.map([1], timeout=v)), NO_TIMEOUTS,
    ),
    "Function.options(queue_timeout)": (
        lambda w, v: w.deployment.echo.options(queue_timeout=v), NO_TIMEOUTS,
    ),
    "Function.starmap(limit)": (
        lambda w, v: opened(w.deployment.echo.starmap([(1,)], limit=v)), (*NO_COUNTS, 0),
    ),
    "Function.starmap(timeout)": (
        lambda w, v: opened(w.deployment.echo.starmap([(1,)], timeout=v)), NO_TIMEOUTS,
    ),
    "Function.options(key_seconds)": (
        lambda w, v: w.deployment.echo.options(key_seconds=v), NO_TIMEOUTS,
    ),
    "Function.options(timeout)": (lambda w, v: w.deployment.echo.options(timeout=v), NO_TIMEOUTS),
    "Function.stream(timeout)": (
        lambda w, v: opened(w.deployment.ticks.stream(timeout=v)), NO_TIMEOUTS,
    ),
    "ThreadedFunctions(threads)": (made(ThreadedFunctions, "threads"), NO_COUNTS),
    "Function.submit(timeout)": (
        lambda w, v: w.deployment.echo.submit(1, timeout=v).result(), NO_TIMEOUTS,
    ),
    "Instance.stop(drain_seconds)": (lambda w, v: instance(w).stop(v), NO_SECONDS),
    "InstanceId(incarnation)": (
        lambda _, v: spear.InstanceId("process", "shop", v), (*NO_COUNTS, 0),
    ),
    "LatencyHistogram.quantile_seconds(share)": (
        lambda _, v: LatencyHistogram((1,), 1.0).quantile_seconds(v), NO_SECONDS,
    ),
    "Overloaded(retry_after_seconds)": (
        lambda _, v: spear.Overloaded("no", retry_after_seconds=v), ("3", True, Decimal(3), [3]),
    ),
    "SharedBuffer(size)": (made(spear.SharedBuffer, "size"), (*NO_COUNTS, 0)),
    "Spearlet.deploy(replicas)": (lambda w, v: w.spearlet.deploy(AGENT, replicas=v), NO_COUNTS),
    "Spearlet.drain(seconds)": (lambda w, v: w.spearlet.drain(v), NO_SECONDS),
    "Spearlet.logs(most)": (lambda w, v: w.spearlet.logs(v), NO_COUNTS),
    "Spearlet.stop(seconds)": (lambda w, v: w.spearlet.stop(v), NO_SECONDS),
    "TcpAddress(port)": (made(TcpAddress, "port", host="127.0.0.1"), (*NO_COUNTS, 65536)),
    "TcpTransport(port)": (made(TcpTransport, "port"), (*NO_COUNTS, 65536, range(0), range(-1, 1))),
    "serve(drain_seconds)": (
        lambda _, v: serve(
            AGENT, MemoryAddress("nobody"), Secret.generate(), InstanceId("memory", "numbers", 1),
            drain_seconds=v,
        ),
        NO_SECONDS,
    ),
    "call(timeout)": (told("call"), NO_TIMEOUTS),
    "call_once(timeout)": (told("call_once"), NO_TIMEOUTS),
    "connect_memory(seconds)": (lambda _, v: connect_memory("numbers", seconds=v), NO_SECONDS),
    "connect_tcp(port)": (lambda _, v: connect_tcp("127.0.0.1", v), NO_COUNTS),
    "connect_tcp(seconds)": (lambda _, v: connect_tcp("127.0.0.1", 1, seconds=v), NO_SECONDS),
    "connect_tls(port)": (lambda _, v: connect_tls("127.0.0.1", v, TlsClient()), NO_COUNTS),
    "connect_tls(seconds)": (
        lambda _, v: connect_tls("127.0.0.1", 1, TlsClient(), seconds=v), NO_SECONDS,
    ),
    "connect_unix(seconds)": (lambda _, v: connect_unix("/", seconds=v), NO_SECONDS),
    "connect(max_connections)": (
        lambda _, v: opened(spear.connect("http://127.0.0.1:1", max_connections=v)), (*NO_COUNTS, 0),
    ),
    "open_tcp_listener(port)": (lambda _, v: open_tcp_listener("127.0.0.1", v), (*NO_COUNTS, 65536)),
}  # fmt: skip
"""For each parameter, a function that passes it a number, and the invalid numbers."""

SETTINGS: Final = {
    each.__name__: each
    for each in (
        HostLimits, InstanceTimeouts, WireLimits, Scale, RestartPolicy, spear.HealthPolicy,
        spear.RetryPolicy,
        spear.DeploymentSettings, ResourceLimits,
        GatewaySettings,
    )
}  # fmt: skip


def wrong_for(cls: type, name: str) -> tuple[object, ...]:
    (annotation,) = (each.type for each in attrs.fields(cls) if each.name == name)
    return NO_SECONDS if "float" in str(annotation) else NO_COUNTS


for _parameter in sorted(set(numeric_parameters())):
    _name, _, _field = _parameter.removesuffix(")").partition("(")
    if _name in SETTINGS:
        _cls = SETTINGS[_name]
        GIVE[_parameter] = made(_cls, _field), wrong_for(_cls, _field)


def channel(world: World) -> CommunicationChannel:
    found = world.deployment.replicas[0].channel
    assert found is not None
    return found


def instance(world: World) -> Instance:
    (found,) = world.process.replicas
    assert isinstance(found, Instance)
    return found


@asynccontextmanager
async def open_world(place: Path) -> AsyncIterator[World]:
    program = place / "numbers.py"
    program.write_text(
        "import spear\napp = spear.Agent()\n@app.function\nasync def one(): return 1\n"
    )
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(AGENT, name="here")
        yield World(spearlet, deployment, await spearlet.deploy(program, name="there"))


# -- the test of completeness ---------------------------------------------------------------------


def test_every_public_number_is_listed() -> None:
    """If this fails for a new parameter: check it where it enters, and list it in `GIVE`."""
    listed = {each for each in numeric_parameters() if not CALLED_BY_SPEAR.match(each)}
    assert listed == GIVE.keys()


@pytest.mark.slow
async def test_a_wrong_number_is_refused_where_it_enters_and_the_host_goes_on(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world:
        for parameter, (give, wrong) in GIVE.items():
            for value in wrong:
                try:
                    done = give(world, cast("Never", value))
                    if inspect.isawaitable(done):
                        await done
                except (SpearError, ValueError, MemoryError):
                    continue
                else:
                    pytest.fail(f"{parameter} took {type(value).__name__} {value!s:.20}")
        assert await world.deployment.echo(1) == 1
        assert await world.process.one() == 1
        assert await world.deployment.echo(2, timeout=5) == 2
        assert world.spearlet.state is SpearletState.RUNNING


@pytest.mark.parametrize("name", SETTINGS)
def test_the_defaults_of_settings_are_no_mistakes(name: str) -> None:
    SETTINGS[name]()  # raises nothing


@pytest.mark.parametrize("give", [math.inf, 7, 0.5])
def test_a_time_may_be_whole_broken_or_without_an_end(give: float) -> None:
    assert CallOptions(timeout=give).timeout == give
    assert ChannelConfig(connect_seconds=give).connect_seconds == give


def test_a_negative_time_for_a_call_is_no_time_left() -> None:
    assert CallOptions(timeout=-1).timeout == -1


@pytest.mark.parametrize("seconds", [math.inf, 1e-9])
def test_a_heartbeat_that_cannot_be_reckoned_with(seconds: float) -> None:
    with pytest.raises(
        spear.ConfigurationError, match="heartbeat_seconds must be finite and at least"
    ):
        HostLimits(wire=WireLimits(heartbeat_seconds=seconds))
