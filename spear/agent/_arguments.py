"""Binding the arguments of a call to the parameters of a function.

``spear.wire`` defines how arguments are encoded. Annotations define how a decoded argument is checked
and converted; see ``spear.annotations``. Arguments for parameters without annotations are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Final, TypeAlias, final

from spear._errors import InvalidArguments
from spear._util import closest, did_you_mean
from spear.annotations import Mismatch
from spear.wire import NO_ARGUMENTS, decode_value_untrusted

if TYPE_CHECKING:
    from spear.annotations import Check

AnyFunction: TypeAlias = FunctionType | MethodType | BuiltinFunctionType

_MANY: Final = 1 << 30

CALL_OPTIONS: Final = (
    "timeout", "queue_timeout", "retry", "metadata", "key", "key_seconds", "key_restarts", "session",
    "on_progress", "returns", "keywords",
)  # fmt: skip
"""The options of a call, for a caller who misspells one: it arrives as an argument."""


# -- from bytes ---------------------------------------------------------------------------------------


def decode_arguments_untrusted(
    payload: bytes | memoryview, is_cbor: bool
) -> tuple[list[object], dict[str, object]]:
    """Return the (positional, keyword) arguments of a call. Raises ValueError for other payloads."""
    if not is_cbor:
        return [payload], {}
    if payload == NO_ARGUMENTS:
        return [], {}
    arguments = decode_value_untrusted(payload)
    if type(arguments) is list and len(arguments) == 2:
        positional, keywords = arguments
        if (
            type(positional) is list
            and type(keywords) is dict
            and (not keywords or all(type(name) is str for name in keywords))
        ):
            return positional, keywords  # type: ignore[return-value]  # mypy does not see the keys
    raise ValueError(
        "the payload must be a list of positional arguments and a map of keyword arguments"
    )


# -- to parameters ------------------------------------------------------------------------------------


@final
class Parameter:
    """A parameter of a function, as a caller sees it.

    Attributes:
        name: the name in error messages and for keyword arguments.
        check: the check made from the annotation; None if every value is allowed.
        index: the index among positional arguments; larger than all indices if keyword-only.
        by_name: whether the argument may be passed by keyword.
        required: whether the parameter has no default.
    """

    __slots__ = ("by_name", "check", "index", "name", "required")

    def __init__(
        self,
        name: str,
        check: Check | None,
        index: int = _MANY,
        *,
        by_name: bool = True,
        required: bool = False,
    ) -> None:
        self.name = name
        self.check = check
        self.index = index
        self.by_name = by_name
        self.required = required


class Binder:
    """A binder of arguments to the parameters of one function.

    Args:
        function: the function's name, for error messages.
        parameters: all parameters except ``*args`` and ``**kwargs``, positional ones first.
        rest: ``*args``, if the function has it.
        other: ``**kwargs``, if the function has it.

    Attributes:
        raw: the type that the first positional argument must have to be accepted unchanged; None if every
            type is allowed or there is no such parameter.
        takes_bytes: whether a single argument of the type bytes is accepted unchanged.
    """

    __slots__ = (
        "_by_name", "_enough", "_exact", "_function", "_most", "_other", "_positional", "_required",
        "_rest", "raw", "takes_bytes",
    )  # fmt: skip

    def __init__(
        self,
        function: str,
        parameters: Sequence[Parameter],
        *,
        rest: Parameter | None = None,
        other: Parameter | None = None,
    ) -> None:
        self._function = function
        self._positional = [each for each in parameters if each.index < _MANY]
        self._by_name = {each.name: each for each in parameters if each.by_name}
        self._required = [each for each in parameters if each.required]
        # With this many positional arguments, no required argument can be missing.
        self._enough = max((each.index + 1 for each in self._required), default=0)
        self._most = _MANY if rest else len(self._positional)
        self._rest = rest
        self._other = other
        # The exact type for the first positional argument; None: any type.
        first = self._positional[0] if self._positional else rest
        self.raw = first.check.exact if first is not None and first.check is not None else None
        # The type of each positional argument that needs no conversion; None: any type.
        self._exact = [each.check.exact if each.check else None for each in self._positional]
        self.takes_bytes = (
            bool(self._exact) and self._exact[0] in (None, bytes) and self._enough <= 1
        )

    def bind(self, positional: list[object], keywords: dict[str, object]) -> None:
        """Check the arguments, and convert them in place to the annotated types.

        Raises:
            InvalidArguments: the arguments do not fit; the message names function and parameter.
        """
        count = len(positional)
        if count == 1 and not keywords and self._enough <= 1 and self._exact:
            # The most common call of a short function: a quarter of the time of the loop below.
            exact = self._exact[0]
            if exact is None or type(positional[0]) is exact:
                return
        if count > self._most:
            raise self._too_many(count)
        for index, exact in enumerate(self._exact[:count]):
            if exact is not None and type(positional[index]) is not exact:
                parameter = self._positional[index]
                positional[index] = self._convert(parameter, parameter.name, positional[index])
        if self._rest is not None:
            for index in range(len(self._exact), count):
                name = f"{self._rest.name}[{index - len(self._exact)}]"
                positional[index] = self._convert(self._rest, name, positional[index])
        if keywords:
            self._bind_keywords(count, keywords)
        if count < self._enough:
            for parameter in self._required:
                if parameter.index >= count and parameter.name not in keywords:
                    raise InvalidArguments(
                        f"{self._function}() requires the argument {parameter.name!r}",
                        parameter=parameter.name,
                        code="missing_argument",
                    )

    def _bind_keywords(self, count: int, keywords: dict[str, object]) -> None:
        for name, value in keywords.items():
            parameter = self._by_name.get(name, self._other)
            if parameter is None:
                raise self._unknown(name)
            if parameter.index < count:
                raise InvalidArguments(
                    f"{self._function}() got {name!r} twice, by position and by name",
                    parameter=name,
                    code="repeated_argument",
                )
            check = parameter.check
            if check is not None and type(value) is not check.exact:
                keywords[name] = self._convert(parameter, name, value)

    def _convert(self, parameter: Parameter, name: str, value: object) -> object:
        if parameter.check is None:
            return value
        try:
            return parameter.check(value)
        except Mismatch as mismatch:
            where = f"{name}{mismatch.path}" if mismatch.path else f"{name}=..."
            raise InvalidArguments(
                f"{self._function}({where}): {mismatch}",
                parameter=f"{name}{mismatch.path}",
                expected=mismatch.expected,
                got=mismatch.got,
                code="argument_type",
            ) from None

    def _too_many(self, count: int) -> InvalidArguments:
        most = self._most
        takes = "no arguments" if not most else "1 argument" if most == 1 else f"{most} arguments"
        return InvalidArguments(
            f"{self._function}() takes {takes} by position, not {count}", code="too_many_arguments"
        )

    def _unknown(self, name: str) -> InvalidArguments:
        if any(each.name == name for each in self._positional):
            what = f"takes {name!r} by position only"
        else:
            what = f"takes no argument {name!r}{self._advice(name)}"
        message = f"{self._function}() {what}"
        return InvalidArguments(message, parameter=name, code="unknown_argument")

    def _advice(self, name: str) -> str:
        """Return what the caller of an argument that does not exist may have meant."""
        if meant := did_you_mean(name, self._by_name):
            return meant
        if len(self._positional) == len(self._by_name) == 1:
            only = self._positional[0]
            text = only.check.text if only.check else ""
            if text.startswith("a map ("):
                kind = text[len("a map (") :].partition(")")[0]
                return f'; send the fields of its {kind} as {{"{only.name}": {{"{name}": ...}}}}'
        option = closest(name, CALL_OPTIONS)
        return f"; did you mean the option {option!r} of the call?" if option else ""


@final
class LenientBinder(Binder):
    """A binder for a wrapper whose own parameters are not known.

    Arguments that all fit the wrapped function are converted; otherwise they are passed on unchanged.
    """

    __slots__ = ()

    def bind(self, positional: list[object], keywords: dict[str, object]) -> None:
        """Convert the arguments in place, if all of them fit."""
        fitted, named = list(positional), dict(keywords)
        with suppress(InvalidArguments):
            super().bind(fitted, named)
            positional[:] = fitted
            keywords.update(named)


@final
class LambdaBinder(Binder):
    """A binder that adds the second argument of a function written for AWS Lambda if it is missing."""

    __slots__ = ()

    def __init__(self, function: str, parameters: Sequence[Parameter]) -> None:
        super().__init__(function, parameters)
        self.takes_bytes = False

    def bind(self, positional: list[object], keywords: dict[str, object]) -> None:
        """Check and convert the arguments in place, and add the context of the call."""
        from ._context import context
        from ._lambda_context import LambdaContext

        super().bind(positional, keywords)
        name = self._positional[1].name
        if len(positional) == 1 and name not in keywords:
            positional.append(LambdaContext(context()))
        elif not positional:
            keywords.setdefault(name, LambdaContext(context()))


ItemsParameter: TypeAlias = "tuple[str, int, Check | None]"
"""The parameter that takes the caller's items: name, index among all parameters, check of each item."""


