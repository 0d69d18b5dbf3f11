"""What a decorated function takes, which need not be what the function inside takes.

``functools.wraps`` makes a wrapper look like the function in it. A wrapper that adds an argument, as in
``return await function(database, *args, **kwargs)``, takes less; others take more. What a wrapper passes
on stands in its source, so it is read there: the call of the wrapped function, the arguments in front of
``*args``, and those by name.

Where that cannot be told, what the function inside asks for is a guess: see :attr:`Takes.is_certain`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from inspect import Parameter
from types import CellType, CodeType, FunctionType, MethodType
from typing import Final, NamedTuple, final

from ._annotations import resolve_hints
from ._as_written import signature_of

_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_CACHE: Final = type(lru_cache(repr))


@final
class Takes:
    """What callers give to a function.

    Attributes:
        parameters: in the order of a signature.
        hints: the annotations of those of them that can be resolved.
        is_certain: whether this is known. Otherwise it is what the function inside takes, and a wrapper
            that cannot be read may take something else.
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
        if takes.parameters and takes.parameters[0].kind is not Parameter.VAR_POSITIONAL:
            takes.parameters = takes.parameters[1:]  # self
        return takes
    inside = function.func if isinstance(function, partial) else function
    wrapped = getattr(inside, "__wrapped__", None)
    # One that a wrapper was given; functools.wraps copies that of the function inside.
    given = getattr(inside, "__signature__", None)
    is_given = given is not None and given is not getattr(wrapped, "__signature__", None)
    if wrapped is None or is_given or inside is not function:
        parameters = list(signature_of(function).parameters.values())
        hints = _annotated(parameters) if is_given else resolve_hints(inside)
        return Takes(parameters, hints, is_certain=wrapped is None or is_given)
    if type(function) is not FunctionType:  # its __call__ may do anything, but for a cache
        inner = what_it_takes(wrapped)
        inner.is_certain &= type(function) is _CACHE
        return inner
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
    """The same without what functools.wraps has put onto it."""
    bare = FunctionType(
        function.__code__, function.__globals__, "", function.__defaults__, function.__closure__
    )
    bare.__kwdefaults__ = function.__kwdefaults__
    return bare


# -- what a wrapper passes on ---------------------------------------------------------------------------


class _Passed(NamedTuple):
    """The arguments of a wrapper's call of the wrapped function.

    Attributes:
        positional: in front of ``*args``: a parameter of the wrapper that is passed on as it is, or none.
        keywords: by name, likewise.
        rest: whether ``*args`` of the wrapper follow.
        others: whether its ``**kwargs`` do.
        is_certain: whether the wrapper does nothing else with what it passes on. Otherwise it may take
            what the wrapped function does not, and answer by itself.
    """

    positional: tuple[str | None, ...]
    keywords: dict[str, str | None]
    rest: bool
    others: bool
    is_certain: bool = True


def _through(own: list[Parameter], passed: _Passed, inner: Takes) -> Takes:
    """What a wrapper takes that passes this on to a function that takes that."""
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
    return Takes(parameters, hints, is_certain=inner.is_certain and passed.is_certain)


def _merged(own: list[Parameter], free: list[Parameter], passed: _Passed) -> Iterator[Parameter]:
    """A wrapper's parameters, with those of the wrapped function that are reached through them."""
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
    """What a wrapper passes on, by its source; None if that does not tell."""
    node = _source_of(wrapper.__code__)
    if node is None:
        return None
    cells = zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True)
    contents = {name: _content(cell) for name, cell in cells}
    reader = _Reader(
        node.args,
        {name for name, content in contents.items() if content is wrapped},
        {**wrapper.__globals__, **contents},
    )
    for statement in node.body:
        reader.visit(statement)
    return reader.passed()


