"""The rules of the house that a program can check. CONTRIBUTING.md has their reasons.

Each rule is a function from source text to the violations in it. So the tests at the end can show that
each rule finds what it forbids.
"""

from __future__ import annotations

import ast
import gc
import io
import re
import textwrap
import tokenize
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

MODULE_LINES = 500
FUNCTION_LINES = 60
PUBLIC_METHODS = 15
WAIVER = "# Size: "
"""The beginning of a line, near the top of a module, that explains why the module exceeds a limit."""
WAIVER_WITHIN = 40

PROMISES = re.compile(r"\b(TODO|FIXME|XXX)\b")
UNEXPLAINED_IGNORE = re.compile(r"# type: ignore(?!\[[^]]+\]\s+# \w)")

LOOKS = {
    "raises", "warns", "fail", "RaisesGroup", "assert_checkpoints", "assert_no_checkpoints",
    "check_half_closeable_stream", "check_two_way_stream", "run_state_machine_as_test", "cancel_sweep",
    "check_channel_with_bad_batches", "check_transport", "interrupt_sweep",
    "CHANNEL_CASES", "PEER_CASES", "wait", "until", "assert_frame_equal", "assert_series_equal",
    "assert_outcomes",
}  # fmt: skip
"""Names whose use can fail a test: by an unexpected result, or by the test's time limit."""
RAISES_NOTHING = re.compile(r"# raises nothing\b")
"""A comment that marks a test whose claim is that no exception is raised."""

AnyFunction: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.frozen
class Source:
    """A file of the project."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return parse(self.text, self.path)[0]

    @property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, in the order of ``ast.walk``."""
        return parse(self.text, self.path)[1]

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def comments_with(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
        """Yield the comments that match a pattern: (line, comment)."""
        if not pattern.search(self.text):  # tokenizing every file would take seconds
            return
        for each in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if each.type == tokenize.COMMENT and pattern.search(each.string):
                yield each.start[0], each.string


@cache
def parse(text: str, path: str) -> tuple[ast.Module, list[ast.AST]]:
    tree = ast.parse(text, path)
    return tree, list(ast.walk(tree))


@pytest.fixture(autouse=True, scope="module")
def trees() -> Iterator[None]:
    """Keep all trees for the tests of this file. The collector, which finds nothing in them, pauses."""
    gc.disable()
    yield
    parse.cache_clear()
    gc.enable()


def sources(*folders: str) -> list[Source]:
    """Return every Python file in these folders of the project."""
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "build" not in path.parts
    ]


def is_public(name: str) -> bool:
    return not name.startswith("_")


def decorators(function: AnyFunction) -> set[str]:
    """Return the last names of the decorators: ``setter`` for ``@value.setter``."""
    return {ast.unparse(each).partition("(")[0].split(".")[-1] for each in function.decorator_list}


def public_methods(cls: ast.ClassDef) -> list[AnyFunction]:
    return [
        node
        for node in cls.body
        if isinstance(node, AnyFunction)
        and is_public(node.name)
        and not decorators(node) & {"overload", "setter", "deleter"}
    ]


def too_large(source: Source) -> Iterator[str]:
    """Yield modules, functions and classes that exceed a size limit without a reason."""
    if any(line.startswith(WAIVER) for line in source.lines[:WAIVER_WITHIN]):
        return
    if len(source.lines) > MODULE_LINES:
        yield f"{source.path}: {len(source.lines)} lines"
    for node in source.nodes:
        if isinstance(node, AnyFunction):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{source.path}:{node.lineno}: {node.name} has {lines} lines"
        elif isinstance(node, ast.ClassDef):
            methods = len(public_methods(node))
            if methods > PUBLIC_METHODS:
                yield f"{source.path}:{node.lineno}: {node.name} has {methods} public methods"


def prints(source: Source) -> Iterator[str]:
    """Yield calls of ``print`` in the library; only the command may print."""
    if source.path.startswith("spear/cli/"):
        return
    for node in source.nodes:
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"{source.path}:{node.lineno}: print"


def promises(source: Source) -> Iterator[str]:
    """Yield comments about work to be done later, which belongs into an issue."""
    for line, comment in source.comments_with(PROMISES):
        yield f"{source.path}:{line}: {comment}"