def make_binder(name: str, function: AnyFunction) -> tuple[Binder, ItemsParameter | None]:
    """Return the binder of a function, and the parameter for the caller's items, if it has one."""
    from spear.annotations import build_check

    from ._item_annotations import is_items, item_check
    from ._wrappers import lambda_context, what_it_takes

    takes = what_it_takes(function)
    parameters: list[Parameter] = []
    rest: Parameter | None = None
    other: Parameter | None = None
    items: ItemsParameter | None = None
    context = lambda_context(takes.parameters) if takes.is_certain else None
    for parameter in takes.parameters:
        kind, hint = parameter.kind, takes.hints.get(parameter.name)
        by_position = kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        index = len(parameters) if by_position else _MANY
        check = None if parameter is context else build_check(hint)
        if items is None and is_items(hint):
            items = (parameter.name, index, item_check(hint))
        elif kind is parameter.VAR_POSITIONAL:
            rest = Parameter(parameter.name, check)
        elif kind is parameter.VAR_KEYWORD:
            other = Parameter(parameter.name, check)
        else:
            required = parameter.default is parameter.empty and parameter is not context
            by_name = kind is not parameter.POSITIONAL_ONLY
            parameters.append(
                Parameter(parameter.name, check, index, by_name=by_name, required=required)
            )
    if context is not None:
        return LambdaBinder(name, parameters), items
    kind_of_binder = Binder if takes.is_certain else LenientBinder
    return kind_of_binder(name, parameters, rest=rest, other=other), items
