"""Signatures of functions: the annotations that Spear understands, and a parser for a signature's text.

An agent checks arguments by the annotations themselves. A gateway and a command have the signature only
as text that an instance has sent: it is parsed, never evaluated. All three use the names listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import ast
    from collections.abc import Sequence

MAX_SIGNATURE: Final = 4000
"""Characters of a signature. Agents leave out the description of a function with a longer one."""

MAX_SUMMARY: Final = 400
"""Characters of a function's summary that a host keeps."""

DESCRIBE: Final = "spear.describe"
"""The function that describes an agent's functions, as a list of maps. No agent announces it."""

HEALTH: Final = "spear.health"
"""The function that checks an agent's health, if the agent has a check: it raises if all is not well."""

BATCH: Final = "spear.batch"
"""The function that calls another function of its agent once for each of many lists of arguments."""

SCALARS: Final = ("str", "int", "float", "bool", "None")
BYTES: Final = ("bytes", "bytearray", "memoryview")
ANYTHING: Final = ("object", "Any")

LISTS: Final = ("list", "Sequence", "MutableSequence", "Collection", "Iterable")
SETS: Final = ("set", "frozenset", "Set", "MutableSet")
TUPLES: Final = ("tuple",)
"""Names of types whose values arrive as lists, as do those of LISTS and SETS."""

MAPS: Final = ("dict", "Mapping", "MutableMapping")

TEXTS: Final = (
    "str", "Decimal", "UUID", "date", "datetime", "time", "Path", "PosixPath", "PurePath",
    "PurePosixPath", "PureWindowsPath", "WindowsPath",
)  # fmt: skip
"""Names of types that text on a command line or in a query is meant for, even if the text is JSON."""

BOOLEANS: Final = {"True": True, "1": True, "False": False, "0": False}
"""Texts that mean a boolean where only a boolean is meant, as do ``true`` and ``false`` everywhere."""

_FLAG: Final = frozenset({"bool", "None"})

ITEMS: Final = ("Items", "AsyncIterable", "AsyncIterator")
"""Names of types of a parameter that is no argument, but takes the items that a caller sends."""

_STRING: Final = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""

STREAMS: Final = (
    "AsyncGenerator", "AsyncIterable", "AsyncIterator", "Generator", "Iterable", "Iterator",
)  # fmt: skip
"""Names of types of a result that is a stream of items."""


@final
class SignatureParameter:
    """A parameter in the text of a function's signature.

    Attributes:
        name: the parameter's name.
        annotation: the syntax tree of the annotation; None without an annotation.
        is_positional: whether the argument may be given by position.
        is_named: whether the argument may be given by name.
        is_required: whether the parameter has no default.
    """

    __slots__ = ("annotation", "is_named", "is_positional", "is_required", "name")

    def __init__(
        self,
        given: ast.arg,
        *,
        is_positional: bool,
        is_named: bool,
        is_required: bool,
    ) -> None:
        self.name = given.arg
        self.annotation = given.annotation
        self.is_positional = is_positional
        self.is_named = is_named
        self.is_required = is_required

    @property
    def list_annotation(self) -> ast.expr | None:
        """The annotation of a list, a set or a tuple, if the parameter takes nothing else, or None."""
        others = [each for each in _alternatives(self.annotation) if name_of(each) != "None"]
        if len(others) == 1 and name_of(_origin(others[0])) in (*LISTS, *SETS, *TUPLES):
            return others[0]
        return None

    def annotation_of(self, item: int | None) -> ast.expr | None:
        """Return the annotation of an item of the list that the parameter takes; or its own."""
        import ast

        annotation = self.list_annotation
        if item is None:
            return self.annotation
        if not isinstance(annotation, ast.Subscript):
            return None
        inner = _inside(annotation)
        has_places = name_of(annotation.value) in TUPLES and not any(map(_is_ellipsis, inner))
        return next(iter(inner[item if has_places else 0 :]), None)


