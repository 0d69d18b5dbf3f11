"""The layers of Spear as tables, and tests that no module violates them.

The tables are the rules: to allow an import, change the table, and give the reason in docs/design.md.
Each rule is a function from a module's source to the violations in it. So the tests at the end can show
that each rule finds what it forbids.
"""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

LEAVES = frozenset(
    {
        "_arrays",
        "_arrow",
        "_breakpoints",
        "_codecs",
        "_debugger",
        "_directories",
        "_entry_points",
        "_error_objects",
        "_errors",
        "_failures",
        "_forks",
        "_hooks",
        "_ids",
        "_json",
        "_lazy",
        "_host_limits",
        "_limits",
        "_pandas_frames",
        "_paths",
        "_places",
        "_program_files",
        "_retry_policy",
        "_scalars",
        "_segments",
        "_sendable",
        "_signatures",
        "_stalls",
        "_tagged",
        "_targets",
        "_unfolding",
        "_util",
        "_version",
    }
)
"""Modules beside the packages. All modules may import them. They import from Spear only its errors, and
the functions that take resources away from forked children."""

BELOW_LEAVES: Final = {
    "_arrow": ("_arrays", "_pandas_frames", "_scalars", "_util"),
    "_codecs": ("_arrow", "_errors", "_tagged", "_util"),
    "_debugger": ("_breakpoints",),
    "_entry_points": ("_errors", "_util"),
    "_host_limits": ("_errors", "_limits"),
    "_json": ("_arrays", "_arrow", "_codecs", "_tagged", "_unfolding", "_util"),
    "_pandas_frames": ("_scalars",),
    "_retry_policy": ("_errors", "_limits"),
    "_sendable": ("_arrays", "_codecs", "_tagged", "_unfolding", "_util"),
    "_tagged": ("_scalars",),
    "_unfolding": ("_tagged",),
}
"""Leaves that import another leaf."""

LAYERS: dict[str, frozenset[str]] = {
    name: frozenset(packages.split())
    for name, packages in {
        "wire": "",
        "transports": "",
        "telemetry": "",
        "annotations": "",
        "clients": "",
        "kv": "",
        "channels": "wire transports telemetry",
        "runtimes": "channels wire transports clients telemetry",
        "agent": "annotations channels wire transports discovery telemetry",
        "calls": "annotations channels wire telemetry",
        "discovery": "clients telemetry",
        "events": "clients discovery telemetry",
        "engines": "events discovery kv clients telemetry",
        "requests": "discovery events calls channels wire transports clients kv telemetry",
        "remote": "calls channels wire",
        "spearlet": "runtimes calls channels wire transports requests discovery events telemetry",
        "gateway": "spearlet calls channels transports wire requests engines kv telemetry",
        "config": "gateway spearlet calls runtimes channels transports requests engines kv telemetry",
        "portal": "",
        "blocking": "portal remote spearlet calls",
        "asyncio": "portal remote spearlet calls",
    }.items()
}
"""Packages that each package may import, besides itself and the leaves."""

LAYERS[""] = frozenset(LAYERS)  # spear/__init__.py
LAYERS["cli"] = frozenset(LAYERS)  # with spear/__main__.py
LAYERS["testing"] = frozenset(LAYERS)  # for tests only: no package may import it

INNER = ("spear.channels.segments", "spear.runtimes.memory", "spear.runtimes.process")
"""Packages inside of packages."""

PUT_TOGETHER = (
    "spear/channels/*.py",
    "spear/runtimes/__init__.py",
    "spear/runtimes/_registry.py",
)
"""Modules beside the inner packages that may import them, through their ``__init__``."""

PROCESS_RUNTIME = ("spear/runtimes/process/*.py",)
ZYGOTE = ("spear/agent/_zygote.py",)
LOADER = ("spear/agent/_loader.py",)

