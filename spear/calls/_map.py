"""The methods of a function that call it for many items.

``_mapping`` pulls the items and keeps their order; a :class:`CallMaker` makes the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import (
    TYPE_CHECKING,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Never,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    final,
    overload,
)

import attrs
import trio

from spear._errors import (
    ConfigurationError,
    InvalidArguments,
)
from spear._failures import annotate
from spear._limits import expect_whole, shown
from spear._retry_policy import RetryPolicy
from spear._util import did_you_mean
from spear.channels import named_block, open_private_nursery, protected_class

from ._mapping import Mapper, open_source
from ._options import CallOptions
from ._returns import R

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from spear._errors import SpearError
    from spear._ids import InstanceId

    from ._call_maker import ItemRunner
    from ._functions import Function
    from ._mapping import AnyIterable

T = TypeVar("T")
V = TypeVar("V")
S = TypeVar("S", bound="Iterable[object]")

_CALL_OPTIONS: Final = frozenset(each.name for each in attrs.fields(CallOptions))


class MapItem(NamedTuple, Generic[T, R]):
    """The outcome of one item of a map.

    Attributes:
        index: the index of the item, from 0.
        argument: the item.
        result: the result of the function; None if it failed.
        error: the failure; None if there is none.
        attempts: the number of calls that were made for the item; 0 if its argument cannot be sent.
        instance: the instance that got the last of these calls, if any.
    """

    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    argument: T
    result: R
    error: SpearError | None
    attempts: int
    instance: InstanceId | None


OnError: TypeAlias = Literal["raise", "keep"]
"""What a map does with failures: raise the first one, or keep each in its item."""


class EachOptions(TypedDict, total=False):
    """The options of ``Function.for_each``.

    Attributes:
        limit: the most calls, or batches of short ones, at a time; by default as many as there are slots.
        timeout: seconds for each call, from its start; by default that of the function. See
            :class:`CallOptions`.
        retry: the policy for failed calls; by default that of the function.
    """

    limit: int | None
    timeout: float | None
    retry: RetryPolicy | None


class MapOptions(EachOptions, total=False):
    """The options of ``Function.map`` and ``starmap``: those of :class:`EachOptions`, and another one.

    Attributes:
        ordered: whether results come in the order of the items, as by default; otherwise as calls end.
    """

    ordered: bool


class _OutcomeSource(Protocol):
    """A mapper, as :class:`MapResults` sees it."""

    async def take(self) -> object: ...

    def stop(self) -> None: ...


@final
@protected_class
class MapResults(Generic[V]):
    """The outcomes of a map, as an asynchronous iterator. Made by ``Function.map``.

    Raises:
        CallCancelled: the block of the map was left before all outcomes were taken.
    """

    def __init__(self, mapper: _OutcomeSource, name: str, *, keeps_items: bool) -> None:
        self._mapper = mapper
        self._name = name
        self._keeps_items = keeps_items

    def __aiter__(self) -> MapResults[V]:
        return self

    async def __anext__(self) -> V:
        outcome = await self._mapper.take()
        if type(outcome) is MapItem and not self._keeps_items and outcome.error is not None:
            self._mapper.stop()
            annotate(outcome.error, _note_of(outcome, self._name))
            raise outcome.error
        return cast("V", outcome)


def _note_of(failed: MapItem[object], name: str) -> str:
    """Return the note on the failure of an item, which a map has raised."""
    calls = f", after {failed.attempts} calls" if failed.attempts > 1 else ""
    return f"item {failed.index} of {name}(){calls}: {shown(failed.argument)}"


def arguments_of_item(item: object, *, unpack: bool) -> tuple[object, ...]:
    """Return the arguments of the call for an item. Raises InvalidArguments.

    Args:
        item: the item.
        unpack: whether the item is an iterable of arguments, as for ``starmap``.
    """
    if not unpack:
        return (item,)
    if isinstance(item, str | bytes | Mapping) or not isinstance(item, Iterable):
        raise InvalidArguments(
            f"starmap needs items that are lists of arguments, not {shown(item)}", code="bad_item"
        )
    return tuple(item)


Opened: TypeAlias = (
    "AbstractAsyncContextManager[MapResults[MapItem[T, R]]]"
    " | AbstractAsyncContextManager[MapResults[R]]"
)


class ManyCalls(Generic[R]):
    """The methods of :class:`Function` that call the function for many items."""

    @overload
    def map(
        self,
        items: AnyIterable[object],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[R]]: ...

    @overload
    def map(
        self,
        items: AnyIterable[T],
        *,
        on_error: Literal["keep"],
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[MapItem[T, R]]]: ...

    def map(
        self,
        items: AnyIterable[T],
        *others: object,
        on_error: OnError = "raise",
        **options: Unpack[MapOptions],
    ) -> Opened[T, R]:
        """Call the function once for each item, as ``f(item)``, and iterate over the results.

        ::

            async with summarise.map(paths) as summaries:
                async for summary in summaries:
                    print(summary)

        As many calls run at a time as there are slots, or at most ``limit``. A call waits for a slot as
        long as it takes, or as long as ``f.options(queue_timeout=...)`` says; the deployment's own
        ``queue_timeout`` does not apply. Short calls travel together, about 5 ms of work in one message,
        and count as one for ``limit``; each item has its own result and failure. Items are pulled ahead
        of the results that are taken, about two for each slot, and some thousands if calls are very
        short. Leaving the block cancels the calls that have not ended, and closes ``items`` if it is an
        asynchronous generator.

        Args:
            items: any iterable, or asynchronous iterable.
            on_error: with "raise", results are the function's, and the first failure is raised in its
                turn; no further items are begun then. A note on the exception has the index of the item
                and its shortened ``repr``. With "keep", results are :class:`MapItem` objects.
            options: ``limit``, ``ordered``, ``timeout`` and ``retry``; see :class:`MapOptions`. Arguments
                of all calls are no options: use ``f.options(keywords={"currency": "GBP"}).map(items)``.

        Raises:
            InvalidArguments: an argument cannot be used.
            ConfigurationError: the function has a key, which would make one call of all.
            Rejected: the function gives a stream.
        """
        opened = _open_map(self, "map", items, others, on_error, options)
        return cast("Opened[T, R]", opened)

    @overload
    def starmap(
        self,
        items: AnyIterable[Iterable[object]],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[R]]: ...

    @overload
    def starmap(
        self,
        items: AnyIterable[S],
        *,
        on_error: Literal["keep"],
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[MapItem[S, R]]]: ...

    def starmap(
        self,
        items: AnyIterable[S],
        *others: object,
        on_error: OnError = "raise",
        **options: Unpack[MapOptions],
    ) -> Opened[S, R]:
        """Call the function once for each item, as ``f(*item)``; otherwise as :meth:`map`."""
        opened = _open_map(self, "starmap", items, others, on_error, options)
        return cast("Opened[S, R]", opened)

    async def for_each(
        self,
        items: AnyIterable[T],
        *others: Never,
        on_error: OnError = "raise",
        **options: Unpack[EachOptions],
    ) -> list[MapItem[T, R]]:
        """Call the function for each item as :meth:`map`, and discard the results. A checkpoint.

        If cancelled, the calls that have not ended are cancelled.

        Returns:
            The items that failed, if ``on_error`` is "keep"; else an empty list.
        """
        mapping = _open_map(self, "for_each", items, others, on_error, options)
        async with mapping as outcomes:
            return [
                cast("MapItem[T, R]", outcome)
                async for outcome in outcomes
                if type(outcome) is MapItem and outcome.error is not None
            ]


def _open_map(
    calls: ManyCalls[R],
    method: str,
    items: AnyIterable[T],
    others: tuple[object, ...],
    on_error: OnError,
    options: EachOptions,
) -> AbstractAsyncContextManager[MapResults[object]]:
    """Open the block of a method; refuse arguments that the method does not have."""
    function = cast("Function[R]", calls)
    name = f"{function.name}.{method}"
    known = EachOptions.__optional_keys__ if method == "for_each" else MapOptions.__optional_keys__
    if others:
        raise InvalidArguments(
            f"{name}() takes one iterable; for several arguments of each call, use "
            f"{function.name}.starmap(zip(...))"
        )
    for option in options:
        if option not in known:
            message = (
                f"{name}() has no option {option!r}{_advice(function.name, method, option, known)}"
            )
            raise InvalidArguments(message, parameter=option, code="unknown_argument")
    if on_error not in ("raise", "keep"):
        raise InvalidArguments(f'on_error must be "raise" or "keep", not {on_error!r:.60}')
    limit = options.get("limit")
    if limit is not None:
        expect_whole("limit", limit, 1)
    function._calls.expect_stream(False)
    if function._calls.options.key is not None:
        raise ConfigurationError("a key makes all calls one: map the function without its key")
    waits = function._calls.options.queue_timeout
    function = function.options(
        timeout=options.get("timeout"),
        queue_timeout=inf if waits is None else waits,  # not that of the deployment
        retry=options.get("retry"),
    )
    keeps_items, unpack = on_error == "keep", method == "starmap"
    runner: ItemRunner[T] = function._calls.run_items(limit, unpack=unpack, keeps_items=keeps_items)
    ordered = cast("MapOptions", options).get("ordered", method != "for_each")
    open_block = named_block(name, _run_map)
    return open_block(runner, name, items, keeps_items=keeps_items, ordered=ordered)


def _advice(function: str, method: str, option: str, known: frozenset[str]) -> str:
    """Return the end of the message about an option that a method does not have."""
    if hint := did_you_mean(option, sorted(known | {"on_error"})):
        return hint
    given = f"{option}=..." if option in _CALL_OPTIONS else f"keywords={{{option!r}: ...}}"
    of = "an option" if option in _CALL_OPTIONS else "an argument"
    return f"; for {of} of all calls, use {function}.options({given}).{method}(items)"


async def _run_map(
    runner: ItemRunner[T],
    name: str,
    items: AnyIterable[T],
    *,
    keeps_items: bool,
    ordered: bool,
) -> AsyncIterator[MapResults[object]]:
    await trio.lowlevel.checkpoint()
    async with open_private_nursery() as nursery:
        source = open_source(items, nursery)
        mapper = Mapper(source, runner.run, runner.limit, runner.batch_size, ordered=ordered)
        runner.on_assigned = mapper.look_again
        nursery.start_soon(mapper.run)
        try:
            yield MapResults(mapper, name, keeps_items=keeps_items)
        finally:
            mapper.close()
            nursery.cancel_scope.cancel()
