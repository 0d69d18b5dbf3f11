"""Loading programs, and the errors when a program cannot be loaded."""

from __future__ import annotations

import os
import pickle
import py_compile
import sys
from typing import TYPE_CHECKING

import pytest

import spear
from spear import Agent
from spear.agent import LoadFailed, load_agent
from spear.agent._loader import _FromSourceFinder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AGENT = "import spear\napp = spear.Agent()\n"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore modules and the import path after each test."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_is_loaded_under_its_own_name(tmp_path: Path) -> None:
    text = (
        AGENT
        + "import dataclasses, helper_of_shop\n@dataclasses.dataclass\nclass Line:\n    x: int\n"
    )
    write(tmp_path, "helper_of_shop.py", "")
    path = write(tmp_path, "shop_x.py", text)
    agent = load_agent(path)
    assert isinstance(agent, Agent)
    module = sys.modules["shop_x"]
    assert module.app is agent
    assert module.__file__ == path
    assert pickle.loads(pickle.dumps(module.Line(1))) == module.Line(1)
    assert sys.path[0] == str(tmp_path)
    # Load again, with the directory at the front of the path already.
    assert load_agent(path) is not agent
    assert sys.path.count(str(tmp_path)) == 1


def test_the_current_directory_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    write(tmp_path, "inner/shop_y.py", AGENT)
    load_agent("inner/shop_y.py")
    assert sys.path[0] == str(tmp_path / "inner")
    assert str(tmp_path) not in sys.path
    sys.path[:] = []
    load_agent("inner/shop_y.py")
    assert sys.path == [str(tmp_path / "inner")]


def test_a_file_is_loaded_though_the_working_directory_was_removed(
    tmp_path: Path, gone: Path
) -> None:
    sys.path.insert(0, str(gone))  # as `python -m` did before the directory was removed
    path = write(tmp_path, "shop_w.py", AGENT)
    assert load_agent(path).functions == ()
    assert sys.path[0] == str(tmp_path)
    (tmp_path / "shop_w.py").unlink()
    with pytest.raises(LoadFailed, match="does not exist"):
        load_agent("shop_w.py")


@pytest.mark.parametrize("name", ["trio.py", "random.py", "xml.py", "my-shop.py", "shop"])
def test_a_file_never_hides_a_module(tmp_path: Path, name: str) -> None:
    before = dict(sys.modules)
    agent = load_agent(write(tmp_path, name, AGENT))
    assert agent.functions == ()
    assert {name: sys.modules[name] for name in before} == before


@pytest.mark.parametrize("name", ["queue.py", "trio.py"])
def test_the_directory_of_a_file_that_is_called_like_a_module_is_searched_last(
    tmp_path: Path, name: str
) -> None:
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    rest = sys.path[1:]
    path = write(tmp_path, name, AGENT)
    for _ in range(2):
        load_agent(path)
        assert sys.path == [*rest, str(tmp_path)]


@pytest.mark.parametrize("name", ["shop.v2.py", "shop"])
def test_the_directory_of_a_file_that_no_import_finds_is_searched_first(
    tmp_path: Path, name: str
) -> None:
    load_agent(write(tmp_path, name, AGENT))
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("my-shop.py", "my-shop"),
        ("class.py", "class"),
        ("shop.v2.py", "spear_function_shop.v2"),
        ("queue.py", "spear_function_queue"),
        ("package_x.py", "spear_function_package_x"),
        (".py", "spear_function_"),
    ],
)
def test_a_file_has_the_name_by_which_others_import_it(
    tmp_path: Path, name: str, module: str
) -> None:
    write(tmp_path, "package_x/__init__.py", "")
    path = write(tmp_path, name, AGENT)
    load_agent(path)
    assert sys.modules[module].__file__ == path


# -- packages -------------------------------------------------------------------------------------

IMPORTING = AGENT + "from .prices import TEA\nfrom ..shared import NAME\nimport prices\n"


def write_package(folder: Path) -> str:
    """Write the package ``firm_x.shop``, and return the path of a module in it."""
    write(folder, "firm_x/__init__.py", "")
    write(folder, "firm_x/shared.py", "NAME = 'shop'\n")
    write(folder, "firm_x/shop/__init__.py", "")
    write(folder, "firm_x/shop/prices.py", "TEA = 3.5\n")
    return write(folder, "firm_x/shop/till.py", IMPORTING)


