"""The arguments that callers pass to a decorated function.

A wrapper made by ``functools.wraps`` looks like the wrapped function, but may take different arguments.
Which ones can be seen only in the source code of the wrapper. This module understands one pattern, the
*plain case*::

    @functools.wraps(function)
    async def wrapper(user, *args, **kwargs):
        return await function(DATABASE, user, *args, timeout=5, **kwargs)

In the plain case, every call of ``function`` in the wrapper is written with the same arguments, and
``args`` and ``kwargs`` appear nowhere else. Callers then pass the parameters of the wrapper (``user``)
and the parameters of ``function`` that the wrapper does not supply. The parameters of any other wrapper
with ``*args`` or ``**kwargs`` are unknown: if the arguments of a call fit ``function``, they are
converted to its annotated types; otherwise the wrapper receives them as they came.
"""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from inspect import Parameter
from types import CodeType, FunctionType, MethodType
from typing import Final, NamedTuple

from spear.annotations import signature_of

from ._item_annotations import hints_of

_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_CACHE: Final = type(lru_cache(repr))


class Takes(NamedTuple):
    """A function's parameters as callers see them, and their annotations as far as they are resolved."""

    parameters: list[Parameter]
    hints: dict[str, object]
    is_certain: bool


def what_it_takes(function: Callable[..., object]) -> Takes:  # type: ignore[explicit-any]  # any at all
    """Return the parameters that callers of a function see.

    Raises ValueError for some functions written in C.
    """
    if isinstance(function, MethodType) and isinstance(function.__func__, FunctionType):
        takes = what_it_takes(function.__func__)
        has_self = takes.parameters and takes.parameters[0].kind is not Parameter.VAR_POSITIONAL
        return takes._replace(parameters=takes.parameters[1:]) if has_self else takes
    inside = function.func if isinstance(function, partial) else function
    wrapped = getattr(inside, "__wrapped__", None)
    # A signature set on the wrapper itself; functools.wraps copies that of the wrapped function.
    given = getattr(inside, "__signature__", None)
    is_given = given is not None and given is not getattr(wrapped, "__signature__", None)
    if wrapped is None or is_given or inside is not function:
        parameters = list(signature_of(function).parameters.values())
        written = {each.name: each.annotation for each in parameters}
        hints = written if is_given else hints_of(inside)
        known = {k: v for k, v in hints.items() if type(v) is not str and v is not Parameter.empty}
        return Takes(parameters, known, is_certain=wrapped is None or is_given)
    if type(function) is FunctionType:
        # The same function without the attributes set by functools.wraps.
        bare = FunctionType(function.__code__, {}, "", function.__defaults__, function.__closure__)
        bare.__kwdefaults__ = function.__kwdefaults__
        own = list(signature_of(bare).parameters.values())
        if passed := _read(function, wrapped, own):
            return _through(own, passed, what_it_takes(wrapped))
        if all(each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in own):
            return Takes(own, {}, is_certain=True)
    inner = what_it_takes(wrapped)  # a cache passes on all of its arguments
    return inner._replace(is_certain=inner.is_certain and type(function) is _CACHE)


def for_callers(takes: Takes) -> list[Parameter]:
    """Return the parameters in an order, and with defaults, that the signature of a function may have."""
    parameters: list[Parameter] = []
    context = lambda_context(takes.parameters) if takes.is_certain else None
    for each in reversed(takes.parameters):
        default, kind = each.default, each.kind
        if each is context:
            default = None  # the agent adds it
        # A wrapper may add optional or named parameters before required or positional-only ones.
        if parameters and kind in _BY_POSITION and parameters[0].kind in _BY_POSITION:
            default = default if parameters[0].default is not each.empty else each.empty
            kind = min(kind, parameters[0].kind)
        parameters.insert(0, each.replace(default=default, kind=kind))
    return parameters


def lambda_context(parameters: list[Parameter]) -> Parameter | None:
    """Return the second parameter of ``handler(event, context)``, a function written for AWS Lambda.

    The function has these two parameters without defaults, and the second one has no annotation, or a
    class with the name ``LambdaContext``. Then the names may be others.
    """
    if len(parameters) != 2 or not all(
        each.kind in _BY_POSITION and each.default is each.empty for each in parameters
    ):
        return None
    event, context = parameters
    annotation = context.annotation
    if annotation is context.empty:
        return context if (event.name, context.name) == ("event", "context") else None
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return context if str(name).rpartition(".")[2] == "LambdaContext" else None


class _Passed(NamedTuple):
    """A wrapper's arguments for its call: parameters of the wrapper by name, other expressions as ""."""

    positional: list[str]  # before *args
    keywords: dict[str, str]
    ends: set[object]  # the kinds of *args and **kwargs, if they are passed on
    is_certain: bool  # False if the wrapper also uses a passed parameter, and may not call


