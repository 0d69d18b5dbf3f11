"""A name stands for one concept: no two classes or type aliases of Spear share a name.

A reader who searches for a name must find one definition, and an import must not need a second look. Type
variables are exempt, because their names have no meaning outside a signature; but no class may be named
like one. Also no two constants have the same name and the same value: they would have to change together,
and so should be one constant.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

_DOOR = "the same, as a program without Trio sees it: spear.blocking and spear.asyncio"

ALLOWED: dict[str, str] = dict.fromkeys(
    (
        "CallableWithItem",
        "DeployedProgram",
        "Deployment",
        "Described",
        "Execution",
        "Function",
        "FunctionStream",
        "MapResults",
        "RemoteDeployment",
        "RemoteHost",
        "Spearlet",
        "TypedFunction",
        "TypedStream",
    ),
    _DOOR,
) | dict.fromkeys(
    ("Block", "Bridge", "InThread", "MapMethod", "Taken"), "of two doors, which wait differently"
)
"""Names that may be defined more than once, each with the reason."""

SAME_BY_CHANCE: dict[str, str] = {
    "ATTEMPTS": "of two searches for a free name, in a directory and for a host",
    "BATCH": "the conformance suites spell flags out, as a peer in another language does",
    "FRAGMENT": "likewise",
    "F_SETSIG": "missing in Python's fcntl; agents and hosts share no module that knows files",
    "JOIN_SECONDS": "of two kinds of threads",
    "MESSAGES_ID": "as BATCH",
    "MORE": "likewise",
    "MOST_BYTES": "of three kinds of messages between a template and its host",
    "NO_MORE": "ends two kinds of sweeps",
    "RETRY_SECONDS": "advice for a caller of functions, and for a client of HTTP",
    "SWEEP_SECONDS": "of two sweeps",
    "TYPE_CHECKING": "importing typing takes ten times as long",
}
"""Constants of the same name and value that are not one constant, each with the reason."""

TYPE_VARIABLES = ("TypeVar", "TypeVarTuple", "ParamSpec")


def definitions(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """The names of a module's classes and type aliases: (name, whether it is a type variable).

    Includes definitions under ``if TYPE_CHECKING``, because a reader sees those as well.
    """
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef):
            yield node.name, False
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if ast.unparse(node.annotation).split(".")[-1] == "TypeAlias":
                yield node.target.id, False
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func).split(".")[-1] in TYPE_VARIABLES:
                yield from ((ast.unparse(target), True) for target in node.targets)
        elif isinstance(node, ast.If | ast.Try):
            for block in (node.body, node.orelse, *(each.body for each in handlers(node))):
                pending += block


def handlers(node: ast.If | ast.Try) -> list[ast.ExceptHandler]:
    return node.handlers if isinstance(node, ast.Try) else []


def shared_names(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that several modules define, with the paths of those modules.

    Args:
        sources: (path, text) of each module.
    """
    places: dict[str, list[str]] = {}
    variables: dict[str, list[str]] = {}
    for path, text in sources:
        for name, is_variable in definitions(ast.parse(text, path)):
            name = name.lstrip("_")  # a reader who searches for one finds the other
            (variables if is_variable else places).setdefault(name, []).append(path)
    found = {name: paths for name, paths in places.items() if len(paths) > 1}
    for name in places.keys() & variables.keys():
        found[name] = places[name] + variables[name]
    return found


def spear() -> list[tuple[str, str]]:
    paths = sorted((ROOT / "spear").rglob("*.py"))
    return [(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]


def test_no_two_concepts_share_a_name() -> None:
    shared = {name: paths for name, paths in shared_names(spear()).items() if name not in ALLOWED}
    assert shared == {}, "\n".join(f"{name}: {', '.join(at)}" for name, at in shared.items())


def test_every_allowed_name_is_still_shared() -> None:
    assert set(ALLOWED) <= set(shared_names(spear()))


def repeated_constants(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Constants that several modules define with the same literal value, with the paths."""
    places: dict[tuple[str, str], list[str]] = {}
    for path, text in sources:
        for node in ast.parse(text, path).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.AnnAssign):
                target = node.target
            if isinstance(target, ast.Name) and target.id.strip("_").isupper():
                value = getattr(node, "value", None)
                if value is not None and is_literal(value):
                    key = target.id.strip("_"), ast.unparse(value)
                    places.setdefault(key, []).append(path)
    return {name: paths for (name, _), paths in places.items() if len(paths) > 1}


def is_literal(value: ast.expr) -> bool:
    """Whether an expression consists of literals, such as ``64 * 1024``."""
    kinds = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Tuple, ast.Load)
    return all(isinstance(each, kinds) for each in ast.walk(value))


def test_no_constant_is_defined_twice() -> None:
    repeated = {
        name: paths
        for name, paths in repeated_constants(spear()).items()
        if name not in SAME_BY_CHANCE
    }
    assert repeated == {}, "\n".join(f"{name}: {', '.join(at)}" for name, at in repeated.items())


def test_every_constant_that_may_be_the_same_is() -> None:
    assert set(SAME_BY_CHANCE) <= set(repeated_constants(spear()))


def test_repeated_constants_are_found() -> None:
    first = ("a.py", "MOST: Final = 64 * 1024")
    assert repeated_constants([first, ("b.py", "_MOST = 64 * 1024")]) == {"MOST": ["a.py", "b.py"]}
    for other in ("MOST = 65", "LEAST = 64 * 1024", "MOST = limit()", "most = 64 * 1024"):
        assert repeated_constants([first, ("b.py", other)]) == {}


def test_shared_names_are_found() -> None:
    class_ = ("a.py", "class Load: ...")
    alias = "Load: TypeAlias = Callable[[], None]"
    for other in (
        "class Load(Base): ...",
        alias,
        alias.replace("TypeAlias", "typing.TypeAlias"),
        f"if TYPE_CHECKING:\n    {alias}",
        f"try:\n    import fast\nexcept ImportError:\n    {alias}",
        f"if fast:\n    import fast\nelse:\n    {alias}",
        'Load = TypeVarTuple("Load")',
    ):
        assert shared_names([class_, ("b.py", other)]) == {"Load": ["a.py", "b.py"]}, other


def test_names_without_a_second_meaning_are_not_found() -> None:
    for other in (
        "class Loads: ...",
        "class Outer:\n    class Load: ...",
        "from a import Load",
        "Load = 3",
        "Load: int = 3",
    ):
        assert shared_names([("a.py", "class Load: ..."), ("b.py", other)]) == {}, other
    variables = [("a.py", 'T = TypeVar("T")'), ("b.py", 'T = TypeVar("T", bound=int)')]
    assert shared_names(variables) == {}