def unexplained_ignores(source: Source) -> Iterator[str]:
    """Yield ``type: ignore`` comments without an error code, or without a second comment as reason."""
    for line, comment in source.comments_with(UNEXPLAINED_IGNORE):
        yield f"{source.path}:{line}: {comment}"


def undocumented(everything: list[Source]) -> Iterator[str]:
    """Yield public functions, classes and methods without a docstring.

    A method may rely on the docstring of the base class that declares it.
    """
    classes = {
        node.name: node
        for source in everything
        for node in source.nodes
        if isinstance(node, ast.ClassDef)
    }
    for source in everything:
        path = source.path
        for node in public_definitions(source.tree):
            if not ast.get_docstring(node):
                yield f"{path}:{node.lineno}: {node.name}"
            if isinstance(node, ast.ClassDef):
                for method in public_methods(node):
                    if not ast.get_docstring(method) and not declared_above(
                        method.name, node, classes
                    ):
                        yield f"{path}:{method.lineno}: {node.name}.{method.name}"


def public_definitions(tree: ast.Module | ast.ClassDef) -> Iterator[AnyFunction | ast.ClassDef]:
    """Yield the public functions and classes of a module, and the public classes inside of classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            yield node
            yield from public_definitions(node)
        elif (
            isinstance(tree, ast.Module)
            and isinstance(node, AnyFunction)
            and is_public(node.name)
            and "overload" not in decorators(node)
        ):
            yield node


def declared_above(name: str, cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    """Return whether a base class declares the method: one of Spear's, or an interface of Trio."""
    for base in cls.bases:
        if ast.unparse(base).startswith("trio.abc."):
            return True
        ours = classes.get(ast.unparse(base).partition("[")[0].split(".")[-1])
        if ours and ours is not cls:
            if name in {method.name for method in public_methods(ours)}:
                return True
            if declared_above(name, ours, classes):
                return True
    return False


def promised(document: str) -> list[str]:
    """Return the ids of the rows of docs/guarantees.md whose status is "holds"."""
    ids: list[str] = []
    status = None
    for line in document.splitlines():
        if not line.startswith("|"):
            status = None  # the table ended
            continue
        cells = [cell.strip(" *`") for cell in line.strip().strip("|").split("|")]
        names = [cell.lower() for cell in cells]
        if "status" in names:
            status = names.index("status")
        elif re.fullmatch(r"[RS]\d+", cells[0]):
            if status is None or len(cells) <= status:
                raise ValueError(f"no status in the row of {cells[0]}")
            if names[status].startswith("holds"):
                ids.append(cells[0])
    return ids


def unproven(document: str, tests: Iterable[Source]) -> list[str]:
    """Return the ids of guarantees that hold by the document, but that no test is named after."""
    words = {
        word
        for source in tests
        for node in source.nodes
        if isinstance(node, AnyFunction) and node.name.startswith("test_")
        for word in node.name.split("_")
    }
    return [each for each in promised(document) if each.lower() not in words]


def blind(tests: list[Source]) -> Iterator[str]:
    """Yield tests that can fail only by an unexpected exception, and that do not say so.

    All other tests check something: they assert, expect an exception or a warning, wait for an event
    until their time limit, or use a helper that does.
    """
    modules = {source.path: Module.of(source) for source in tests}
    for source in tests:
        lines = source.lines
        for name, found in modules[source.path].functions.items():
            for node in found if name.startswith("test_") else ():
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                if not RAISES_NOTHING.search(text) and not looks(node, source.path, modules, set()):
                    yield f"{source.path}:{node.lineno}: {name}"


@attrs.frozen
class Module:
    """The definitions of a file of the tests, and its imports from other files of the tests."""

    functions: dict[str, list[AnyFunction]]
    imports: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, source: Source) -> Module:
        functions: dict[str, list[AnyFunction]] = {}
        imports: dict[str, tuple[str, str]] = {}
        for node in source.nodes:
            if isinstance(node, AnyFunction):
                functions.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.ImportFrom) and node.module:
                folder = source.path.rpartition("/")[0] if node.level else "tests"
                path = f"{folder}/{node.module.removeprefix('tests.').replace('.', '/')}.py"
                imports |= {each.asname or each.name: (path, each.name) for each in node.names}
        return cls(functions, imports)