@final
class Signature:
    """A parsed signature of a function.

    Attributes:
        parameters: the parameters that take arguments, without ``*args`` and ``**kwargs``.
        takes_items: whether one more parameter takes the items that a caller sends.
        takes_more: whether there are ``*args`` or ``**kwargs``.
        result: the syntax tree of the annotation of the result, or of one item of a stream; None
            without an annotation.
    """

    __slots__ = ("parameters", "result", "takes_items", "takes_more")

    def __init__(self, function: ast.FunctionDef) -> None:
        given = function.args
        plain = [*given.posonlyargs, *given.args]
        first_default = len(plain) - len(given.defaults)
        found = [
            SignatureParameter(
                each,
                is_positional=True,
                is_named=index >= len(given.posonlyargs),
                is_required=index < first_default,
            )
            for index, each in enumerate(plain)
        ]
        found += [
            SignatureParameter(
                each, is_positional=False, is_named=True, is_required=default is None
            )
            for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        ]
        self.parameters = tuple(each for each in found if not _is_items(each.annotation))
        self.takes_items = len(self.parameters) < len(found)
        self.takes_more = given.vararg is not None or given.kwarg is not None
        self.result = _item_of(function.returns)

    def keeps_text(self, place: int | str, value: object, item: int | None = None) -> bool:
        """Return whether a text stays as it is for a parameter, such as ``1.10`` for a ``str``.

        Args:
            place: the index of the argument, or its name.
            value: the value of the text as JSON. Text in quotes is the text between them, and null is
                None if the annotation allows None.
            item: the index of the text in a list that is the argument; None if it is the argument.
        """
        found = self._parameter(place)
        if isinstance(value, str) or found is None:
            return False
        kinds = _kinds_of(found.annotation_of(item))
        return (
            "text" in kinds
            and kinds <= {"text", "None"}
            and not (value is None and "None" in kinds)
        )

    def reads_json(self, place: int | str) -> bool:
        """Return whether a text for a parameter is JSON if it can be: an ``int`` or a list, but no text.

        A parameter without an annotation, or that takes anything, gets the text as it is.
        """
        found = self._parameter(place)
        if found is None or self.keeps_text(place, 0):
            return False
        kinds = [name_of(each) for each in _alternatives(found.annotation)]
        return bool(kinds) and not any(kind in ANYTHING for kind in kinds)

    def read_text(
        self, place: int | str, text: str, value: object, item: int | None = None
    ) -> object:
        """Return the argument that a text makes for a parameter.

        The argument is the text itself if :meth:`keeps_text`. For a ``bool``, ``True`` and ``1`` mean
        true, ``False`` and ``0`` false. Any other argument is the value of the text as JSON.

        Args:
            place: the index of the argument, or its name.
            text: the text of a query or of a command line.
            value: the value of the text as JSON, or the text if it is no JSON.
            item: the index of the text in a list that is the argument; None if it is the argument.
        """
        found = self._parameter(place)
        if self.keeps_text(place, value, item):
            return text
        alternatives = _alternatives(found.annotation_of(item)) if found else []
        if "bool" in (names := {name_of(each) for each in alternatives}) and names <= _FLAG:
            return BOOLEANS.get(text, value)
        return value

    def makes_list(self, name: str, values: Sequence[object]) -> bool:
        """Return whether values, each that of a text as JSON, are the items of one argument, a list.

        They are if the parameter takes nothing but a list, a set or a tuple, or None. A single value that
        is a list, or a None that is allowed, is the argument itself.
        """
        found = self._parameter(name)
        if found is None or found.list_annotation is None:
            return False
        if len(values) != 1:
            return True
        may_be_none = "None" in _kinds_of(found.annotation)
        return not (
            isinstance(values[0], list | set | frozenset) or (values[0] is None and may_be_none)
        )

    def _parameter(self, place: int | str) -> SignatureParameter | None:
        if isinstance(place, str):
            named = (each for each in self.parameters if each.is_named and each.name == place)
            return next(named, None)
        positional = [each for each in self.parameters if each.is_positional]
        return positional[place] if place < len(positional) else None


