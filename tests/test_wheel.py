"""The contents of the packages that users install."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import spear

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ("app.js", "icon.svg", "index.html", "style.css")


@pytest.mark.slow
def test_the_packages_hold_spear_and_nothing_else(tmp_path: Path) -> None:
    """The packages hold every module and py.typed, but no tests and no benches."""
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("spear", "tests"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    build = "from setuptools.build_meta import *; build_wheel('.'); build_sdist('.')"
    run = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"spearlet-{spear.__version__}-")
    with zipfile.ZipFile(wheel) as zipped:
        files = {name for name in zipped.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "spear").rglob("*.py")}
    pages = {f"spear/gateway/_dashboard/{each}" for each in DASHBOARD}
    assert files == modules | pages | {"spear/py.typed"}
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    # setuptools adds a few tests by itself, which cannot run without the others.
    ours = (".py", ".typed", *(f"_dashboard/{each}" for each in DASHBOARD))
    assert {name for name in names if name.endswith(ours)} == files


def test_nothing_names_a_distribution_that_is_somebody_elses() -> None:
    """``spear`` on the package index is another project; requirements of extras must use our name."""
    paths = [*ROOT.glob("*.md"), ROOT / "Makefile", *ROOT.glob(".ci/*")]
    for folder in ("spear", "bench", "docs"):
        paths += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md")]
    text = "\n".join(each.read_text() for each in paths)
    assert set(re.findall(r"(?<!/)\b(spear\w*)\[[\w{]", text)) == {"spearlet"}
    assert set(re.findall(r"pip install '?([a-z]\w*)", text)) == {"spearlet", "pytest"}


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