ONLY_IN: dict[str, tuple[str, ...]] = {
    "cbor2": ("spear/wire/_heads.py", "spear/wire/_tags.py", "spear/wire/_values.py"),
    "trio_websocket": (),  # no file, until there is a transport that needs them
    "h11": ("spear/gateway/*.py", "spear/remote/*.py"),
    "prometheus_client": ("spear/gateway/_families.py", "spear/gateway/_metrics.py"),
    "rich": ("spear/cli/_bar.py",),
    "wsproto": ("spear/gateway/*.py",),
    "argparse._*": (),  # private; spear.cli keeps its own list of a parser's arguments
    "asyncio": ("spear/agent/*.py", "spear/asyncio/*.py"),
    # Use protected_block instead, so that Ctrl-C cannot leave a block without its clean-up.
    "contextlib.asynccontextmanager": ("spear/channels/_interrupts.py",),
    # Processes are started, signalled and forked in one place, which reaps them, or in a zygote.
    "subprocess": PROCESS_RUNTIME,
    "multiprocessing": (),
    "os.exec*": PROCESS_RUNTIME,
    "os.fork*": (*ZYGOTE, "spear/runtimes/process/_guard_program.py"),
    "os.kill*": (*PROCESS_RUNTIME, *ZYGOTE),
    "os.popen": (),
    "os.posix_spawn*": PROCESS_RUNTIME,
    "os.spawn*": (),
    "os.system": (),
    "select.select": (),  # fails for descriptors above 1,023; select.poll does not
    "trio.run_process": PROCESS_RUNTIME,
    "trio.lowlevel.open_process": PROCESS_RUNTIME,
    # The working directory may have been removed, and the caller has to handle that.
    "os.getcwd*": ("spear/_paths.py",),
    "os.path.abspath": (),
    # Programs are loaded in one place only, from a path that their owner has chosen.
    "importlib.abc": LOADER,
    "importlib.import_module": (*LOADER, "spear/_lazy.py"),
    # This module finds modules, and loads none.
    "importlib.machinery": (*LOADER, "spear/runtimes/process/_settings.py"),
    "importlib.metadata.entry_points": ("spear/_entry_points.py",),
    "importlib.reload": (),
    "importlib.util": LOADER,
    "runpy": LOADER,
}
"""Names that only certain files may import or use, with these files."""

NO_CODE = (
    "builtins.__import__",
    "builtins.compile",
    "builtins.eval",
    "builtins.exec",
    "cloudpickle",
    "code",
    "dill",
    "marshal",
    "pickle",
    "shelve",
)
"""Names that could turn a peer's bytes into code. No file may use them."""

EFFECTS = (
    "asyncio",
    "datetime",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "threading",
    "time",
    "trio",
)
PURE: dict[str, tuple[str, ...]] = {
    "spear/_*.py": ("trio",),
    "spear/wire/*.py": EFFECTS,
    "spear/kv/*.py": EFFECTS,
}
"""Files that do no I/O, read no clock and draw no randomness, with the names that they may not use."""


@attrs.frozen
class Module:
    """A source file, and all the dotted names in it that come from other modules."""

    path: str
    imports: tuple[tuple[int, str], ...]
    """Line and absolute name. ``from a import b`` is ``a.b``, anywhere in the file."""
    uses: tuple[tuple[int, str], ...]
    """The imports, and every attribute that is reached through an import."""

    @property
    def package(self) -> str:
        """The module's row in LAYERS, or the leaf's name."""
        first, *more = self.path.removeprefix("spear/").removesuffix(".py").split("/")
        if not more and first.startswith("__"):
            return {"__init__": "", "__main__": "cli"}[first]
        return first