def _source_of(code: CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function with this code; None if the file has no such function, or has it no more."""
    try:
        text = inspect.getsource(code)
        around = "if 1:\n" if text[:1].isspace() else ""  # columns stay as they are
        tree = ast.parse(around + text)
    except (OSError, TypeError, SyntaxError):
        return None
    ast.increment_lineno(tree, code.co_firstlineno - 1 - bool(around))
    first = tree.body[0]
    node = first.body[0] if isinstance(first, ast.If) else first
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    for each in ast.walk(node):  # which may never be evaluated
        if isinstance(each, ast.arg | ast.AnnAssign):
            each.annotation = None
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            each.returns = None
    return node if _is_of(node.body, list(_with_inner(code))) else None


def _is_of(body: list[ast.stmt], codes: list[CodeType]) -> bool:
    """Whether what was read is what runs: the file may have been replaced since it was loaded."""
    places = {place for code in codes for place in code.co_positions()}
    known = {
        name
        for code in codes
        for name in (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
    }
    for node in (each for statement in body for each in ast.walk(statement)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            place = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            if place not in places:
                return False
        name = getattr(node, "attr", None) or _name(node)
        if name and name not in known:
            return False
    return True


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _with_inner(each)


def _content(cell: CellType) -> object:
    with suppress(ValueError):  # it is empty
        return cell.cell_contents
    return None


_LOGGING: Final = ("debug", "info", "warning", "error", "exception", "critical", "log")
_SHOWING: Final = ("print", "repr", "str")
_RUNNING: Final = ("trio", "asyncio", "anyio")
"""Packages whose functions, given a function and arguments, call it with just these."""


class _Reader(ast.NodeVisitor):
    """Collects the calls of the wrapped function, and what else is done with their arguments.

    Args:
        own: the wrapper's parameters.
        names: those that mean the wrapped function.
        scope: what other names mean.
    """

    def __init__(self, own: ast.arguments, names: set[str], scope: dict[str, object]) -> None:
        self._rest, self._others = _arg(own.vararg), _arg(own.kwarg)
        self._mine = {each.arg for each in (*own.posonlyargs, *own.args, *own.kwonlyargs)}
        self._names = names
        self._scope = scope
        self._calls: list[_Passed | None] = []
        self._changed: set[str] = set()
        self._looked_at: set[str] = set()

    def passed(self) -> _Passed | None:
        """What all calls pass on; None if that cannot be told."""
        if not self._calls or self._changed & {self._rest, self._others, *self._names}:
            return None
        first = self._calls[0]
        if first is None or any(each != first for each in self._calls):
            return None
        positional = tuple(map(self._unchanged, first.positional))
        keywords = {key: self._unchanged(name) for key, name in first.keywords.items()}
        of_interest = {self._rest, self._others, *positional, *keywords.values()}
        return first._replace(
            positional=positional,
            keywords=keywords,
            is_certain=not self._looked_at & of_interest,
        )

    def _unchanged(self, name: str | None) -> str | None:
        return None if name in self._changed else name

    # -- what is done with a name ---------------------------------------------------------------------

    def generic_visit(self, node: ast.AST) -> None:
        """Notice names that are bound again: parameters of inner functions, imports, patterns."""
        for field in ("arg", "name", "asname", "rest"):
            if isinstance(name := getattr(node, field, None), str):
                self._changed.add(name)
        super().generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Its name is no variable."""
        self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:  # so ast has it
        """Notice that a name is looked at, or gets another value."""
        if not isinstance(node.ctx, ast.Load) or node.id == self._others:
            self._changed.add(node.id)  # a map that anything else gets may be changed there
        self._looked_at.add(node.id)

    def visit_Subscript(self, node: ast.Subscript) -> None:  # likewise
        """``kwargs["key"]``, ``args[0]``."""
        self._visit_part(node, node.value, is_read=isinstance(node.ctx, ast.Load))
        self.visit(node.slice)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # likewise
        """``kwargs.get``, ``function.__name__``."""
        is_read = node.attr in ("get", "items", "keys", "values", "copy", "count", "index")
        self._visit_part(node, node.value, is_read=is_read or _name(node.value) in self._names)

    def _visit_part(self, node: ast.AST, value: ast.expr, *, is_read: bool) -> None:
        if (name := _name(value)) is None:
            self.visit(value)
        else:
            (self._looked_at if is_read else self._changed).add(name)

    def visit_Compare(self, node: ast.Compare) -> None:  # likewise
        """``"key" in kwargs``."""
        for each in (node.left, *node.comparators):
            self._look_at(each)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:  # likewise
        """A name in an f-string is only shown."""
        self._visit_unless_name(node.value)
        if node.format_spec is not None:
            self.visit(node.format_spec)

    def _look_at(self, node: ast.expr) -> None:
        if name := _name(node):
            self._looked_at.add(name)
        else:
            self.visit(node)

    def _visit_unless_name(self, node: ast.expr) -> None:
        if _name(node.value if isinstance(node, ast.Starred) else node) is None:
            self.visit(node)

    # -- calls ----------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:  # likewise
        """A call of the wrapped function, or another one."""
        values = [node.func, *node.args]
        place = next((i for i, each in enumerate(values[:2]) if _name(each) in self._names), None)
        called = self._meaning(node.func) if place else None
        if place == 0 or (place and _is_running(called)):
            has_keywords = place == 0 or getattr(called, "__name__", "") == "to_thread"
            self._add(values[place + 1 :], node.keywords, has_keywords=has_keywords)
        elif inner := self._partial_in(values, has_arguments=bool(node.keywords)):
            self._add(inner.args[1:], inner.keywords)
        elif _is_showing(node.func):
            for each in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._visit_unless_name(each)
        else:
            self.generic_visit(node)

    def _partial_in(self, values: list[ast.expr], *, has_arguments: bool) -> ast.Call | None:
        """``partial(function, ...)``, if that is called and given nothing more."""
        if len(values) == 1 and not has_arguments:
            (call,) = values
        elif len(values) == 2 and _is_running(self._meaning(values[0])):
            call = values[1]
        else:
            return None
        if isinstance(call, ast.Call) and self._meaning(call.func) is partial:
            return call if call.args and _name(call.args[0]) in self._names else None
        return None

    def _meaning(self, node: ast.expr) -> object:
        if isinstance(node, ast.Attribute):
            return getattr(self._meaning(node.value), node.attr, None)
        return self._scope.get(_name(node) or "")

    def _add(
        self, values: list[ast.expr], keywords: list[ast.keyword], *, has_keywords: bool = True
    ) -> None:
        """Add a call with these arguments; the names may be those of the function that calls."""
        last = values[-1] if values else None
        rest = isinstance(last, ast.Starred) and _name(last.value) == self._rest
        in_front = values[:-1] if rest else values
        stars = [_name(each.value) for each in keywords if each.arg is None]
        others = stars == [self._others]
        for each in in_front:
            self._visit_unless_own(each)
        for keyword in keywords:
            if keyword.arg is not None:
                self._visit_unless_own(keyword.value)
        if (stars and not others) or any(isinstance(each, ast.Starred) for each in in_front):
            self._calls.append(None)
            return
        named = {each.arg: self._own(each.value) for each in keywords if each.arg is not None}
        positional = tuple(map(self._own, in_front))
        self._calls.append(_Passed(positional, named if has_keywords else {}, rest, others))

    def _own(self, node: ast.expr) -> str | None:
        return name if (name := _name(node)) in self._mine else None

    def _visit_unless_own(self, node: ast.expr) -> None:
        if self._own(node) is None:
            self.visit(node)


def _is_running(called: object) -> bool:
    return str(getattr(called, "__module__", "")).partition(".")[0] in _RUNNING


def _is_showing(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr in _LOGGING
    return _name(called) in _SHOWING


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _arg(node: ast.arg | None) -> str:
    return node.arg if node else ""
