"""JSON schemas of a function's arguments, out of its signature as its author wrote it.

The text comes from an instance, so it is untrusted: it is parsed, never evaluated, and what cannot be
understood is described as anything.

Invariant: a schema is JSON that every client can read. Texts in it are Unicode, integers have 64 bits.
"""

from __future__ import annotations

import ast
from typing import Final, TypeAlias, final

import attrs

Schema: TypeAlias = dict[str, object]

MAX_SIGNATURE: Final = 4000
MAX_LEVELS: Final = 16
MAX_INTEGER: Final = 2**63

_SCALARS: Final[dict[str, Schema]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
    "bytes": {"$ref": "#/components/schemas/Bytes"},
    "dict": {"type": "object"},
    "Mapping": {"type": "object"},
    "list": {"type": "array"},
    "tuple": {"type": "array"},
    "Sequence": {"type": "array"},
    "set": {"type": "array"},
    "object": {},
    "Any": {},
}


@final
@attrs.frozen
class ParameterSchema:
    """One parameter of a function.

    Attributes:
        is_positional: whether it may be given by position.
        is_named: whether it may be given by name.
        is_required: whether it must be given.
    """

    name: str
    schema: Schema
    is_positional: bool
    is_named: bool
    is_required: bool


@final
@attrs.frozen
class FunctionSchema:
    """A function's parameters and result."""

    parameters: tuple[ParameterSchema, ...]
    result: Schema
    takes_more: bool

    def by_name(self) -> Schema:
        """A body that is an object."""
        named = [each for each in self.parameters if each.is_named]
        # A positional-only one has no name to be called by.
        is_possible = all(each.is_named or not each.is_required for each in self.parameters)
        schema: Schema = {
            "type": "object",
            "properties": {each.name: each.schema for each in named},
            "additionalProperties": self.takes_more or not is_possible,
        }
        required = [each.name for each in named if each.is_required]
        if required and is_possible:
            schema["required"] = required
        if self.takes_more or not is_possible:
            schema["description"] = "$args may have positional arguments"
        return schema

    def by_position(self) -> Schema:
        """A body that is an array."""
        positional = [each for each in self.parameters if each.is_positional]
        schema: Schema = {"type": "array", "minItems": sum(each.is_required for each in positional)}
        if positional:
            schema["prefixItems"] = [each.schema for each in positional]
        if not self.takes_more:
            schema["maxItems"] = len(positional)
        return schema

    def alone(self) -> list[Schema]:
        """A body that is neither, and then the only argument; nothing if that cannot be."""
        first = next((each for each in self.parameters if each.is_positional), None)
        others = [each for each in self.parameters if each.is_required and each is not first]
        if first is None or others:
            return []
        return [
            {"allOf": [first.schema, {"type": ["string", "number", "boolean", "null"]}]},
        ]

    @property
    def takes_bytes(self) -> bool:
        """Whether the body may be raw bytes."""
        first = next((each for each in self.parameters if each.is_positional), None)
        return first is None or first.schema in ({}, _SCALARS["bytes"])


def parse_signature(text: str | None) -> FunctionSchema | None:
    """What a signature says; None if it cannot be understood."""
    if text is None or len(text) > MAX_SIGNATURE:
        return None
    try:
        (function,) = ast.parse(f"def {text}: ...").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    assert isinstance(function, ast.FunctionDef)  # or there were several
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    first_default = len(plain) - len(given.defaults)
    parameters = [
        ParameterSchema(
            name=each.arg,
            schema=_schema(each.annotation),
            is_positional=True,
            is_named=index >= len(given.posonlyargs),
            is_required=index < first_default,
        )
        for index, each in enumerate(plain)
        if not _is_items(each.annotation)
    ]
    parameters += [
        ParameterSchema(
            name=each.arg,
            schema=_schema(each.annotation),
            is_positional=False,
            is_named=True,
            is_required=default is None,
        )
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if not _is_items(each.annotation)
    ]
    takes_more = given.vararg is not None or given.kwarg is not None
    return FunctionSchema(tuple(parameters), _schema(_item_of(function.returns)), takes_more)


def _name_of(node: ast.expr | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    return node.id if isinstance(node, ast.Name) else ""


def _is_items(node: ast.expr | None) -> bool:
    """Whether it stands for the items that a caller sends, which are no argument."""
    return _name_of(node.value if isinstance(node, ast.Subscript) else node) == "Items"


def _item_of(node: ast.expr | None) -> ast.expr | None:
    """What a stream gives, one by one."""
    if isinstance(node, ast.Subscript) and "Iter" in _name_of(node.value):
        return node.slice
    if isinstance(node, ast.Subscript) and "Generator" in _name_of(node.value):
        return node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
    return node


def _schema(node: ast.expr | None, levels: int = MAX_LEVELS) -> Schema:
    if node is None or not levels:
        return {}
    name = _name_of(node)
    if name:
        return dict(_SCALARS[name]) if name in _SCALARS else {"description": name}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [_schema(node.left, levels - 1), _schema(node.right, levels - 1)]}
    if isinstance(node, ast.Subscript):
        return _generic(_name_of(node.value), node.slice, levels - 1)
    try:
        return {"description": ast.unparse(node)[:200]}
    except (ValueError, RecursionError):  # an integer of too many digits; too many terms
        return {}


def _is_json(value: object) -> bool:
    """Whether a literal has the same meaning in JSON as in Python."""
    if isinstance(value, str):
        return not any("\ud800" <= each <= "\udfff" for each in value)  # lone surrogates
    return value is None or (isinstance(value, int) and -MAX_INTEGER <= value < MAX_INTEGER)


def _generic(name: str, inside: ast.expr, levels: int) -> Schema:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Optional":
        return {"anyOf": [_schema(inside, levels), {"type": "null"}]}
    if name == "Union":
        return {"anyOf": [_schema(each, levels) for each in parts]}
    if name == "Literal":
        values = [each.value for each in parts if isinstance(each, ast.Constant)]
        if len(values) == len(parts) and all(map(_is_json, values)):
            return {"enum": values}
    if name in ("list", "Sequence", "set") and len(parts) == 1:
        return {"type": "array", "items": _schema(inside, levels)}
    if name in ("dict", "Mapping") and len(parts) == 2:
        return {"type": "object", "additionalProperties": _schema(parts[1], levels)}
    return dict(_SCALARS.get(name, {"description": name[:200]}))
