"""Typed clients for asyncio programs; ``spear.spearlet`` describes those for Trio."""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import TypeVar as TypeVarWithDefault

    from spear._retry_policy import RetryPolicy
    from spear.calls import Answer, AnyIterable, EachOptions, MapItem, MapOptions
    from spear.spearlet import CallableWithItem, OptionArguments

    from ._functions import Execution, FunctionStream, MapResults
    from ._spearlet import DeployedProgram, Deployment

    D = TypeVarWithDefault("D", bound=DeployedProgram, default=Deployment)
else:
    D = TypeVar("D")
    """The type of a deployment: that of the variable to which it is assigned, or :class:`Deployment`."""

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
V = TypeVar("V")


class _Described(Protocol):
    """The attributes that typed functions and typed streams share."""

    name: str
    deployment: str
    is_stream: bool

    @property
    def timeout(self) -> float: ...

    @property
    def retry(self) -> RetryPolicy | None: ...

    async def signature(self) -> str: ...


class TypedFunction(_Described, Protocol[P, V]):
    """A :class:`Function` to type checkers, with its parameters and the type of its results.

    The parameter ``timeout`` is that of a call. For ``ask`` use the option ``timeout``.
    """

    async def __call__(self, /, *arguments: P.args, **keywords: P.kwargs) -> V:
        """Call the function; see :meth:`Function.call`."""
        ...

    async def call(self, /, *arguments: P.args, **keywords: P.kwargs) -> V:
        """See :meth:`Function.call`."""
        ...

    async def ask(self, /, *arguments: P.args, **keywords: P.kwargs) -> Answer[V]:
        """See :meth:`Function.ask`."""
        ...

    async def submit(self, /, *arguments: P.args, **keywords: P.kwargs) -> Execution[V]:
        """See :meth:`Function.submit`."""
        ...

    @overload
    def options(self, *, returns: None = None, **options: Unpack[OptionArguments]) -> Self: ...

    @overload
    def options(
        self, *, returns: type[S], **options: Unpack[OptionArguments]
    ) -> TypedFunction[P, S]: ...

    @overload
    def options(
        self, *, returns: object, **options: Unpack[OptionArguments]
    ) -> TypedFunction[P, object]: ...

    def options(self, *, returns: object = None, **options: Unpack[OptionArguments]) -> object:
        """See :meth:`Function.options`."""
        ...

    @overload
    def map(
        self: CallableWithItem[T, V],
        items: AnyIterable[T],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[V]]: ...

    @overload
    def map(
        self: CallableWithItem[T, V],
        items: AnyIterable[T],
        *,
        on_error: Literal["keep"],
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[MapItem[T, V]]]: ...

    def map(
        self: CallableWithItem[T, V],
        items: AnyIterable[T],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        **options: Unpack[MapOptions],
    ) -> object:
        """See :meth:`Function.map`."""
        ...

    @overload
    def starmap(
        self,
        items: AnyIterable[Iterable[object]],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[V]]: ...

    @overload
    def starmap(
        self,
        items: AnyIterable[Iterable[object]],
        *,
        on_error: Literal["keep"],
        **options: Unpack[MapOptions],
    ) -> AbstractAsyncContextManager[MapResults[MapItem[Iterable[object], V]]]: ...

    def starmap(
        self,
        items: AnyIterable[Iterable[object]],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        **options: Unpack[MapOptions],
    ) -> object:
        """See :meth:`Function.starmap`. Type checkers do not know the arguments in the items."""
        ...

    async def for_each(
        self: CallableWithItem[T, V],
        items: AnyIterable[T],
        *,
        on_error: Literal["raise", "keep"] = "raise",
        **options: Unpack[EachOptions],
    ) -> list[MapItem[T, V]]:
        """See :meth:`Function.for_each`."""
        ...


class TypedStream(_Described, Protocol[P, V]):
    """A :class:`Function` that sends or takes items, to type checkers: see :class:`TypedFunction`."""

    def stream(
        self, /, *arguments: P.args, **keywords: P.kwargs
    ) -> AbstractAsyncContextManager[FunctionStream[V]]:
        """See :meth:`Function.stream`."""
        ...

    @overload
    def options(self, *, returns: None = None, **options: Unpack[OptionArguments]) -> Self: ...

    @overload
    def options(
        self, *, returns: type[S], **options: Unpack[OptionArguments]
    ) -> TypedStream[P, S]: ...

    @overload
    def options(
        self, *, returns: object, **options: Unpack[OptionArguments]
    ) -> TypedStream[P, object]: ...

    def options(self, *, returns: object = None, **options: Unpack[OptionArguments]) -> object:
        """See :meth:`Function.options`."""
        ...


def typed_function(declaration: Callable[Concatenate[S, P], V], /) -> TypedFunction[P, V]:
    """Declare a function in the stub of a typed client."""
    return cast("TypedFunction[P, V]", declaration)


def typed_stream(declaration: Callable[Concatenate[S, P], V], /) -> TypedStream[P, V]:
    """Declare a function that sends or takes items; its result is declared as the type of one item."""
    return cast("TypedStream[P, V]", declaration)
