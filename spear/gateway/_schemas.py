"""JSON schemas of a function's arguments, derived from the text of its signature.

The text comes from an instance, so it is untrusted: it is parsed, never evaluated. A part that cannot be
understood gets a schema that allows anything.

Invariant: every client can read the schema as JSON. Strings in it are valid Unicode, and integers have 64
bits.
"""

from __future__ import annotations

import ast
from typing import Final, TypeAlias, final

import attrs

from spear._signatures import (
    ANYTHING,
    BYTES,
    LISTS,
    MAPS,
    SETS,
    TUPLES,
    name_of,
    parse_signature_untrusted,
)

Schema: TypeAlias = dict[str, object]

MAX_LEVELS: Final = 16
MAX_INTEGER: Final = 2**63

_BYTES: Final[Schema] = {"$ref": "#/components/schemas/Bytes"}


def _set(items: Schema) -> Schema:
    """Return the schema of a set: an array is accepted, and a result is an object with one key."""
    forms = {"$set": items, "$frozenset": items}
    return {
        "anyOf": [
            items,
            {
                "type": "object",
                "properties": forms,
                "additionalProperties": False,
                "minProperties": 1,
            },
        ]
    }


def _numbered(entries: Schema) -> Schema:
    """Return the schema of a map with integer keys: as text, or as an object with one key."""
    pairs: Schema = {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}}
    form: Schema = {"type": "object", "properties": {"$map": pairs}, "required": ["$map"]}
    return {"anyOf": [entries, form]}


_BY_NAME: Final[dict[str, Schema]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
    **dict.fromkeys(BYTES, _BYTES),
    **{name: {"type": "array"} for name in (*LISTS, *TUPLES)},
    **{name: _set({"type": "array"}) for name in SETS},
    **{name: {"type": "object"} for name in MAPS},
    **{name: {} for name in ANYTHING},
}


@final
@attrs.frozen
class ParameterSchema:
    """A parameter of a function.

    Attributes:
        is_positional: whether it may be given by position.
        is_named: whether it may be given by name.
        is_required: whether it must be given.
        array: the schema of the list that repeated parameters of a query make; None for other parameters.
    """

    name: str
    schema: Schema
    is_positional: bool
    is_named: bool
    is_required: bool
    array: Schema | None


@final
@attrs.frozen
class FunctionSchema:
    """A function's parameters and result."""

    parameters: tuple[ParameterSchema, ...]
    result: Schema
    takes_more: bool

    def by_name(self) -> Schema:
        """Return the schema of a body that is an object: arguments by name."""
        named = [each for each in self.parameters if each.is_named]
        # A required positional-only parameter cannot be given by name.
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
        """Return the schema of a body that is an array: arguments by position."""
        positional = [each for each in self.parameters if each.is_positional]
        schema: Schema = {"type": "array", "minItems": sum(each.is_required for each in positional)}
        if positional:
            schema["prefixItems"] = [each.schema for each in positional]
        if not self.takes_more:
            schema["maxItems"] = len(positional)
        return schema

    def alone(self) -> list[Schema]:
        """Return the schema of any other body: the only argument; none if the function needs more."""
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
        return first is None or first.schema in ({}, _BYTES)


def schema_of(text: str | None) -> FunctionSchema | None:
    """Return the schemas of a function, from its signature; None if it cannot be understood."""
    signature = parse_signature_untrusted(text)
    if signature is None:
        return None
    parameters = tuple(
        ParameterSchema(
            name=each.name,
            schema=_schema(each.annotation),
            is_positional=each.is_positional,
            is_named=each.is_named,
            is_required=each.is_required,
            array=_array(each.list_annotation) if each.is_named else None,
        )
        for each in signature.parameters
    )
    return FunctionSchema(parameters, _schema(signature.result), signature.takes_more)


def _schema(node: ast.expr | None, levels: int = MAX_LEVELS) -> Schema:
    if node is None or not levels:
        return {}
    name = name_of(node)
    if name:
        return dict(_BY_NAME[name]) if name in _BY_NAME else {"description": name}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [_schema(node.left, levels - 1), _schema(node.right, levels - 1)]}
    if isinstance(node, ast.Subscript):
        return _generic(name_of(node.value), node.slice, levels - 1)
    try:
        return {"description": ast.unparse(node)[:200]}
    except (ValueError, RecursionError):  # an integer with too many digits, or too many terms
        return {}


def _array(annotation: ast.expr | None) -> Schema | None:
    """Return the schema of the arrays that fit the annotation of a list, a set or a tuple."""
    if annotation is None:
        return None
    match _schema(annotation):
        case {"anyOf": [dict() as array, _]}:  # a set, which is an object, too
            return array
        case array:
            return array


def _is_json(value: object) -> bool:
    """Return whether a literal has the same meaning in JSON as in Python."""
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
    if name in (*LISTS, *SETS) and len(parts) == 1:
        items: Schema = {"type": "array", "items": _schema(inside, levels)}
        return _set(items) if name in SETS else items
    if name in MAPS and len(parts) == 2:
        entries: Schema = {"type": "object", "additionalProperties": _schema(parts[1], levels)}
        return _numbered(entries) if name_of(parts[0]) == "int" else entries
    return dict(_BY_NAME.get(name, {"description": name[:200]}))
