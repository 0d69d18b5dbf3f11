"""Functions, streams, maps and submitted calls, for asyncio programs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar, Unpack, cast, final, overload

import spear.calls
from spear._util import NoPublicConstructor
from spear.calls import R
from spear.portal import ItemThread, is_at_hand

from ._bridge import Block, Bridge, ItemTask, Taken

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from spear._errors import CallFailed
    from spear._ids import InstanceId
    from spear._retry_policy import RetryPolicy
    from spear.calls import Answer, AnyIterable, EachOptions, ExecutionStatus, MapItem, MapOptions
    from spear.spearlet import OptionArguments

S = TypeVar("S")
T = TypeVar("T")
Many = TypeVar("Many", bound=Iterable[object])


class _MapMethod(Protocol[T]):
    """``Function.map`` or ``starmap``, without the meaning of its options."""

    def __call__(
        self, items: AnyIterable[object], *others: object, **options: object
    ) -> AbstractAsyncContextManager[spear.calls.MapResults[T]]: ...


@final
class Function(Generic[R], metaclass=NoPublicConstructor):
    """A :class:`spear.Function` for asyncio programs. Await its calls.

    Its methods have the arguments and the errors of the same methods there. Ctrl-C during one of them
    cancels the call, and is raised when the call has ended.

    Attributes:
        name: the function's name.
        deployment: the name of its deployment.
        is_stream: whether it sends items; if so, call it with :meth:`stream`.
    """

    def __init__(self, bridge: Bridge, function: spear.calls.Function[R]) -> None:
        self.name = function.name
        self.deployment = function.deployment
        self.is_stream = function.is_stream
        self._bridge = bridge
        self._function = function

    def __repr__(self) -> str:
        return f"<asyncio.Function {self.name} of {self.deployment}>"

    @property
    def timeout(self) -> float:
        """Default timeout of a call, in seconds."""
        return self._function.timeout

    @property
    def retry(self) -> RetryPolicy | None:
        """The policy for failed calls; None if there is none."""
        return self._function.retry

    @overload
    def options(
        self, *, returns: None = None, **options: Unpack[OptionArguments]
    ) -> Function[R]: ...

    @overload
    def options(self, *, returns: type[S], **options: Unpack[OptionArguments]) -> Function[S]: ...

    @overload
    def options(
        self, *, returns: object, **options: Unpack[OptionArguments]
    ) -> Function[object]: ...

    def options(
        self, *, returns: object = None, **options: Unpack[OptionArguments]
    ) -> Function[R] | Function[S] | Function[object]:
        """Return the function with other options; see :class:`spear.calls.CallOptions`.

        ``on_progress`` is called in the event loop. What it raises is logged.
        """
        on_progress = options.get("on_progress")
        if on_progress is not None:
            self._function.options(on_progress=on_progress)  # checks that it is a plain function
            options["on_progress"] = self._bridge.called_in_loop(on_progress)
        return Function._create(self._bridge, self._function.options(returns=returns, **options))

    async def signature(self) -> str:
        """Return the signature as in the source; see :meth:`spear.Function.signature`."""
        return await self._bridge.run(self._function.signature)

    async def call(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> R:
        """Call the function and wait for its result; see :meth:`spear.Function.call`."""
        call = partial(self._function.call, timeout=timeout, **keywords)
        return await self._bridge.run(call, *arguments)

    __call__ = call

    async def ask(self, /, *arguments: object, **keywords: object) -> Answer[R]:
        """Call the function as :meth:`call` does; returns the result with details."""
        return await self._bridge.run(partial(self._function.ask, **keywords), *arguments)

    async def submit(
        self, /, *arguments: object, timeout: float | None = None, **keywords: object
    ) -> Execution[R]:
        """Call the function without waiting; see :meth:`spear.Function.submit`."""
        submit = partial(self._function.submit, timeout=timeout, **keywords)
        inner = await self._bridge.look(submit, *arguments)
        return wrap_execution(self._bridge, inner)

    def stream(
        self,
        /,
        *arguments: object,
        timeout: float | None = None,
        sends_items: bool = False,
        **keywords: object,
    ) -> Block[spear.calls.FunctionStream[R], FunctionStream[R]]:
        """Open a stream in an ``async with`` block; see :meth:`spear.Function.stream`."""
        opening = partial(
            self._function.stream,
            *arguments,
            timeout=timeout,
            sends_items=sends_items,
            **keywords,
        )

        def wrap(stream: spear.calls.FunctionStream[R]) -> FunctionStream[R]:
            return cast("FunctionStream[R]", FunctionStream._create(self._bridge, stream))

        return Block(self._bridge, opening, wrap)

    # -- many calls ---------------------------------------------------------------------------

    @overload
    def map(
        self,
        items: AnyIterable[object],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> Block[spear.calls.MapResults[R], MapResults[R]]: ...

    @overload
    def map(
        self, items: AnyIterable[T], *, on_error: Literal["keep"], **options: Unpack[MapOptions]
    ) -> Block[spear.calls.MapResults[MapItem[T, R]], MapResults[MapItem[T, R]]]: ...

    def map(self, items: AnyIterable[object], *others: object, **options: object) -> object:
        """Call the function once for each item, and iterate over the results in an ``async with`` block.

        ::

            async with summarise.map(paths) as summaries:
                async for summary in summaries:
                    print(summary)

        See :meth:`spear.Function.map`. Asynchronous items are pulled in the event loop; others, unless
        they are a list, tuple or the like, in a thread of their own: both 64 items ahead of the calls.
        """
        return self._open_map(self._function.map, items, others, options)

    @overload
    def starmap(
        self,
        items: AnyIterable[Iterable[object]],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> Block[spear.calls.MapResults[R], MapResults[R]]: ...

    @overload
    def starmap(
        self, items: AnyIterable[Many], *, on_error: Literal["keep"], **options: Unpack[MapOptions]
    ) -> Block[spear.calls.MapResults[MapItem[Many, R]], MapResults[MapItem[Many, R]]]: ...

    def starmap(self, items: AnyIterable[object], *others: object, **options: object) -> object:
        """Call the function once for each item, as ``f(*item)``; otherwise as :meth:`map`."""
        return self._open_map(self._function.starmap, items, others, options)

    async def for_each(
        self,
        items: AnyIterable[T],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        **options: Unpack[EachOptions],
    ) -> list[MapItem[T, R]]:
        """Call the function for each item, and discard the results; returns the items that failed.

        See :meth:`spear.Function.for_each`.
        """
        pulled, close = self._pull(items)
        for_each = partial(self._function.for_each, pulled, on_error=on_error, **options)
        try:
            return await self._bridge.run(for_each)
        finally:
            await close()

    def _open_map(
        self,
        method: object,
        items: AnyIterable[object],
        others: tuple[object, ...],
        options: dict[str, object],
    ) -> Block[spear.calls.MapResults[T], MapResults[T]]:
        pulled, close = self._pull(items)
        opening = partial(cast("_MapMethod[T]", method), pulled, *others, **options)
        return Block(self._bridge, opening, partial(MapResults, self._bridge), close)

    def _pull(
        self, items: AnyIterable[T]
    ) -> tuple[AnyIterable[T], Callable[[], Awaitable[object]]]:
        """Return the items as the spearlet's thread may iterate over them, and what ends that."""
        if isinstance(items, AsyncIterable):
            task = ItemTask(self._bridge, items)
            return task.handover, task.close
        if is_at_hand(items) or not isinstance(items, Iterable):
            return items, _nothing
        thread = ItemThread(self._bridge.portal, items)

        async def close() -> None:
            thread.close()

        return thread.handover, close


