"""No two modules of Spear import each other at run time, directly or through other modules.

Imports inside functions count, because a late import can complete a circle, too. Imports under
``if TYPE_CHECKING`` do not count, because they bind names for type checkers only. So a circle that the
types need is visible as such in the source.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def statements_that_run(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports below a node, without those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for each in child.orelse:
                yield from statements_that_run(ast.Module([each], []))
        else:
            yield from statements_that_run(child)


def imported(module: str, source: str, *, is_package: bool, known: set[str]) -> set[str]:
    """Return the modules of Spear that a module imports at run time.

    A package whose module is imported does not count itself: ``from .wire._x import y`` also runs
    ``wire/__init__.py``, but the importing module does not depend on it by that.
    """
    above = module.split(".") if is_package else module.split(".")[:-1]
    found: set[str] = set()
    for node in statements_that_run(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        base = above[: len(above) + 1 - node.level] if node.level else []
        start = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{start}.{alias.name}"
            found.add(inner if inner in known else start)
    return (found & known) - {module}


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Return groups of modules that import each other: the strongly connected components (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for other in sorted(imports[module]):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            start = path.index(module)
            group, path[start:] = path[start:], []
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return found


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the imports of each module, by module.

    Args:
        sources: the text of each file, by its path.
    """
    names = {
        path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in sources
    }
    known = set(names.values())
    return {
        names[path]: imported(
            names[path], text, is_package=path.endswith("/__init__.py"), known=known
        )
        for path, text in sources.items()
    }


@cache
def spear() -> dict[str, set[str]]:
    paths = sorted((ROOT / "spear").rglob("*.py"))
    return graph(
        {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    )


def test_no_modules_import_each_other() -> None:
    assert circles(spear()) == []


def test_no_packages_import_each_other() -> None:
    """Covers packages directly below ``spear``, and leaves; all of them load ``spear/__init__.py``."""
    packages: dict[str, set[str]] = {}
    for module, others in spear().items():
        name = module.split(".")[1] if "." in module else ""
        packages.setdefault(name, set()).update(
            other.split(".")[1] for other in others if "." in other
        )
    for name, others in packages.items():
        others.discard(name)
    assert circles(packages) == []


A = "spear/a/_x.py"
B = "spear/a/_y.py"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from ._y import y", "from ._x import x"),
        ("from spear.a import _y", "from . import _x"),
        ("import spear.a._y", "def f():\n    import spear.a._x"),
        (
            "def f():\n    from ._y import y",
            "class C:\n    def f(self):\n        from ._x import x",
        ),
        ("try:\n    from ._y import y\nexcept ImportError:\n    pass", "from ._x import x"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from ._y import y", "from ._x import x"),
    ],
)
def test_a_circle_is_found(first: str, second: str) -> None:
    assert circles(graph({A: first, B: second})) == [["spear.a._x", "spear.a._y"]]


def test_a_circle_of_three_is_found() -> None:
    sources = {A: "from ._y import y", B: "from ..b import z"}
    sources["spear/b/__init__.py"] = "from ._z import z"
    sources["spear/b/_z.py"] = "from spear.a._x import x"
    found = [["spear.a._x", "spear.a._y", "spear.b", "spear.b._z"]]
    assert circles(graph(sources)) == found


def test_types_and_packages_on_the_way_make_no_circle() -> None:
    sources = {
        "spear/a/__init__.py": "from ._x import x\nfrom ._y import y",
        A: "from ._y import y\nif TYPE_CHECKING:\n    from . import whole",
        B: "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from ._x import x",
    }
    assert circles(graph(sources)) == []
