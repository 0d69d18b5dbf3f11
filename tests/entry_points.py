"""Distributions that are installed for one test."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import pytest

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def install_own_plugin(place: Path) -> Path:
    """Install Spear's pytest plugin of this tree, which the environment may have in an older form.

    Returns the directory of the metadata.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    ((name, module),) = project["entry-points"]["pytest11"].items()
    metadata = place / "spearlet-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: spearlet\nVersion: 0.0\n")
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
    return metadata


@attrs.frozen
class Install:
    """A function that installs distributions, each with one module and one entry point of a group."""

    place: Path
    monkeypatch: pytest.MonkeyPatch
    group: str

    def __call__(self, name: str, source: str, thing: str = "thing") -> None:
        module = f"brought_{name.replace('-', '_')}"
        (self.place / f"{module}.py").write_text(source)
        metadata = self.place / f"spear_{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: spear-{name}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(f"[{self.group}]\n{name} = {module}:{thing}\n")
        self.monkeypatch.delitem(sys.modules, module, raising=False)
