"""The layers of Spear as tables, and the proof that no module reaches past them.

The tables are the rules: to allow an import, change the table, and say why in docs/design.md. Each
rule is a function from a module's source to the places that break it, so that the tests at the end
can show of every rule that it does catch what it forbids.
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
        "_directories",
        "_entry_points",
        "_errors",
        "_failures",
        "_forks",
        "_hooks",
        "_ids",
        "_json",
        "_lazy",
        "_host_limits",
        "_limits",
        "_paths",
        "_segments",
        "_sendable",
        "_signatures",
        "_stalls",
        "_targets",
        "_util",
        "_version",
    }
)
"""Modules beside the packages; everything may import them, they import of Spear its errors
only, and what is taken from forked children."""

BELOW_LEAVES: Final = {
    "_entry_points": ("_errors", "_util"),
    "_host_limits": ("_errors", "_limits"),
}
"""The leaves that import another one."""

LAYERS: dict[str, frozenset[str]] = {
    "wire": frozenset(),
    "transports": frozenset(),
    "channels": frozenset({"wire", "transports", "telemetry"}),
    "runtimes": frozenset({"channels", "wire", "transports", "telemetry"}),
    "agent": frozenset({"wire", "transports", "channels"}),
    "calls": frozenset({"wire", "channels", "telemetry"}),
    "spearlet": frozenset(
        {
            "runtimes",
            "calls",
            "channels",
            "wire",
            "transports",
            "requests",
            "discovery",
            "events",
            "telemetry",
        }
    ),
    "gateway": frozenset({"spearlet", "calls", "channels", "transports", "wire", "telemetry"}),
    "config": frozenset({"spearlet", "calls", "runtimes", "channels", "transports", "gateway"}),
    "discovery": frozenset(),
    "requests": frozenset({"discovery", "calls", "channels", "kv"}),
    "events": frozenset(),
    "kv": frozenset(),
    "engines": frozenset({"events", "discovery", "kv"}),
    "telemetry": frozenset(),
}
"""What each package may import, besides itself and the leaves."""

LAYERS[""] = frozenset(LAYERS)  # spear/__init__.py
LAYERS["cli"] = frozenset(LAYERS)  # with spear/__main__.py
LAYERS["testing"] = frozenset(LAYERS)  # and nobody may import it: it is for tests, ours and others'

INNER = ("spear.runtimes.memory", "spear.runtimes.process")
"""Packages inside of packages."""

PUT_TOGETHER = ("spear/runtimes/__init__.py", "spear/runtimes/_registry.py")
"""The modules beside them that know them."""

PROCESS_RUNTIME = ("spear/runtimes/process/*.py",)
ZYGOTE = ("spear/agent/_zygote.py",)
LOADER = ("spear/agent/_loader.py",)

ONLY_IN: dict[str, tuple[str, ...]] = {
    "cbor2": ("spear/wire/_heads.py", "spear/wire/_values.py"),
    "trio_websocket": (),  # until there is a transport that needs them
    "h11": ("spear/gateway/*.py",),
    "wsproto": ("spear/gateway/*.py",),
    "argparse._*": (),  # private: spear.cli keeps what it has told a parser
    "asyncio": ("spear/agent/*.py",),
    # protected_block instead, so that Ctrl-C cannot leave a block without its end.
    "contextlib.asynccontextmanager": ("spear/channels/_interrupts.py",),
    # Processes are started, signalled and forked in one place, which reaps them; or in a zygote.
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
    # The working directory may be removed: who asks for it has to know what to do then.
    "os.getcwd*": ("spear/_paths.py",),
    "os.path.abspath": (),
    # A program is loaded in one place, from a path that its owner gave.
    "importlib.abc": LOADER,
    "importlib.import_module": (*LOADER, "spear/_lazy.py"),
    # That module looks where modules are, and loads none.
    "importlib.machinery": (*LOADER, "spear/runtimes/process/_settings.py"),
    "importlib.metadata.entry_points": ("spear/_entry_points.py",),
    "importlib.reload": (),
    "importlib.util": LOADER,
    "runpy": LOADER,
}
"""Names, imported or used, and the files that may."""

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
"""What could turn a peer's bytes into code. Nobody needs it, so nobody has it."""

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
"""Files that do no I/O, read no clock and draw no randomness, and what they do without."""


