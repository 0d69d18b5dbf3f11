"""Installation of the packages of ``examples/``, like a user's, but without the network."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
PATIENCE_SECONDS: Final = 60


def install_example(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of ``examples/NAME``; return the directory of its modules."""
    source = tmp_path_factory.mktemp("source") / name
    unwanted = shutil.ignore_patterns("build", "*.egg-info", "__py*")
    shutil.copytree(EXAMPLES / name, source, ignore=unwanted)
    place = tmp_path_factory.mktemp("installed")
    pip = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(place)]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *pip, str(source)],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return place


def code_lines(path: Path) -> int:
    """Return how many lines of a Python file have code, and not only a comment or a docstring."""
    source = path.read_text()
    without: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            without.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate((each.strip() for each in source.splitlines()), 1)
    return sum(bool(line) and line[0] != "#" and at not in without for at, line in lines)
