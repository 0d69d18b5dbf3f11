"""Functions written for AWS Lambda, whose second parameter is the context."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

import spear
from spear import InvalidArguments
from spear.agent import Agent

from .helpers import calling

if TYPE_CHECKING:
    from trio.testing import MockClock

    from spear.channels import Metadata


@attrs.frozen
class Order:
    id: int


class LambdaContext:
    """A class of the same name, as libraries for Lambda have it."""


def items_of(result: object) -> list[object]:
    assert isinstance(result, list)
    return result


def told(context: object) -> list[object]:
    assert isinstance(context, spear.LambdaContext)
    return [
        context.function_name,
        context.function_version,
        context.invoked_function_arn,
        context.aws_request_id,
        context.log_group_name,
        context.log_stream_name,
        context.identity,
    ]


async def test_a_handler_gets_a_context_with_the_names_of_lambda(
    autojump_clock: MockClock,
) -> None:
    app = Agent()

    @app.function
    async def handler(event, context):  # type: ignore[no-untyped-def]  # as in files for Lambda
        await trio.sleep(1.5)
        assert context.memory_limit_in_mb > 0
        assert context.client_context is None
        return [event, context.get_remaining_time_in_millis(), *told(context)]

    async with calling(app) as caller:
        assert await caller.call("handler", {"a": 1}, timeout=4) == [
            {"a": 1},
            2500,
            "handler",
            "$LATEST",
            "arn:aws:lambda:local:000000000000:function:handler",
            "memory:tested#1/1",
            "tested",
            "memory:tested#1",
            None,
        ]
        # Without a deadline there is as much time as an integer of 32 bits can say.
        _, millis, *_ = items_of(await caller.call("handler", 7, timeout=inf))
        assert millis == 2**31 - 1


async def test_a_plain_handler_and_one_with_annotations_get_it_too() -> None:
    app = Agent()

    @app.function
    def plain(event, context):  # type: ignore[no-untyped-def]  # as in files for Lambda
        return [event, context.function_name]

    @app.function
    def typed(order: Order, ctx: spear.LambdaContext) -> list[object]:
        return [order.id, ctx.function_name]

    @app.function
    def foreign(order: Order, _: LambdaContext) -> list[object]:
        return [order.id, isinstance(_, spear.LambdaContext)]

    async with calling(app) as caller:
        assert await caller.call("plain", b"raw") == [b"raw", "plain"]
        assert await caller.call("plain", event=1) == [1, "plain"]
        assert await caller.call("typed", {"id": 3}) == [3, "typed"]
        assert await caller.call("foreign", {"id": 4}) == [4, True]
        with pytest.raises(InvalidArguments, match="typed"):
            await caller.call("typed", {"number": 3})
    signatures = {each["name"]: each["signature"] for each in app.describe()}
    assert signatures["plain"] == "plain(event, context=None)"


async def test_the_request_and_the_client_are_those_of_the_gateway() -> None:
    app = Agent()

    @app.function
    async def handler(event, context):  # type: ignore[no-untyped-def]  # as in files for Lambda
        client = context.client_context
        return [context.aws_request_id, client.custom, client.env, client.client]

    async with calling(app) as caller:
        metadata: Metadata = {
            "x-request-id": "r7",
            "client_context": {"custom": {"a": 1}, "env": {}},
        }
        assert await caller.call("handler", {}, metadata=metadata) == ["r7", {"a": 1}, {}, None]


async def test_a_caller_may_pass_the_second_argument_itself() -> None:
    app = Agent()

    @app.function
    async def answer(event, context):  # type: ignore[no-untyped-def]  # it is not a handler of Lambda
        return [event, context]

    async with calling(app) as caller:
        assert await caller.call("answer", "why", "because") == ["why", "because"]
        assert await caller.call("answer", "why", context=3) == ["why", 3]
        assert await caller.call("answer", event="why", context=None) == ["why", None]
        with pytest.raises(InvalidArguments, match="requires the argument 'event'"):
            await caller.call("answer")


async def test_only_what_looks_like_a_handler_of_lambda_gets_a_context() -> None:
    app = Agent()

    @app.function
    async def question(text, context):  # type: ignore[no-untyped-def]  # its own names
        return [text, context]

    @app.function
    async def typed(event: str, context: str) -> list[str]:
        return [event, context]

    @app.function
    async def optional(event, context="own"):  # type: ignore[no-untyped-def]  # likewise
        return context

    @app.function
    async def three(event, context, more):  # type: ignore[no-untyped-def]  # likewise
        return context

    async with calling(app) as caller:
        for name in "question", "typed", "three":
            with pytest.raises(InvalidArguments, match="requires the argument 'context'"):
                await caller.call(name, "x")
        assert await caller.call("optional", "x") == "own"