def looks(node: ast.AST, path: str, modules: dict[str, Module], seen: set[tuple[str, str]]) -> bool:
    """Return whether a function of the file at ``path`` checks something, directly or in a helper."""
    if any(is_a_look(each) for each in ast.walk(node)) or any(claims(node)):
        return True
    module = modules[path]
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self":
            name = each.attr
        elif isinstance(each, ast.Name):
            name = each.id
        else:
            continue
        where, original = module.imports.get(name, (path, name))
        if where in modules and (where, original) not in seen:
            seen.add((where, original))
            for helper in modules[where].functions.get(original, ()):
                if looks(helper, where, modules, seen):
                    return True
    return False


def is_a_look(node: ast.AST) -> bool:
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        # All tasks are blocked sooner or later in any case, so waiting for that checks nothing.
        return name in LOOKS or (name.startswith("wait_") and name != "wait_all_tasks_blocked")
    if isinstance(node, ast.Raise):
        return node.exc is not None and ast.unparse(node.exc).startswith("AssertionError")
    return (
        isinstance(node, ast.keyword) and node.arg == "check" and ast.unparse(node.value) == "True"
    )


def claims(function: ast.AST) -> Iterator[ast.Assert]:
    """Yield the assertions of a function, except assertions that only narrow a type."""
    for node in ast.walk(function):
        for _, block in ast.iter_fields(node):
            if isinstance(block, list):
                for each in block:
                    last = each is block[-1]
                    if isinstance(each, ast.Assert) and (last or not narrows(each.test)):
                        yield each


def narrows(test: ast.expr) -> bool:
    return ast.unparse(test).endswith(" is not None") or (
        isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"
    )


ERROR_NAMES = re.compile(
    r"_*(error|err|exc|exception|failure|fault|loss|problem|refusal|__cause__)"
)
"""Names of variables and attributes that hold an exception."""
ERROR_TYPES = re.compile(
    r"(Error|Exception|Failed|Raised|Exceeded|Cancelled|Overloaded|NotFound|Rejected|InvalidArguments"
    r"|Died|Closed|Broken|Problem|Mismatch|CannotSend|Refused)\b"
)
"""Names of exception classes."""
TEXTS = {"args", "message", "msg", "remote_message", "strerror", "summary"}
"""Attributes of exceptions that hold text for people."""
TAKES_APART = {
    "count", "endswith", "find", "index", "partition", "removeprefix", "removesuffix", "replace",
    "rfind", "rindex", "rpartition", "rsplit", "split", "startswith", "translate",
}  # fmt: skip
LOOKS_UP = {"findall", "finditer", "fullmatch", "get", "match", "search", "sub"}
MAY_READ_MESSAGES = {
    ("spear/config/_toml.py", "_fault_in"),
    ("spear/annotations/_models.py", "mismatch_of_struct"),
}
"""Functions that must read a message; their docstrings say why."""


def message_readers(source: Source) -> Iterator[str]:
    """Yield code that takes the message of an exception apart, or decides by its words.

    Assertions about a message do not count as decisions. Normalizing white space is allowed.
    """
    tree = source.tree
    allowed = {
        id(each)
        for node in source.nodes
        if isinstance(node, ast.Assert)
        or (isinstance(node, AnyFunction) and (source.path, node.name) in MAY_READ_MESSAGES)
        for each in ast.walk(node)
    }
    for scope in (tree, *(node for node in source.nodes if isinstance(node, AnyFunction))):
        messages = Messages(scope)
        for node in own_nodes(scope):
            if id(node) not in allowed and messages.reads(node):
                yield f"{source.path}:{node.lineno}: {ast.unparse(node)[:70]}"