def test_a_file_in_a_package_is_imported_as_its_module(tmp_path: Path) -> None:
    path = write_package(tmp_path)
    agent = load_agent(path)
    module = sys.modules["firm_x.shop.till"]
    assert module.app is agent
    assert module.__file__ == path
    assert (module.TEA, module.NAME) == (3.5, "shop")
    assert module.prices.__name__ == "prices"  # its directory is searched, too
    assert (sys.path[0], sys.path[-1]) == (str(tmp_path), str(tmp_path / "firm_x" / "shop"))
    # A second file of the package.
    other = write(tmp_path, "firm_x/stock.py", AGENT + "from .shared import NAME\n")
    assert load_agent(other) is sys.modules["firm_x.stock"].app


def test_a_directory_in_a_package_is_loaded_by_its_main_file(tmp_path: Path) -> None:
    write(tmp_path, "firm_y/__init__.py", "")
    write(tmp_path, "firm_y/prices.py", "TEA = 3.5\n")
    write(tmp_path, "firm_y/main.py", AGENT + "from .prices import TEA\n")
    load_agent(str(tmp_path / "firm_y"))
    assert sys.modules["firm_y.main"].TEA == 3.5


def test_a_relative_import_outside_of_a_package_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "company/prices.py", "TEA = 3.5\n")
    path = write(tmp_path, "company/shop.py", AGENT + "from .prices import TEA\n")
    with pytest.raises(LoadFailed) as caught:
        load_agent(path)
    assert str(caught.value).startswith("shop.py, line 3: ImportError: attempted relative import")
    assert str(caught.value).endswith(
        ": shop.py is not in a package: add an empty __init__.py to the directory 'company', or use "
        "the module's name, company.shop, instead of the file"
    )
    monday = write(tmp_path, "company/monday.py", AGENT + "from math import nothing\n")
    with pytest.raises(LoadFailed) as caught:
        load_agent(monday)
    assert "package" not in str(caught.value)


@pytest.mark.parametrize("name", ["my-company", "queue"])
def test_a_package_that_cannot_be_imported_by_its_name_is_none(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"{name}/__init__.py", "")
    write(tmp_path, f"{name}/prices.py", "TEA = 3.5\n")
    path = write(tmp_path, f"{name}/shop_v.py", AGENT + "import prices\n")
    load_agent(path)
    assert sys.modules["shop_v"].__file__ == path
    path = write(tmp_path, f"{name}/shop_u.py", AGENT + "from .prices import TEA\n")
    with pytest.raises(LoadFailed, match=f"the directory '{name}' cannot be imported by this name"):
        load_agent(path)


def test_an_agent_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "two.py", AGENT + "admin = spear.Agent('admin')\nagain = admin\n")
    assert load_agent(f"{path}:admin").name == "admin"
    assert load_agent(f"{path}:again").name == "admin"
    with pytest.raises(LoadFailed) as raised:
        load_agent(path)
    assert str(raised.value) == (
        "two.py defines 3 agents: choose one of two.py:app, two.py:admin, two.py:again"
    )


def test_two_names_of_one_agent_are_one(tmp_path: Path) -> None:
    assert load_agent(write(tmp_path, "one.py", AGENT + "same = app\n")).functions == ()


def test_a_colon_may_be_part_of_a_path(tmp_path: Path) -> None:
    assert load_agent(write(tmp_path, "a:b/shop_z.py", AGENT)).functions == ()


