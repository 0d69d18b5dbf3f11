"""The OpenAPI 3.1 description of the gateway, with the deployed functions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import trio

from spear._version import __version__

from ._exchange import respond_json
from ._schemas import Schema, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from spear.calls import FunctionDescription

    from ._app import App, Route
    from ._request import Request

_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "code", "message", "delivered"],
            "properties": {
                "kind": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "delivered": {"enum": ["no", "maybe", "yes"]},
                "request_id": {"type": "string"},
                "type": {"type": "string"},
                "remote_code": {"type": "string"},
                "notes": {"type": "array", "items": {"type": "string"}},
                "parameter": {"type": "string"},
                "expected": {"type": "string"},
                "got": {"type": "string"},
                "usage": {"type": "string"},
                "retry_after_seconds": {"type": ["number", "null"]},
            },
        }
    },
}

_EXECUTION: Final[Schema] = {
    "type": "object",
    "required": ["id", "function", "deployment", "status"],
    "properties": {
        "id": {"type": "string"},
        "function": {"type": "string"},
        "deployment": {"type": "string"},
        "status": {"enum": ["pending", "running", "completed", "failed", "cancelled", "timeout"]},
        "instance": {"type": ["string", "null"]},
        "submitted": {"type": "number"},
        "duration_seconds": {"type": "number"},
        "execution_seconds": {"type": ["number", "null"]},
        "error": {"type": ["object", "null"]},
    },
}

_BYTES: Final[Schema] = {
    "type": "object",
    "required": ["$bytes"],
    "properties": {"$bytes": {"type": "string", "contentEncoding": "base64"}},
    "description": "Bytes in JSON, encoded as Base64.",
}

_HEADERS: Final = (
    "Spear-Timeout",
    "Spear-Queue-Timeout",
    "Spear-Max-Attempts",
    "Idempotency-Key",
    "Spear-Session",
    "X-Request-Id",
    "traceparent",
)


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _both(schema: Schema) -> dict[str, object]:
    """Return content with the same schema in JSON, and in CBOR, where bytes need no encoding."""
    return {**_json(schema), "application/cbor": {}}


def _failures() -> Schema:
    return {
        "description": "The request or the call failed.",
        "content": _json({"$ref": "#/components/schemas/Error"}),
    }


def _parameter(name: str, place: str) -> Schema:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": {"type": "string"},
    }


def _repeated(name: str, array: Schema) -> Schema:
    """Return a parameter of the query that may be repeated, once for each item of an array."""
    return {
        "name": name,
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "schema": array,
        "description": f"Items of the argument {name}, if the body does not have it.",
    }


def _fixed_paths(routes: Mapping[str, Route]) -> dict[str, Schema]:
    """Return the paths that do not depend on the functions."""
    paths: dict[str, Schema] = {}
    for pattern, route in routes.items():
        path = pattern.replace("*", "{name}")
        for method, each in route.operations.items():
            if not each.summary:
                continue
            parameters = [_parameter(name, "query") for name in each.query]
            if "*" in pattern:
                parameters.insert(0, _parameter("name", "path"))
            words = f"{method.lower()}{path}".translate(str.maketrans("/-{}", "____"))
            operation: Schema = {
                "summary": each.summary,
                "operationId": words.strip("_"),
                "parameters": parameters,
                "responses": {"2XX": {"description": "Success."}, "default": _failures()},
            }
            if route.is_open:
                operation["security"] = []
            paths.setdefault(path, {})[method.lower()] = operation
    return paths


def _function_paths(
    name: str, kind: str, description: FunctionDescription | None
) -> Iterable[tuple[str, Schema]]:
    """Yield (path, item) for each way to call a function."""
    text = description.signature if description else None
    signature = schema_of(text)
    body: dict[str, object] = {}
    query: list[Schema] = []
    result: Schema = {}
    if signature is None:
        body = {**_both({}), "application/octet-stream": {}}
    else:
        result = signature.result
        query = [_repeated(each.name, each.array) for each in signature.parameters if each.array]
        bodies = [signature.by_name(), signature.by_position(), *signature.alone()]
        body = _both({"anyOf": bodies})
        if signature.takes_bytes:
            body["application/octet-stream"] = {}
    operation: Schema = {
        "summary": (description and description.summary) or f"Call {name}.",
        "description": text or "",
        "tags": [name.partition(".")[0] if "." in name else "functions"],
        "parameters": [
            *(
                _parameter(each, "header")
                for each in _HEADERS
                if not (kind == "stream" and each == "Idempotency-Key")
            ),
            *query,
        ],
        "requestBody": {"required": False, "content": body},
    }
    answered = {"description": "The result of the call.", "content": _both(result)}
    accepted = {
        "description": "The call was submitted.",
        "content": _json({"$ref": "#/components/schemas/Execution"}),
    }
    streamed = {
        "text/event-stream": {},
        "application/x-ndjson": {"schema": result},
        "application/cbor-seq": {},
    }
    items = {
        "description": "The items of the stream, as the function produces them.",
        "content": streamed,
    }
    ways: dict[str, tuple[str, object]] = {"stream": ("200", items)}
    if kind != "stream":
        ways = {"call": ("200", answered), "submit": ("202", accepted)}
    for way, (status, response) in ways.items():
        responses = {status: response, "default": _failures()}
        item = {**operation, "operationId": f"{way}.{name}", "responses": responses}
        yield f"/v1/functions/{quote(name, safe='')}/{way}", {"post": item}


async def get_openapi(app: App, request: Request, _: str) -> None:
    """Handle ``GET /openapi.json``: describe all paths and functions."""
    paths = _fixed_paths(app.routes)
    deployments = app.spearlet.deployments.values()
    names = Counter(name for deployment in deployments for name in deployment.functions)
    for deployment in deployments:
        descriptions = await app.catalogue.describe(deployment)
        for name in deployment.functions:
            kind = "stream" if name in deployment.streams else "function"
            own = name if names[name] == 1 else f"{deployment.name}.{name}"
            paths.update(_function_paths(own, kind, descriptions.get(name)))
            await trio.lowlevel.checkpoint()  # one signature may take a millisecond to parse
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "Spear", "version": __version__, "summary": "Functions of a spearlet."},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, "Execution": _EXECUTION, "Bytes": _BYTES},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [] if app.guard.token is None else [{"token": []}],
    }
    await respond_json(request, document)
