"""The examples do what their text says, on the files of this repository."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PATIENCE_SECONDS = 50.0

pytestmark = pytest.mark.slow


def python(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def commands(path: Path) -> list[str]:
    """Return the command lines in an example's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return [line.strip() for line in doc.splitlines() if line.strip().startswith("spear ")]


def section(output: str, title: str) -> list[str]:
    """Return the indented lines after a title."""
    lines = iter(output.splitlines())
    for line in lines:
        if line.startswith(title):
            break
    found: list[str] = []
    for line in lines:
        if not line.startswith("  "):
            break
        found.append(line.strip())
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the demo from another directory; return its output."""
    done = python(str(EXAMPLES / "demo.py"), cwd=tmp_path_factory.mktemp("elsewhere"))
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_the_demo_counts_the_words_that_are_there(demo: str) -> None:
    shown = section(demo, "words()")
    texts = sorted(ROOT.glob("*.md"))
    assert [line.split()[0] for line in shown] == [path.name for path in texts]
    for line, path in zip(shown, texts, strict=True):
        text = path.read_text(encoding="utf-8").lower()
        counts = Counter(re.findall(r"[a-z]{6,}", text)).most_common(3)
        assert line.split(maxsplit=1)[1] == ", ".join(f"{word} {count}" for word, count in counts)


def test_the_demo_streams_the_headings_that_are_there(demo: str) -> None:
    (title,) = [line for line in demo.splitlines() if line.startswith("headings()")]
    path = ROOT / title.split()[-1]
    text = re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    headings = [line.strip("# ") for line in text.splitlines() if line.startswith("#")]
    assert headings[0] == "Spear"
    assert section(demo, "headings()") == [f"- {heading}" for heading in headings]


def test_the_demo_shows_failures_as_exceptions(demo: str) -> None:
    (raised,) = section(demo, "publish()")
    assert raised.startswith("FunctionRaised('PermissionError: ")
    (late,) = section(demo, "review()")
    assert late.startswith("DeadlineExceeded(")


def test_the_demo_runs_on_several_processes_at_once(demo: str) -> None:
    _, *rows = section(demo, "squeeze()")
    assert len(rows) == 8
    runs: dict[str, set[int]] = {}
    for row in rows:
        instance = re.findall(r"process:documents-\d+#1", row)[0]
        bar = row[re.search(r" \d+  ", row).end() :]  # type: ignore[union-attr]  # each row has a time
        cells = {cell for cell, mark in enumerate(bar) if mark == "#"}
        assert cells
        runs[instance] = runs.get(instance, set()) | cells
    ready = int(demo.split()[0])
    assert len(runs) == ready >= 2
    first, second, *_ = runs.values()
    assert first & second, "no two processes were busy at the same time"
    times = re.findall(r"one by one ([\d.]+) s, at once ([\d.]+) s", demo)
    assert len(times) == 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the demo of a served host, in which one process is killed; return its output."""
    done = python(str(EXAMPLES / "served.py"), cwd=tmp_path_factory.mktemp("elsewhere"))
    told = r"spear: documents-1: .* was killed by SIGKILL \[worker_died\]; .*restarting in .*\n"
    assert re.fullmatch(told, done.stderr)
    assert done.returncode == 0
    return done.stdout


def test_the_host_answers_over_http(served: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    counts = Counter(re.findall(r"[a-z]{6,}", text)).most_common(3)
    assert section(served, "POST /v1/functions/words/call") == [
        str([list(each) for each in counts])
    ]
    events = section(served, "POST /v1/functions/headings/stream")
    assert events[0] == 'data: "Spear"'
    assert events[-2:] == ["event: end", f'data: {{"items": {len(events) - 2}}}']
    (failure,) = section(served, "POST /v1/functions/publish/call")
    assert failure.startswith("500 ")
    assert "PermissionError" in failure


def test_the_host_replaces_what_was_killed_and_what_is_old(served: str) -> None:
    *events, calls = section(served, "4 callers call in a loop")
    assert events == [
        "kill -9 process:documents-1#1: the host replaces this instance",
        "spear restart documents: documents is ready: 2/2 ready",
    ]
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", calls)}
    assert counts.pop("answered") > 10
    assert set(counts) <= {"WorkerDied"}
    assert sum(counts.values()) <= 4  # the calls in flight on the killed process
    assert re.search(r"documents-1#3 +ready", served)
    assert served.rstrip().endswith("SIGTERM: the host has drained, exit status 0")


def test_the_shops_commands_work() -> None:
    readme = (ROOT / "README.md").read_bytes()
    digest = hashlib.pbkdf2_hmac("sha256", readme, b"shop", 200_000).hex()
    expected = {
        "price": "3.01\n",
        "total": "7.0\n",
        "receipt": '"Thank you, Ada!"\n"1 x tea: 3.50"\n',
        "fingerprint": f'"{digest}"\n',
    }
    lines = commands(EXAMPLES / "shop.py")
    assert [shlex.split(line)[2].rpartition(":")[2] for line in lines] == [*expected]
    for line, output in zip(lines, expected.values(), strict=True):
        words = shlex.split(line)
        assert words[0] == "spear"
        done = python("-m", "spear.cli", *words[1:])
        assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_the_shops_failure_is_seen() -> None:
    order = '{"customer": "Ada", "lines": []}'
    done = python("-m", "spear.cli", "call", "examples/shop.py:refund", order)
    assert done.returncode == 1
    assert done.stderr == "spear: PermissionError: Ada, please come to the counter\n"
    done = python("-m", "spear.cli", "call", "examples/shop.py:price", "gold")
    assert (done.returncode, done.stderr) == (1, "spear: ValueError: we do not sell gold\n")


def test_an_example_without_a_host_says_what_to_do() -> None:
    done = python(str(EXAMPLES / "shop.py"))
    assert done.returncode == 2
    assert "spear call shop.py:NAME" in done.stderr
