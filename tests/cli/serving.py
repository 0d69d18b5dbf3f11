"""Helpers that run ``spear serve``, and send requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .helpers import COMMAND, PATIENCE_SECONDS, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TILL = '''"""Functions that tests hold and let go: till.py."""

import os
import sys
from collections.abc import AsyncIterator

import trio

import spear

app = spear.Agent("till")
COUNT = 0


@app.function
async def greet(name: str = "you") -> str:
    """Say hello."""
    return f"{GREETING} {name}"


@app.function
def hold(path: str) -> str:
    """Wait until somebody writes to a pipe."""
    print("holding", flush=True)
    with open(path) as pipe:
        return pipe.read()


@app.function
async def count() -> int:
    global COUNT
    COUNT += 1
    return COUNT


@app.function
async def ticks(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number


@app.function
async def endless() -> AsyncIterator[str]:
    while True:
        yield "tick"
        await trio.sleep(0.01)


@app.function
async def say(text: str) -> None:
    print(text)
    print("again", text, file=sys.stderr)


@app.function
async def chatter(lines: int) -> None:
    for number in range(lines):
        print("line", number)


@app.function
def total(items: spear.Items[int]) -> int:
    return sum(items)


@app.function
async def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@app.function
async def crash() -> None:
    print("last words", file=sys.stderr)
    os._exit(3)


GREETING = "hello"
'''


@attrs.frozen
class Host:
    """A host that serves.

    Attributes:
        said: what the host has printed about itself.
        place: its working directory, which contains the directories of its sockets.
    """

    process: subprocess.Popen[bytes]
    said: dict[str, object]
    place: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which commands find the host."""
        return {"XDG_RUNTIME_DIR": str(self.place / "run")}

    def connect(self) -> http.client.HTTPConnection:
        """Connect to the host's port."""
        urls = self.said["urls"]
        assert isinstance(urls, list)
        port = int(str(urls[0]).rpartition(":")[2])
        return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)

    def get(self, path: str) -> tuple[int, bytes]:
        """Send a GET request; return (status, body)."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def greeting(self, function: str = "till.greet") -> bytes:
        """Return the result of ``greet``, as JSON."""
        connection = self.connect()
        try:
            connection.request("POST", f"/v1/functions/{function}/call", b"")
            return connection.getresponse().read()
        finally:
            connection.close()

    def hear(self, wanted: str) -> str:
        """Return the next line of standard error that contains ``wanted``."""
        return read_until(self.process.stderr, wanted.encode()).decode()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the host."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End the host by a signal; return (exit status, the rest of standard error)."""
        self.send(number)
        _, errors = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, errors.decode()

    @contextmanager
    def ask(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command against the host, yield its process, and kill it at the end."""
        with subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.place,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def invoke(self, *words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Start ``spear invoke``, like :meth:`ask`."""
        return self.ask("invoke", *words)


@contextmanager
def serving(
    place: Path,
    *words: str,
    environment: dict[str, str] | None = None,
    directory: Path | None = None,
    prefix: Sequence[str] = (),
    command: str = "serve",
) -> Iterator[Host]:
    """Run ``spear serve --json`` in a directory, on any port; stop it at the end if it still runs.

    Its sockets and temporary files are in ``place``. Its working directory is ``directory``, or else
    ``place``. The prefix is a command that runs it; ``command`` is ``dev`` for a development host.
    """
    for name in ("run", "tmp"):  # a killed host leaves directories behind
        (place / name).mkdir(exist_ok=True)
    (place / "till.py").exists() or (place / "till.py").write_text(TILL)
    process = subprocess.Popen(
        [*prefix, *COMMAND, command, "--json", "--listen", "127.0.0.1:0", *words],
        cwd=directory or place,
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(place / "run"),
            "TMPDIR": str(place / "tmp"),
            **(environment or {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            yield Host(process, json.loads(line), place)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE_SECONDS / 4)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until ``is_so()`` is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)
