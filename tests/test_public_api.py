"""What ``import spear`` offers, and what it does not load until somebody asks."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import spear

LAZY = ["spear", "spear.agent"]
"""Packages whose names are loaded when they are first used."""

PACKAGES = [*LAZY, "spear.channels", "spear.cli", "spear.runtimes", "spear.spearlet",
            "spear.testing", "spear.transports", "spear.wire"]  # fmt: skip


def exports(package: str) -> dict[str, str]:
    """Name -> module, as the package's ``__init__`` says it: ``from m import x as x``."""
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
    """The words that a new interpreter prints."""
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
    assert errors - set(spear.__all__) == {"ProtocolError"}  # abstract: nobody can raise it


def test_a_name_is_loaded_once() -> None:
    assert run(
        "import spear; before = 'open_spearlet' in vars(spear); spear.open_spearlet;"
        "print(before, 'open_spearlet' in vars(spear))"
    ) == ["False", "True"]


def test_importing_spear_loads_next_to_nothing() -> None:
    loaded = run("import sys, spear; print(*[m for m in sys.modules if m.startswith('spear')])")
    assert sorted(loaded) == ["spear", "spear._version"]


@pytest.mark.parametrize("name", ["Agent", "call", "context", "Limits", "InstanceId", "WorkerDied"])
def test_what_functions_use_does_not_load_the_hosts_side(name: str) -> None:
    packages = run(
        f"import sys, spear; spear.{name}; print(*[m for m in sys.modules if m.count('.') == 1])"
    )
    hosts = {"spear.spearlet", "spear.runtimes", "spear.cli", "spear.testing", "spear.gateway"}
    assert not hosts & set(packages)


def test_the_version_is_that_of_the_package() -> None:
    assert spear.__version__
    (printed,) = run("import json, spear; print(json.dumps(spear.__version__))")
    assert json.loads(printed) == spear.__version__
