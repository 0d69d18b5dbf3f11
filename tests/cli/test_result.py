"""Results and states of submitted calls."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from .helpers import Run, completions
from .serving import Host, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

MORE = """
import os
import spear
import trio

app = spear.Agent("more")

@app.function
async def reverse(data: bytes) -> bytes:
    return data[::-1]

@app.function
async def boom() -> None:
    raise ValueError("it broke")

@app.function
async def wait() -> None:
    await trio.sleep_forever()

@app.function
async def huge() -> int:
    return 10**5000
"""


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    place = tmp_path_factory.mktemp("results")
    (place / "more.py").write_text(MORE)
    with serving(place, "till.py", "more.py") as host:
        yield host


def submit(run: Run, *words: str, stdin: bytes = b"") -> str:
    """Submit a call; return the id of the execution."""
    return run("invoke", "--async", *words, stdin=stdin).output.decode().strip()


def test_results_are_those_of_a_call(host: Host, run: Run) -> None:
    for words in (["greet", "--name", "you"], ["huge"]):
        assert run("result", submit(run, *words)) == run("invoke", *words)
    data = submit(run, "reverse", "-", stdin=b"\x00\xff\n")
    assert run("result", data).output == b"\n\xff\x00"
    assert json.loads(run("result", data, "--json").output) == {"$bytes": "Cv8A"}
    assert data in completions(run, "result", "")
    assert completions(run, "result", data, "") == []


def test_failures_are_those_of_a_call(host: Host, run: Run) -> None:
    failed = submit(run, "boom")
    done = run("result", failed)
    assert (done.status, done.output) == (1, b"")
    assert "ValueError: it broke" in done.errors
    done = run("result", failed, "--json")
    assert (done.status, json.loads(done.errors)["error"]["type"]) == (1, "ValueError")
    state = run("result", failed, "--status")
    assert state.status == 0
    assert state.output.startswith(b"more.boom: failed after ")
    assert b" on process:more-1#1: " in state.output
    assert b"it broke" in state.output
    for words in (["none"], ["none", "--status"], ["none", "--cancel"]):
        assert run("result", *words).status == 4
    assert run("result", "").status == 2
    assert run("result", failed, "--timeout", "nan").status == 2


def test_it_waits_as_long_as_it_takes_or_is_told_to(host: Host, run: Run) -> None:
    pipe = host.place / "pipe"
    os.mkfifo(pipe)
    held = submit(run, "hold", str(pipe))
    done = run("result", held, "--timeout", "0")
    assert (done.status, done.output) == (5, b"")
    assert "the call continues, and `spear result` can wait for it again" in done.errors
    assert json.loads(run("result", held, "--status", "--json").output)["status"] == "running"
    with host.ask("result", held) as waiting:
        pipe.write_text("let go")
        assert waiting.communicate()[0] == b'"let go"\n'


def test_a_wait_is_many_waits(host: Host, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while a host answers that the execution has not ended, and the command asks again."""
    monkeypatch.setattr("spear.cli._result.WAIT_SECONDS", 0.0)
    pipe = host.place / "pipe2"
    os.mkfifo(pipe)
    held = submit(run, "hold", str(pipe))
    assert run("result", held, "--timeout", "0.01").status == 5
    pipe.write_text("at last")
    assert run("result", held).output == b'"at last"\n'


def test_an_end(host: Host, run: Run) -> None:
    waiting = submit(run, "wait")
    told = run("result", waiting, "--cancel")
    assert (told.status, told.output.startswith(b"more.wait: ")) == (0, True)
    wait_until(lambda: b"cancelled after" in run("result", waiting, "--status").output)
    assert run("result", waiting).status == 9
    ended = json.loads(run("result", waiting, "--cancel", "--json").output)
    assert (ended["id"], ended["status"]) == (waiting, "cancelled")
    assert run("result", waiting, "--cancel", "--status").status == 2