def own_nodes(scope: ast.AST) -> Iterator[ast.expr | ast.Match]:
    """Yield the expressions of a function, without those of nested functions."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.expr | ast.Match):
            yield child
        if not isinstance(child, AnyFunction):
            yield from own_nodes(child)


class Messages:
    """The names in one function that hold exceptions, or messages of exceptions."""

    def __init__(self, scope: ast.AST) -> None:
        nodes = list(ast.walk(scope))
        self.errors = {each.name for each in nodes if isinstance(each, ast.ExceptHandler)}
        for each in nodes:
            if isinstance(each, ast.arg | ast.AnnAssign) and each.annotation is not None:
                name = each.arg if isinstance(each, ast.arg) else ast.unparse(each.target)
                if ERROR_TYPES.search(ast.unparse(each.annotation)):
                    self.errors.add(name)
        self.texts = {
            each.arg
            for each in nodes
            if isinstance(each, ast.arg)
            and each.arg == "message"
            and each.annotation is not None
            and ast.unparse(each.annotation) == "str"
        }
        before = -1
        while before < len(self.texts):
            before = len(self.texts)
            for each in nodes:
                if isinstance(each, ast.Assign | ast.NamedExpr) and self.is_text(each.value):
                    targets = each.targets if isinstance(each, ast.Assign) else [each.target]
                    self.texts |= {name.id for name in targets if isinstance(name, ast.Name)}

    def is_error(self, node: ast.AST | None) -> bool:
        """Return whether an expression is an exception, judging by its name or its type."""
        if isinstance(node, ast.Name):
            return node.id in self.errors or ERROR_NAMES.fullmatch(node.id) is not None
        return isinstance(node, ast.Attribute) and ERROR_NAMES.fullmatch(node.attr) is not None

    def is_text(self, node: ast.AST | None) -> bool:
        """Return whether an expression is the message of an exception, or derived from one."""
        if isinstance(node, ast.Name):
            return node.id in self.texts
        if isinstance(node, ast.Attribute):
            return node.attr in TEXTS and self.is_error(node.value)
        if isinstance(node, ast.Subscript):
            return self.is_text(node.value)
        if isinstance(node, ast.FormattedValue):
            return self.is_error(node.value) or self.is_text(node.value)
        if isinstance(node, ast.JoinedStr | ast.BoolOp):
            return any(map(self.is_text, node.values))
        if isinstance(node, ast.IfExp):
            return self.is_text(node.body) or self.is_text(node.orelse)
        if isinstance(node, ast.BinOp):
            return self.is_text(node.left) or self.is_text(node.right)
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Attribute) and self.is_text(node.func.value):
            return True  # .lower(), .strip() and similar methods
        name = ast.unparse(node.func)
        if name in ("str", "repr", "text_of", "summary_of", "getattr", "str.__str__"):
            return any(self.is_error(each) or self.is_text(each) for each in node.args) and (
                name != "getattr" or ast.unparse(node.args[1]).strip("'") in TEXTS
            )
        # In JSON and in heads an error is a map.
        is_map = name.split(".")[-1] in ("get", "text")
        return is_map and any(ast.unparse(each) == "'message'" for each in node.args)

    def reads(self, node: ast.AST) -> bool:
        """Return whether a node takes a message apart, or decides by it."""
        if isinstance(node, ast.Compare):
            is_choice = any(
                isinstance(each, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for each in node.ops
            )
            return is_choice and any(map(self.is_text, (node.left, *node.comparators)))
        if isinstance(node, ast.Match):
            return self.is_text(node.subject)
        if isinstance(node, ast.Subscript):
            return self.is_text(node.slice)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        if node.func.attr in TAKES_APART and self.is_text(node.func.value):
            return node.func.attr != "split" or bool(node.args)
        return node.func.attr in LOOKS_UP and any(map(self.is_text, node.args))


Rule: TypeAlias = "Callable[[Source], Iterator[str]]"


@pytest.mark.parametrize(
    ("rule", "folders"),
    [
        (too_large, ["spear"]),
        (prints, ["spear"]),
        (promises, ["spear", "tests", "examples", "bench"]),
        (unexplained_ignores, ["spear", "tests", "examples", "bench"]),
        (message_readers, ["spear", "examples", "bench"]),
    ],
)
def test_the_house_is_in_order(rule: Rule, folders: list[str]) -> None:
    faults = [fault for source in sources(*folders) for fault in rule(source)]
    assert not faults, "\n".join(faults)


def test_what_is_public_is_documented() -> None:
    faults = list(undocumented(sources("spear")))
    assert not faults, "\n".join(faults)


def test_every_guarantee_that_holds_has_a_test_of_its_name() -> None:
    document = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert unproven(document, sources("tests")) == []


@pytest.mark.slow
def test_every_test_looks_at_something() -> None:
    assert list(blind(sources("tests"))) == []


HANDLER = "try:\n    f()\nexcept OSError as lost:\n    "
READS_A_MESSAGE = [
    f"{HANDLER}a, _, b = str(lost).partition(';')",
    f"{HANDLER}said = str(lost)\n    key = 'token' if said.startswith('a token') else 'listen'",
    f"{HANDLER}hint = 'ssl' in str(lost).lower()",
    f"{HANDLER}text = f'it {{lost}}'\n    found = re.search('line', text)",
    f"{HANDLER}x = lost.args[0].removesuffix('.')",
    f"{HANDLER}x = lost.strerror == 'No space left on device'",
    f"{HANDLER}x = ADVICE[str(lost)]",
    f"{HANDLER}x = ADVICE.get(str(lost)[:9])",
    f"{HANDLER}match str(lost):\n        case 'no': pass",
    "def f(died: WorkerDied):\n    return str(died).split('--- stderr ---')",
    "def f(self):\n    return str(self.failure).replace('target', 'source')",
    "def f(self):\n    return getattr(self.failure, 'msg', '').index('at')",
    "def f(error):\n    if (said := text_of(error)) and said.endswith('only'): pass",
    "def f(error):\n    return error.summary.find('queue')",
    "def f(document):\n    return 'again' in document.get('message')",
    "def f(message: str):\n    return re.search('expected bool', message)",
]
READS_NO_MESSAGE = [
    f"{HANDLER}raise ValueError(f'cannot: {{lost}}') from lost",
    f"{HANDLER}x = ' '.join(str(lost).split())[:80]",
    f"{HANDLER}x = lost.errno in REFUSALS or lost.code == 'stalled' or lost.reason == 'EOF'",
    f"{HANDLER}x = lost.filename.endswith('.py')",
    "def f(error):\n    assert 'gone' in str(error)",
    "def f(error):\n    return next(iter(error.summary.splitlines()), '')",
    "def f(path: str):\n    return path.partition('=')",
]

LONG_FUNCTION = "def f():\n" + "    pass\n" * FUNCTION_LINES
WIDE_CLASS = "class C:\n" + "".join(f"    def f{n}(self): ...\n" for n in range(PUBLIC_METHODS + 1))
LONG_MODULE = "pass\n" * (MODULE_LINES + 1)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (too_large, "spear/_x.py", LONG_MODULE),
        (too_large, "spear/_x.py", LONG_FUNCTION),
        (too_large, "spear/_x.py", LONG_FUNCTION.replace("def", "async def")),
        (too_large, "spear/_x.py", "class C:\n" + textwrap.indent(LONG_FUNCTION, "    ")),
        (too_large, "spear/_x.py", WIDE_CLASS),
        (too_large, "spear/_x.py", "pass\n" * WAIVER_WITHIN + WAIVER + "late\n" + LONG_MODULE),
        (prints, "spear/wire/_x.py", "print('here')"),
        (prints, "spear/wire/_x.py", "trace = print"),
        (promises, "spear/_x.py", "pass  # TODO: more"),
        (promises, "tests/test_x.py", "# FIXME"),
        (unexplained_ignores, "spear/_x.py", "x = f()  # type: ignore"),
        (unexplained_ignores, "spear/_x.py", "x = f()  # type: ignore[misc]"),
        *((message_readers, "spear/_x.py", text) for text in READS_A_MESSAGE),
    ],
)
def test_each_rule_finds_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (too_large, "spear/_x.py", "pass\n" * MODULE_LINES),
        (too_large, "spear/_x.py", LONG_FUNCTION.replace("    pass\n", "", 1)),
        (too_large, "spear/_x.py", WAIVER + "the table is one table\n" + LONG_MODULE + WIDE_CLASS),
        (too_large, "spear/_x.py", WIDE_CLASS.replace("f0", "_f0")),
        (prints, "spear/cli/_x.py", "print('here')"),
        (prints, "spear/wire/_x.py", "self.print()"),
        (promises, "spear/_x.py", "# XXXX, todos"),
        (unexplained_ignores, "spear/_x.py", "x = f()  # type: ignore[misc]  # untyped"),
        *((message_readers, "spear/_x.py", text) for text in READS_NO_MESSAGE),
        (message_readers, "spear/config/_toml.py", "def _fault_in(error):\n    'a' in str(error)"),
    ],
)
def test_no_rule_forbids_what_is_meant_to_be(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("def f(): ...", ["f"]),
        ("async def f(): ...", ["f"]),
        ("class C: ...", ["C"]),
        ("class C:\n  '''.'''\n  def f(self): ...", ["C.f"]),
        ("class C:\n  '''.'''\n  class D: ...", ["D"]),
        ("class C:\n  '''.'''\n  @property\n  def f(self): ...", ["C.f"]),
        ("class C(Exception):\n  '''.'''\n  def f(self): ...", ["C.f"]),
        ("class B:\n  '''.'''\nclass C(B):\n  '''.'''\n  def f(self): ...", ["C.f"]),
        ("class B:\n  '''.'''\n  def f(self): '.'\nclass C(B):\n  '''.'''\n  def f(self): ...", []),
        ("class C(trio.abc.Stream):\n  '''.'''\n  def f(self): ...", []),
        ("class C:\n  '''.'''\n  @f.setter\n  def f(self, value): ...", []),
        ("def _f(): ...\nclass _C:\n  def f(self): ...", []),
        ("@overload\ndef f(): ...\ndef f(): '.'", []),
        ("def f():\n  '''.'''\n  def inner(): ...", []),
    ],
)
def test_undocumented_names_are_found(text: str, missing: list[str]) -> None:
    found = undocumented([Source("spear/_x.py", text)])
    assert [fault.rpartition(" ")[2] for fault in found] == missing


def test_guarantees_without_a_test_are_found() -> None:
    document = """