def parse(path: str, source: str) -> Module:
    """Parse a module, with its imports (also in functions and under TYPE_CHECKING) and their uses."""
    tree = ast.parse(source, path)
    folder = path.split("/")[:-1]
    imports: list[tuple[int, str]] = []
    known: dict[str, str] = {}  # local name -> absolute name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.append((node.lineno, alias.name))
                first = alias.name.partition(".")[0]
                known[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level] if node.level else []
            start = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                imports.append((node.lineno, f"{start}.{alias.name}"))
                known[alias.asname or alias.name] = f"{start}.{alias.name}"
    uses = list(imports)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node, known)):
            uses.append((node.lineno, name))
        elif isinstance(node, ast.Name) and node.id in {"__import__", "compile", "eval", "exec"}:
            uses.append((node.lineno, f"builtins.{node.id}"))
    return Module(path, tuple(imports), tuple(uses))


def dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    """Return the absolute name of ``a.b.c`` if ``a`` was imported, else None."""
    if isinstance(node, ast.Attribute):
        start = dotted(node.value, known)
        return start and f"{start}.{node.attr}"
    return known.get(node.id) if isinstance(node, ast.Name) else None


def within(name: str, *patterns: str) -> bool:
    """Return whether a dotted name is one of these names, or inside one of them."""
    return any(fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*") for pattern in patterns)


Rule: TypeAlias = "Callable[[Module], Iterator[tuple[int, str]]]"


def points_down(module: Module) -> Iterator[tuple[int, str]]:
    """Yield imports that LAYERS does not allow."""
    if module.package not in LAYERS and module.package not in LEAVES:
        yield 1, f"the package {module.package!r} has no row in LAYERS"
        return
    allowed = LAYERS.get(module.package, frozenset())
    for line, name in module.imports:
        top, _, rest = name.partition(".")
        if top != "spear":
            continue
        target = rest.partition(".")[0]
        if target in LEAVES:
            if module.package in LEAVES and (
                target not in BELOW_LEAVES.get(module.package, ("_errors", "_forks"))
                or module.package == target
            ):
                yield line, f"a leaf imports {name}"
            continue
        target = target if target in LAYERS else ""
        if target != module.package and target not in allowed:
            yield line, f"{module.package or 'spear'} may not import {name}"


def keeps_to_the_front_door(module: Module) -> Iterator[tuple[int, str]]:
    """Yield imports of another package's private modules, past its __init__."""
    for line, name in module.imports:
        top, target, *inside = [*name.split("."), ""]
        if top != "spear" or target in LEAVES or target == module.package:
            continue
        if any(part.startswith("_") and not part.endswith("__") for part in inside):
            yield line, f"{name} is private to spear.{target}"


def keeps_out_of_inner_packages(module: Module) -> Iterator[tuple[int, str]]:
    """Yield imports of an inner package's private modules, and of an inner package by its siblings.

    Of the modules beside an inner package, only those in PUT_TOGETHER may import it.
    """
    folder = module.path.rpartition("/")[0].replace("/", ".")
    for line, name in module.imports:
        for inner in INNER:
            if not within(name, inner) or within(folder, inner):
                continue
            inside = name.removeprefix(inner).split(".")
            if any(part.startswith("_") and not part.endswith("__") for part in inside):
                yield line, f"{name} is private to {inner}"
            elif folder == inner.rpartition(".")[0] and not any(
                fnmatch(module.path, each) for each in PUT_TOGETHER
            ):
                yield line, f"{module.path} may not know {inner}"


def exports_its_own(module: Module) -> Iterator[tuple[int, str]]:
    """Yield names that a package exports although another package defines them."""
    if module.path.endswith("/__init__.py") and module.package:
        own = {*LEAVES, module.package}
        for line, name in module.imports:
            top, target, *_ = [*name.split("."), ""]
            if top == "spear" and target not in own:
                yield line, f"{name} is public in spear.{target}"


def hides_its_modules(module: Module) -> Iterator[tuple[int, str]]:
    """Yield modules with public names: a package re-exports what is public."""
    if not module.path.rpartition("/")[2].startswith("_"):
        yield 1, "a module's name begins with an underscore"


def stays_in_its_place(module: Module) -> Iterator[tuple[int, str]]:
    """Yield uses of the names of ONLY_IN in other files."""
    for pattern, places in ONLY_IN.items():
        if not any(fnmatch(module.path, place) for place in places):
            for line, name in module.uses:
                if within(name, pattern):
                    yield line, f"{name} belongs in {' or '.join(places) or 'no file'}"


def loads_no_code(module: Module) -> Iterator[tuple[int, str]]:
    """Yield uses of the names of NO_CODE."""
    for line, name in module.uses:
        if within(name, *NO_CODE):
            yield line, f"{name} can run what a peer sent"


def is_pure(module: Module) -> Iterator[tuple[int, str]]:
    """Yield uses of the names of PURE, by file."""
    for place, forbidden in PURE.items():
        # fnmatch's * matches slashes: the leaves are the files directly in spear/.
        if fnmatch(module.path, place) and module.path.count("/") == place.count("/"):
            for line, name in module.uses:
                if within(name, *forbidden):
                    yield line, f"{name} in a module without effects"


def breaches(rule: Rule, modules: list[Module]) -> list[str]:
    """Return every violation of a rule, as text from which an editor can open the place."""
    return sorted({f"{each.path}:{line}: {what}" for each in modules for line, what in rule(each)})


@cache
def spear() -> list[Module]:
    """Return every module of Spear."""
    paths = sorted((ROOT / "spear").rglob("*.py"))
    return [
        parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths
    ]


def assert_holds(rule: Rule) -> None:
    found = breaches(rule, spear())
    assert not found, "\n".join(found)


def test_imports_point_down() -> None:
    assert_holds(points_down)


def test_packages_are_used_through_their_front_door() -> None:
    assert_holds(keeps_to_the_front_door)


def test_inner_packages_are_used_through_their_front_door() -> None:
    assert_holds(keeps_out_of_inner_packages)


def test_packages_export_their_own_names_only() -> None:
    assert_holds(exports_its_own)


def test_modules_are_private() -> None:
    assert_holds(hides_its_modules)


def test_dependencies_stay_in_their_place() -> None:
    assert_holds(stays_in_its_place)


def test_s11_nothing_can_turn_bytes_into_code() -> None:
    assert_holds(loads_no_code)


def test_pure_modules_have_no_effects() -> None:
    assert_holds(is_pure)


def test_the_layers_have_no_circle() -> None:
    below = {name: set(allowed) for name, allowed in LAYERS.items()}
    while below:
        lowest = {name for name, allowed in below.items() if not allowed & below.keys()}
        assert lowest, f"a cycle among {sorted(below)}"
        below = {name: allowed for name, allowed in below.items() if name not in lowest}


def test_imports_follow_the_arrows_of_the_documented_diagram() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    diagram = text.partition("```mermaid\nflowchart")[2].partition("```")[0]
    drawn = set(re.findall(r"(\w+)(?:\[[^]]*\])? --> (\w+)", diagram))
    found = {
        (module.package, name.split(".")[1])
        for module in spear()
        for _, name in module.imports
        if name.startswith("spear.") and module.package in LAYERS.keys() - {"", "cli", "testing"}
    }
    between = {(above, below) for above, below in found if below in LAYERS and below != above}
    assert between == {arrow for arrow in drawn if arrow[0] != "cli"}


def test_every_package_has_a_front_door() -> None:
    folders = {path.parent for path in (ROOT / "spear").rglob("*.py")}
    assert [str(each) for each in sorted(folders) if not (each / "__init__.py").exists()] == []


def test_every_place_of_the_tables_is_there() -> None:
    """An entry for a file that was renamed or removed is an error."""
    places = {place for each in ONLY_IN.values() for place in each}
    assert [place for place in sorted(places) if not list(ROOT.glob(place))] == []


def test_every_leaf_is_there() -> None:
    top = {path.stem for path in (ROOT / "spear").glob("*.py") if not path.stem.endswith("__")}
    assert top == LEAVES


BREACHES: list[tuple[Rule, str, str]] = [
    # points_down
    (points_down, "spear/wire/_x.py", "import spear.channels"),
    (points_down, "spear/wire/_x.py", "from ..channels import Channel"),
    (points_down, "spear/wire/_x.py", "from .. import channels"),
    (points_down, "spear/wire/__init__.py", "from ..transports import Stream"),
    (points_down, "spear/transports/_x.py", "from spear import wire"),
    (points_down, "spear/transports/_x.py", "def f():\n    import spear.wire as w"),
    (points_down, "spear/channels/_x.py", "if TYPE_CHECKING:\n    from ..runtimes import Runtime"),
    (points_down, "spear/channels/_x.py", "import spear"),
    (points_down, "spear/channels/_x.py", "from spear import Agent"),
    (points_down, "spear/agent/_x.py", "from ..runtimes import Runtime"),
    (points_down, "spear/gateway/_x.py", "from ..runtimes import Runtime"),
    (points_down, "spear/cli/_x.py", "from ..testing import fakes"),
    (points_down, "spear/__init__.py", "from .testing import fakes"),
    (points_down, "spear/__init__.py", "from .cli import main"),
    (points_down, "spear/_ids.py", "from ._limits import WireLimits"),
    (points_down, "spear/_errors.py", "from ._ids import InstanceId"),
    (points_down, "spear/_ids.py", "from .wire import Frame"),
    (points_down, "spear/novelty/_x.py", ""),
    (points_down, "spear/_novelty.py", ""),
    # keeps_to_the_front_door
    (keeps_to_the_front_door, "spear/channels/_x.py", "from ..wire._frames import Frame"),
    (keeps_to_the_front_door, "spear/channels/_x.py", "from ..wire import _frames"),
    (keeps_to_the_front_door, "spear/channels/_x.py", "import spear.wire._frames"),
    (keeps_to_the_front_door, "spear/testing/_x.py", "from spear.wire._frames import Frame"),
    (keeps_to_the_front_door, "spear/__init__.py", "from .agent._app import Agent"),
    # keeps_out_of_inner_packages
    (
        keeps_out_of_inner_packages,
        "spear/runtimes/__init__.py",
        "from .process._zygote import Zygote",
    ),
    (keeps_out_of_inner_packages, "spear/runtimes/_x.py", "from .process import ProcessRuntime"),
    (keeps_out_of_inner_packages, "spear/spearlet/_x.py", "import spear.runtimes.process._zygote"),
    (keeps_out_of_inner_packages, "spear/channels/_x.py", "from .segments._lending import Lent"),
    # exports_its_own
    (exports_its_own, "spear/channels/__init__.py", "from spear.wire import Payload as Payload"),
    (exports_its_own, "spear/channels/__init__.py", "from ..wire import Payload as Payload"),
    (exports_its_own, "spear/gateway/__init__.py", "from spear.runtimes import ResourceLimits"),
    # hides_its_modules
    (hides_its_modules, "spear/wire/frames.py", ""),
    # stays_in_its_place
    (stays_in_its_place, "spear/channels/_x.py", "import cbor2"),
    (stays_in_its_place, "spear/channels/_x.py", "def f():\n    from cbor2 import loads"),
    (stays_in_its_place, "spear/wire/_frames.py", "import cbor2._decoder"),
    (stays_in_its_place, "spear/transports/_tcp.py", "import trio_websocket"),
    (stays_in_its_place, "spear/runtimes/_wasm.py", "import subprocess"),
    (stays_in_its_place, "spear/spearlet/_x.py", "import os\nos.kill(1, 9)"),
    (stays_in_its_place, "spear/spearlet/_x.py", "import os as o\no.killpg(1, 9)"),
    (stays_in_its_place, "spear/spearlet/_x.py", "from os import fork as split"),
    (stays_in_its_place, "spear/spearlet/_x.py", "import trio\ntrio.lowlevel.open_process([])"),
    (stays_in_its_place, "spear/runtimes/process/_x.py", "import os\nos.system('x')"),
    (stays_in_its_place, "spear/channels/_x.py", "import asyncio"),
    (stays_in_its_place, "spear/cli/_x.py", "import argparse\nargparse._SubParsersAction"),
    (stays_in_its_place, "spear/channels/_x.py", "import importlib\nimportlib.import_module(x)"),
    (stays_in_its_place, "spear/channels/_x.py", "import importlib.util"),
    # loads_no_code
    (loads_no_code, "spear/agent/_loader.py", "import pickle"),
    (loads_no_code, "spear/wire/_x.py", "from marshal import loads"),
    (loads_no_code, "spear/wire/_x.py", "import shelve as s"),
    (loads_no_code, "spear/agent/_x.py", "eval('1')"),
    (loads_no_code, "spear/agent/_x.py", "def f(x):\n    exec(x)"),
    (loads_no_code, "spear/agent/_x.py", "__import__(name)"),
    (loads_no_code, "spear/agent/_x.py", "import builtins\nbuiltins.eval('1')"),
    (loads_no_code, "spear/agent/_x.py", "run = eval"),
    # is_pure
    (is_pure, "spear/wire/_x.py", "import trio"),
    (is_pure, "spear/wire/_x.py", "from time import monotonic"),
    (is_pure, "spear/kv/_x.py", "import os\nos.urandom(1)"),
    (is_pure, "spear/kv/_x.py", "import trio.lowlevel"),
    (is_pure, "spear/_util.py", "def f():\n    import trio"),
]


@pytest.mark.parametrize(("rule", "path", "source"), BREACHES)
def test_each_rule_finds_what_breaks_it(rule: Rule, path: str, source: str) -> None:
    assert breaches(rule, [parse(path, source)])


HONEST: list[tuple[str, str]] = [
    ("spear/wire/_x.py", "from ._frames import Frame\nfrom .._errors import SpearError"),
    ("spear/wire/_heads.py", "import cbor2"),
    ("spear/wire/_x.py", "import re\nre.compile('x')\nimport hashlib"),
    ("spear/wire/__init__.py", "from ._frames import Frame as Frame"),
    ("spear/channels/_x.py", "import trio, time, os\nfrom ..wire import Frame\nos.getpid()"),
    ("spear/channels/_x.py", "import importlib.metadata\nfrom importlib.resources import files"),
    ("spear/runtimes/__init__.py", "from .process import ProcessRuntime as ProcessRuntime"),
    ("spear/runtimes/process/_x.py", "from .._body import Body\nfrom ._zygote import Zygote"),
    ("spear/runtimes/process/_spawn.py", "import subprocess, os\nos.killpg(1, 9)"),
    ("spear/agent/_loader.py", "import importlib.util\nimportlib.import_module(x)"),
    ("spear/cli/_x.py", "import spear\nfrom ..gateway import open_gateway"),
    ("spear/testing/_x.py", "from ..channels import Channel\nfrom spear import Agent"),
    ("spear/__init__.py", "import importlib\nfrom .agent import Agent\nfrom . import _errors"),
    ("spear/channels/__init__.py", "from spear._lazy import lazily\nfrom ._calls import Call"),
    ("spear/__main__.py", "from .cli import main"),
    ("spear/_ids.py", "from os import urandom\nimport attrs"),
]


@pytest.mark.parametrize(("path", "source"), HONEST)
def test_no_rule_forbids_what_is_meant_to_be(path: str, source: str) -> None:
    rules = {rule for rule, _, _ in BREACHES}
    assert [breach for rule in rules for breach in breaches(rule, [parse(path, source)])] == []
