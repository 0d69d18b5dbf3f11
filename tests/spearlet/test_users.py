"""Uses of the spearlet: many calls, large results, unusual files, unusual names."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from runtimes.helpers import listening, nothing_left

import spear
from spear import HostLimits, Overloaded, SpawnFailed, WireLimits, open_spearlet

from .helpers import WORKERS, deployed, instance, write

if TYPE_CHECKING:
    from spear.calls import Result


@pytest.mark.slow
async def test_a_hundred_calls_at_once_on_two_replicas() -> None:
    results: dict[int, Result] = {}
    processes: Counter[Result] = Counter()
    async with deployed(WORKERS, replicas=2) as deployment:

        async def call(number: int) -> None:
            results[number] = await deployment.echo(number)
            processes[await deployment.who()] += 1

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(call, number)
    assert results == {number: number for number in range(100)}
    assert set(processes.values()) == {50}


async def test_more_calls_than_an_instance_takes_wait_their_turn() -> None:
    async with deployed(WORKERS, limits=HostLimits(wire=WireLimits(max_calls=2))) as deployment:
        executions = [deployment.echo.submit(number) for number in range(50)]
        assert [await each.result() for each in executions] == list(range(50))


@pytest.mark.slow
async def test_megabytes_come_through() -> None:
    size = 10 * 1024 * 1024
    async with deployed(WORKERS) as deployment:
        assert await deployment.blob(size) == bytes(size)
        text = "ä" * size
        digest = hashlib.sha256(text.encode()).digest()
        result = await deployment.echo([text])
        assert isinstance(result, list)
        assert hashlib.sha256(str(result[0]).encode()).digest() == digest


@pytest.mark.slow
async def test_a_stream_of_many_items() -> None:
    async with deployed(WORKERS) as deployment, deployment.numbers.stream(20_000) as stream:
        assert [item async for item in stream] == list(range(20_000))


async def test_names_in_any_script(tmp_path: Path) -> None:
    code = """
import spear
app = spear.Agent("Läden")

@app.function
async def price(größe: str, *, währung: str = "€") -> dict[str, str]:
    return {größe: währung, "商店": "☕"}
"""
    path = write(tmp_path, "läden 商店.py", code)
    async with deployed(path) as deployment:
        assert deployment.name == "l-den"
        assert await deployment.price("groß", währung="¥") == {"groß": "¥", "商店": "☕"}
        with pytest.raises(spear.InvalidArguments, match="'größe'"):
            await deployment.price()


async def test_a_file_that_prints_while_it_is_imported(tmp_path: Path) -> None:
    code = """
import os, sys, spear
print("loading")
print("really", file=sys.stderr)
os.write(1, b"raw, without an end of line")
app = spear.Agent()

@app.function
async def say(text: str) -> None:
    print(text)
"""
    path = write(tmp_path, "chatty.py", code)
    with listening() as lines:
        async with deployed(path) as deployment:
            await deployment.say("hello")
            await lines.wait_for("hello")
            written = [line.text for line in instance(deployment.replicas[0]).logs()]
    assert sorted(written) == ["loading", "raw, without an end of linehello", "really"]


async def test_a_file_with_helpers_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "prices.py", "TEA = 3.5")
    code = """
import spear
import prices
app = spear.Agent()

@app.function
async def price() -> float:
    return prices.TEA
"""
    async with deployed(write(tmp_path, "shop.py", code)) as deployment:
        assert await deployment.price() == 3.5


async def test_a_file_that_a_link_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(WORKERS)
    async with deployed(link) as deployment:
        assert deployment.name == "link"
        assert await deployment.echo(1) == 1


async def test_where_it_is_deployed_from_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(WORKERS.parent)
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(Path("..") / WORKERS.parent.name / WORKERS.name)
        monkeypatch.chdir(tmp_path)
        assert await deployment.echo(1) == 1
        assert await deployment.directory() == str(WORKERS.parent)  # the host's when it started


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with nothing_left():
        async with open_spearlet() as spearlet:
            with pytest.raises(
                (SpawnFailed, spear.ConfigurationError), match=r"directory|not a file"
            ):
                await spearlet.deploy(tmp_path)


async def test_an_agent_may_say_how_much_it_takes(tmp_path: Path) -> None:
    code = """
import spear, trio
app = spear.Agent(concurrency=1)
running = 0

@app.function
async def alone() -> int:
    global running
    running += 1
    await trio.sleep(0.001)
    seen, running = running, running - 1
    return seen

@app.function
async def full() -> None:
    raise spear.Overloaded("come back", retry_after_seconds=2)
"""
    async with deployed(write(tmp_path, "one.py", code)) as deployment:
        executions = [deployment.alone.submit() for _ in range(20)]
        assert {await each.result() for each in executions} == {1}
        with pytest.raises(Overloaded, match="come back") as caught:
            await deployment.full()
        assert caught.value.retry_after_seconds == 2


async def test_a_process_of_a_function_has_nothing_of_the_host_in_it() -> None:
    async with deployed(WORKERS) as deployment:
        modules = await deployment.modules()
    assert isinstance(modules, list)
    packages = {str(name).split(".")[1] for name in modules if str(name).startswith("spear.")}
    assert "agent" in packages
    assert not packages & {"spearlet", "runtimes", "cli", "testing", "gateway"}


async def test_what_an_instance_writes_goes_to_the_log_and_nowhere_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with listening() as lines:
        async with deployed(WORKERS) as deployment:
            with pytest.raises(spear.WorkerDied):
                await deployment.die(1)
            await lines.wait_for("process:workers-1#1 stderr: so long")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("spear").handlers == []


@pytest.mark.slow
async def test_two_spearlets_know_nothing_of_each_other() -> None:
    async with open_spearlet() as one, open_spearlet() as two:
        both = [await each.deploy(WORKERS) for each in (one, two)]
        assert len({await each.who() for each in both}) == 2
        assert [str(each.replicas[0].id) for each in both] == ["process:workers-1#1"] * 2