| id | what | status |
|----|------|--------|
| R1 | The parser is total | holds |
| **R2** | Tables are complete | holds, N by hand |
| R10 | A worker dies | planned |
| S1 | Sockets | Holds |
"""
    tests = [Source("tests/test_x.py", "def test_r1_whole(): ...\nasync def test_fast_s1(): ...")]
    assert promised(document) == ["R1", "R2", "S1"]
    assert unproven(document, tests) == ["R2"]


@pytest.mark.parametrize("row", ["| R1 | no header | holds |", "| id | status |\n\n| R1 | holds |"])
def test_a_guarantee_must_have_a_status(row: str) -> None:
    with pytest.raises(ValueError, match="no status in the row of R1"):
        promised(row)


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "await f()",
        "await wait_all_tasks_blocked()",
        "x = f()\n  assert x is not None\n  x.g()",
        "x = f()\n  assert isinstance(x, C)\n  x.g()",
        "helper()",
        "self.helper()",
        "subprocess.run(['true'])",
        "waiting = []",
        "raise ValueError",
    ],
)
def test_tests_that_look_at_nothing_are_found(body: str) -> None:
    helper = "def helper():\n  helper()"
    test = Source("tests/test_x.py", f"async def test_f(self):\n  {body}\n{helper}")
    assert list(blind([test])) == ["tests/test_x.py:1: test_f"]


@pytest.mark.parametrize(
    "body",
    [
        "assert f()",
        "x = f()\n  assert x is not None",
        "if x:\n    raise AssertionError",
        "with pytest.raises(ValueError):\n    f()",
        "await f.wait()",
        "await wait_until(f)",
        "subprocess.run(['true'], check=True)",
        "helper()",
        "self.helper()",
        "given()",
        "def handler():\n    assert True\n  f(handler)",
        "f()  # raises nothing",
    ],
)
def test_tests_that_look_at_something_are_not(body: str) -> None:
    imports = "from .helpers import renamed as given"
    test = f"async def test_f(self):\n  {body}\n{imports}\ndef helper():\n  given()"
    helpers = "def further():\n  assert 1\ndef renamed():\n  further()"
    found = [Source("tests/a/test_x.py", test), Source("tests/a/helpers.py", helpers)]
    assert list(blind(found)) == []
