"""Whatever an extension's block raises, its user gets an error of Spear, or the user's own exception."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from spear import ConfigurationError, SpawnFailed, SpearError
from spear.channels import open_extension

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SECONDS = 7.0


class Thing:
    """The object that an extension opens."""


def opened(
    enter: Callable[[], AbstractAsyncContextManager[Thing]],
) -> AbstractAsyncContextManager[Thing]:
    return open_extension("the gadget 'x'", enter, Thing, SECONDS, make_error=SpawnFailed)


async def stay() -> None:
    await trio.sleep_forever()


# -- entering ---------------------------------------------------------------------------------------


def no_manager() -> NoReturn:
    raise ZeroDivisionError("no beads")


@asynccontextmanager
async def raises() -> AsyncIterator[Thing]:
    raise ZeroDivisionError("no beads")
    yield Thing()


@asynccontextmanager
async def exits() -> AsyncIterator[Thing]:
    raise SystemExit("no beads")
    yield Thing()


@asynccontextmanager
async def nursery_fails() -> AsyncIterator[Thing]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await stay()
        yield Thing()


async def fail() -> None:
    raise ZeroDivisionError("no beads")


@pytest.mark.parametrize("enter", [no_manager, raises, exits, nursery_fails])
async def test_a_block_that_cannot_be_entered_is_an_error_of_its_kind(
    enter: Callable[[], AbstractAsyncContextManager[Thing]],
) -> None:
    with pytest.raises(SpawnFailed, match=r"^the gadget 'x' failed: .*: no beads$") as caught:
        async with opened(enter):
            pass
    assert caught.value.__cause__ is not None


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield


async def test_a_block_that_yields_none_is_an_error_and_is_left() -> None:
    with pytest.raises(SpawnFailed, match="TypeError: expected a Thing, not None"):
        async with opened(nothing):  # type: ignore[arg-type]  # the mistake
            pass


class Apple:
    """An object whose name takes the other article."""


async def never_awaited() -> None: ...


async def not_decorated() -> AsyncIterator[Apple]:
    yield Apple()


@pytest.mark.parametrize(
    ("enter", "fault"),
    [
        (
            never_awaited,
            "TypeError: never_awaited must return an async .* type 'coroutine'",
        ),
        (
            not_decorated,
            "TypeError: not_decorated must return an async .* type 'async_gen",
        ),
        (nothing, "TypeError: expected an Apple, not None"),
    ],
)
async def test_a_method_that_returns_no_block_is_named(
    enter: Callable[[], AbstractAsyncContextManager[Apple]], fault: str
) -> None:
    with pytest.raises(SpawnFailed, match=fault):
        async with open_extension("the gadget 'x'", enter, Apple, SECONDS, make_error=SpawnFailed):
            pass


async def test_a_thing_that_its_user_refuses_is_an_error_and_is_left() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def opens() -> AsyncIterator[Thing]:
        try:
            yield Thing()
        finally:
            left.append("it")

    def refuse(_: Thing) -> None:
        raise TypeError("it has no handle")

    with pytest.raises(SpawnFailed, match="failed: TypeError: it has no handle"):
        async with open_extension(
            "the gadget 'x'", opens, Thing, SECONDS, check=refuse, make_error=SpawnFailed
        ):
            pass
    assert left == ["it"]


@pytest.mark.parametrize("refusal", [ConfigurationError("no"), SpearError("no"), SpawnFailed("no")])
async def test_a_refusal_comes_out_as_it_is(refusal: SpearError) -> None:
    @asynccontextmanager
    async def refuse() -> AsyncIterator[Thing]:
        raise refusal
        yield Thing()

    with pytest.raises(type(refusal)) as caught:
        async with opened(refuse):
            pass
    assert caught.value is refusal


async def test_a_block_that_is_not_entered_in_time_is_left(autojump_clock: MockClock) -> None:
    left: list[str] = []

    @asynccontextmanager
    async def hang() -> AsyncIterator[Thing]:
        try:
            await stay()
            yield Thing()
        finally:
            left.append("it")

    begun = trio.current_time()
    with pytest.raises(SpawnFailed, match="did not open within 7 s"):
        async with opened(hang):
            pass
    assert trio.current_time() - begun == SECONDS
    assert left == ["it"]


async def test_a_block_that_is_entered_too_late_counts_as_not_entered(
    mock_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def late() -> AsyncIterator[Thing]:
        mock_clock.jump(SECONDS + 1)  # without a checkpoint
        yield Thing()

    with pytest.raises(SpawnFailed, match="did not open within 7 s"):
        async with opened(late):
            pass


async def test_a_cancellation_while_a_block_is_entered_goes_before_its_bug() -> None:
    @asynccontextmanager
    async def slip() -> AsyncIterator[Thing]:
        try:
            await stay()
            yield Thing()
        finally:
            raise ZeroDivisionError("no beads")

    with trio.CancelScope() as scope:
        scope.cancel()
        async with opened(slip):
            pass
    assert scope.cancelled_caught


async def test_an_interrupt_while_a_block_is_entered_is_the_operators() -> None:
    @asynccontextmanager
    async def interrupted() -> AsyncIterator[Thing]:
        async with trio.open_nursery():
            raise KeyboardInterrupt
        yield Thing()

    with pytest.raises(KeyboardInterrupt):
        async with opened(interrupted):
            pass


# -- inside, and leaving ----------------------------------------------------------------------------


@asynccontextmanager
async def slips() -> AsyncIterator[Thing]:
    try:
        yield Thing()
    finally:
        raise ZeroDivisionError("no beads")


async def test_a_bug_at_the_end_of_a_block_is_an_error_of_spear() -> None:
    with pytest.raises(SpearError, match="the gadget 'x' failed: ZeroDivisionError: no beads"):
        async with opened(slips):
            pass


async def test_a_bug_at_the_end_hides_no_exception_of_the_block(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyError, match="tea"):
        async with opened(slips):
            raise KeyError("tea")
    assert "the gadget 'x' failed at the end of a block" in caplog.messages


async def test_a_bug_at_the_end_hides_no_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    with trio.CancelScope() as scope:
        async with opened(slips):
            scope.cancel()
            await stay()
    assert scope.cancelled_caught
    assert "the gadget 'x' failed at the end of a block" in caplog.messages


async def test_an_exception_comes_out_of_a_nursery_of_the_extension_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def with_nursery() -> AsyncIterator[Thing]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            yield Thing()

    with pytest.raises(KeyError, match="tea"):
        async with opened(with_nursery):
            raise KeyError("tea")
    assert not caplog.messages


async def test_an_exception_that_an_extension_swallows_comes_out_all_the_same() -> None:
    @asynccontextmanager
    async def swallow() -> AsyncIterator[Thing]:
        with suppress(KeyError):
            yield Thing()

    with pytest.raises(KeyError, match="tea"):
        async with opened(swallow):
            raise KeyError("tea")


async def test_a_task_of_an_extension_that_fails_ends_the_block_with_an_error() -> None:
    @asynccontextmanager
    async def collapse() -> AsyncIterator[Thing]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield Thing()

    with pytest.raises(SpearError, match="the gadget 'x' failed: ZeroDivisionError: no beads"):
        async with opened(collapse):
            await stay()
    # Cancellations of the extension's own nursery are left out.
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # two tasks fail
        async with opened(collapse), trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            try:
                await stay()
            finally:
                raise KeyError("tea")
    assert caught.group_contains(KeyError)
    assert not caught.group_contains(trio.Cancelled)


async def test_an_extension_that_cancels_its_own_block_has_failed() -> None:
    @asynccontextmanager
    async def cancel() -> AsyncIterator[Thing]:
        with trio.CancelScope() as scope:
            scope.cancel()
            yield Thing()

    with pytest.raises(SpearError, match="failed: the block was cancelled from inside"):
        async with opened(cancel):
            await stay()


async def test_a_block_that_is_not_left_in_time_is_an_error(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def linger() -> AsyncIterator[Thing]:
        yield Thing()
        await stay()

    async with opened(linger_briefly):
        await trio.sleep(2 * SECONDS)  # the time limit does not apply to the block
    begun = trio.current_time()
    with pytest.raises(SpearError, match="did not end within 7 s"):
        async with opened(linger):
            pass
    assert trio.current_time() - begun == SECONDS


@asynccontextmanager
async def linger_briefly() -> AsyncIterator[Thing]:
    yield Thing()
    await trio.sleep(SECONDS / 2)


async def test_an_error_of_spear_at_the_end_comes_out_as_it_is() -> None:
    refusal = ConfigurationError("no")

    @asynccontextmanager
    async def refuse() -> AsyncIterator[Thing]:
        yield Thing()
        raise refusal

    with pytest.raises(ConfigurationError) as caught:
        async with opened(refuse):
            pass
    assert caught.value is refusal


async def test_a_block_that_is_open_can_be_cancelled_and_left() -> None:
    @asynccontextmanager
    async def well() -> AsyncIterator[Thing]:
        yield Thing()

    async with trio.open_nursery() as nursery:

        async def use() -> None:
            async with opened(well):
                await stay()

        nursery.start_soon(use)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
