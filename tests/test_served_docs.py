"""The examples that need a running host do what the documents show.

Two kinds of ``console`` blocks belong together; the blocks of a document run in their order:

* ``console host`` starts ``spear serve`` with the shown command, and waits until the host has printed the
  shown lines. The host runs until the next such block, or until the end of the document, and then has to
  end with status 0. A block without a command has lines that the host prints later.
* ``console session`` has commands that run one after the other, while the host runs.

A ``toml`` block whose first line is a comment with a file's name, as ``# spear.toml``, is that file from
there on. The documents show the address 127.0.0.1:8080, the directories /run/user/1000 and /home/ada, and
4711 and 4712 for numbers of processes. A test replaces them by the actual ones.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import pytest
import trio
from test_docs import DOCUMENTS, Block, normal, pattern_of, prepare, read

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 0.05

CLIENT_WARNINGS: Final = "error,ignore:unclosed <socket:ResourceWarning"
"""Client programs may leave a socket open: trio-websocket does if the host closes the WebSocket first."""

KINDS: Final = ("host", "session")
SERVED: Final = [name for name in DOCUMENTS if any(block.kind in KINDS for block in read(name)[0])]

URL: Final = re.compile(r"http://(127\.0\.0\.1:\d+)")
FILE: Final = re.compile(r"# ([\w-]+\.toml)\b")


@attrs.frozen
class Step:
    """A step of a session.

    Attributes:
        kind: "host", "session", or "file".
        command: the command, or the name of the file; None if the host prints further lines.
        output: the lines that are expected, or the text of the file.
    """

    where: str
    kind: str
    command: str | None
    output: str


def steps(blocks: list[Block]) -> Iterator[Step]:
    """Yield the steps of a document, in order."""
    for block in blocks:
        if block.language == "toml" and (found := FILE.match(block.text)):
            yield Step(str(block), "file", found[1], block.text)
        if block.language != "console" or not block.kind:
            continue
        assert block.kind in KINDS, f"{block}: unknown kind of block: {block.kind}"
        first, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        if first:
            assert block.kind == "host", f"{block}: begin with a command"
            yield Step(str(block), block.kind, None, first)
        for part in parts:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            yield Step(str(block), block.kind, command, output)


def blurred(text: str) -> str:
    """Return output without times of day, durations and amounts of memory."""
    text = re.sub(r"\b\d\d:\d\d:\d\d\.\d{3}\b", "CLOCK", text)
    text = re.sub(r"\b\d[\d.]* ?(µs|ms|s)\b", "TIME", text)
    return normal(re.sub(r"\b\d[\d.]*[KM]\b", "SIZE", text))


def in_order(text: str) -> str:
    """Return a text with its lines in alphabetical order."""
    return "".join(sorted(text.splitlines(keepends=True)))


def can_curl() -> bool:
    """Return whether curl is installed, and has the option --json (curl 7.82)."""
    if shutil.which("curl") is None:
        return False
    done = subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, check=False)
    return "--json" in done.stdout


@attrs.define
class Session:
    """A host, and the terminal in which the commands run.

    Attributes:
        actual: for each word that documents show, the word of this run.
        host: the running host, if any.
        printed: the file with the output of the host.
        read_bytes: length of the output that earlier steps have shown.
        is_draining: whether a command has made the host end.
    """

    directory: Path
    environment: dict[str, str]
    actual: dict[str, str]
    host: trio.Process | None = None
    printed: Path = attrs.field(init=False)
    read_bytes: int = 0
    is_draining: bool = False

    def __attrs_post_init__(self) -> None:
        self.printed = self.directory / "host.txt"

    def translated(self, text: str) -> str:
        """Return a text of the document with the words of this run."""
        for shown, actual in self.actual.items():
            text = re.sub(rf"\b{re.escape(shown)}\b", actual, text)
        return text

    def explains(self, shown: str, output: str) -> bool:
        """Return whether the output is as shown; remember the numbers of its processes."""
        pattern = pattern_of(blurred(self.translated(shown)))
        pattern = re.sub(r"\b47\d\d\b", r"(?P<pid\g<0>>\\d+)", pattern)
        found = re.fullmatch(pattern, blurred(output))
        if found is None:
            return False
        self.actual.update({name[3:]: value for name, value in found.groupdict().items()})
        return True

    async def run(self, step: Step) -> str:
        """Run one step; return what is wrong, or ""."""
        if step.kind == "session":
            return await self._ask(step)
        if step.kind == "file":
            assert step.command is not None
            (self.directory / step.command).write_text(step.output, encoding="utf-8")
            return ""
        if step.command is not None:
            await self.stop()
            await self._serve(step.command)
        return await self._expect_of_host(step)

    async def _ask(self, step: Step) -> str:
        assert step.command is not None
        command = self.translated(step.command)
        if command.startswith("curl ") and not can_curl():
            return ""
        self.is_draining = command.startswith("spear drain")
        output = ""
        # A reader takes seconds for what takes a moment here, so tables are shown until they are right.
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                output = await self._output(command)
                if self.explains(step.output, output):
                    return ""
                if not command.startswith(("spear ps", "spear logs")):
                    break
                await trio.sleep(LOOK_SECONDS)
        return f"{step.where}: $ {command}\n{output}"

    async def _output(self, command: str) -> str:
        with tempfile.TemporaryFile() as file:  # a pipe would be held by commands in the background
            await trio.run_process(
                ["/bin/sh", "-c", command],
                cwd=self.directory,
                env={**self.environment, "PYTHONWARNINGS": CLIENT_WARNINGS},
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
            file.seek(0)
            return file.read().decode()

    async def _serve(self, command: str) -> None:
        self.read_bytes, self.is_draining = 0, False
        with self.printed.open("wb") as file:
            self.host = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env={**self.environment, "SPEAR_LISTEN": "127.0.0.1:0"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    async def _expect_of_host(self, step: Step) -> str:
        output = ""
        with trio.move_on_after(PATIENCE_SECONDS):
            while True:
                whole = self.printed.read_bytes()
                output = whole[self.read_bytes :].decode()
                if found := URL.search(output):
                    self._listens_at(found[1])
                # Lines about deployments come in the order in which these are ready.
                if self.explains(step.output, output) or self.explains(
                    in_order(step.output), in_order(output)
                ):
                    self.read_bytes = len(whole)
                    return ""
                await trio.sleep(LOOK_SECONDS)
        return f"{step.where}: the host has printed\n{output}"

    def _listens_at(self, address: str) -> None:
        """Write the address of the host into the files of the document."""
        before = self.actual.get("127.0.0.1:8080", "127.0.0.1:8080")
        self.actual["127.0.0.1:8080"] = address
        for path in self.directory.glob("*.py"):
            text = path.read_text(encoding="utf-8")
            if before in text:
                path.write_text(text.replace(before, address), encoding="utf-8")

    async def stop(self) -> None:
        """Stop the host, which drains, unless a command has drained it."""
        if self.host is not None:
            if not self.is_draining:
                self.host.terminate()
            with trio.fail_after(PATIENCE_SECONDS):
                assert await self.host.wait() == 0, self.printed.read_text(encoding="utf-8")
            self.host = None

    async def kill(self) -> None:
        """Kill a host that still runs, and with it its processes."""
        if self.host is not None:
            self.host.kill()
            with trio.CancelScope(shield=True):
                await self.host.wait()


def prepare_session(directory: Path, runtime: Path, blocks: list[Block]) -> Session:
    """Write the files of a document, and return the session that runs its commands."""
    environment = prepare(directory, blocks)
    (directory / ".curlrc").write_text("silent\nshow-error\n", encoding="utf-8")
    environment |= {"XDG_RUNTIME_DIR": str(runtime), "CURL_HOME": str(directory)}
    places = {"run/user/1000": str(runtime)[1:], "home/ada": str(directory)[1:]}
    return Session(directory, environment, places)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory for sockets, whose paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="docs-") as name:
        yield Path(name)


async def walk(session: Session, blocks: list[Block]) -> str:
    """Run the steps of a document until one goes wrong; return what is wrong, or ""."""
    try:
        for step in steps(blocks):
            if fault := await session.run(step):
                return fault
        await session.stop()
    finally:
        await session.kill()
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
async def test_hosts_and_their_callers_do_what_is_shown(
    name: str, tmp_path: Path, runtime: Path
) -> None:
    blocks, _ = read(name)
    fault = await walk(prepare_session(tmp_path, runtime, blocks), blocks)
    assert not fault, fault


def test_the_tutorial_kills_a_process_and_calls_again() -> None:
    shown = list(steps(read("docs/tutorial.md")[0]))
    kill = next(n for n, each in enumerate(shown) if each.command == "kill -9 4711")
    assert any((each.command or "").startswith("curl ") for each in shown[kill:])


def document(text: str) -> list[Block]:
    """Return the blocks of a document that serves one function, and has further text."""
    file = "# one.py\nimport spear\n\napp = spear.Agent()\n\n"
    file += "\n@app.function\ndef two() -> int:\n    return 2\n"
    host = "$ spear serve one.py\none: two (1 instance)\n...\n"
    return [
        Block("x.md", 1, "python", file),
        Block("x.md", 9, "console", host, "host"),
        Block("x.md", 20, "console", text, "session"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("$ spear invoke two\n2\n", ""),
        ("$ spear invoke two\n3\n", "x.md:20: $ spear invoke two\n2\n"),
        ("$ echo 4711 \\\n    5\n4711 5\n$ echo 4711\n4711\n", ""),
    ],
)
async def test_a_session_that_does_something_else_is_found(
    text: str, fault: str, tmp_path: Path, runtime: Path
) -> None:
    blocks = document(text)
    assert await walk(prepare_session(tmp_path, runtime, blocks), blocks) == fault


def test_numbers_of_processes_are_learned() -> None:
    session = Session(Path(), {}, {})
    assert session.explains("a 4711 2s 31M\n...\n", "a 99  40ms 8.5M\nb\n")
    assert session.translated("kill -9 4711") == "kill -9 99"
    assert not session.explains("a 4711\n", "a 98\n")
    assert session.explains("a 4711 4712\n", "a 99 98\n")


def test_a_block_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"x\.md:1: unknown kind of block: hosts"):
        list(steps([Block("x.md", 1, "console", "$ spear serve\n", "hosts")]))