def test_modules_are_imported(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    write(tmp_path, "package_z/__init__.py", "")
    write(tmp_path, "package_z/api.py", AGENT)
    agent = load_agent("package_z.api")
    assert load_agent("package_z.api:app") is agent
    with pytest.raises(LoadFailed, match=r"api defines no 'x': choose one of .*:app"):
        load_agent("package_z.api:x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "bad.py defines no spear.Agent; add `app = spear.Agent()`"),
        ("x = (\n", "bad.py, line 1: SyntaxError: '(' was never closed"),
        ("x\n  y\n", "bad.py, line 2: IndentationError: unexpected indent"),
        ("\nimport nowhere_to_be_found\n", "bad.py, line 2: ModuleNotFoundError: No module named"),
        ("def f():\n    1 / 0\nf()\n", "bad.py, line 2: ZeroDivisionError: division by zero"),
        ("raise ValueError('a\\n  b')", "bad.py, line 1: ValueError: a b"),
        ("raise SystemExit", "bad.py, line 1: SystemExit: the program exited while"),
        ("raise type('E', (Exception,), {'__str__': None})", "bad.py, line 1: E: <exception str()"),
        ("import helper_bad", "helper_bad.py, line 1: NameError: name 'oops' is not defined"),
        (AGENT + "app.function(5)", "bad.py, line 3: ConfigurationError: 5 is not a function"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "helper_bad.py", "oops")
    path = write(tmp_path, "bad.py", text)
    with pytest.raises(LoadFailed) as raised:
        load_agent(path)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert "bad" not in sys.modules or "defines no" in message
    # The details show the program's own lines, not Spear's.
    assert os.path.dirname(spear.__file__) not in raised.value.details
    assert "importlib" not in raised.value.details


def test_a_directory_is_loaded_by_its_main_file(tmp_path: Path) -> None:
    write(tmp_path, "beside_main.py", "WORD = 'beside'\n")
    write(tmp_path, "main.py", f"import beside_main\n{AGENT}other = beside_main.WORD\n")
    assert load_agent(str(tmp_path)).name == load_agent(f"{tmp_path}/:app").name


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path, "none.py", AGENT + "other = 5\n")
    for target, message in [
        (str(tmp_path / "missing.py"), "missing.py does not exist"),
        (str(tmp_path), "is a directory without main.py"),
        ("/dev/null", "/dev/null is not a file"),
        (
            "no_module_of_that_name",
            "found neither a module nor a file named 'no_module_of_that_name'",
        ),
        (
            "no_module.of.that.name",
            "found neither a module nor a file named 'no_module.of.that.name'",
        ),
        ("not a name", "not a name is neither a file nor the name of a module"),
        (f"{path}:missing", "none.py defines no 'missing': choose one of none.py:app"),
        (f"{path}:other", "'other' in none.py is not a spear.Agent: choose one of none.py:app"),
        ("os:path", "'path' in os is not a spear.Agent"),
    ]:
        with pytest.raises(LoadFailed) as raised:
            load_agent(target)
        assert message in str(raised.value)


def test_a_module_that_fails_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    write(tmp_path, "needs_more.py", "import not_there_either\n")
    write(tmp_path, "breaks.py", "1 / 0\n")
    with pytest.raises(LoadFailed, match=r"needs_more.py, line 1: ModuleNotFoundError"):
        load_agent("needs_more")
    with pytest.raises(LoadFailed, match=r"breaks.py, line 1: ZeroDivisionError"):
        load_agent("breaks")


def test_an_interrupt_is_no_failure_to_load(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_agent(write(tmp_path, "stop.py", "raise KeyboardInterrupt"))


CHANGED = AGENT.replace("()", "(name='new')")
UNCHANGED = AGENT.replace("()", "(name='old')")


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("shop.py", "{place}/shop.py"),
        ("queue.py", "{place}/queue.py:app"),
        ("reports/main.py", "{place}/reports/"),
        ("company_a.py", "company_a"),
        ("company_b/__init__.py", "company_b"),
        ("company_c/shop.py", "company_c.shop:app"),
    ],
)
def test_a_program_that_keeps_its_size_and_time_is_not_loaded_as_it_was(
    file: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path, file, UNCHANGED)
    os.utime(path, (1, 1))
    assert py_compile.compile(path, doraise=True)
    write(tmp_path, file, CHANGED)
    os.utime(path, (1, 1))
    assert load_agent(target.format(place=tmp_path)).name == "new"
    assert not any(isinstance(each, _FromSourceFinder) for each in sys.meta_path)


def test_what_a_program_imports_is_cached_as_python_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write(tmp_path, "helper_of_x.py", "")
    path = write(tmp_path, "shop_of_x.py", AGENT + "import helper_of_x\n")
    load_agent(path)
    cached = [each.name.partition(".")[0] for each in (tmp_path / "__pycache__").iterdir()]
    assert cached == ["helper_of_x"]


def test_a_module_without_source_is_loaded_from_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path, "compiled_shop.py", UNCHANGED)
    py_compile.compile(path, cfile=f"{path}c", doraise=True)
    os.unlink(path)
    assert load_agent("compiled_shop").name == "old"
