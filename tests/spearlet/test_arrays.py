"""Arrays of functions, as their callers see them: in memory and in processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import spear
from spear import Array, FunctionRaised, InvalidArguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

numpy = pytest.importorskip("numpy", reason="numpy has no wheel for this Python")

FILE = Path(__file__).parent / "arrays.py"
LARGE = 5_000_000  # elements: 40 MB, more than a message


def at(value: object, *path: object) -> object:
    """Return a part of a value, such as ``value["a"][0]``."""
    for step in path:
        value = value[step]  # type: ignore[index]  # the test knows the value
    return value


def numbers(value: object, *path: object) -> object:
    """Return the numbers of an array in a value, as lists."""
    array = at(value, *path)
    assert isinstance(array, Array)
    return array.tolist()


@pytest.fixture
async def functions() -> AsyncIterator[spear.Deployment]:
    """The functions, in this process."""
    from . import arrays

    async with spear.open_spearlet() as spearlet:
        yield await spearlet.deploy(arrays.app)


async def test_an_array_is_an_array_unless_annotated_otherwise(functions: spear.Deployment) -> None:
    sent = numpy.arange(6.0).reshape(2, 3)
    assert await functions.kind(sent) == "Array"
    result = await functions.back({"a": [sent, 1]})
    assert numpy.asarray(at(result, "a", 0)).tolist() == sent.tolist()
    added = await functions.add_one(sent)
    assert at(added, "type") == "ndarray"
    assert numbers(added, "sum") == (sent + 1).tolist()
    assert not await functions.is_writable(sent)


async def test_lists_become_arrays_where_annotated(functions: spear.Deployment) -> None:
    assert numbers(await functions.add_one([1, 2]), "sum") == [2, 3]
    assert await functions.mean([1, 2]) == 1.5
    assert await functions.narrow([1.5]) == "float64"
    refused: list[object] = [[["a"], 1], [None], ["1"], [[1], [2, 3]], [1j], "x", 1, {}]
    for wrong in refused:
        with pytest.raises(InvalidArguments, match="expected an array"):
            await functions.mean(wrong)
    assert await functions.small([1, 255]) == [1, 255]
    for number in (256, -1, 1.5):
        with pytest.raises(InvalidArguments, match="expected an array of uint8, got a list"):
            await functions.small([number])


async def test_the_type_of_the_elements_is_checked(functions: spear.Deployment) -> None:
    assert await functions.mean(numpy.ones(3)) == 1
    assert await functions.narrow(numpy.ones(3, "f4")) == "float32"
    said = "mean\\(array=...\\): expected an array of float64, got an array of float32"
    with pytest.raises(InvalidArguments, match=said) as caught:
        await functions.mean(numpy.ones(3, "f4"))
    assert caught.value.expected == "an array of float64"
    assert await functions.only(numpy.ones(3, ">i2")) == ">i2"
    with pytest.raises(InvalidArguments, match="expected Array, got list"):
        await functions.only([1])


async def test_a_result_that_is_no_array_is_refused_with_its_place(
    functions: spear.Deployment,
) -> None:
    with pytest.raises(
        FunctionRaised, match=r"ndarray \(the elements are Python objects\) at \[0\]"
    ):
        await functions.wrong()


async def test_items_of_streams_may_be_arrays(functions: spear.Deployment) -> None:
    async with functions.function("items").stream(3) as stream:
        found = [at(numbers(item), 0) async for item in stream]
    assert found == [0, 1, 2]


async def test_arrays_can_be_mapped(functions: spear.Deployment) -> None:
    arrays = [numpy.full(10, index, "f8") for index in range(20)]
    async with functions.function("mean").map(arrays) as results:
        assert [each async for each in results] == list(range(20))


@pytest.mark.slow
async def test_large_arrays_go_to_processes_and_back() -> None:
    sent = numpy.arange(float(LARGE))
    async with spear.open_spearlet() as spearlet:
        functions = await spearlet.deploy(str(FILE))
        for number in range(3):
            result = await functions.add_one(sent + number)
            assert (numpy.asarray(at(result, "sum")) == sent + number + 1).all()
        # A value of several arrays, through the host to another function.
        both = await functions.pass_on(sent)
        assert (numpy.asarray(at(both, "sum")) == sent + 1).all()
        results = [await functions.back(sent[:1000] * number) for number in range(3)]
        assert [numpy.asarray(each)[1] for each in results] == [0, 1, 2]
        for number in range(3):
            await functions.keep(sent + number)
        assert await functions.first_numbers() == [0, 1, 2]


@pytest.mark.slow
async def test_large_bytes_go_to_processes_and_back() -> None:
    size = 40_000_000
    async with spear.open_spearlet() as spearlet:
        functions = await spearlet.deploy(str(FILE))
        assert await functions.length(bytes(size)) == size
        result = await functions.large_bytes(size)
        assert type(result) is bytes
        assert result == b"x" * size
        nested = await functions.back({"data": bytes(size)})
        assert nested == {"data": bytes(size)}
