"""The OpenAPI description, and the schemas of signatures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from openapi_spec_validator import validate

from spear._signatures import (
    ANYTHING,
    LISTS,
    MAPS,
    MAX_SIGNATURE,
    SCALARS,
    SETS,
    TUPLES,
)
from spear._signatures import (
    BYTES as BYTES_NAMES,
)
from spear.calls import FunctionDescription
from spear.gateway import GatewaySettings
from spear.gateway._openapi import _function_paths
from spear.gateway._routes import ROUTES
from spear.gateway._schemas import schema_of

from .helpers import KNOWN, TOKEN, Probe, ask, open_site

if TYPE_CHECKING:
    from .helpers import Json


async def document(settings: GatewaySettings | None = None) -> dict[str, Json]:
    async with open_site(settings) as site:
        await site.spearlet.deploy(Probe("other").agent)
        reply = await ask(site.gateway, "GET", "/openapi.json", headers=KNOWN)
        return reply.json


def under(value: Json, *path: str) -> Json:
    for each in path:
        assert isinstance(value, dict)
        value = value[each]
    return value


@pytest.mark.slow
async def test_the_description_is_valid_and_has_every_path() -> None:
    described = await document()
    validate(described)
    paths = under(described, "paths")
    assert isinstance(paths, dict)
    own = {"/", "/openapi.json"}
    for path in ROUTES:
        if path in own or path.startswith("/dashboard/"):
            continue
        names = [
            path.replace("*", "{name}"),
            path.replace("*", "probe.add"),
            path.replace("*", "probe.ticks"),
        ]
        assert [each for each in names if each in paths], path
    assert "/v1/functions/other.add/call" in paths  # two agents have one, so both get full names
    assert "/v1/functions/add/call" not in paths
    assert "/v1/functions/probe.ticks/call" not in paths
    assert described["security"] == []


async def test_a_function_has_a_schema() -> None:
    described = await document(GatewaySettings(token=TOKEN))
    assert described["security"] == [{"token": []}]
    add = under(described, "paths", "/v1/functions/probe.add/call", "post")
    assert under(add, "summary") == "Add numbers."
    body = under(add, "requestBody", "content", "application/json", "schema", "anyOf")
    assert isinstance(body, list)
    assert body[0] == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer"}, "timeout": {"type": "integer"},
        },
        "additionalProperties": False,
        "required": ["a"],
    }  # fmt: skip
    result = under(add, "responses", "200", "content", "application/json", "schema")
    assert result == {"type": "integer"}
    assert "Idempotency-Key" in str(under(add, "parameters"))
    stream = under(described, "paths", "/v1/functions/probe.ticks/stream", "post")
    assert "Spear-Timeout" in str(under(stream, "parameters"))
    assert "Idempotency-Key" not in str(under(stream, "parameters"))
    ticks = under(stream, "responses", "200")
    assert under(ticks, "content", "application/x-ndjson", "schema") == {"type": "integer"}


def test_a_function_of_which_nothing_is_known_takes_anything() -> None:
    ((path, item), _) = _function_paths("odd", "function", None)
    assert path == "/v1/functions/odd/call"
    assert json.loads(json.dumps(item))["post"]["requestBody"]["content"] == {
        "application/json": {"schema": {}}, "application/cbor": {}, "application/octet-stream": {},
    }  # fmt: skip


def test_a_parameter_that_takes_a_list_may_be_repeated_in_the_query() -> None:
    text = "find(a: list[int], /, words: list[str], ids: set[int] | None = None, one: str = '')"
    ((_, item), _) = _function_paths(
        "find", "function", FunctionDescription(signature=text, summary="")
    )
    query = [
        each for each in json.loads(json.dumps(item))["post"]["parameters"] if each["in"] == "query"
    ]
    assert [(each["name"], each["schema"]) for each in query] == [
        ("words", {"type": "array", "items": {"type": "string"}}),
        ("ids", {"type": "array", "items": {"type": "integer"}}),
    ]
    assert {(each["style"], each["explode"], each["required"]) for each in query} == {
        ("form", True, False)
    }


BYTES = {"$ref": "#/components/schemas/Bytes"}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        ("str", {"type": "string"}),
        ("float", {"type": "number"}),
        ("bytes", BYTES),
        ("object", {}),
        ("None", {"type": "null"}),
        ("list[int]", {"type": "array", "items": {"type": "integer"}}),
        ("Sequence[bytes]", {"type": "array", "items": BYTES}),
        ("dict[str, bool]", {"type": "object", "additionalProperties": {"type": "boolean"}}),
        ("tuple[int, str]", {"type": "array"}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Optional[int]", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("Literal['a', 1]", {"enum": ["a", 1]}),
        ("Literal[b'a']", {"description": "Literal"}),
        ("Order", {"description": "Order"}),
        ("shop.Order", {"description": "Order"}),
        ("Box[int]", {"description": "Box"}),
        ("'Order'", {"description": "'Order'"}),
        ("f(x)", {"description": "f(x)"}),
        (f"{20 * 'list['}int{20 * ']'}", None),
    ],
)
def test_annotations_become_schemas(annotation: str, schema: object) -> None:
    signature = schema_of(f"f(x: {annotation}) -> {annotation}")
    assert signature is not None
    (parameter,) = signature.parameters
    assert parameter.schema == signature.result
    if schema is not None:
        assert parameter.schema == schema


@pytest.mark.parametrize("name", [*SCALARS, *BYTES_NAMES, *LISTS, *SETS, *TUPLES, *MAPS, *ANYTHING])
def test_every_annotation_that_agents_check_has_a_schema(name: str) -> None:
    schema = schema_of(f"f(x: {name})")
    assert schema is not None
    (parameter,) = schema.parameters
    assert "description" not in parameter.schema
    assert (parameter.schema == {}) == (name in ANYTHING)


@pytest.mark.parametrize("name", LISTS + SETS)
def test_lists_and_sets_have_a_schema_for_their_elements(name: str) -> None:
    schema = schema_of(f"f(x: {name}[int])")
    assert schema is not None
    items = {"type": "array", "items": {"type": "integer"}}
    form = {
        "type": "object", "properties": {"$set": items, "$frozenset": items},
        "additionalProperties": False, "minProperties": 1,
    }  # fmt: skip
    found = schema.parameters[0].schema
    assert found == ({"anyOf": [items, form]} if name in SETS else items)


def test_a_map_with_integer_keys_is_an_object_or_a_list_of_pairs() -> None:
    schema = schema_of("f(x: dict[int, str])")
    assert schema is not None
    pairs = {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}}
    assert schema.parameters[0].schema == {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "object", "properties": {"$map": pairs}, "required": ["$map"]},
        ]
    }


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_a_schema_for_their_values(name: str) -> None:
    schema = schema_of(f"f(x: {name}[str, int])")
    assert schema is not None
    assert schema.parameters[0].schema == {
        "type": "object", "additionalProperties": {"type": "integer"},
    }  # fmt: skip


def test_parameters_can_be_given_in_several_ways() -> None:
    signature = schema_of("f(a: int, /, b: str, c=1, *, d: float, e=None)")
    assert signature is not None
    found = [
        (each.name, each.is_positional, each.is_named, each.is_required)
        for each in signature.parameters
    ]
    assert found == [
        ("a", True, False, True), ("b", True, True, True), ("c", True, True, False),
        ("d", False, True, True), ("e", False, True, False),
    ]  # fmt: skip
    by_name = signature.by_name()
    assert (by_name["additionalProperties"], "required" in by_name) == (True, False)
    by_position = signature.by_position()
    assert (by_position["minItems"], by_position["maxItems"]) == (2, 3)
    assert signature.alone() == []
    assert not signature.takes_bytes


def test_items_are_no_argument_and_streams_give_one_by_one() -> None:
    signature = schema_of("f(numbers: spear.Items[int], plus: int = 0) -> AsyncIterator[str]")
    assert signature is not None
    assert [each.name for each in signature.parameters] == ["plus"]
    assert signature.result == {"type": "string"}
    signature = schema_of("f(*rest, **more) -> AsyncGenerator[int, None]")
    assert signature is not None
    assert (signature.result, signature.takes_more) == ({"type": "integer"}, True)
    assert "maxItems" not in signature.by_position()
    assert signature.by_name()["additionalProperties"] is True
    assert signature.takes_bytes
    assert signature.alone() == []


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "f(",
        "f(x): pass\ndef g()",
        "f(): pass\nx",
        "f(x) -> (",
        "\0",
        "f(" + "(" * 500,
        "f(x)" + " " * MAX_SIGNATURE,
    ],
)
def test_what_an_instance_says_may_be_anything(text: str | None) -> None:
    assert schema_of(text) is None


@pytest.mark.parametrize("name", ["f(x: int)", "f(*, x: dict[str, list[int]])"])
def test_schemas_are_json(name: str) -> None:
    signature = schema_of(name)
    assert signature is not None
    schemas = [signature.by_name(), signature.by_position(), *signature.alone()]
    assert json.loads(json.dumps(schemas)) == schemas
