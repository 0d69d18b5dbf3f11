"""Configurations as text without secrets: the output of ``--show-config``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite

import attrs

from ._runtimes import COMMON, PROCESS, runtime_secrets
from ._schema import GATEWAY_ELSEWHERE, Configuration, FunctionConfiguration
from ._toml import show_toml

HIDDEN = "<hidden>"


def as_tables(configuration: Configuration) -> dict[str, object]:
    """Return all values, including defaults, as nested tables; secrets are hidden."""
    gateway = _as_table(configuration.gateway)
    return {
        "spearlet": _as_table(configuration.spearlet),
        "gateway": {name: gateway[name] for name in gateway if name not in GATEWAY_ELSEWHERE},
        "limits": _as_table(configuration.limits),
        "runtimes": {
            name: _as_runtime(name, each) for name, each in configuration.runtimes.items()
        },
        "functions": {name: _as_function(each) for name, each in configuration.functions.items()},
    }


def _as_runtime(name: str, values: Mapping[str, object]) -> dict[str, object]:
    secrets = runtime_secrets(name)
    return {key: _shown(each, is_secret=key in secrets) for key, each in values.items()}


def _as_function(function: FunctionConfiguration) -> dict[str, object]:
    table = _as_table(function)
    if function.runtime == PROCESS:
        return table
    table = {name: table[name] for name in COMMON}
    own = {} if function.settings is None else _as_table(function.settings)
    return table | {name: each for name, each in own.items() if name != "target"}


def _as_table(value: object) -> dict[str, object]:
    table: dict[str, object] = {}
    kind = type(value)
    assert attrs.has(kind)
    for each in attrs.fields(kind):
        if not each.metadata.get("key", True):
            continue
        inner: object = getattr(value, each.name)
        table[each.name] = _shown(inner, is_secret=bool(each.metadata.get("secret")))
    return table


def _shown(value: object, *, is_secret: bool) -> object:
    if is_secret and value:  # without a value there is nothing to hide
        if isinstance(value, Mapping):
            return dict.fromkeys(value, HIDDEN)
        return [HIDDEN] * len(value) if isinstance(value, list | tuple) else HIDDEN
    return _as_table(value) if attrs.has(type(value)) else value


def show_as_toml(configuration: Configuration) -> str:
    """Return TOML that gives the same configuration when loaded, except for hidden values."""
    return show_toml(as_tables(configuration))


def show_as_json(configuration: Configuration) -> str:
    """Return all values as JSON; infinite numbers and values that are not set are null."""
    return json.dumps(_finite(as_tables(configuration)), ensure_ascii=False, indent=2) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
