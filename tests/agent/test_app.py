"""Registration of functions, and the descriptions that an agent announces."""

from __future__ import annotations

import functools
import math
import os
import sys
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import Agent, ConfigurationError, RetryPolicy, WireLimits
from spear.agent import RegisteredFunctionStatistics

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


def some() -> int:
    """Some number."""
    return 1


async def test_a_registered_function_is_still_the_function() -> None:
    app = Agent()

    @app.function
    def plain(x: int) -> int:
        return x + 1

    @app.function(name="other")
    async def awaited(x: int) -> int:
        return x + 2

    assert plain(1) == 2
    assert await awaited(1) == 3
    assert app.functions == ("plain", "other")


def test_agents_show_their_functions() -> None:
    app = Agent("shop")
    assert repr(app) == "<Agent shop: no functions>"
    app.function(some)
    assert repr(app) == "<Agent shop: some>"
    assert repr(Agent()) == "<Agent: no functions>"
    assert repr(app.service) == "<AgentService some>"


def test_streams_are_told_from_functions() -> None:
    app = Agent()

    @app.function
    def plain() -> None: ...

    @app.function
    def generator():  # type: ignore[no-untyped-def]  # what it gives does not matter
        yield

    @app.function
    async def async_generator():  # type: ignore[no-untyped-def]  # see above
        yield

    @app.function(asyncio=True)
    async def asyncio_generator():  # type: ignore[no-untyped-def]  # see above
        yield

    assert app.functions == ("plain", "generator", "async_generator", "asyncio_generator")
    assert app.streams == {"generator", "async_generator", "asyncio_generator"}


def test_functions_may_have_retry_policies() -> None:
    app, policy = Agent(), RetryPolicy(max_attempts=5)
    app.function(some)
    app.function(name="patient", retry=policy)(some)
    app.function(name="never", retry=None)(some)

    @app.batched(retry=RetryPolicy(idempotent=True))
    def many(items: list[int]) -> list[int]:
        return items

    assert app.retry_policies == {"patient": policy, "many": RetryPolicy(idempotent=True)}


def test_a_policy_that_cannot_be_is_refused_at_the_decorator() -> None:
    app = Agent()
    with pytest.raises(ConfigurationError, match=r"retry must be a spear\.RetryPolicy, not 3"):
        app.function(retry=3)(some)  # type: ignore[call-overload]  # the mistake
    with pytest.raises(ConfigurationError, match="needs idempotent=True"):
        app.function(retry=RetryPolicy(on=("OSError",)))(some)

    async def stream() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(
        ConfigurationError, match=r"stream\(\) has a `yield`: streams are not tried"
    ):
        app.function(retry=RetryPolicy())(stream)
    assert app.functions == ()


class Callable_:  # noqa: N801  # an object that looks like a function
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ("price", r"'price' is text: use @app.function\(name='price'\), or @app.function alone"),
        (int, "int is a class"),
        (Callable_(), "is not a function: register a `def`"),
        (functools.partial(some), "is not a function: register a `def`"),
        (5, "5 is not a function"),
        (lambda: 1, "'<lambda>' cannot be a function's name: pass"),
    ],
)
def test_what_is_no_function_is_refused(thing: Callable[[], None], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Agent().function(thing)


@pytest.mark.parametrize("name", ["", "1", "a b", "a\n", "é", "x" * 129, "-a"])
def test_a_name_must_be_one(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a function's name"):
        Agent().function(name=name)(some)


def test_names_are_unique_and_some_are_taken() -> None:
    app = Agent()
    app.function(some)
    with pytest.raises(
        ConfigurationError, match=r"two functions have the name 'some'.*name='some_2'"
    ):
        app.function(some)
    with pytest.raises(ConfigurationError, match="are reserved for Spear"):
        app.function(name="spear.describe")(some)
    app.function(name="a.b-c_1")(some)
    assert app.functions == ("some", "a.b-c_1")


def test_only_coroutines_are_bridged() -> None:
    with pytest.raises(ConfigurationError, match=r"some\(\) is not an `async def`"):
        Agent().function(asyncio=True)(some)


async def test_a_function_that_comes_too_late_is_refused() -> None:
    app = Agent()
    async with calling(app):
        with pytest.raises(
            ConfigurationError, match="cannot register 'some': the agent is running"
        ):
            app.function(some)


def test_concurrency_becomes_a_limit_of_the_channel() -> None:
    assert Agent(concurrency=3).limits().max_calls == 3
    assert Agent(concurrency=3).limits(WireLimits(call_seconds=5)).call_seconds == 5
    base = WireLimits(max_calls=7)
    assert Agent().limits(base) is base


def test_threads_become_a_limit_of_the_channel_if_each_call_needs_one() -> None:
    app = Agent()

    @app.function
    def plain() -> None: ...

    @app.function
    def items() -> Iterator[int]:
        yield 1

    assert app.limits().max_calls == min(32, (os.cpu_count() or 1) + 4)
    assert app.limits(WireLimits(max_calls=3)).max_calls == 3
    app.service.runs_inline = True  # without threads, whose number depends on the machine
    assert app.limits().max_calls == WireLimits().max_calls
    app.service.runs_inline = False

    @app.function
    async def other() -> None: ...

    assert app.limits().max_calls == WireLimits().max_calls


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"concurrency": 0}, "at least 1, not 0"),
        ({"concurrency": True}, "a whole number of at least 1, not True"),
        ({"concurrency": "4"}, "a whole number of at least 1, not '4'"),
        ({"concurrency": 2.5}, "a whole number of at least 1, not 2.5"),
        ({"name": 7}, "an agent's name must be text, not 7"),
    ],
)
def test_an_agent_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Agent(**values)  # type: ignore[arg-type]  # that is the test


