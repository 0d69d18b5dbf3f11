"""Stubs of typed clients, as mypy and pyright understand them.

Type checkers take seconds to start, so each runs once, over all programs. A line that has to be an error
ends with ``# wrong``; no other line may be one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from test_docs import ROOT, prepare, read

from spear.cli import main

PAGE: Final = "docs/how-to/typed-clients.md"

MARKET: Final = """
import enum
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import attrs

import spear

app = spear.Agent("market")


class Kind(enum.Enum):
    TEA = "tea"
    COFFEE = "coffee"


@attrs.frozen
class Order:
    kind: Kind
    count: int = 1


class Row(TypedDict):
    item: str
    days: list[date]


class Pair(NamedTuple):
    item: str
    amount: int


@app.function
async def total(first: Order, /, *rest: Order, discount: float = 0.0, **notes: str) -> float:
    return 1.0


@app.function
def merge(first: Order, second: Order) -> Order:
    return first


@app.function
def rows(kind: Kind, since: date | None = None) -> list[Row]:
    return []


@app.function
def kinds(path: Path, level: Literal["low", "high"] = "low") -> dict[str, Kind]:
    return {}


@app.function
def pairs(text: str) -> Iterator[Pair]:
    yield Pair(text, 1)


@app.function
async def running(prices: spear.Items[float], start: float = 0.0) -> AsyncIterator[float]:
    yield start


@app.function
async def summed(prices: spear.Items[float]) -> float:
    return 0.0


@app.function
def anything(value: Any, values: list[Any]) -> Any:
    return value


@app.batched
def embed(texts: list[str]) -> list[list[float] | ValueError]:
    return []


@app.function(name="date")
def a_date(day: date) -> date:
    return day


@app.function(name="list")
def a_list(days: list[date]) -> tuple[int, str]:
    return 1, ""
"""

USES: Final = """
from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import spear
from market import Kind, Order

if TYPE_CHECKING:
    from market_client import Market


async def use(spearlet: spear.Spearlet) -> None:
    market: Market = await spearlet.deploy("market.py", replicas=2)
    order = Order(Kind.TEA)
    whole: float = await market.total(order, order, discount=1, a_note="x", timeout=3)
    await market.total()  # wrong
    await market.total(first=order)  # wrong
    await market.total(order, discount="all")  # wrong
    await market.total(order, a_note=1)  # wrong

    merged = await market.merge(order, second=order)
    print(merged["kind"], merged.kind)  # wrong
    typed = market.merge.options(returns=Order)
    one: Order = await typed(order, order)
    await typed(order)  # wrong

    for row in await market.rows(Kind.TEA, date.today()):
        print(row["days"][0].year, row["item"].upper())
        row["price"]  # wrong
    await market.rows("tea")  # wrong

    kind = (await market.kinds(Path("a"), "high"))["x"]
    print(kind == "tea", kind.name)  # wrong
    await market.kinds(Path("a"), "medium")  # wrong

    async with market.pairs.stream("tea", timeout=2) as pairs:
        async for pair in pairs:
            print(pair[0], pair.item)  # wrong
    market.pairs("tea")  # wrong
    market.pairs.stream(1)  # wrong
    market.total.stream(order)  # wrong

    async with market.running.stream(start=1.0, sends_items=True) as running:
        await running.send(1.5)
        print((await anext(running)) + 1)
    async with market.summed.stream(sends_items=True) as summed:
        print((await summed.result()) + 1)
    market.summed.stream()  # wrong

    print(await market.anything(object(), ["a", 1]))
    vector: list[float] = await market.embed("text")
    await market.embed(["text"])  # wrong
    day: date = await market.date(date.today())
    (await market.list([day]))[0].hex()  # wrong

    async with market.embed.map(["a"], limit=2, ordered=False) as vectors:
        print([each[0] async for each in vectors])
    async with market.embed.map(["a"], on_error="keep") as items:
        print([(each.argument.upper(), each.error) async for each in items])
    market.embed.map([1])  # wrong
    market.embed.map(["a"], limt=2)  # wrong
    async with market.rows.starmap([(Kind.TEA, day)]) as listed:
        print([each async for each in listed])
    print([each.argument.upper() for each in await market.embed.for_each(["a"], on_error="keep")])
    await market.embed.for_each([1])  # wrong

    execution = market.embed.submit("text", timeout=1)
    vector = await execution.result()
    market.embed.submit(1)  # wrong
    vector = (await market.embed.ask("text")).result
    vector = (await market.embed.bind("text").ask()).result
    print(whole, one, vector, market.embed.name, market.embed.timeout, market.embed.is_stream)

    await market.scale(3)
    await market.scail(3)  # wrong
    async with market as same:
        await same.embed("text")
    number: int = await spearlet.deploy("market.py")  # wrong
    print(number)


async def use_untyped(spearlet: spear.Spearlet) -> spear.Deployment:
    plain = await spearlet.deploy("market.py")
    result: spear.Result = await plain.anything(1, 2, x=3)
    print(result, [await spearlet.deploy("market.py")][0].total)
    return await spearlet.deploy("market.py")
