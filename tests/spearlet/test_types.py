"""Dates, numbers, sets and other types as arguments, results, items and reports of deployed functions."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

import spear
from spear import Items, context

from .helpers import deployed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

VALUE = {
    1: datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC),
    "set": {Decimal("1.50"), 1j, frozenset({UUID(int=1)}), (1, "a")},
    "path": [Path("a/b"), timedelta(days=-1), date(2026, 1, 31)],
}


def make_agent() -> spear.Agent:
    app = spear.Agent("types")

    @app.function
    async def echo(*values: object) -> object:
        context().progress(values[-1])
        return values[-1]

    @app.function
    def plain_echo(value: object = None) -> object:
        return value

    @app.function
    async def later(day: date, by: timedelta = timedelta(1)) -> date:
        return day + by

    @app.function
    async def each(items: Items[Decimal]) -> AsyncIterator[Decimal]:
        async for item in items:
            yield item + 1

    return app


@pytest.mark.parametrize("name", ["echo", "plain_echo"])
async def test_values_arrive_as_they_were_both_ways(name: str) -> None:
    async with deployed(make_agent()) as deployment:
        function = deployment.function(name)
        assert await function(VALUE) == VALUE
        assert await function([VALUE, {"x": VALUE}]) == [VALUE, {"x": VALUE}]


async def test_named_arguments_and_reports_of_progress_too() -> None:
    reports: list[object] = []
    on_progress: Callable[[object], None] = reports.append
    async with deployed(make_agent()) as deployment:
        echo = deployment.echo.options(on_progress=on_progress)
        assert await echo(1, VALUE) == VALUE
        assert await deployment.plain_echo(value=VALUE) == VALUE
    assert reports == [VALUE]


async def test_annotations_take_values_and_text() -> None:
    async with deployed(make_agent()) as deployment:
        later = deployment.later
        assert await later(date(2026, 1, 31)) == date(2026, 2, 1)
        assert await later("2026-01-31", by="P2D") == date(2026, 2, 2)
        with pytest.raises(
            spear.InvalidArguments, match=r"later\(day=...\): expected date, got datetime"
        ):
            await later(datetime(2026, 1, 31))


async def test_items_of_streams() -> None:
    async with (
        deployed(make_agent()) as deployment,
        deployment.each.stream(sends_items=True) as stream,
    ):
        await stream.send(Decimal("1.5"))
        await stream.send_eof()
        assert [item async for item in stream] == [Decimal("2.5")]


async def test_calls_in_batches() -> None:
    values = [VALUE, 1, {2}, None] * 20
    async with (
        deployed(make_agent()) as deployment,
        deployment.plain_echo.map(values) as results,
    ):
        assert [each async for each in results] == values


async def test_a_submitted_call_and_a_call_with_a_key() -> None:
    async with deployed(make_agent()) as deployment:
        assert await deployment.echo.submit(VALUE) == VALUE
        keyed = deployment.echo.options(key="k-1")
        assert await keyed(VALUE) == await keyed(VALUE) == VALUE