def test_a_name_in_another_script_is_refused_with_what_to_write() -> None:
    async def größe() -> int:
        return 1

    app = Agent()
    message = r"'größe' cannot be a function's name: pass a name of A-Z a-z 0-9 _ \. -, as in @app"
    with pytest.raises(ConfigurationError, match=message):
        app.function(größe)
    with pytest.raises(ConfigurationError, match="5 cannot be a function's name"):
        app.function(name=5)(größe)  # type: ignore[call-overload]  # that is the test
    assert app.function(name="size")(größe) is größe


async def test_methods_and_functions_in_c_are_functions() -> None:
    class Shop:
        def price(self, item: str) -> str:
            return f"{item}!"

    app = Agent()
    app.function(Shop().price)
    app.function(math.hypot)
    app.function(math.sqrt)
    async with calling(app) as caller:
        assert await caller.call("price", "tea") == "tea!"
        assert await caller.call("sqrt", 9) == 3.0


# -- descriptions -------------------------------------------------------------------------------------


async def test_functions_are_described() -> None:
    app = Agent()

    @app.function
    async def price(item: str, *, currency: str = "EUR") -> dict[str, list[int]]:
        """What it costs.

        And more.
        """
        raise AssertionError

    @app.function
    def count(n):  # type: ignore[no-untyped-def]  # shown as it is
        yield n

    app.function(name="max")(max)
    described = [
        {
            "name": "price",
            "kind": "function",
            "signature": "price(item: str, *, currency: str = 'EUR') -> dict[str, list[int]]",
            "summary": "What it costs.",
        },
        {"name": "count", "kind": "stream", "signature": "count(n)", "summary": ""},
        {
            "name": "max",
            "kind": "function",
            "signature": "max(...)",
            "summary": str(max.__doc__).splitlines()[0],
        },
    ]
    assert app.describe() == described
    async with calling(app) as caller:
        assert "spear.describe" not in caller.channel.functions
        assert await caller.call("spear.describe") == described


def test_classes_of_ours_are_described_as_they_are_imported() -> None:
    app = Agent()

    async def add(items, more, plain=1):  # type: ignore[no-untyped-def]  # below
        raise AssertionError

    # The annotations are objects, as in a file without `from __future__ import annotations`.
    add.__annotations__ = {
        "items": spear.Items[int],
        "more": "spear.Items[int]",
        "return": spear.SharedBuffer | None,
    }
    app.function(add)
    (described,) = app.describe()
    assert described["signature"] == (
        "add(items: spear.Items[int], more: spear.Items[int], plain=1) -> spear.SharedBuffer | None"
    )


class Unprintable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class Exiting:
    def __repr__(self) -> str:
        sys.exit(3)