@attrs.frozen
class Module:
    """A source file, and all the dotted names in it that come from elsewhere."""

    path: str
    imports: tuple[tuple[int, str], ...]
    """Line and absolute name. ``from a import b`` is ``a.b``, wherever in the file it stands."""
    uses: tuple[tuple[int, str], ...]
    """The imports, and every attribute that is reached through one of them."""

    @property
    def package(self) -> str:
        """The row of LAYERS it belongs to, or a leaf's name."""
        first, *more = self.path.removeprefix("spear/").removesuffix(".py").split("/")
        if not more and first.startswith("__"):
            return {"__init__": "", "__main__": "cli"}[first]
        return first


def parse(path: str, source: str) -> Module:
    """What a module imports, also in functions and under TYPE_CHECKING, and what it uses of it."""
    tree = ast.parse(source, path)
    folder = path.split("/")[:-1]
    imports: list[tuple[int, str]] = []
    known: dict[str, str] = {}  # local name -> what it stands for
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
    """The absolute name that ``a.b.c`` stands for, if ``a`` was imported."""
    if isinstance(node, ast.Attribute):
        start = dotted(node.value, known)
        return start and f"{start}.{node.attr}"
    return known.get(node.id) if isinstance(node, ast.Name) else None


def within(name: str, *patterns: str) -> bool:
    """Whether a dotted name is one of these, or something inside one of them."""
    return any(fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*") for pattern in patterns)


Rule: TypeAlias = "Callable[[Module], Iterator[tuple[int, str]]]"


def points_down(module: Module) -> Iterator[tuple[int, str]]:
    """Imports follow LAYERS."""
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
    """A package is used through its __init__; its modules, all private, are its own affair."""
    for line, name in module.imports:
        top, target, *inside = [*name.split("."), ""]
        if top != "spear" or target in LEAVES or target == module.package:
            continue
        if any(part.startswith("_") and not part.endswith("__") for part in inside):
            yield line, f"{name} is private to spear.{target}"


def keeps_out_of_inner_packages(module: Module) -> Iterator[tuple[int, str]]:
    """A package inside of a package has a front door of its own, also for its parent.

    The modules beside it do not know it, but those of PUT_TOGETHER.
    """
    folder = module.path.rpartition("/")[0].replace("/", ".")
    for line, name in module.imports:
        for inner in INNER:
            if not within(name, inner) or within(folder, inner):
                continue
            inside = name.removeprefix(inner).split(".")
            if any(part.startswith("_") and not part.endswith("__") for part in inside):
                yield line, f"{name} is private to {inner}"
            elif folder == inner.rpartition(".")[0] and module.path not in PUT_TOGETHER:
                yield line, f"{module.path} may not know {inner}"


def exports_its_own(module: Module) -> Iterator[tuple[int, str]]:
    """A name is public in one package: users of another package's names import them from there."""
    if module.path.endswith("/__init__.py") and module.package:
        own = {*LEAVES, module.package}
        for line, name in module.imports:
            top, target, *_ = [*name.split("."), ""]
            if top == "spear" and target not in own:
                yield line, f"{name} is public in spear.{target}"


def hides_its_modules(module: Module) -> Iterator[tuple[int, str]]:
    """Modules have private names: what is public is re-exported by the package."""
    if not module.path.rpartition("/")[2].startswith("_"):
        yield 1, "a module's name begins with an underscore"


def stays_in_its_place(module: Module) -> Iterator[tuple[int, str]]:
    """ONLY_IN, by file."""
    for pattern, places in ONLY_IN.items():
        if not any(fnmatch(module.path, place) for place in places):
            for line, name in module.uses:
                if within(name, pattern):
                    yield line, f"{name} belongs in {' or '.join(places) or 'no file'}"


def loads_no_code(module: Module) -> Iterator[tuple[int, str]]:
    """NO_CODE, anywhere."""
    for line, name in module.uses:
        if within(name, *NO_CODE):
            yield line, f"{name} can run what a peer sent"


def is_pure(module: Module) -> Iterator[tuple[int, str]]:
    """PURE, by file."""
    for place, forbidden in PURE.items():
        # fnmatch's * crosses slashes: the leaves are the files that have none behind spear/.
        if fnmatch(module.path, place) and module.path.count("/") == place.count("/"):
            for line, name in module.uses:
                if within(name, *forbidden):
                    yield line, f"{name} in a module without effects"


def breaches(rule: Rule, modules: list[Module]) -> list[str]:
    """Every place that breaks a rule, as text that an editor can jump to."""
    return sorted({f"{each.path}:{line}: {what}" for each in modules for line, what in rule(each)})


@cache
def spear() -> list[Module]:
    """Every module of Spear."""
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
        assert lowest, f"a circle among {sorted(below)}"
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
    """A file that was renamed or is gone leaves no permission behind."""
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
