"""The names that ``import spear`` offers, and the modules that it loads only on first use."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import spear

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent

LAZY = [
    "spear", "spear.agent", "spear.annotations", "spear.channels", "spear.testing", "spear.transports",
]  # fmt: skip
"""Packages that load their names on first use."""

PACKAGES = [
    *LAZY, "spear.asyncio", "spear.blocking", "spear.calls", "spear.cli", "spear.config",
    "spear.gateway", "spear.portal", "spear.runtimes", "spear.spearlet", "spear.telemetry",
    "spear.wire",
]  # fmt: skip


def exports(package: str) -> dict[str, str]:
    """Return name -> module, from a package's imports ``from m import x as x``."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module not in ("__future__", "typing"):
            source = f"{package}.{node.module}" if node.level else str(node.module)
            for alias in node.names:
                if alias.asname == alias.name:
                    found[alias.name] = source
    return found


def run(code: str) -> list[str]:
    """Run code in a new interpreter; return the words that it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_had_and_is_what_it_says(package: str) -> None:
    module = importlib.import_module(package)
    for name, source in exports(package).items():
        assert getattr(module, name) is getattr(importlib.import_module(source), name), name


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_are_the_same_for_programs_and_for_type_checkers(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == set(exports(package))
    assert dir(module) == sorted(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("package", LAZY)
def test_lazy_names_come_with_a_star(package: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {package} import *", namespace)
    assert set(importlib.import_module(package).__all__) <= namespace.keys()


@pytest.mark.parametrize("package", LAZY)
@pytest.mark.parametrize("name", ["no_such_name", "_HOME", "spear", ""])
def test_what_is_not_public_is_not_there(package: str, name: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute '{name}'"):
        getattr(module, name)
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {package} import nothing_of_that_name")


def test_every_error_is_public() -> None:
    from spear import _errors

    errors = {
        name
        for name, thing in vars(_errors).items()
        if inspect.isclass(thing) and issubclass(thing, Exception)
    }
    assert errors - set(spear.__all__) == {"ProtocolError"}  # abstract, never raised


def words_of_annotations(cls: type) -> set[str]:
    """Return the words in the annotations of a class's public methods."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    found: list[ast.expr | None] = []
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name[0] != "_":
            arguments = each.args
            found += [each.returns, *(given.annotation for given in arguments.args)]
            found += [given.annotation for given in arguments.kwonlyargs]
    texts = [ast.unparse(annotation) for annotation in found if annotation is not None]
    return {word for text in texts for word in re.findall(r"\w+", text)}


def names_of_ours(module: ModuleType) -> set[str]:
    """Return the names that a module defines, or imports from Spear, also under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").startswith("spear")
        ):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("name", [name for name in spear.__all__ if name[0].isupper()])
def test_what_annotations_need_can_be_imported(name: str) -> None:
    """Every class in the annotations of public methods has a public name."""
    cls = getattr(spear, name)
    if not inspect.isclass(cls):
        return  # the name is an alias
    public = {each for package in PACKAGES for each in exports(package)}
    assert words_of_annotations(cls) & names_of_ours(sys.modules[cls.__module__]) <= public


def test_a_name_is_loaded_once() -> None:
    assert run(
        "import spear; before = 'open_spearlet' in vars(spear); spear.open_spearlet;"
        "print(before, 'open_spearlet' in vars(spear))"
    ) == ["False", "True"]


def test_importing_spear_loads_next_to_nothing() -> None:
    loaded = run("import sys, spear; print(*[m for m in sys.modules if m.startswith('spear')])")
    assert sorted(loaded) == ["spear", "spear._lazy", "spear._version"]


@pytest.mark.parametrize(
    "name",
    ["Agent", "CallContext", "InstanceId", "Items", "WireLimits", "WorkerDied", "call", "context"],
)
def test_what_functions_use_does_not_load_the_hosts_side(name: str) -> None:
    packages = run(
        f"import sys, spear; spear.{name}; print(*[m for m in sys.modules if m.count('.') == 1])"
    )
    hosts = {
        "spear.spearlet", "spear.runtimes", "spear.cli", "spear.config", "spear.testing",
        "spear.gateway",
    }  # fmt: skip
    assert not hosts & set(packages)


def test_an_agent_loads_neither_what_hosts_need_nor_other_transports() -> None:
    """Each module costs an agent's start a millisecond or two; all of them added a tenth."""
    loaded = run(
        "import sys; from spear.agent import Agent, serve; from spear.transports import connect;"
        "print(*[m for m in sys.modules if m.startswith('spear.')])"
    )
    packages = {
        "spear.channels": {"_factory", "_manager"},
        "spear.transports": {
            "_accept", "_credentials", "_memory", "_private_directory", "_reasons", "_tcp", "_tls",
        },
    }  # fmt: skip
    needless = {f"{package}.{name}" for package, names in packages.items() for name in names}
    assert not needless & set(loaded)
    for name in needless:
        importlib.import_module(name)  # check that the name still exists


def test_the_version_is_that_of_the_package() -> None:
    assert spear.__version__
    (printed,) = run("import json, spear; print(json.dumps(spear.__version__))")
    assert json.loads(printed) == spear.__version__


# -- R6: checkpoints -----------------------------------------------------------------------------

# Methods that users implement and Spear calls, methods that run as long as the connection that they
# serve, and the parts of each runtime's `open_instance`.
OTHERS = {
    "handle",
    "watch",
    "serve",
    "run_alone",
    "enter",
    "host_instance",
    "launch",
    "launch_command",
    "open_extension",
    "prepare",
    "terminate",
    "wait_crashed",
    "wait_failed",
}


def is_async(thing: object) -> bool:
    """Return whether a call may block. An asynccontextmanager counts, because entering it may block."""
    inside = inspect.unwrap(thing) if callable(thing) else thing
    return inspect.iscoroutinefunction(inside) or inspect.isasyncgenfunction(inside)


def async_names(package: str) -> Iterator[str]:
    """Yield the names of a package's public async functions and methods."""
    module = importlib.import_module(package)
    for name in exports(package):
        thing = getattr(module, name)
        if is_async(thing):
            yield name
        elif name.startswith("Typed"):
            continue  # seen by type checkers only
        elif inspect.isclass(thing) and thing.__module__.startswith("spear."):
            for attribute, member in vars(thing).items():
                if not attribute.startswith("_") and is_async(member):
                    yield attribute


def names_in_tests(folder: str) -> set[str]:
    """Return the names that R6's tests in a folder mention, and the private names of their helpers."""
    trees = (ast.parse(path.read_text("utf-8")) for path in (HERE / folder).glob("test_*.py"))
    tests = (
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and ("r6_" in node.name or node.name[0] == "_")
    )
    nodes = [inner for test in tests for inner in ast.walk(test)]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.id for node in nodes if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize(
    "folder", ["agent", "channels", "gateway", "runtimes", "spearlet", "transports"]
)
def test_r6_no_public_async_function_is_left_out(folder: str) -> None:
    missing = set(async_names(f"spear.{folder}")) - names_in_tests(folder) - OTHERS
    assert missing == set()


def test_a_package_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """The cause may be a file of the user's that hides a module of the standard library."""
    (tmp_path / "queue.py").write_text("")
    ended = subprocess.run(
        [sys.executable, "-c", "import spear; spear.Agent()"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "cannot be loaded: " in ended.stderr
    assert "'queue'" in ended.stderr