@pytest.mark.parametrize(
    ("default", "annotation"),
    [
        (Unprintable(), int), (1 << 60_000, int), ([0] * 10_000, int), (1, Unprintable()),
        (1, "int" + " | int" * 900),
        (Exiting(), int),
    ],
    ids=range(6),
)  # fmt: skip
async def test_a_function_that_cannot_be_described_leaves_the_others_described(
    default: object, annotation: object, caplog: pytest.LogCaptureFixture
) -> None:
    app = Agent()

    async def odd(x) -> None:  # type: ignore[no-untyped-def]  # below
        """Odd."""

    odd.__defaults__ = (default,)
    odd.__annotations__ = {"x": annotation}
    app.function(odd)

    @app.function
    async def honest(x: int) -> None:
        """Fine."""

    async with calling(app) as caller:
        told = await caller.call("spear.describe")
    assert told == app.describe() == [
        {"name": "honest", "kind": "function", "signature": "honest(x: int) -> None", "summary": "Fine."},
    ]  # fmt: skip
    assert "odd() has no description: " in caplog.text


async def test_text_that_is_not_unicode_is_described_with_escapes() -> None:
    app = Agent()

    async def odd(x) -> None:  # type: ignore[no-untyped-def]  # below
        raise AssertionError

    odd.__doc__ = "A \ud800."  # CPython 3.13 compiles no such text
    odd.__annotations__ = {"x": "'\ud800'"}
    app.function(odd)
    async with calling(app) as caller:
        told = await caller.call("spear.describe")
    assert told == [
        {
            "name": "odd",
            "kind": "function",
            "signature": r"odd(x: '\ud800')",
            "summary": r"A \ud800.",
        }
    ]


# -- the lifespan -------------------------------------------------------------------------------------


async def test_a_lifespan_surrounds_the_calls() -> None:
    app = Agent()
    steps: list[str] = []
    resource: ContextVar[str] = ContextVar("resource")

    @app.lifespan
    async def resources() -> AsyncIterator[None]:
        steps.append("start")
        resource.set("open")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()
        steps.append("stop")

    @app.function
    async def use() -> str:
        steps.append("use")
        return resource.get()

    async with calling(app) as caller:
        assert await caller.call("use") == "open"
    assert steps == ["start", "use", "stop"]
    with pytest.raises(ConfigurationError, match="the agent has a lifespan already"):
        app.lifespan(resources)


async def test_a_lifespan_may_be_a_context_manager() -> None:
    app = Agent()
    steps: list[str] = []

    @app.lifespan
    @asynccontextmanager
    async def resources() -> AsyncIterator[int]:
        steps.append("start")
        yield 5
        steps.append("stop")

    async with calling(app):
        assert steps == ["start"]
    assert steps == ["start", "stop"]


async def test_a_lifespan_that_fails_is_heard_of() -> None:
    app = Agent()

    @app.lifespan
    async def resources() -> AsyncIterator[None]:
        raise ConnectionError("no database")
        yield

    with pytest.raises(ConnectionError, match="no database"):
        async with app.running():
            pass


async def test_an_agent_may_run_twice_at_once() -> None:
    app = Agent()
    app.function(some)
    async with calling(app) as one, calling(app) as two:
        assert await one.call("some") == await two.call("some") == 1


async def test_but_not_in_two_threads() -> None:
    app = Agent()

    async def run() -> None:
        async with app.running():
            pass

    async with app.running():
        with pytest.raises(ConfigurationError, match="already runs in another thread"):
            await trio.to_thread.run_sync(trio.run, run)
    await trio.to_thread.run_sync(trio.run, run)


# -- numbers ------------------------------------------------------------------------------------------


async def test_calls_are_counted() -> None:
    app = Agent()

    @app.function
    async def divide(a: int, b: int) -> float:
        return a / b

    app.function(some)
    async with calling(app) as caller:
        assert await caller.call("divide", 1, 2) == 0.5
        for arguments in ([1, 0], [1, "x"]):
            with pytest.raises(spear.CallFailed):
                await caller.call("divide", *arguments)
    assert app.service.statistics() == (
        RegisteredFunctionStatistics(name="divide", kind="function", calls=3, failed=2, late=0),
        RegisteredFunctionStatistics(name="some", kind="function", calls=0, failed=0, late=0),
    )


@pytest.mark.parametrize("module", [spear, spear.agent])
def test_public_names_are_found_when_they_are_needed(module: object) -> None:
    for name in dir(module):
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense  # type: ignore[attr-defined]  # that is the point