def _through(own: list[Parameter], passed: _Passed, inner: Takes) -> Takes:
    """Return the wrapper's own parameters, and the wrapped function's that *args and **kwargs carry."""
    by_position = (each.name for each in inner.parameters if each.kind in _BY_POSITION)
    supplied = {**dict(zip(by_position, passed.positional, strict=False)), **passed.keywords}
    mine = {each.name: each for each in own if each.kind not in passed.ends}
    free = [each for each in inner.parameters if each.name not in supplied]
    reached = {each.name: each for one in free if (each := _reached(one, passed.ends))}
    # A parameter of the wrapper hides an inner one of the same name, which is still passed by position.
    is_hidden = any(name in mine and each.kind in _BY_POSITION for name, each in reached.items())
    sources = {name: name for name in reached if name not in mine}
    for each in inner.parameters:
        if name := supplied.get(each.name):
            mine[name] = mine[name].replace(annotation=each.annotation)
            sources[name] = each.name
    return Takes(
        sorted((mine | reached | mine).values(), key=lambda each: max(each.kind, *_BY_POSITION)),
        {name: inner.hints[source] for name, source in sources.items() if source in inner.hints},
        is_certain=inner.is_certain and passed.is_certain and not is_hidden,
    )


def _reached(parameter: Parameter, ends: set[object]) -> Parameter | None:
    """Return the parameter with the kind in which *args and **kwargs carry it; None if they do not."""
    rest, others = Parameter.VAR_POSITIONAL in ends, Parameter.VAR_KEYWORD in ends
    kind = parameter.kind
    if kind is Parameter.POSITIONAL_OR_KEYWORD and rest != others:
        kind = Parameter.POSITIONAL_ONLY if rest else Parameter.KEYWORD_ONLY
    by_rest = kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
    return parameter.replace(kind=kind) if (rest if by_rest else others) else None


def _read(wrapper: FunctionType, wrapped: object, own: list[Parameter]) -> _Passed | None:
    """Return the arguments that a wrapper passes; None if the wrapper is not plain."""
    called = set()
    for name, cell in zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True):
        with suppress(ValueError):  # an empty cell
            called |= {name} if cell.cell_contents is wrapped else set()
    nodes = [each for statement in _body_of(wrapper.__code__) for each in ast.walk(statement)]
    mentions = Counter(map(_name, nodes))
    bound = {_name(each) for each in nodes if type(getattr(each, "ctx", None)) is not ast.Load}
    calls = [n for n in nodes if isinstance(n, ast.Call) and _name(n.func) in called - bound]
    if len({ast.unparse(each) for each in calls}) != 1 or not _is_of(calls, wrapper.__code__):
        return None
    front = [ast.unparse(each) for each in calls[0].args]
    keywords = {each.arg: ast.unparse(each.value) for each in calls[0].keywords if each.arg}
    ends = [ast.unparse(each) for each in calls[0].keywords if not each.arg]
    ends += [front.pop() for each in front[-1:] if each.startswith("*")]
    names = {str(each.replace(default=each.empty)): each for each in own}  # with their stars
    given = (names.keys() - bound) & {*front, *keywords.values(), *ends}
    # Each call mentions a name that it passes on exactly once.
    count = len(calls)
    elsewhere = {key for key, one in names.items() if mentions[one.name] != count * (key in given)}
    if any(text.startswith("*") for text in (*front, *elsewhere, *(set(ends) - given))):
        return None
    return _Passed(
        [text if text in given else "" for text in front],
        {key: text if text in given else "" for key, text in keywords.items()},
        {names[text].kind for text in ends},
        is_certain=not given & elsewhere,
    )


def _name(node: ast.AST) -> str:
    """Return the name that a node reads or binds; empty if it has none."""
    fields = () if isinstance(node, ast.keyword) else ("id", "asname", "arg", "name", "rest")
    names = (getattr(node, field, None) for field in fields)
    return next((each for each in names if isinstance(each, str)), "")


def _body_of(code: CodeType) -> list[ast.stmt]:
    """Return the statements of a nested function; empty if the source is not found."""
    with suppress(Exception):  # the file may have any content
        tree = ast.parse(f"if 1:\n{inspect.getsource(code)}")
        ast.increment_lineno(tree, code.co_firstlineno - 2)
        return list(tree.body[0].body[0].body)  # type: ignore[attr-defined]  # raised if it has none
    return []


def _is_of(calls: list[ast.Call], code: CodeType) -> bool:
    """Return whether the code contains the calls. It may not if the file was replaced after the load."""
    codes = [code]
    for each in codes:
        codes += filter(inspect.iscode, each.co_consts)  # visited later in this loop
    known = {place for each in codes for place in each.co_positions()}
    places = ((n.lineno, n.end_lineno, n.col_offset, n.end_col_offset) for n in calls)
    return known.issuperset(places)
