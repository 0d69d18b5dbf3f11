"""Parameters of decorated functions, which may differ from those of the function inside.

``functools.wraps`` makes a wrapper look like the function in it. A wrapper that adds an argument, as in
``return await function(database, *args, **kwargs)``, takes fewer arguments; others take more. Only the
source of a wrapper shows which arguments it passes on, so this module parses the source: the call of the
wrapped function, the arguments in front of ``*args``, and the keyword arguments.

If the source does not show that, the parameters of the function inside are a guess: see
:attr:`Takes.is_certain`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import Parameter
from types import CellType, FunctionType, MethodType
from typing import Final, NamedTuple, final

from ._annotations import resolve_hints
from ._as_written import signature_of

_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@final
class Takes:
    """The arguments that callers give to a function.

    Attributes:
        parameters: in the order of a signature.
        hints: the annotations of those of them that can be resolved.
        is_certain: whether the parameters are known. Otherwise they are those of the function inside, and
            its wrapper may take others.
    """

    __slots__ = ("hints", "is_certain", "parameters")

    def __init__(
        self, parameters: list[Parameter], hints: dict[str, object], *, is_certain: bool
    ) -> None:
        self.parameters = parameters
        self.hints = hints
        self.is_certain = is_certain

    def of_kind(self, *kinds: object) -> list[Parameter]:
        """Return the parameters of some kinds."""
        return [each for each in self.parameters if each.kind in kinds]


def what_it_takes(function: Callable[..., object]) -> Takes:  # type: ignore[explicit-any]  # any at all
    """Return what the callers of a function give to it.

    Raises ValueError for some functions that are written in C.
    """
    if isinstance(function, MethodType) and isinstance(function.__func__, FunctionType):
        takes = what_it_takes(function.__func__)
        takes.parameters = takes.parameters[1:]  # self
        return takes
    wrapped = getattr(function, "__wrapped__", None)
    # One that a wrapper was given; functools.wraps copies that of the function inside.
    given = getattr(function, "__signature__", None)
    is_given = given is not None and given is not getattr(wrapped, "__signature__", None)
    if not isinstance(function, FunctionType) or wrapped is None or is_given:
        parameters = list(signature_of(function).parameters.values())
        hints = _annotated(parameters) if is_given else resolve_hints(function)
        return Takes(parameters, hints, is_certain=True)
    own = list(signature_of(_bare(function)).parameters.values())
    passed = _read(function, wrapped)
    if passed is not None:
        return _through(own, passed, what_it_takes(wrapped))
    if any(each.kind is each.VAR_POSITIONAL or each.kind is each.VAR_KEYWORD for each in own):
        inner = what_it_takes(wrapped)
        inner.is_certain = False
        return inner
    return Takes(own, {}, is_certain=True)


def _annotated(parameters: list[Parameter]) -> dict[str, object]:
    pairs = ((each.name, each.annotation) for each in parameters)
    return {
        name: hint for name, hint in pairs if hint is not Parameter.empty and type(hint) is not str
    }


def _bare(function: FunctionType) -> FunctionType:
    """Return a copy of a function without the attributes that functools.wraps has set."""
    bare = FunctionType(
        function.__code__, function.__globals__, "", function.__defaults__, function.__closure__
    )
    bare.__kwdefaults__ = function.__kwdefaults__
    return bare


# -- what a wrapper passes on ---------------------------------------------------------------------------


class _Passed(NamedTuple):
    """The arguments of a wrapper's call of the wrapped function.

    Attributes:
        positional: for each argument in front of ``*args``, the wrapper's parameter that is passed on
            unchanged, or None for any other value.
        keywords: the same for each keyword argument, by its name.
        rest: whether ``*args`` of the wrapper follow.
        others: whether its ``**kwargs`` do.
    """

    positional: tuple[str | None, ...]
    keywords: dict[str, str | None]
    rest: bool
    others: bool


def _through(own: list[Parameter], passed: _Passed, inner: Takes) -> Takes:
    """Return what a wrapper takes that passes ``passed`` on to a function that takes ``inner``."""
    by_position = inner.of_kind(*_BY_POSITION)
    names = {each.name: each for each in inner.parameters}
    # What the wrapper supplies, and what its own parameters become.
    supplied = [*zip(passed.positional, by_position, strict=False)]
    supplied += [(name, names[key]) for key, name in passed.keywords.items() if key in names]
    becomes = {name: each for name, each in supplied if name}
    own = [
        each.replace(annotation=becomes[each.name].annotation) if each.name in becomes else each
        for each in own
    ]
    taken = {each.name for _, each in supplied} | {each.name for each in own}
    free = [each for each in inner.parameters if each.name not in taken]
    parameters = list(_merged(own, free, passed))
    mine = {each.name for each in own}
    hints = {
        each.name: inner.hints[source]
        for each in parameters
        if (source := becomes[each.name].name if each.name in becomes else each.name) in inner.hints
        and (each.name in becomes or each.name not in mine)
    }
    return Takes(parameters, hints, is_certain=inner.is_certain)


def _merged(own: list[Parameter], free: list[Parameter], passed: _Passed) -> Iterator[Parameter]:
    """Yield a wrapper's own parameters, and those of the wrapped function that its ``*args`` and
    ``**kwargs`` stand for."""
    by_position = [each for each in free if each.kind in _BY_POSITION]
    yield from (each for each in own if each.kind in _BY_POSITION)
    if passed.rest:
        for each in by_position:
            yield each if passed.others else each.replace(kind=Parameter.POSITIONAL_ONLY)
    yield from (each for each in (free if passed.rest else own) if each.kind is each.VAR_POSITIONAL)
    yield from (each for each in own if each.kind is each.KEYWORD_ONLY)
    if passed.others:
        for each in [] if passed.rest else by_position:
            if each.kind is not each.POSITIONAL_ONLY:
                yield each.replace(kind=Parameter.KEYWORD_ONLY)
        yield from (each for each in free if each.kind is each.KEYWORD_ONLY)
    yield from (each for each in (free if passed.others else own) if each.kind is each.VAR_KEYWORD)


# -- its source -----------------------------------------------------------------------------------------


def _read(wrapper: FunctionType, wrapped: object) -> _Passed | None:
    """Return the arguments that a wrapper passes on; None if its source does not show them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(wrapper.__code__)))
    except (OSError, TypeError, SyntaxError):
        return None
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    cells = zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True)
    names = {name for name, cell in cells if _content(cell) is wrapped}
    body = [inner for statement in node.body for inner in ast.walk(statement)]
    changed = set(_changed(body))
    if changed & {_arg(node.args.vararg), _arg(node.args.kwarg)}:
        return None
    calls = [
        passed
        for each in body
        if isinstance(each, ast.Call)
        for passed in _passed_by(each, node.args, names, changed)
    ]
    return calls[0] if calls and all(each == calls[0] for each in calls) else None


