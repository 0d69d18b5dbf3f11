"""Functions that a host may use as hooks: only functions that have finished when they return."""

from __future__ import annotations

from functools import partial

import pytest

from spear._hooks import is_plain_function


def plain(_: object) -> None:
    """A plain function."""


async def awaited(_: object) -> None:
    """An async function."""


class Plain:
    def __call__(self, _: object) -> None:
        """A plain method."""

    async def method(self) -> None:
        """An async method."""


class Awaited:
    async def __call__(self, _: object) -> None:
        """An async method."""


@pytest.mark.parametrize(
    "value", [plain, Plain(), print, partial(plain, 1), [].append, lambda: None]
)
def test_what_a_host_can_call(value: object) -> None:
    assert is_plain_function(value)


@pytest.mark.parametrize(
    "value",
    [
        awaited, partial(awaited, 1), Awaited(), Plain().method, None, "print", 17,
        (lambda: (yield)),
    ],
)  # fmt: skip
def test_what_a_host_cannot_call(value: object) -> None:
    assert not is_plain_function(value)


def test_an_async_generator_cannot_be_called() -> None:
    async def items() -> object:
        yield 1

    assert not is_plain_function(items)
