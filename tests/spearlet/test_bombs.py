"""S6: malicious values cost only their own call, wherever they arrive. ``tests/wire/test_bombs.py``
measures their cost."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

import spear
from spear import SpearError, open_spearlet

from .helpers import HERE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from spear.spearlet import Deployment

MIB = 1024 * 1024
BOMBS = {
    "too many items": b"\x9a" + (8 * MIB).to_bytes(4, "big") + b"\x80" * (8 * MIB),
    "too many levels": b"\x81" * 1000 + b"\x80",
    "an endless list": b"\x9f" + b"\x80" * (8 * MIB),
    "a list that claims more": b"\x9b" + b"\x3f" * 8 + b"\x80" * 100,
    "undefined": b"\xf7",
    "undefined in a list": b"\x82\x01\xf7",
    "undefined as an argument": b"\x82\x81\xf7\xa0",
    "a simple value": b"\xf8\x20",
}

pytestmark = pytest.mark.slow


@asynccontextmanager
async def hostile() -> AsyncIterator[Deployment]:
    """Run a process that sends bombs, and an honest one beside it. The former must survive the block."""
    victim = spear.Agent("victim")

    @victim.function
    async def take(value: object) -> str:
        return "taken"

    async with open_spearlet() as spearlet:
        beside = await spearlet.deploy(victim)
        deployment = await spearlet.deploy(HERE / "hostile.py")
        yield deployment
        assert await deployment.echo("still") == "still"
        assert await beside.take("still") == "taken"
        (replica,) = deployment.replicas
        assert replica.id.incarnation == 1


@contextmanager
def naming(bomb: str) -> Iterator[None]:
    """Add the name of a bomb to what the block raises."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"the bomb was {bomb!r}")
        raise


async def test_s6_a_bomb_as_a_result_fails_its_call() -> None:
    async with hostile() as deployment:
        for name, bomb in BOMBS.items():
            with naming(name):
                with pytest.raises(SpearError) as caught:
                    await deployment.give(bomb)
                assert caught.value.delivered == "yes"


async def test_s6_a_bomb_as_a_report_fails_its_call() -> None:
    reports: list[object] = []
    async with hostile() as deployment:
        report = deployment.function("report")
        for name, large in BOMBS.items():
            bomb = large[: MIB - 1024]  # a report is never larger
            with naming(name):
                with pytest.raises(SpearError):
                    await report.options(on_progress=reports.append)(bomb)
                assert reports == []
                assert await report(bomb) == "done"  # the report is not decoded


async def test_s6_a_bomb_as_an_item_fails_its_stream() -> None:
    async with hostile() as deployment:
        for name, bomb in BOMBS.items():
            with naming(name):
                async with deployment.function("items").stream(bomb) as stream:
                    assert await anext(stream) == "first"
                    with pytest.raises(SpearError):
                        await anext(stream)


async def test_s6_a_bomb_as_arguments_is_refused_by_whom_it_was_meant_for() -> None:
    async with hostile() as deployment:
        for name, bomb in BOMBS.items():
            with naming(name):
                answer = await deployment.ask(bomb)
                assert str(answer).startswith("InvalidArguments: take(): ")
