"""Python, with Spear already imported: each program is a fork of one process that has done that.

Imports of Spear and Trio take half of the time of most commands in the documents. Run as a program, this
file serves forks of itself at a socket until its standard input ends. A client takes the place of
``python``: it hands its arguments, directory, environment and standard streams over, and ends with the
status of its fork.
"""

from __future__ import annotations

import marshal
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CLIENT: Final = """#!{python} -IS
import _socket, marshal, os, sys
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
connection.connect({path!r})
request = marshal.dumps(({words!r} + sys.argv[1:], os.getcwd(), dict(os.environ)))
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)]
connection.sendmsg([len(request).to_bytes(4, "big")], rights)
connection.sendall(request)
os._exit((connection.recv(1) or b"F")[0])
"""
"""The text of a client. Without ``site`` it runs for a few milliseconds."""


COMMANDS: Final = {"python": [], "spear": ["-m", "spear.cli"]}
"""For each command, the arguments that come before those of its user."""


@contextmanager
def preloaded(programs: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Make the programs ``python`` and ``spear`` in a directory, which work while the block runs."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        for name, words in COMMANDS.items():
            text = CLIENT.format(python=sys.executable, path=path, words=words)
            (programs / name).write_text(text, encoding="utf-8")
            (programs / name).chmod(0o755)
        with subprocess.Popen(
            [sys.executable, __file__, path],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield


def serve(path: str) -> list[str]:
    """Serve clients; return in each fork, with its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    os.write(1, b"ready\n")
    while listener.fileno() in select.select([listener.fileno(), 0], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return become(client)
        client.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # one that has ended
    with suppress(ChildProcessError):
        while os.wait():
            pass
    sys.exit()


def become(client: socket.socket) -> list[str]:
    """Become the program of a client in a fork, while this process waits for it."""
    length, streams, _, _ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as file:
        request: tuple[list[str], str, dict[str, str]] = marshal.loads(
            file.read(int.from_bytes(length, "big"))
        )
    if program := os.fork():
        has_ended = os.pidfd_open(program)
        if has_ended not in select.select([client.fileno(), has_ended], [], [])[0]:
            # The client was killed.
            os.kill(program, signal.SIGKILL)
        _, status = os.waitpid(program, 0)
        code = os.waitstatus_to_exitcode(status)
        client.send(bytes([code if code >= 0 else 128 - code]))
        os._exit(0)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    words, directory, environment = request
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    return words


def run(words: list[str]) -> None:
    """Do what ``python`` does with such arguments."""
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    import argparse  # noqa: F401  # like the other names, for the forks
    import json  # noqa: F401

    from spear import Agent, open_spearlet  # noqa: F401  # names of Spear are loaded when they are used
    from spear.runtimes import ProcessRuntime  # noqa: F401

    sys.path.pop(0)  # the directory of this file
    run(serve(sys.argv[1]))