def _content(cell: CellType) -> object:
    with suppress(ValueError):  # it is empty
        return cell.cell_contents
    return None


_READING: Final = ("get", "items", "keys", "values", "copy", "count", "index")


def _changed(body: list[ast.AST]) -> Iterator[str | None]:
    """Yield the names that are assigned, or whose value may be changed."""
    for node in body:
        if isinstance(node, ast.Name | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield _name(node.value if isinstance(node, ast.Subscript) else node)
        elif isinstance(node, ast.Attribute) and node.attr not in _READING:
            yield _name(node.value)


def _passed_by(
    call: ast.Call, own: ast.arguments, names: set[str], changed: set[str | None]
) -> Iterator[_Passed | None]:
    """Yield the arguments of a call of the wrapped function, or of a helper that gets that function.

    Yields nothing for any other call, and None if the source does not show the arguments.
    """
    values = [call.func, *call.args]
    place = next((i for i, each in enumerate(values) if _name(each) in names), None)
    if place is None:
        return
    positional = values[place + 1 :]
    rest = bool(positional) and _is_starred(positional[-1], own.vararg)
    stars = [_name(each.value) for each in call.keywords if each.arg is None]
    others = stars == [_arg(own.kwarg)]
    if place and not rest and not others:
        return  # it does something else with it
    in_front = positional[:-1] if rest else positional
    if (stars and not others) or any(isinstance(each, ast.Starred) for each in in_front):
        yield None
    else:
        mine = {each.arg for each in (*own.posonlyargs, *own.args, *own.kwonlyargs)} - changed
        is_its = not place or _name(call.func) == "partial"  # or the names are the helper's
        yield _Passed(
            tuple(_name_in(mine, each) for each in in_front),
            {
                each.arg: _name_in(mine, each.value)
                for each in call.keywords
                if each.arg is not None and is_its
            },
            rest,
            others,
        )


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _name_in(names: set[str], node: ast.AST) -> str | None:
    return name if (name := _name(node)) in names else None


def _arg(node: ast.arg | None) -> str:
    return node.arg if node else ""


def _is_starred(node: ast.AST, vararg: ast.arg | None) -> bool:
    return isinstance(node, ast.Starred) and vararg is not None and _name(node.value) == vararg.arg
