"""Agents may describe their functions by any values; these cannot break the gateway's listings."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, TypeAlias

import pytest

import spear
from spear.agent._functions import AsyncFunction
from spear.gateway._openapi import _function_paths
from spear.gateway._schemas import schema_of

from .helpers import ask, items_of, open_site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .helpers import Json

Descriptions: TypeAlias = "Sequence[object] | object"

LONG_INTEGER = 1 << 60_000
SURROGATE = r"Literal['\ud800']"

ODD_SIGNATURES = [
    LONG_INTEGER, -1, 1.5, float("nan"), None, True, b"f()", [], {}, ["f()"], {b"f": "f()"},
    f"f(x: {'1 + ' * 1_000}1)",
    f"f(x: {'int | ' * 660}int)",
    f"f(x: 0x{'f' * 3_900})",
    f"f(x: {'9' * 3_900})",
    f"f(x: Literal[0x{'f' * 3_900}])",
    f"f(x: Literal[{'9' * 3_900}])",
    f"f(x: {SURROGATE}) -> {SURROGATE}",
    f"f(x: {SURROGATE[8:-1]})",
    f"f(x: {'-' * 3_900}1)",
    f"f(x: {'not ' * 900}1)",
    f"f(x: {'(' * 150}1{')' * 150})",
    f"f(x: {'a.' * 1_900}b)",
    f"f(x: {'a[' * 190}b{']' * 190})",
    f"f(x: {'f()' * 1_300})",
    f"f({'x,' * 1_900})",
    "f(" + "".join(f"x{number}: int, " for number in range(300)) + ")",
    "f(x): pass\nimport os\ndef g()",
    "f(x): return 1 #",
    "f(\0)", "f(\n)", "f(\\\n)", "f(\r)", "f(\f)", "f", "", "f(", "f()" * 1_000,
    "f(x: f'{x!r:{x}}')", "f(x: 1e999)", "f(x: Literal[1e999, -1, 1j, ...])", "f(x: (y := 1))",
    "f(x: '\\d')", "f[T: (int, str)](x: T)", "f(*x: *y, **z)", "f(x: lambda: (yield))",
    "f(x)" + " " * 4_000, "ﬀ(ﬁ: ﬂ)", "f(\u202e)", "f(x: '\u2028')", "é" * 4_000,
]  # fmt: skip

HONEST = "f(x: list[dict[str, int | None]], /, *, y: Literal['a', 1] = 'a') -> Sequence[bytes]"
PIECES = [
    "(", ")", "[", "]", "{", "}", ",", ":", "*", "**", "->", "=", "|", "-", "+", ".", "'", '"', "\\",
    "\n", "\0", "#", ";", "Literal", "int", "None", "Union", "lambda", "yield", "await", "x", " ", "0x",
    "9" * 99,
    "é", "\u202e", "\U0001f600", r"'\ud800'", r"'\N{BELL}'", "1j", "1e999", "...", "f''", "b''", "@", "~",
]  # fmt: skip


def draw_signature(seed: random.Random) -> str:
    """Return an honest signature with parts inserted, repeated, removed and swapped."""
    parts = list(HONEST)
    for _ in range(seed.randrange(1, 12)):
        start = seed.randrange(len(parts))
        stop = start + seed.randrange(8)
        piece = seed.choice(PIECES) * seed.choice([1, 1, 1, 2, 50, 900])
        parts[start:stop] = list(seed.choice([piece, "", "".join(parts[start:stop]) * 2]))
        if not parts:
            parts = ["f"]
    return "".join(parts)[: seed.choice([4_000, 5_000])]


def draw_value(seed: random.Random, levels: int = 3) -> object:
    """Return any value that an agent can send."""
    kind = seed.randrange(11 if levels else 9)
    if kind == 9:
        return [draw_value(seed, levels - 1) for _ in range(seed.randrange(4))]
    if kind == 10:
        keys = ["name", "signature", "summary", "kind", "", b"name"]
        return {key: draw_value(seed, levels - 1) for key in seed.sample(keys, seed.randrange(6))}
    if kind < 3:
        return draw_signature(seed)
    simple = [
        None, True, 0, -1.5, "", b"\xff", LONG_INTEGER, -LONG_INTEGER, float("inf"), "\0", "\x1b[2J",
        "f0", "x" * 100_000,
    ]  # fmt: skip
    return seed.choice(simple)


def liar(names: Sequence[str], descriptions: Descriptions) -> spear.Agent:
    """Return an agent that announces the given descriptions of its functions."""
    app = spear.Agent("liar")

    async def function(x: int) -> int:
        return x

    async def describe() -> object:
        return descriptions

    for name in names:
        app.function(name=name)(function)
    app.service.add_unannounced(AsyncFunction("spear.describe", describe))  # type: ignore[arg-type]  # as mypy sees it
    return app


async def expect_listed(
    names: Sequence[str], descriptions: Descriptions
) -> dict[str, dict[str, Json]]:
    """Assert that all listings have all functions; return the listed descriptions, by name."""
    async with open_site() as site:
        await site.spearlet.deploy(liar(names, descriptions))
        reply = await ask(site.gateway, "GET", "/v1/functions")
        assert reply.status == 200
        listed = {str(each["name"]): each for each in items_of(reply.json["functions"])}
        assert {*names} <= listed.keys()
        assert listed["add"]["signature"] == "add(a: int, b: int = 1, *, timeout: int = 0) -> int"
        for name in names[0], "add":
            reply = await ask(site.gateway, "GET", f"/v1/functions/{name}")
            assert (reply.status, reply.json) == (200, listed[name])
        reply = await ask(site.gateway, "GET", "/openapi.json")
        assert reply.status == 200
        paths = reply.json["paths"]
        assert isinstance(paths, dict)
        assert {f"/v1/functions/{name}/call" for name in [*names, "add"]} <= paths.keys()
        assert "Add numbers." in json.dumps(paths["/v1/functions/add/call"])
    return listed


def described(names: Sequence[str], signatures: Sequence[object]) -> list[object]:
    return [
        {"name": name, "kind": "function", "signature": signature, "summary": "Odd."}
        for name, signature in zip(names, signatures, strict=True)
    ]


@pytest.mark.slow
async def test_one_function_that_is_described_oddly_is_listed_with_all_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"f{number}" for number in range(len(ODD_SIGNATURES) + 1)]
    listed = await expect_listed(names, described(names, [*ODD_SIGNATURES, "f(x: int) -> int"]))
    assert listed[names[-1]]["signature"] == "f(x: int) -> int"
    for name, signature in zip(names, ODD_SIGNATURES, strict=False):
        is_shown = isinstance(signature, str) and len(signature) <= 4_000
        assert listed[name]["signature"] == (signature if is_shown else None)
    assert "invalid descriptions of functions" in caplog.text


@pytest.mark.parametrize(
    "descriptions",
    [
        LONG_INTEGER, None, "text", b"bytes", {}, {"name": "f"}, [None, 1, [], LONG_INTEGER],
        [{}], [{"name": LONG_INTEGER, "signature": "f()", "summary": ""}],
        [{"name": "f", "signature": "f()", "summary": LONG_INTEGER}], [{b"name": "f"}],
    ],
    ids=range(11),
)  # fmt: skip
async def test_an_agent_that_describes_its_functions_as_no_list_of_maps(
    descriptions: Descriptions, caplog: pytest.LogCaptureFixture
) -> None:
    listed = await expect_listed(["f"], descriptions)
    assert (listed["f"]["signature"], listed["f"]["summary"]) == (None, None)
    assert "liar: " in caplog.text


async def test_descriptions_of_functions_that_were_not_announced_are_not_kept() -> None:
    async with open_site() as site:
        signatures = ["f()"] * 1_000
        names = [f"f{number}" for number in range(1_000)]
        deployment = await site.spearlet.deploy(liar(["f7"], described(names, signatures)))
        await ask(site.gateway, "GET", "/v1/functions")
        assert list(await site.gateway._app.catalogue.describe(deployment)) == ["f7"]


def test_an_odd_name_is_no_template_of_a_path() -> None:
    paths = [path for path, _ in _function_paths("odd/{x}?\n", "function", None)]
    assert paths[0] == "/v1/functions/odd%2F%7Bx%7D%3F%0A/call"


async def test_a_long_summary_is_cut() -> None:
    told = {"name": "f", "signature": "f()", "summary": "x" * 100_000}
    assert (await expect_listed(["f"], [told]))["f"]["summary"] == "x" * 400


@pytest.mark.slow
async def test_random_descriptions_break_no_listing(seed: random.Random) -> None:
    names = [f"f{number}" for number in range(150)]
    descriptions: list[object] = described(names, [draw_signature(seed) for _ in names])
    for number in seed.sample(range(150), 50):
        descriptions[number] = draw_value(seed)
    await expect_listed(names, descriptions)
    await expect_listed(names, draw_value(seed))


@pytest.mark.slow
@pytest.mark.repetitive
def test_of_any_signature_a_schema_is_json_or_there_is_none(seed: random.Random) -> None:
    understood = 0
    for _ in range(3_000):
        signature = schema_of(draw_signature(seed))
        if signature is not None:
            understood += 1
            schemas = [signature.result, signature.by_name(), signature.by_position()]
            json.dumps([*schemas, *signature.alone()], allow_nan=False, ensure_ascii=False).encode()
    assert understood > 20
