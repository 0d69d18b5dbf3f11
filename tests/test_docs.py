"""The documents are correct: their examples run, and names and links in them exist.

The form of examples in docs/*.md, docs/how-to/*.md and README.md:

* A ``python`` block whose first line is a comment with a file's name, as ``# shop.py``, is that file. The
  examples of one document share a directory, which also has the project's ``examples``.
* A ``console`` block has commands behind ``$``, each followed by its output on stdout and stderr. A line
  ``...`` stands for any lines; seconds and process numbers may differ. No command depends on the effects
  of another one.
* A ``console`` block with a further word belongs to a running host: see ``tests/test_served_docs.py``.
* Any other ``python`` block that calls ``trio.run`` is run and must not fail; the rest is compiled.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import importlib
import inspect
import os
import re
import sys
import typing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio
import trio.testing
from entry_points import install_own_plugin
from preloaded import preloaded

import spear

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = {
    path.relative_to(ROOT).as_posix(): path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if path.exists()
}

PACKAGES: Final = (
    "spear", "spear.agent", "spear.calls", "spear.channels", "spear.gateway", "spear.runtimes",
    "spear.spearlet", "spear.telemetry", "spear.testing", "spear.transports", "spear.wire",
)  # fmt: skip
"""Packages with public names."""

RULES: Final = ROOT / "deploy" / "prometheus" / "spear.rules.yml"
ALERTS: Final = set(re.findall(r"alert: (\w+)", RULES.read_text(encoding="utf-8")))

FOREIGN: Final = {"BdbQuit", "GitHub", *dir(builtins), *dir(typing), *dir(collections.abc), *ALERTS}
"""Names in the documents that are no names in Spear's code."""

KINDS: Final = {
    found
    for folder, pattern in (
        ("gateway", r'"((?:[A-Z][a-z]+){2,})"'),
        ("cli", r"^class (\w+)\(SpearError\)"),
    )
    for path in (ROOT / "spear" / folder).glob("*.py")
    for found in re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
}
"""Error names and the like that exist only over HTTP, or only in JSON of the command."""

FILES: Final = {"spear.batch", "spear.describe", "spear.service", "spear.toml"}
"""Files, and a function of agents, whose names look like parts of the package."""

FENCE = re.compile(r"( *)(`{3,})([\w-]*)(.*)")
FILE_NAME = re.compile(r"# ([\w-]+\.py)\b")
RUNNABLE = re.compile(r"(^|\| )(spear (call|stubs|--)|python [\w-]+\.py|python -m pytest )")
HEADING = re.compile(r"#+ (.*)")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")


@attrs.frozen
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str
    kind: str = ""
    """The word behind the language."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that a Python block is, or None."""
        found = FILE_NAME.match(self.text) if self.language == "python" else None
        return found[1] if found else None

    @property
    def is_program(self) -> bool:
        """Whether the block is run unchanged."""
        return self.language == "python" and not self.file and "\ntrio.run(" in self.text


@attrs.frozen
class Command:
    """A command and its expected output; None if only its success matters."""

    where: str
    line: str
    output: str | None


def parse(name: str, text: str) -> tuple[list[Block], str]:
    """Return the fenced blocks of a document, and the text around them."""
    blocks: list[Block] = []
    prose: list[str] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if not (fence := FENCE.fullmatch(line)):
            prose.append(line)
            continue
        indent, ticks, language, kind = fence.groups()
        inside: list[str] = []
        for _, each in lines:
            if each.strip() == ticks:
                break
            inside.append(each.removeprefix(indent))
        else:
            raise ValueError(f"{name}:{number}: a block without an end")
        text = "".join(f"{each}\n" for each in inside)
        blocks.append(Block(name, number, language, text, kind.strip()))
    return blocks, "\n".join(prose)


@cache
def read(name: str) -> tuple[list[Block], str]:
    return parse(name, DOCUMENTS[name].read_text(encoding="utf-8"))


# -- examples -----------------------------------------------------------------------------------


def commands(blocks: list[Block]) -> Iterator[Command]:
    """Yield the commands to run."""
    for block in blocks:
        if block.is_program:
            yield Command(str(block), f"python block_{block.line}.py", None)
        elif block.language == "console" and not block.kind:
            first, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
            assert not first, f"{block}: a console block must begin with a command"
            for part in parts:
                line, _, output = part.partition("\n")
                if RUNNABLE.search(line):
                    yield Command(str(block), line, output)