def parse_signature_untrusted(text: str | None) -> Signature | None:
    """Parse the text of a signature. Returns None if the text is no signature, or too long."""
    import ast  # takes long to load, and most processes need no more than the names above

    if text is None or len(text) > MAX_SIGNATURE:
        return None
    _, _, rest = text.partition("(")  # the name may have dots and dashes
    for readable in (rest, without_objects(rest)):
        try:
            body = ast.parse(f"def _({readable}: ...").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
            return None
        return Signature(body[0])
    return None


def without_objects(text: str) -> str:
    """Return the text of a signature without reprs that are no expressions of Python.

    ``<Color.RED: 'red'>`` becomes the value of the member, ``<function f at 0x7f>`` becomes ``...``.
    """
    import re

    text = text.replace(".<locals>", "")
    pieces: list[str] = []
    depth = begin = end = 0
    for found in re.finditer(rf"{_STRING}|->|[<>]", text):
        if found[0] == "<":
            begin = begin if depth else found.start()
            depth += 1
        elif found[0] == ">" and depth:
            depth -= 1
            if not depth:
                member = re.fullmatch(
                    rf"<[\w.|]+: ({_STRING}|-?[0-9]+)>", text[begin : found.end()]
                )
                pieces += [text[end:begin], member[1] if member else "..."]
                end = found.end()
    return "".join([*pieces, text[end:]])


def name_of(annotation: ast.expr | None) -> str:
    """Return the last part of an annotation that is a name ("Items" of ``spear.Items``); else ""."""
    import ast

    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return "None"
    return annotation.id if isinstance(annotation, ast.Name) else ""


def _inside(annotation: ast.Subscript) -> list[ast.expr]:
    """Return what is between the brackets of an annotation."""
    import ast

    inside = annotation.slice
    return inside.elts if isinstance(inside, ast.Tuple) else [inside]


def _is_ellipsis(annotation: ast.expr) -> bool:
    return getattr(annotation, "value", None) is ...


def _alternatives(annotation: ast.expr | None) -> list[ast.expr]:
    """Return the annotations of a union, and of unions in it; any other annotation alone."""
    import ast

    found: list[ast.expr] = []
    left = [] if annotation is None else [annotation]
    while left:  # no recursion: a union of a thousand names is nested a thousand times
        each = left.pop()
        name = name_of(each.value) if isinstance(each, ast.Subscript) else ""
        if isinstance(each, ast.BinOp):
            left += [each.left, each.right]
        elif not isinstance(each, ast.Subscript) or name not in ("Optional", "Union", "Annotated"):
            found.append(each)
        elif name == "Annotated":
            left += _inside(each)[:1]
        else:
            left += _inside(each)
            if name == "Optional":
                found.append(ast.Constant(None))
    return found


def _kinds_of(annotation: ast.expr | None) -> frozenset[str]:
    """Return what an annotation allows: "text", "None" and "other"."""
    import ast

    kinds: set[str] = set()
    for each in _alternatives(annotation):
        name = name_of(each)
        if isinstance(each, ast.Subscript) and name_of(each.value) == "Literal":
            values = [getattr(one, "value", one) for one in _inside(each)]
            kinds |= {"text" if isinstance(one, str) else "other" for one in values}
        else:
            kinds.add("text" if name in TEXTS else "None" if name == "None" else "other")
    return frozenset(kinds)


def _is_items(annotation: ast.expr | None) -> bool:
    return name_of(_origin(annotation)) in ITEMS


def _origin(annotation: ast.expr | None) -> ast.expr | None:
    """Return the ``list`` of ``list[int]``; an annotation without brackets as it is."""
    import ast

    return annotation.value if isinstance(annotation, ast.Subscript) else annotation


def _item_of(annotation: ast.expr | None) -> ast.expr | None:
    """Return the annotation of one item of a stream; any other annotation as it is."""
    import ast

    if not isinstance(annotation, ast.Subscript) or name_of(annotation.value) not in STREAMS:
        return annotation
    inside = annotation.slice  # a generator's second parameter is the type of what is sent to it
    return inside.elts[0] if isinstance(inside, ast.Tuple) and inside.elts else inside
