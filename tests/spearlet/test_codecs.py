"""Values with codecs as arguments, results, items and reports of functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import spear
from spear import InvalidArguments, UnexpectedResult
from spear._codecs import CodedValue

from .money import Money

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FILE = Path(__file__).parent / "coded.py"
TEA = Money(350)
WORTHLESS = Money(1, "XXX")


@pytest.fixture
async def functions() -> AsyncIterator[spear.Deployment]:
    """The functions, in this process."""
    from . import coded

    async with spear.open_spearlet() as spearlet:
        yield await spearlet.deploy(coded.app)


@pytest.mark.slow
async def test_a_process_that_imports_the_same_module() -> None:
    async with spear.open_spearlet() as spearlet:
        functions = await spearlet.deploy(FILE)
        assert await functions.doubled(TEA) == {"twice": [Money(700)]}


async def test_arguments_results_reports_and_items(functions: spear.Deployment) -> None:
    assert await functions.doubled(TEA) == {"twice": [Money(700)]}
    reports: list[object] = []
    on_progress: Callable[[object], None] = reports.append
    tipped = functions.tipped.options(on_progress=on_progress, returns=Money)
    assert await tipped(TEA, tip=Money(50)) == Money(400)
    assert reports == [TEA]
    assert await functions.halved.submit(TEA) == Money(175)
    async with functions.running.stream(sends_items=True) as stream:
        for expected in (350, 700):
            await stream.send(TEA)
            assert await anext(stream) == Money(expected)


async def test_a_map_over_values_with_codecs(functions: spear.Deployment) -> None:
    prices = [Money(2 * cents) for cents in range(200)]
    async with functions.halved.map(prices) as results:
        assert [each async for each in results] == [Money(cents) for cents in range(200)]


async def test_an_argument_that_the_function_cannot_decode(functions: spear.Deployment) -> None:
    said = r"halved\(\): decode\(\) of the codec '\S*Money' has raised ValueError: no such currency"
    with pytest.raises(InvalidArguments, match=said) as caught:
        await functions.halved(WORTHLESS)
    assert (caught.value.code, caught.value.delivered) == ("codec_failed", "no")
    assert caught.value.got.endswith("money.Money")
    with pytest.raises(InvalidArguments, match="has no codec in this process: import") as missing:
        await functions.doubled(CodedValue("tests.Nowhere", 1))
    assert (missing.value.code, missing.value.got) == ("no_codec", "tests.Nowhere")


async def test_a_result_that_the_caller_cannot_decode(functions: spear.Deployment) -> None:
    said = "cannot decode the result: a value of type 'tests.Nowhere' has arrived"
    with pytest.raises(UnexpectedResult, match=said) as missing:
        await functions.foreign()
    assert (missing.value.code, missing.value.got) == ("no_codec", "tests.Nowhere")
    with pytest.raises(UnexpectedResult, match="has raised ValueError: no such currency") as caught:
        await functions.priced(49)
    assert (caught.value.code, caught.value.delivered) == ("codec_failed", "yes")


async def test_an_item_that_cannot_be_decoded(functions: spear.Deployment) -> None:
    async with functions.running.stream(sends_items=True) as stream:
        await stream.send(TEA)
        assert await anext(stream) == TEA
        await stream.send(WORTHLESS)
        with pytest.raises(InvalidArguments, match=r"running\(items\[1\]\): decode\(\)") as caught:
            await anext(stream)
    assert caught.value.code == "codec_failed"
    assert caught.value.got.endswith("money.Money")


async def test_a_function_that_cannot_decode_what_another_one_gives(
    functions: spear.Deployment,
) -> None:
    assert await functions.nested() == ["codec_failed", "codec_failed"]


async def test_in_a_map_only_the_results_that_cannot_be_decoded_fail(
    functions: spear.Deployment,
) -> None:
    async with functions.priced.map(range(200), on_error="keep") as results:
        outcomes = [each async for each in results]
    assert [each.index for each in outcomes if each.error] == [49, 99, 149, 199]
    for each in outcomes:
        if each.error is None:
            assert each.result == Money(each.index)
        else:
            assert each.error.code == "codec_failed"


async def test_in_a_map_only_the_items_that_cannot_be_decoded_fail(
    functions: spear.Deployment,
) -> None:
    prices = [WORTHLESS if at % 50 == 49 else Money(2 * at) for at in range(200)]
    async with functions.halved.map(prices, on_error="keep") as results:
        outcomes = [each async for each in results]
    assert [each.index for each in outcomes if each.error] == [49, 99, 149, 199]
    assert [each.result for each in outcomes[:3]] == [Money(0), Money(1), Money(2)]
