"""Pages of docs/how-to/ that need more than their commands: servers, notebooks, units, containers.

``tests/test_docs.py`` runs the commands that the pages show. Here their programs run under the servers
that the pages name, with real clients.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio
from test_docs import prepare, read

import spear

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.slow

PATIENCE_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.05


def page(name: str) -> str:
    return f"docs/how-to/{name}.md"


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait for an effect in another process."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def served(name: str, directory: Path, *command: str) -> AsyncIterator[str]:
    """Run a server with the programs of a page, at any free port; give its address."""
    environment = prepare(directory, read(page(name))[0])
    environment |= {"PYTHONWARNINGS": "default", "HOME": str(directory)}
    printed = directory / "server.txt"
    with printed.open("wb") as file:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", *command],
            cwd=directory,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        found: list[str] = []

        def listens() -> bool:
            text = printed.read_text(encoding="utf-8")
            assert process.poll() is None, text
            found[:] = re.findall(r"https?://127\.0\.0\.1:[1-9]\d*", text)
            return bool(found)

        await wait_until(listens)
        yield found[-1]
        process.terminate()
        with trio.fail_after(PATIENCE_SECONDS):
            await process.wait()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    assert "Traceback" not in printed.read_text(encoding="utf-8")


async def get(url: str) -> tuple[int, str]:
    """Return the status and the body of a response."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await trio.to_thread.run_sync(ask)


