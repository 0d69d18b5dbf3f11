"""A user's objects may do anything when Spear inspects them: only their own call fails."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import attrs
import pytest
import trio
import trio.testing

import spear
from spear import Agent, FunctionRaised, InvalidArguments, Overloaded
from spear.agent import load_agent

from .helpers import calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from spear.wire import Head, Payload


class Loud(BaseException):
    """A BaseException that is neither an Exception nor one that the interpreter treats specially."""


def exits() -> NoReturn:
    sys.exit(4)


def interrupts() -> NoReturn:
    raise KeyboardInterrupt


def shouts() -> NoReturn:
    raise Loud


def fails() -> NoReturn:
    raise ValueError("in the middle of it")


WAYS = [exits, interrupts, shouts, fails]


def hostile_errors(way: Callable[[], NoReturn]) -> dict[str, BaseException]:
    """Return exceptions that misbehave when they are inspected."""

    class Str(Exception):
        def __str__(self) -> str:
            way()

    class Class(Exception):
        @property  # type: ignore[misc]  # that is the point
        def __class__(self) -> type:
            way()

    class Mute(BaseException):
        def __str__(self) -> str:
            way()

    class Group(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> tuple[Exception, ...]:
            way()

        def subgroup(self, *_: object) -> NoReturn:
            way()

        split = derive = subgroup

    class Named(type):
        def __getattribute__(cls, name: str) -> object:
            if name == "__qualname__":
                way()
            return super().__getattribute__(name)

    class Nameless(Exception, metaclass=Named):
        pass

    class Full(Overloaded):
        def __str__(self) -> str:
            way()

    class Raised(FunctionRaised):
        def __getattribute__(self, name: str) -> object:
            way()

    class Text(str):
        __slots__ = ()

        def encode(self, *_: object) -> NoReturn:
            way()

    class Subtle(Exception):
        def __str__(self) -> str:
            return Text("subtle")

    class Noted(Exception):
        @property
        def __notes__(self) -> list[str]:  # type: ignore[override]  # see above
            way()

    class Hashed(spear.NotFound):
        def __hash__(self) -> int:
            way()

    return {
        "Str": Str(), "Class": Class(), "Mute": Mute(), "Group": Group("all", [Str(), Class()]),
        "Nameless": Nameless(), "Full": Full("full"), "Raised": Raised("raised"), "Subtle": Subtle(),
        "Noted": Noted(), "Hashed": Hashed("hashed"),
    }  # fmt: skip


@pytest.mark.parametrize("own_process", [True, False], ids=["own process", "in the host"])
@pytest.mark.parametrize("debug", [True, False], ids=["debug", ""])
@pytest.mark.parametrize("way", WAYS)
async def test_an_exception_that_exits_when_it_is_looked_at_costs_its_own_call_only(
    way: Callable[[], NoReturn], debug: bool, own_process: bool
) -> None:
    app = Agent()
    errors = hostile_errors(way)
    held = trio.Event()

    @app.function
    async def fail(name: str) -> None:
        raise errors[name]

    @app.function
    def fail_in_thread(name: str) -> None:
        raise errors[name]

    @app.function(asyncio=True)
    async def fail_in_asyncio(name: str) -> None:
        raise errors[name]

    @app.function
    async def items(name: str) -> AsyncIterator[int]:
        yield 1
        raise errors[name]

    @app.function
    def items_in_thread(name: str) -> Iterator[int]:
        yield 1
        raise errors[name]

    @app.function
    async def hold() -> str:
        await held.wait()
        return "innocent"

    app.service.has_own_process = own_process
    async with calling(app, debug=debug) as caller:
        answers: list[object] = []

        async def be_innocent() -> None:
            answers.append(await caller.call("hold"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_innocent)
            for name in errors:
                for function in ("fail", "fail_in_thread", "fail_in_asyncio"):
                    with pytest.raises((FunctionRaised, Overloaded)) as raised:
                        await caller.call(function, name)
                    assert raised.value.delivered == "yes"
                for function in ("items", "items_in_thread"):
                    with pytest.raises((FunctionRaised, Overloaded)):
                        await caller.items(function, name)
            with pytest.raises(FunctionRaised, match=r"Str: <exception str\(\) failed>"):
                await caller.call("fail", "Str")
            with pytest.raises(FunctionRaised, match="Subtle: subtle"):
                await caller.call("fail", "Subtle")
            held.set()
        assert answers == ["innocent"]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -3, 10**400])
async def test_a_nonsensical_time_to_come_again_is_the_functions_own_affair(seconds: float) -> None:
    app = Agent()

    @app.function
    async def busy() -> None:
        raise Overloaded("later", retry_after_seconds=seconds)

    async with calling(app) as caller:
        for _ in range(2):
            with pytest.raises(spear.CallFailed, match="later"):
                await caller.call("busy")


@pytest.mark.parametrize("way", [exits, shouts, fails])
async def test_a_result_that_exits_when_it_is_looked_at_costs_its_own_call_only(
    way: Callable[[], NoReturn],
) -> None:
    class Class:
        @property  # type: ignore[misc]  # that is the point
        def __class__(self) -> type:
            way()

    class Items(list[int]):
        def __iter__(self) -> Iterator[int]:
            way()

        def __len__(self) -> int:
            way()

    @attrs.frozen
    class Property:
        x: int

        def __getattribute__(self, name: str) -> object:
            way()

    class Awaitable:
        def __await__(self) -> Iterator[None]:
            way()

        close = __await__

    class Dying:
        def __del__(self) -> None:
            way()

    things = {
        "class": Class, "items": lambda: Items([1]), "property": lambda: Property(1),
        "awaitable": Awaitable,
    }  # fmt: skip
    app = Agent()

    @app.function
    async def give(name: str) -> object:
        return things[name]()

    @app.function
    def give_in_thread(name: str) -> object:
        return things[name]()

    @app.function
    def generate(name: str) -> Iterator[object]:
        try:
            yield things[name]()
        finally:
            way()

    async with calling(app) as caller:
        for name in things:
            for function in ("give", "give_in_thread"):
                with pytest.raises(FunctionRaised):
                    await caller.call(function, name)
            with pytest.raises(FunctionRaised):
                await caller.items("generate", name)


async def test_a_class_whose_complaint_cannot_be_read_refuses_its_arguments_all_the_same() -> None:
    class Unreadable(ValueError):
        def __str__(self) -> str:
            exits()

    @attrs.frozen
    class Order:
        item: str

        def __attrs_post_init__(self) -> None:
            raise Unreadable

    app = Agent()

    async def order(it) -> None:  # type: ignore[no-untyped-def]  # annotated below
        raise AssertionError

    order.__annotations__["it"] = Order
    app.function(order)
    async with calling(app) as caller:
        with pytest.raises(InvalidArguments, match="not a valid Order"):
            await caller.call("order", {"item": "tea"})


async def test_a_service_that_exits_costs_its_own_call_only() -> None:
    class Service:
        def refuse(self, function: int, head: Head | None) -> spear.CallFailed | None:
            return None

        async def handle(self, call: object) -> tuple[Payload, bool]:
            raise SystemExit(4)

    app = Agent()

    @app.function
    async def ask() -> object:
        return await spear.call("anything")

    async with calling(app, host=Service()) as caller:
        for _ in range(2):
            with pytest.raises(FunctionRaised, match="SystemExit: 4"):
                await caller.call("ask")


async def test_a_proxy_that_can_say_nothing_while_a_program_is_loaded_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "proxied.py"
    path.write_text("""
import spear
class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("working outside of a request")
request = Proxy()
app = spear.Agent("found")
""")
    assert load_agent(str(path)).name == "found"
    del sys.modules["proxied"]
