"""Instruments of a served host: of installed distributions, of modules beside it, and faulty ones."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .helpers import PATIENCE_SECONDS
from .serving import serving, wait_until

if TYPE_CHECKING:
    from .helpers import Run

NOTING = """
import spear


class Noting(spear.Instrument):
    def __init__(self):
        self.seen = open("seen", "a")
        self.note("made")

    def note(self, *words):
        print(*words, file=self.seen, flush=True)

    def instance_changed(self, event):
        self.note("instance", event.instance_id.name, event.state.value)

    def deployment_changed(self, event):
        self.note("deployment", event.deployment, event.kind)

    def call_ended(self, call):
        self.note("call", call.function, call.failure)
"""

RAISING = """
import spear


class Raising(spear.Instrument):
    def raises(self, *_):
        raise RuntimeError("a bug of the instrument")

    instance_changed = line_written = line_unfinished = connection_changed = raises
    deployment_changed = call_started = call_ended = raises
"""

SERVED = """
[spearlet]
instruments = ["noting:Noting"]

[functions.till]
source = "till.py"
"""

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "shop-audit"
version = "1.0"

[project.entry-points."spear.instruments"]
audit = "shop_audit:Noting"

[tool.setuptools]
py-modules = ["shop_audit"]
"""


@pytest.mark.slow
def test_an_installed_distribution_watches_a_host(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "shop_audit.py").write_text(NOTING)
    pip = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(installed)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *pip, str(source)],
        capture_output=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(source)
    path = {"PYTHONPATH": str(installed)}
    with serving(tmp_path, "till.py", "--instruments", "audit", environment=path) as host:
        assert host.greeting() == b'"hello you"'
        status, _ = host.end()
    assert status == 0
    seen = (tmp_path / "seen").read_text().splitlines()
    # From the first event to the last one.
    assert seen[:2] == ["made", "deployment till starting"]
    assert "instance till-1 ready" in seen
    assert "call greet None" in seen
    assert seen[-1] == "deployment till stopped"


@pytest.mark.slow
def test_an_instrument_that_raises_in_each_hook_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(RAISING + NOTING)
    with serving(tmp_path, "till.py", "--instruments", "faulty:Raising,faulty:Noting") as host:
        assert host.greeting() == b'"hello you"'
        assert "the callback Raising.raises raised" in host.hear("raised")
        host.hear("RuntimeError: a bug of the instrument")
        status, _ = host.end()
    assert status == 0
    assert "call greet None" in (tmp_path / "seen").read_text().splitlines()


@pytest.mark.slow
def test_a_reload_makes_no_instrument_again(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(NOTING)
    file, seen = tmp_path / "spear.toml", tmp_path / "seen"
    file.write_text(SERVED)
    with serving(tmp_path, "--config", str(file)) as host:
        file.write_text(f'{SERVED}[functions.more]\nsource = "till.py"\n')
        host.send(signal.SIGHUP)
        wait_until(lambda: "deployment more ready" in seen.read_text())
    assert seen.read_text().splitlines().count("made") == 1


def check(run: Run, *words: str) -> str:
    """Return the faults that ``spear serve --check`` finds in a configuration."""
    done = run("serve", "--check", *words)
    assert done.status == 2
    return done.errors


def test_a_check_imports_instruments_and_makes_none(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "noted_by_a_check.py").write_text(NOTING)
    (here / "till.py").write_text("import spear\napp = spear.Agent()\n")
    (here / "spear.toml").write_text(
        '[spearlet]\ninstruments = ["noted_by_a_check:Noting"]\n[functions.till]\nsource = "till.py"\n'
    )
    done = run("serve", "--check")
    assert (done.status, done.errors) == (0, "")
    assert "noted_by_a_check" in sys.modules
    assert not (here / "seen").exists()
    del sys.modules["noted_by_a_check"]


def test_a_check_finds_instruments_that_cannot_be_used(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "till.py").write_text("import spear\napp = spear.Agent()\n")
    faults = check(
        run, "till.py", "--instruments", "no_such_module:Audit,json:loads,json:JSONDecoder"
    )
    assert "--instruments" in faults
    assert "instrument 'no_such_module:Audit' cannot be used" in faults
    assert "json:JSONDecoder must be an instance of Instrument, not of JSONDecoder" in faults
    assert "json:loads" not in faults  # a function that may make one


@pytest.mark.slow
def test_an_instrument_that_cannot_be_made_prevents_the_start(tmp_path: Path) -> None:
    (tmp_path / "cracked.py").write_text("def crack(): raise OSError('no collector answers')\n")
    with (
        pytest.raises(AssertionError, match="instrument 'cracked:crack' cannot be used") as raised,
        serving(tmp_path, "till.py", "--instruments", "cracked:crack"),
    ):
        pytest.fail("the host has started")
    assert "OSError: no collector answers" in str(raised.value)
    assert "Traceback" not in str(raised.value)
