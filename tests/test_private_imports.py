"""Tests use public names: imports of private modules are counted, and the counts may only fall.

A test of a private module ties the module to its structure. After a refactoring such tests have to be
rewritten, and no longer show that the behaviour is unchanged. Therefore tests use a public name where one
exists. The table counts the imports of private modules that tests still need.
"""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent

MOST = {
    "": 4,
    "agent": 10,
    "calls": 1,
    "channels": 15,
    "cli": 20,
    "config": 5,
    "gateway": 18,
    "messages": 1,
    "runtimes": 18,
    "spearlet": 15,
    "telemetry": 1,
    "testing": 3,
    "transports": 1,
    "wire": 20,
}
"""Most imports of private modules per folder; lower a number when the count has fallen."""


def private_imports(tree: ast.Module) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the imports of Spear's private modules: (line, module, names)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("spear"):
            names = [alias.name for alias in node.names]
            if is_private(node.module):
                yield node.lineno, node.module, names
            else:
                modules = [each for each in names if is_private(f"{node.module}.{each}")]
                yield from ((node.lineno, f"{node.module}.{each}", []) for each in modules)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("spear.") and is_private(alias.name):
                    yield node.lineno, alias.name, []


def is_private(module: str) -> bool:
    return any(each.startswith("_") and not each.endswith("__") for each in module.split("."))


def package_of(module: str) -> str:
    """Return the package of a private module: "spear" for a leaf."""
    parts = module.split(".")
    return ".".join(parts[: next(i for i, each in enumerate(parts) if each.startswith("_"))])


def public_names(package: str) -> set[str]:
    """Return the names that a package exports: ``from ._x import name as name``."""
    file = importlib.import_module(package).__file__
    assert file is not None
    return {
        alias.name
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


@cache
def imports_of_tests() -> list[tuple[str, str, int, str, list[str]]]:
    """Return (folder, path, line, private module, names) of each such import in the tests."""
    found: list[tuple[str, str, int, str, list[str]]] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        place = path.relative_to(ROOT)
        folder = place.parts[1] if len(place.parts) > 2 else ""
        imports = private_imports(ast.parse(path.read_text(encoding="utf-8")))
        found += [(folder, str(place), *each) for each in imports]
    return found


def test_private_modules_are_imported_ever_more_rarely() -> None:
    counts = Counter(
        folder for folder, _, _, module, _ in imports_of_tests() if package_of(module) != "spear"
    )
    assert {folder: count for folder, count in counts.items() if count > MOST.get(folder, 0)} == {}


def test_public_names_are_imported_from_where_they_are_public() -> None:
    around = [
        f"{path}:{line}: {name} is public in {package_of(module)}"
        for _, path, line, module, names in imports_of_tests()
        for name in names
        if name in public_names(package_of(module))
    ]
    assert around == []


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from spear.wire._frames import LAST", "spear.wire._frames"),
        ("from spear.wire import _frames", "spear.wire._frames"),
        ("import spear.wire._frames", "spear.wire._frames"),
        ("def f():\n    from spear.wire._frames import LAST", "spear.wire._frames"),
        ("from spear.runtimes.process._zygote import Zygote", "spear.runtimes.process._zygote"),
        ("from spear import _ids", "spear._ids"),
    ],
)
def test_private_imports_are_found(line: str, module: str) -> None:
    assert [each[1] for each in private_imports(ast.parse(line))] == [module]


@pytest.mark.parametrize(
    "line", ["import spear", "from spear.wire import LAST", "from spear import __version__"]
)
def test_public_imports_are_not_found(line: str) -> None:
    assert list(private_imports(ast.parse(line))) == []
