"""The contents of the packages that users install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import distribution, requires
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

import spear

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
INHERITED = ("HOME", "LANG", "PATH", "TMPDIR")
DASHBOARD = (
    "app.js", "calls.js", "charts.js", "findings.js", "host.js", "icon.svg", "index.html", "logs.js",
    "operate.js", "page.js", "style.css", "tables.js",
)  # fmt: skip


BUILD = "from setuptools.build_meta import *; build_wheel('.'); build_sdist('.')"
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the packages from a copy of the repository; return the directory that has them."""
    place = tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for name in ("spear", "tests"):
        shutil.copytree(
            ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    run(sys.executable, "-c", BUILD, cwd=place)
    return place


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as zipped:
        return {name for name in zipped.namelist() if ".dist-info/" not in name}


def modules() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "spear").rglob("*.py")}


@pytest.mark.slow
def test_the_packages_hold_spear_and_nothing_else(built: Path) -> None:
    """The packages hold every module and py.typed, but no tests and no benches."""
    (wheel,) = built.glob("*.whl")
    assert wheel.name.startswith(f"spearlet-{spear.__version__}-")
    files = files_of(wheel)
    pages = {f"spear/gateway/_dashboard/{each}" for each in DASHBOARD}
    assert files == modules() | pages | {"spear/py.typed"}
    (source,) = built.glob("*.tar.gz")
    assert source.name == f"spearlet-{spear.__version__}.tar.gz"
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # setuptools adds a few tests by itself, which cannot run without the others.
    ours = (".py", ".typed", *(f"_dashboard/{each}" for each in DASHBOARD))
    assert {name for name in names if name.endswith(ours)} == files


def needed_by(name: str, extra: str = "") -> Iterator[str]:
    """Yield the distributions that a distribution requires, and that these require."""
    for text in requires(name) or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            yield needed.name
            yield from needed_by(needed.name)


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution; return the directory that has both."""
    place = tmp_path_factory.mktemp("unpacked")
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(place, filter="data")
    (found,) = place.glob("spearlet-*")
    run(sys.executable, "-c", BUILD, cwd=found)
    return found


@pytest.fixture(scope="module")
def installed(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment that has only what it requires; return the environment."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", str(home), cwd=home)
    (place,) = home.glob("lib/python*/site-packages")
    (wheel,) = unpacked.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(home)]
    run(*pip, "install", "--no-deps", "--no-index", str(wheel), cwd=home)
    with zipfile.ZipFile(wheel) as zipped:
        (metadata,) = (each for each in zipped.namelist() if each.endswith("/METADATA"))
        told = message_from_bytes(zipped.read(metadata)).get_all("Requires-Dist", [])
    for text in told:
        first = Requirement(text)
        if first.marker is None or first.marker.evaluate({"extra": "http"}):
            for name in {first.name, *needed_by(first.name)}:
                for file in distribution(name).files or ():
                    target = place / file.parts[0]
                    if ".." not in file.parts and not target.exists():
                        target.symlink_to(str(distribution(name).locate_file(file.parts[0])))
    return home


@pytest.mark.slow
def test_the_source_distribution_makes_the_same_wheel(built: Path, unpacked: Path) -> None:
    (first,), (second,) = built.glob("*.whl"), unpacked.glob("*.whl")
    assert files_of(first) == files_of(second)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            ["bin/python", "-c", "import spear; print(spear.__file__)"],
            "/site-packages/spear/__init",
        ),
        (["bin/spear", "call", "{}/examples/shop.py:price", "tea"], "3.5"),
        (["bin/python", "{}/examples/demo.py"], "publish(): raises in its process, and the caller"),
        (["bin/python", "{}/examples/served.py"], "SIGTERM: the host has drained, exit status 0"),
    ],
    ids=["import", "command", "demo", "served"],
)
def test_an_install_of_the_wheel_in_an_empty_environment_runs_the_demo(
    installed: Path, tmp_path: Path, words: list[str], shown: str
) -> None:
    """The wheel comes from the source distribution, and finds only what it declares to require."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "spear").symlink_to(ROOT / "spear")  # the demo counts its lines
    for page in ROOT.glob("*.md"):
        shutil.copy(page, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    program, *arguments = (each.format(tmp_path) for each in words)
    output = run(installed / program, *arguments, cwd=installed, environment=environment)
    assert shown in output


def test_nothing_names_a_distribution_that_is_somebody_elses() -> None:
    """``spear`` on the package index is another project; requirements of extras must use our name."""
    paths = [*ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob(".ci/*")]
    for folder in ("spear", "bench", "docs"):
        paths += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]
    text = "\n".join(each.read_text() for each in paths)
    assert set(re.findall(r"(?<!/)\b(spear\w*)\[[A-Za-z_{]", text)) == {"spearlet"}
    assert set(re.findall(r"pip install '?([a-z]\w*)", text)) == {"spearlet"}


def test_s17_spear_itself_needs_little() -> None:
    """All heavy dependencies are extras, and the required release of cbor2 bounds recursion."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed: list[str] = tomllib.load(file)["project"]["dependencies"]
    assert {re.split(r"[<>=! ]", each)[0] for each in needed} == {
        "attrs",
        "cbor2",
        "trio",
        "trio-websocket",
    }
    assert any(each.startswith("cbor2>=6.2") for each in needed)