async def _nothing() -> None:
    pass


def wrap_execution(bridge: Bridge, execution: spear.calls.Execution[R]) -> Execution[R]:
    """Return a submitted call for asyncio programs."""
    return cast("Execution[R]", Execution._create(bridge, execution))


def wrap_function(bridge: Bridge, function: spear.calls.Function[R]) -> Function[R]:
    """Return a function of a deployment for asyncio programs."""
    return cast("Function[R]", Function._create(bridge, function))


@final
class MapResults(Taken[T]):
    """The outcomes of a map, as an asynchronous iterator. Made by :meth:`Function.map`."""


@final
class FunctionStream(Taken[R], metaclass=NoPublicConstructor):
    """A running stream: iterate over it for the function's items. Made by :meth:`Function.stream`.

    Attributes:
        instance: the instance where the function runs.
    """

    def __init__(self, bridge: Bridge, stream: spear.calls.FunctionStream[R]) -> None:
        super().__init__(bridge, stream)
        self.instance: InstanceId = stream.instance
        self._stream = stream

    @property
    def failure(self) -> CallFailed | None:
        """The error that ended the stream, if any."""
        return self._stream.failure

    async def send(self, item: object) -> None:
        """Wait until the function's window has room for an item, then send the item."""
        await self._bridge.run(self._stream.send, item)

    async def send_eof(self) -> None:
        """Tell the function that no further item will be sent."""
        await self._bridge.run(self._stream.send_eof)

    async def result(self) -> R:
        """Wait for the function's end, and return its result."""
        return await self._bridge.run(self._stream.result)


@final
class Execution(Generic[R], metaclass=NoPublicConstructor):
    """A submitted call; see :class:`spear.Execution`. Made by :meth:`Function.submit`.

    Attributes:
        id: a unique text that cannot be guessed.
        deployment: the name of the deployment.
        function: the name of the function.
    """

    def __init__(self, bridge: Bridge, execution: spear.calls.Execution[R]) -> None:
        self.id = execution.id
        self.deployment = execution.deployment
        self.function = execution.function
        self._bridge = bridge
        self._execution = execution

    def __repr__(self) -> str:
        return f"<asyncio.Execution {self.id} of {self.function}: {self.status.value}>"

    @property
    def status(self) -> ExecutionStatus:
        """The present status."""
        return self._execution.status

    @property
    def instance(self) -> InstanceId | None:
        """The instance that runs or ran it; None while there is none."""
        return self._execution.instance

    @property
    def failure(self) -> Exception | None:
        """The exception with which it failed, if it did."""
        return self._execution.failure

    def __await__(self) -> Generator[object, None, R]:
        """Wait as :meth:`result` does: ``await execution``."""
        return self.result().__await__()

    def cancel(self) -> None:
        """Cancel it and, unless the call has a key, its function. Does nothing after the end."""
        self._bridge.portal.run_soon(self._execution.cancel)

    async def result(self) -> R:
        """Wait for the end, and return the function's result. If cancelled, the execution goes on."""
        return await self._bridge.run(self._execution.result)


async def as_completed(executions: Iterable[Execution[R]]) -> AsyncIterator[Execution[R]]:
    """Iterate over executions in the order in which they end; see :func:`spear.as_completed`.

    ::

        async for execution in spear.asyncio.as_completed(executions):
            print(await execution)
    """
    by_id = {each.id: each for each in executions}
    if by_id:
        bridge = next(iter(by_id.values()))._bridge
        inner = [each._execution for each in by_id.values()]
        ended = await bridge.look(spear.calls.as_completed, inner)
        async for each in Taken(bridge, ended):
            yield by_id[each.id]
