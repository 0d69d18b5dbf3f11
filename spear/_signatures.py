"""Signatures of functions: the annotations that Spear understands, and what a signature's text says.

An agent checks arguments by the annotations themselves. A gateway and a command have the signature as
text only, which an instance has sent: it is parsed, never evaluated. All three take the names from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import ast

MAX_SIGNATURE: Final = 4000
"""Characters of a signature. Agents leave out the description of a function with a longer one."""

MAX_SUMMARY: Final = 400
"""Characters of a summary that hosts keep."""

DESCRIBE: Final = "spear.describe"
"""The function that describes an agent's functions, as a list of maps. No agent announces it."""

HEALTH: Final = "spear.health"
"""The health check of an agent that has one: it returns if all is well, and raises if not."""

SCALARS: Final = ("str", "int", "float", "bool", "None")
BYTES: Final = ("bytes", "bytearray", "memoryview")
ANYTHING: Final = ("object", "Any")

LISTS: Final = ("list", "Sequence", "MutableSequence", "Collection", "Iterable")
SETS: Final = ("set", "frozenset", "Set", "MutableSet")
TUPLES: Final = ("tuple",)
"""These three arrive as lists."""

MAPS: Final = ("dict", "Mapping", "MutableMapping")

ITEMS: Final = ("Items", "AsyncIterable", "AsyncIterator")
"""A parameter that is no argument, but stands for the items that a caller sends."""

STREAMS: Final = (
    "AsyncGenerator", "AsyncIterable", "AsyncIterator", "Generator", "Iterable", "Iterator",
)  # fmt: skip
"""A result that comes one by one."""


@final
class SignatureParameter:
    """A parameter of a function, as the text of its signature has it.

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


@final
class Signature:
    """The signature of a function.

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


def parse_signature_untrusted(text: str | None) -> Signature | None:
    """Return what the text of a signature says; None if it cannot be understood."""
    import ast  # takes long to load, and most processes need no more than the names above

    if text is None or len(text) > MAX_SIGNATURE:
        return None
    try:
        body = ast.parse(f"def {text}: ...").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        return None
    return Signature(body[0])


def name_of(annotation: ast.expr | None) -> str:
    """Return the last name of an annotation that is a name: "Items" of ``spear.Items``; or nothing."""
    import ast

    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return "None"
    return annotation.id if isinstance(annotation, ast.Name) else ""


def _is_items(annotation: ast.expr | None) -> bool:
    return name_of(_origin(annotation)) in ITEMS


def _origin(annotation: ast.expr | None) -> ast.expr | None:
    """The ``list`` of ``list[int]``."""
    import ast

    return annotation.value if isinstance(annotation, ast.Subscript) else annotation


def _item_of(annotation: ast.expr | None) -> ast.expr | None:
    """The annotation of one item of a stream; any other annotation as it is."""
    import ast

    if not isinstance(annotation, ast.Subscript) or name_of(annotation.value) not in STREAMS:
        return annotation
    inside = annotation.slice  # of a generator, there is also what is sent to it
    return inside.elts[0] if isinstance(inside, ast.Tuple) and inside.elts else inside