"""


BLOCKING: Final = """
from __future__ import annotations

from typing import TYPE_CHECKING, cast

import spear.blocking

if TYPE_CHECKING:
    from market_blocking import Market


def use(spearlet: spear.blocking.Spearlet) -> spear.blocking.Deployment:
    market = cast("Market", spearlet.deploy("market.py"))
    vector: list[float] = market.embed("text", timeout=3)
    vector = market.embed.options(timeout=3)("text")
    market.embed(3)  # wrong
    market.imbed("text")  # wrong
    with market.pairs.stream("tea") as pairs:
        print([pair[0] for pair in pairs])
    with market.embed.map(["a"], limit=2) as vectors:
        print([each[0] for each in vectors])
    with market.embed.map(["a"], on_error="keep") as items:
        print([each.argument.upper() for each in items])
    market.embed.map([1])  # wrong
    print([each.argument.upper() for each in market.embed.for_each(["a"])])
    vector = market.embed.submit("text").result(timeout=1)
    vector = market.embed.ask("text").result
    market.scale(3)
    with market as same:
        same.embed(*vector)  # wrong
    return spearlet.deploy("market.py")
"""

ASYNCIO: Final = """
from __future__ import annotations

from typing import TYPE_CHECKING

import spear.asyncio

if TYPE_CHECKING:
    from market_asyncio import Market


async def use(spearlet: spear.asyncio.Spearlet) -> spear.asyncio.Deployment:
    market: Market = await spearlet.deploy("market.py")
    vector: list[float] = await market.embed("text", timeout=3)
    vector = await market.embed.options(timeout=3)("text")
    await market.embed(3)  # wrong
    await market.imbed("text")  # wrong
    async with market.pairs.stream("tea") as pairs:
        print([pair[0] async for pair in pairs])
    async with market.embed.map(["a"], limit=2) as vectors:
        print([each[0] async for each in vectors])
    async with market.embed.map(["a"], on_error="keep") as items:
        print([each.argument.upper() async for each in items])
    market.embed.map([1])  # wrong
    print([each.argument.upper() for each in await market.embed.for_each(["a"])])
    vector = await (await market.embed.submit("text"))
    vector = (await market.embed.ask("text")).result
    await market.scale(3)
    async with market as same:
        await same.embed(*vector)  # wrong
    return await spearlet.deploy("market.py")
"""

PROGRAMS: Final = {"uses": USES, "blocking_uses": BLOCKING, "asyncio_uses": ASYNCIO}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the programs of the page and of this module, and their stubs."""
    directory = tmp_path_factory.mktemp("typed")
    prepare(directory, read(PAGE)[0])
    for name, text in {"market": MARKET, **PROGRAMS}.items():
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
    before = [*sys.path]
    for name, program, api in STUBS:
        output = str(directory / f"{name}.pyi")
        path = str(directory / f"{program}.py")
        assert main(["stubs", path, "--for", api, "--output", output]) == 0
        sys.modules.pop(program)
    sys.path[:] = before
    return directory


def wrong_lines(directory: Path) -> set[tuple[str, int]]:
    """Return the file and the number of each line that type checkers have to refuse."""
    marked = {
        (name, number)
        for name in (f"{each}.py" for each in PROGRAMS)
        for number, line in enumerate((directory / name).read_text().splitlines(), start=1)
        if line.endswith("# wrong")
    }
    assert len(marked) > 30
    return marked | {("mistakes.py", number) for number in range(11, 16)}


STUBS: Final = (
    ("shop_client", "shop", "trio"),
    ("market_client", "market", "trio"),
    ("market_blocking", "market", "blocking"),
    ("market_asyncio", "market", "asyncio"),
)
"""The name of each stub, its program, and the API of its users."""

CHECKED: Final = (
    "buy.py", "mistakes.py", *(f"{each}.py" for each in PROGRAMS), *(f"{each[0]}.pyi" for each in STUBS),
)  # fmt: skip


@pytest.mark.slow
def test_mypy_accepts_the_stubs_and_finds_each_wrong_call(programs: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    cache = ROOT / ".mypy_cache" / "clients"  # kept: most of the time is for Spear itself
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), *CHECKED],
        cwd=programs,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    errors = re.findall(r"^(\S+):(\d+): error: ", done.stdout, re.MULTILINE)
    assert {(name, int(line)) for name, line in errors} == wrong_lines(programs), done.stdout
    (shown,) = (each.text for each in read(PAGE)[0] if each.text.startswith("$ mypy"))
    for line in shown.splitlines()[1:]:
        assert line in done.stdout


@pytest.mark.slow
def test_pyright_accepts_the_stubs_and_finds_each_wrong_call(programs: Path) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": [*CHECKED]}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright could not get its part in JavaScript: {done.stderr.strip()[-200:]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in found
        if each["severity"] == "error"
    }
    assert errors == wrong_lines(programs), done.stdout