def normal(output: str) -> str:
    """Return output without its variable parts: durations, process numbers, widths of columns."""
    output = re.sub(r"\d[\d.]* ?(ms|s)\b", r"N \1", output)
    output = re.sub(r"pid \d+", "pid N", output)
    return "".join(" ".join(line.split()) + "\n" for line in output.splitlines())


def pattern_of(shown: str) -> str:
    """Return the pattern of outputs that the document shows."""
    return "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n"
        for line in normal(shown).splitlines()
    )


def matches(shown: str, output: str) -> bool:
    """Return whether the output of a command is the one that the document shows."""
    return re.fullmatch(pattern_of(shown), normal(output)) is not None


def prepare(directory: Path, blocks: list[Block]) -> dict[str, str]:
    """Write the files that a document shows; return the environment for its commands."""
    for block in blocks:
        if name := block.file or (block.is_program and f"block_{block.line}.py"):
            assert not (directory / name).exists(), f"{block}: two blocks have the name {name}"
            (directory / name).write_text(block.text, encoding="utf-8")
    (directory / "examples").symlink_to(ROOT / "examples")
    installed = directory / "installed"
    installed.mkdir()
    install_own_plugin(installed)
    programs = directory / "bin"
    programs.mkdir()
    for name, command in (("python", ""), ("spear", "-m spear.cli ")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {command}"$@"\n', encoding="utf-8")
        program.chmod(0o755)
    path = f"{ROOT}{os.pathsep}{installed}"
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    # Other tests cover the commands; measuring coverage here would take twice the time.
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    return environment


async def fault(command: Command, directory: Path, environment: dict[str, str]) -> str:
    """Return what is wrong with a command's result, or "" if it matches the document."""
    run = await trio.run_process(
        ["/bin/sh", "-c", command.line],
        cwd=directory,
        env=environment,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    out, err = run.stdout.decode(), run.stderr.decode()
    if command.output is None:
        is_right = run.returncode == 0
    else:  # their order on a terminal is not defined
        is_right = any(matches(command.output, each) for each in (err + out, out + err))
    return "" if is_right else f"{command.where}: $ {command.line}\n{err}{out}"


NEEDED: Final = {
    "joblib": ["joblib"],
    "numpy": ["numpy"],
    "pandas": ["pandas", "pyarrow"],
    "sklearn": ["sklearn"],
}
"""The packages that examples need, by what they import; not all are there under each Python."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if list(commands(read(name)[0]))])
async def test_examples_do_what_they_show(name: str, tmp_path: Path) -> None:
    blocks, _ = read(name)
    for imported, packages in NEEDED.items():
        if any(re.search(rf"(import|from) {imported}\b", each.text) for each in blocks):
            for package in packages:
                pytest.importorskip(package, reason=f"{package} is not installed")
    environment = prepare(tmp_path, blocks)
    faults: list[str] = []
    limiter = trio.CapacityLimiter(os.cpu_count() or 1)

    async def check(command: Command) -> None:
        async with limiter:
            faults.append(await fault(command, tmp_path, environment))

    with preloaded(tmp_path / "bin", environment):
        async with trio.open_nursery() as nursery:
            for command in commands(blocks):
                nursery.start_soon(check, command)
    assert not any(faults), "\n".join(filter(None, faults))


async def test_the_caller_that_tries_again_obeys_the_time_it_is_told_and_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    (block,) = (each for each in read("docs/deploying.md")[0] if "async def patiently" in each.text)
    namespace: dict[str, object] = {}
    exec(block.text, namespace)
    patiently = namespace["patiently"]
    assert callable(patiently)
    begun, tries = trio.current_time(), list[float]()

    async def refuse() -> None:
        tries.append(trio.current_time() - begun)
        await trio.lowlevel.checkpoint()
        raise spear.Overloaded("not now", retry_after_seconds=7)

    with pytest.raises(spear.Overloaded):
        await patiently(refuse)
    assert tries == pytest.approx(list(range(0, 60, 7)))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_blocks_are_python(name: str) -> None:
    for block in read(name)[0]:
        if block.language == "python":
            assert compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_calls_are_shown_where_they_are_checked(name: str) -> None:
    stray = [
        f"{block}: {line}: put it into a console block"
        for block in read(name)[0]
        if block.language not in ("console", "python")
        for line in block.text.splitlines()
        if re.match(r"(\$ )?spear call\b", line)
    ]
    assert not stray, "\n".join(stray)


@pytest.mark.parametrize(
    ("shown", "output", "expected"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("a\nb\n", "a\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nd\n", True),
        ("a\n...\nd\n", "a\nb\n", False),
        ("took 0.2 s\n", "took 0.201 s\n", True),
        ("took 0.2 s\n", "took 2 minutes\n", False),
        ("  1.5 ms  is pid 7\n", "12.25 ms is pid 4711 \n", True),
        ("(x)\n", "x\n", False),
    ],
)
def test_output_is_compared(shown: str, output: str, *, expected: bool) -> None:
    assert matches(shown, output) is expected


def test_an_example_that_does_something_else_is_found(tmp_path: Path) -> None:
    text = "```python\n# one.py\nprint(1)\n```\n\n```console\n$ python one.py\n2\n```\n"
    blocks, prose = parse("x.md", text)
    assert prose == ""
    (command,) = commands(blocks)
    found = trio.run(fault, command, tmp_path, prepare(tmp_path, blocks))
    assert found == "x.md:6: $ python one.py\n1\n"


# -- names --------------------------------------------------------------------------------------


@cache
def public_classes() -> dict[str, type]:
    return {
        name: thing
        for package in map(importlib.import_module, PACKAGES)
        for name in dir(package)
        if name[0] != "_" and inspect.isclass(thing := getattr(package, name))
    }


@cache
def loggers() -> frozenset[str]:
    """Return the names of Spear's loggers."""
    return frozenset(
        found
        for path in (ROOT / "spear").rglob("*.py")
        for found in re.findall(r'getLogger\("([\w.]+)"\)', path.read_text(encoding="utf-8"))
    )


def resolves(name: str) -> bool:
    """Return whether ``spear.a.b`` can be imported, or is a logger."""
    if name in loggers():
        return True
    thing: object = spear
    path = "spear"
    for part in name.split(".")[1:]:
        path += f".{part}"
        try:
            thing = getattr(thing, part)
        except AttributeError:
            try:
                thing = importlib.import_module(path)
            except ImportError:
                return False
    return True


def has(cls: type, attribute: str) -> bool:
    """Return whether objects of a class have an attribute, by definition or by documentation."""
    documented = rf"^ +(\w+, )*{attribute}(, \w+)*:"
    return (
        hasattr(cls, attribute)
        or (attrs.has(cls) and attribute in attrs.fields_dict(cls))
        or any(
            re.search(documented, base.__doc__ or "", re.MULTILINE) is not None
            for base in cls.__mro__
        )
    )


def unknown_names(prose: str) -> Iterator[str]:
    """Yield names that the text uses like Spear's and that do not exist."""
    classes = public_classes()
    for code in CODE.findall(prose):
        if found := re.match(r"(spear(?:\.[a-zA-Z_]\w*)+)(?![.\w])", code):
            if not resolves(found[1]) and found[1] not in FILES:
                yield code
        elif found := re.match(r"([A-Z][a-z]+\w*)\.([a-z_]\w*)", code):
            if found[1] in classes and not has(classes[found[1]], found[2]):
                yield code
        elif found := re.fullmatch(r"((?:[A-Z][a-z]+){2,})(\(.*\))?", code):
            if found[1] not in classes and found[1] not in FOREIGN | KINDS:
                yield code
        elif found := re.fullmatch(r"((?:spear|tests|docs|examples|bench)/[\w./*-]+\.\w+)", code):
            if not list(ROOT.glob(found[1])):
                yield code
        elif (found := re.fullmatch(r"make ([\w-]+).*", code)) and not re.search(
            rf"^{found[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        ):
            yield code


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_exist(name: str) -> None:
    assert list(unknown_names(read(name)[1])) == []


@pytest.mark.parametrize(
    ("code", "is_known"),
    [
        ("spear.open_spearlet", True),
        ("spear.open_spearlets", False),
        ("spear.channels.open_connection_manager()", True),
        ("spear.channels.nothing", False),
        ("spear.context().metadata", True),
        ("spear.instances", True),
        ("spear.function.<name>", True),
        ("Spearlet.deploy", True),
        ("Spearlet.undeploy()", False),
        ("Execution.status", True),
        ("Execution.state", False),
        ("WireLimits.max_calls", True),
        ("ChannelBroken", True),
        ("ChannelBrooken", False),
        ("KeyError", True),
        ("spear/_limits.py", True),
        ("spear/_limit.py", False),
        ("make test", True),
        ("make tset", False),
    ],
)
def test_names_that_do_not_exist_are_found(code: str, *, is_known: bool) -> None:
    assert list(unknown_names(f"See `{code}`.")) == ([] if is_known else [code])


# -- links --------------------------------------------------------------------------------------


def anchors(prose: str) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    found = (HEADING.fullmatch(line) for line in prose.splitlines())
    titles = (re.sub(r"[^\w\- ]", "", each[1].lower()) for each in found if each)
    return {title.replace(" ", "-") for title in titles}


def broken_links(name: str, prose: str) -> Iterator[str]:
    for link in LINK.findall(prose):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists():
            yield link
        elif anchor and target.suffix == ".md":
            text = prose if not path else parse(path, target.read_text(encoding="utf-8"))[1]
            if anchor not in anchors(text):
                yield link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken_links(name, read(name)[1])) == []


@pytest.mark.parametrize(
    ("link", "is_good"),
    [
        ("docs/design.md", True),
        ("docs/designs.md", False),
        ("#the-end-of-it", True),
        ("#the-end", False),
        ("CONTRIBUTING.md#rules-of-the-house", True),
        ("CONTRIBUTING.md#rules", False),
        ("https://example.org/", True),
    ],
)
def test_links_that_lead_nowhere_are_found(link: str, *, is_good: bool) -> None:
    prose = f"## The end, of it!\n[here]({link})"
    assert list(broken_links("README.md", prose)) == ([] if is_good else [link])


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    documents = {name.removeprefix("docs/") for name in DOCUMENTS if name.startswith("docs/")}
    assert documents - {"README.md"} <= set(LINK.findall(index))


# -- tables -------------------------------------------------------------------------------------


def rows(document: str, *columns: str) -> Iterator[list[str]]:
    """Yield the rows of the table that has these columns."""
    inside = False
    for line in read(document)[1].splitlines():
        cells = [cell.strip(" `") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif tuple(cells) == columns:
            inside = True
        elif inside and not set(line) <= set("|-: "):
            yield cells


def shown(name: str, value: float) -> str:
    """Return a limit in the notation of the documents."""
    if name.endswith(("_bytes", "_in_flight")):
        unit, size = ("MiB", 1 << 20) if value >= 1 << 20 else ("KiB", 1 << 10)
        return f"{value / size:g} {unit}"
    if name.endswith("_per_second"):
        return f"{value:,.0f} a second"
    return f"{value:g} s" if name.endswith("_seconds") else f"{value:,}"


def test_the_tables_of_limits_are_those_of_the_code_in_their_order() -> None:
    table = [row[:2] for row in rows("docs/guarantees.md", "limit", "default", "bounds")]
    limits = attrs.asdict(spear.HostLimits())
    defaults = {**limits.pop("wire"), **limits.pop("timeouts"), **limits}
    assert table == [[name, shown(name, value)] for name, value in defaults.items()]


@pytest.mark.parametrize(
    ("setting", "settings"),
    [
        ("setting of a deployment", spear.DeploymentSettings),
        ("setting of a process", spear.ProcessSettings),
    ],
)
def test_the_tables_of_settings_have_every_setting_in_order(setting: str, settings: type) -> None:
    assert attrs.has(settings)
    table = [row[0] for row in rows("docs/hosting.md", setting, "default", "meaning")]
    assert table == [each.name for each in attrs.fields(settings)]


@pytest.mark.parametrize(
    ("option", "method"),
    [
        ("option of deploy()", spear.Spearlet.deploy),
        ("option of a call", spear.Function.options),
    ],
)
def test_the_tables_of_options_have_every_option_in_order(option: str, method: object) -> None:
    assert callable(method)
    table = [row[0] for row in rows("docs/hosting.md", option, "default", "meaning")]
    parameters = inspect.signature(method).parameters.values()
    assert table == [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def test_the_figures_of_the_readme_are_those_of_the_benchmark() -> None:
    measured = list(
        rows("docs/performance.md", "what", "against", "ours", "theirs", "ratio", "bound")
    )
    assert not [row for row in measured if row[-1].startswith("not measured")]
    known = {(row[2], row[3], row[4].partition(" ")[0]) for row in measured}
    figures = list(rows("README.md", "what", "against", "ours", "theirs", "ratio"))
    assert len(figures) > 5
    assert [row for row in figures if tuple(row[2:]) not in known] == []


PROMISE = re.compile(r"^\*\*([RS]\d+)\.\*\* .+?(?=^\*\*[RS]\d|^#|\Z)", re.MULTILINE | re.DOTALL)


def guarantees() -> Iterator[tuple[str, str, str]]:
    """Yield (id, status, description) of each promise."""
    described = {found[1]: found[0] for found in PROMISE.finditer(read("docs/guarantees.md")[1])}
    listed = list(rows("docs/guarantees.md", "id", "subject", "status"))
    assert [row[0] for row in listed] == list(described)
    for name, _, status in listed:
        yield name, status, described[name]


def test_a_guarantee_has_a_figure_and_names_files_that_have_its_tests() -> None:
    faults = []
    for name, status, description in guarantees():
        promise, figure, tests = re.split(
            r"^\* (?=Figure:|Tests:)", description, flags=re.MULTILINE
        )
        assert promise.strip()
        assert figure.startswith("Figure: ")
        files = re.findall(r"tests/[\w./]+\.py", tests)
        for file in files:
            text = (ROOT / file).read_text(encoding="utf-8")
            if not re.search(rf"def test_(\w+_)?{name.lower()}(_|\()", text):
                faults.append(f"{name}: no test of that name in {file}")
        if status.startswith("holds") and not files:
            faults.append(f"{name} has the status holds, but names no file with a test")
    assert not faults, "\n".join(faults)


# -- the document about security ----------------------------------------------------------------

SECTIONS: Final = {
    "What there is to protect": ("The host", "Each instance", "Secrets", "Callers"),
    "Who is trusted": (
        "host",
        "instance",
        "Other processes of the same user",
        "Other users",
        "sandbox",
    ),
    "What protects it": ("| against |", "HTTP gateway"),
    "Choices of yours that weaken it": ("`debug=True`", "`environment_handover=True`"),
    "What is no vulnerability": ("* A function that",),
    "Reporting": ("private",),
}
"""The sections of the document about security, with the subject of each."""


def unsafe_words(document: str, held: set[str]) -> Iterator[str]:
    """Yield what the document about security lacks, and claims in it without a guarantee that holds."""
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", document, re.MULTILINE))
    for section, topics in SECTIONS.items():
        for topic in topics:
            if topic not in sections.get(section, ""):
                yield f"{section}: nothing about {topic}"
    for line in sections.get("What protects it", "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("against", "---"):
            continue
        ids = re.findall(r"\b[RS]\d+\b", cells[2]) if len(cells) == 3 else []
        if not ids:
            yield f"no guarantee is named against {cells[0]}"
        yield from (f"{each} does not hold, against {cells[0]}" for each in ids if each not in held)
    named = set(re.findall(r"\bS\d+\b", document))
    yield from (f"{each} is not spoken of" for each in sorted(held - named) if each[0] == "S")


def held_guarantees() -> set[str]:
    return {name for name, status, _ in guarantees() if status.startswith("holds")}


def test_s16_security_says_who_is_trusted_and_each_protection_has_a_guarantee_that_holds() -> None:
    document = DOCUMENTS["docs/security.md"].read_text(encoding="utf-8")
    assert list(unsafe_words(document, held_guarantees())) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("## Who is trusted", "## Who", "Who is trusted: nothing about host"),
        ("* **Callers**", "* ", "What there is to protect: nothing about Callers"),
        (
            "* A function that",
            "* What",
            "What is no vulnerability: nothing about * A function that",
        ),
        ("| S4 |", "| |", "no guarantee is named against slow or silent clients"),
        ("| S4 |", "| S99 |", "S99 does not hold, against slow or silent clients"),
        ("S10", "S9", "S10 is not spoken of"),
        ("| S13 |", "|", "no guarantee is named against a web page"),
    ],
)
def test_s16_what_security_does_not_say_is_found(old: str, new: str, fault: str) -> None:
    document = DOCUMENTS["docs/security.md"].read_text(encoding="utf-8")
    assert old in document
    broken = document.replace(old, new)
    assert any(each.startswith(fault) for each in unsafe_words(broken, held_guarantees()))