async def check_that_a_disconnect_cancels(url: str, directory: Path, path: str) -> None:
    """Send a request whose function has a draft, disconnect, and see the draft removed."""
    draft = directory / "bob.draft"
    port = int(url.rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await wait_until(draft.exists)
    await wait_until(lambda: not draft.exists())


async def test_fastapi_on_uvicorn(tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    async with served("fastapi", tmp_path, "uvicorn", "web:app", "--port", "0") as url:
        assert await get(f"{url}/reports/ada") == (200, '"report for ada"')
        assert await get(f"{url}/lines?count=2") == (200, "line 0\nline 1\n")
        await check_that_a_disconnect_cancels(url, tmp_path, "/reports/bob?seconds=3600")
        status, body = await get(f"{url}/reports/{'x' * 300}")  # too long for the name of a file
        assert (status, "File name too long" in body) == (502, True)


async def test_fastapi_on_hypercorn_with_trio(tmp_path: Path) -> None:
    for package in ("fastapi", "hypercorn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    command = "hypercorn -k trio web_trio:app --bind 127.0.0.1:0"
    async with served("fastapi", tmp_path, *shlex.split(command)) as url:
        assert await get(f"{url}/reports/ada") == (200, '"report for ada"')
        await check_that_a_disconnect_cancels(url, tmp_path, "/reports/bob?seconds=3600")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("flask", "flask --app web run --port 0"),
        ("gunicorn", "gunicorn web:create_app() --threads 8 --bind 127.0.0.1:0"),
    ],
)
async def test_flask(tmp_path: Path, package: str, command: str) -> None:
    for each in ("flask", package):
        pytest.importorskip(each, reason=f"{each} is not installed")
    async with served("flask", tmp_path, *shlex.split(command)) as url:
        assert await get(f"{url}/reports/ada") == (200, "report for ada")
        await check_that_a_disconnect_cancels(url, tmp_path, "/ticks/bob")
        status, body = await get(f"{url}/reports/%20?")
        assert (status, body) == (200, "report for  ")


def test_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cells = [
        each
        for each in read(page("jupyter"))[0]
        if each.language in ("python", "text") and not each.file
    ]
    environment = prepare(tmp_path, read(page("jupyter"))[0])
    inputs = [each.text for each in cells if each.language == "python"]
    program = tmp_path / "run_notebook.py"
    program.write_text(NOTEBOOK, encoding="utf-8")
    environment |= {"PYTHONWARNINGS": "ignore", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, program.name],
        input=repr(inputs),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = [each.text for each in cells if each.language == "text"]
    assert eval(done.stdout) == shown


NOTEBOOK: Final = """
import ast, sys
import nbclient, nbformat

book = nbformat.v4.new_notebook()
book.cells = [nbformat.v4.new_code_cell(each) for each in ast.literal_eval(sys.stdin.read())]
nbclient.NotebookClient(book, timeout=30).execute()
print([
    one.get("text") or one["data"]["text/plain"] + "\\n"
    for cell in book.cells for one in cell.outputs
])
"""
"""A program that runs the cells of a notebook in a kernel, and prints their outputs."""


# -- programs, units, containers --------------------------------------------------------------


async def test_a_program_ends_with_its_call(tmp_path: Path) -> None:
    """A cancelled call kills the program; the page shows this only by its error."""
    prepare(tmp_path, read(page("programs"))[0])
    file = tmp_path / "tools.py"
    text = file.read_text(encoding="utf-8")
    marked = text.replace('CONVERT = "', 'CONVERT = "echo $$ > pid; exec sleep 3600; ')
    assert marked != text
    file.write_text(marked, encoding="utf-8")
    settings = spear.ProcessSettings(target=str(file), working_directory=str(tmp_path))
    pid = tmp_path / "pid"
    async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
        tools = await spearlet.deploy(settings)
        nursery.start_soon(tools.convert, 3600)
        await wait_until(lambda: pid.exists() and pid.read_text())
        process = Path("/proc", pid.read_text().strip())
        assert process.exists()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_until(lambda: not process.exists())


def block_of(name: str, language: str) -> str:
    """Return the only block of a page in a language."""
    (found,) = (each.text for each in read(page(name))[0] if each.language == language)
    return found


def write_configuration(name: str, directory: Path) -> dict[str, str]:
    """Write the files of a page; return the environment for commands in this directory."""
    environment = prepare(directory, read(page(name))[0])
    (directory / "spear.toml").write_text(block_of(name, "toml"), encoding="utf-8")
    return environment


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    write_configuration("systemd", tmp_path)
    text = block_of("systemd", "ini")
    programs = f"{tmp_path}/bin/spear"
    unit = tmp_path / "spear.service"
    unit.write_text(text.replace("/opt/spear/bin/spear", programs), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, str(unit) in done.stderr) == (0, False), done.stderr
    unit.write_text(text, encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "/opt/spear/bin/spear is not executable" in done.stderr  # it does look


async def test_the_commands_of_the_unit_serve(tmp_path: Path) -> None:
    pattern = r"^Exec\w+=/opt/spear/bin/spear (.*)$"
    commands = re.findall(pattern, block_of("systemd", "ini"), re.MULTILINE)
    assert commands == ["serve --check", "serve"]
    await check_commands("systemd", tmp_path, commands)


async def test_the_commands_of_the_container_serve(tmp_path: Path) -> None:
    """The steps of the Dockerfile run without a container.

    Not run are FROM and USER, and RUN lines that install packages or add users.
    """
    steps = [line.split(" ", 1) for line in block_of("docker", "dockerfile").splitlines()[1:]]
    assert [name for name, _ in steps] == [
        "FROM", "COPY", "RUN", "RUN", "USER", "WORKDIR", "COPY", "RUN", "EXPOSE", "HEALTHCHECK", "CMD",
    ]  # fmt: skip
    copied = [each[1].split()[:-1] for each in steps if each[0] == "COPY"]
    assert copied == [["spearlet-*.whl"], ["spear.toml", "shop.py"]]
    assert all((tmp_path / name).exists() is False for name in copied[1])
    run = [
        text.removeprefix("spear ")
        for name, text in steps
        if name == "RUN" and "spear serve" in text
    ]
    (start,) = (json.loads(text) for name, text in steps if name == "CMD")
    (look,) = (text.partition(" CMD ")[2] for name, text in steps if name == "HEALTHCHECK")
    await check_commands("docker", tmp_path, [*run, " ".join(start[1:])], look)
    done = await trio.run_process(
        ["bin/spear", *start[1:], "--check"], cwd=tmp_path, capture_stderr=True, check=False
    )
    assert (done.returncode, b"token" in done.stderr) == (2, True)


def test_the_image_finds_the_wheel_and_its_extra(tmp_path: Path) -> None:
    (tmp_path / "spearlet-0.1.0-py3-none-any.whl").touch()
    (install,) = re.findall(
        r"pip install --no-cache-dir (.+)$", block_of("docker", "dockerfile"), re.MULTILINE
    )
    command = f"printf %s {install}".replace("/tmp/", f"{tmp_path}/")
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert found == f"{tmp_path}/spearlet-0.1.0-py3-none-any.whl[http]"


async def check_commands(name: str, directory: Path, commands: list[str], look: str = "") -> None:
    """Run the check and the host of a page; see the host become ready, and end with status 0."""
    environment = write_configuration(name, directory)
    check, serve = (["bin/spear", *each.split()] for each in commands)
    with tempfile.TemporaryDirectory(prefix="how-") as runtime:
        environment |= {"XDG_RUNTIME_DIR": runtime}
        done = await trio.run_process(check, cwd=directory, env=environment, capture_stdout=True)
        assert done.stdout == b"no faults found: 1 deployment\n"
        environment["SPEAR_LISTEN"] = "127.0.0.1:0"
        process = await trio.lowlevel.open_process(
            serve, cwd=directory, env=environment, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            with trio.fail_after(PATIENCE_SECONDS):
                printed = b""
                while b"control socket" not in printed:
                    printed += await process.stdout.receive_some()
            assert b"shop: price (1 instance)" in printed
            if look:
                (url,) = re.findall(r"http://127\.0\.0\.1:\d+", printed.decode())
                command = look.replace("http://127.0.0.1:8080", url)
                assert command != look
                await trio.run_process(["/bin/sh", "-c", command], cwd=directory, env=environment)
            process.terminate()
            with trio.fail_after(PATIENCE_SECONDS):
                assert await process.wait() == 0
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
