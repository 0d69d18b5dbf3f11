"""``docs/configuration.md`` agrees with the schema: every key, its values, its default, its flag.

For a table that differs, the failure prints the correct text.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import Final, Literal, Union, get_args, get_origin

import attrs
import pytest

from spear import InstanceTimeouts, RetryPolicy, WireLimits
from spear.config import FunctionConfiguration, HostConfiguration, fields, flag_of
from spear.config._schema import GATEWAY_ELSEWHERE
from spear.config._toml import show_toml_value
from spear.config._values import table_in
from spear.gateway import GatewaySettings
from spear.runtimes import ProcessSettings, ResourceLimits
from spear.spearlet import DeploymentSettings, HealthPolicy, RestartPolicy, Scale

DOCS: Final = Path(__file__).parents[2] / "docs"
DOCUMENT: Final = (DOCS / "configuration.md").read_text("utf-8")
HTTP: Final = (DOCS / "http.md").read_text("utf-8")

KINDS: Final[dict[object, str]] = {
    bool: "`true`, `false`",
    int: "whole number",
    float: "number",
    str: "text",
}


def kind_of(kind: object, *, path: bool = False) -> str:
    """Return the text for the values that a key accepts."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if kind is Scale:
        return "whole number, text, table"
    if table_in(kind) is not None or get_origin(kind) not in (None, Literal, tuple):
        return "table"
    if get_origin(kind) is Literal:
        return " ".join(f'`"{each}"`' for each in get_args(kind))
    if get_origin(kind) is tuple:
        return "list of paths" if path else "list of texts"
    return "path" if path else KINDS[kind]


def default_of(each: attrs.Attribute[object]) -> str:
    """Return the text for the default of a key."""
    default = each.default
    if default is None or not isinstance(default, str | int | float | tuple):
        return "`1`" if isinstance(default, Scale) else ""
    return f"`{show_toml_value(default)}`"


def described(table: type) -> str:
    """Return the description of a class of the schema: a table of its keys, and their meanings."""
    assert attrs.has(table)
    kinds = fields(table)
    keys = [each for each in attrs.fields(table) if each.name in kinds]
    lines = ["| key | value | default | flag |", "|---|---|---|---|"]
    for each in keys:
        kind = kind_of(kinds[each.name], path=each.metadata["path"])
        has_flag = each.metadata["flag"] or table is HostConfiguration
        flag = f"`{flag_of(each.name)}`" if has_flag else ""
        lines.append(f"| `{each.name}` | {kind} | {default_of(each)} | {flag} |")
    lines.append("")
    for each in keys:
        meaning = f"* `{each.name}`: {each.metadata['says']}"
        lines += textwrap.wrap(meaning, 118, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


@pytest.mark.parametrize("table", [HostConfiguration, FunctionConfiguration])
def test_every_key_is_there_as_the_schema_has_it(table: type) -> None:
    wanted = described(table)
    assert f"\n\n{wanted}\n\n" in DOCUMENT, wanted


def test_the_inner_tables_have_every_key_in_order() -> None:
    head = r"^\| key \| default \| meaning \|\n\|---.*\n"
    shown = re.findall(rf"{head}((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    tables = (Scale, RetryPolicy, RestartPolicy, HealthPolicy, InstanceTimeouts)
    for lines, table in zip(shown, tables, strict=True):
        assert attrs.has(table)
        starts = [row.rpartition(" | ")[0] for row in lines.splitlines()]
        assert starts == [f"| `{each.name}` | {default_of(each)}" for each in attrs.fields(table)]


def test_whatever_a_deployment_can_be_told_has_a_key() -> None:
    known = {*fields(FunctionConfiguration), "target", "limits"}  # source, and a key per limit
    for settings in (DeploymentSettings, ProcessSettings, ResourceLimits):
        assert fields(settings).keys() <= known


def test_the_settings_of_the_gateway_are_where_they_belong() -> None:
    assert GATEWAY_ELSEWHERE.keys() <= fields(GatewaySettings).keys()
    assert set(GATEWAY_ELSEWHERE.values()) <= fields(HostConfiguration).keys()
    assert "(http.md#limits)" in DOCUMENT
    own = fields(GatewaySettings).keys() - GATEWAY_ELSEWHERE
    others = {each for each in own if each not in HTTP}
    assert others == set()


def test_the_limits_are_those_of_the_code() -> None:
    """The table of limits is in docs/guarantees.md, which has a test of its own."""
    assert "(guarantees.md#default-limits)" in DOCUMENT
    assert any(
        f"max_calls = {WireLimits().max_calls * 2}" in line for line in DOCUMENT.splitlines()
    )
