"""Programs that fork. ``forking.py NAME`` runs one, which checks its own state and its child's.

The programs are not test functions, because a process with threads should not fork, and because one of
them lowers its own RLIMIT_NOFILE.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import attrs
import trio
from runtimes.helpers import call, children, descriptors, open_host, private_files, worker

from spear import SharedBuffer
from spear._forks import close, own, own_socket
from spear.runtimes import ProcessSettings, ProcessTemplate


def in_a_child(function: Callable[[], object]) -> object:
    """Return the result of ``function`` in a forked child, passed on as JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        found = json.load(file)
    assert os.waitpid(pid, 0)[1] == 0
    return found


async def a_host_and_its_child() -> None:
    """A child inherits no open descriptor of a host."""
    program = Path("app.py").absolute()
    program.write_text("import spear\napp = spear.Agent()\n")
    before = descriptors()
    async with (
        open_host() as host,
        host.runtime.open_template(
            ProcessSettings(target=str(program)), host.factory, several=True
        ) as template,
        host.ready(worker()) as instance,
    ):
        assert isinstance(template, ProcessTemplate)
        with SharedBuffer(1000) as buffer:
            with trio.fail_after(15):
                # Wait until everything that is being started is ready.
                while children() != {instance.pid, template.statistics().pid}:
                    await trio.sleep(0.01)
            ours = descriptors().keys() - before.keys()
            # Before Python 3.13 a mapping keeps a descriptor, which belongs to the user's code.
            file = buffer.descriptor.fileno
            ours -= {each for each in ours if "memfd" in descriptors()[each]} - {file}
            assert file in ours
            found = in_a_child(lambda: {str(key): value for key, value in descriptors().items()})
            assert isinstance(found, dict)
            left = {number: found.get(str(number)) for number in ours}
            assert len(ours) > 10
            assert set(left.values()) == {"/dev/null"}, left
            epolls = {each for each in before if "eventpoll" in before[each]}
            assert len(epolls) == 1  # the epoll descriptor of Trio
            assert found[str(*epolls)] == "/dev/null"
        assert await call(instance, "echo", b"as before") == b"as before"


async def a_child_that_unwinds() -> None:
    """A child that leaves the blocks of a host does not affect the host."""
    private = attrs.evolve(worker(), private_directory=True)
    async with open_host() as host, host.ready(private) as instance:
        before = private_files()
        assert len(before) > 2
        pid = os.fork()
        if pid == 0:
            sys.stderr.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hides Trio's own complaints
            raise ZeroDivisionError
        await trio.to_thread.run_sync(os.waitpid, pid, 0)
        assert private_files() == before
        assert await call(instance, "echo", b"as before") == b"as before"


def a_full_table() -> None:
    """Forking works without a free descriptor."""
    kept = own(os.dup(0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    reader, writer = os.pipe()
    with socket.socket() as sock, tempfile.TemporaryFile() as file:
        own_socket(sock)
        epoll = select.epoll()
        fillers = [epoll.fileno()]
        epoll.register(sock)
        resource.setrlimit(resource.RLIMIT_NOFILE, (epoll.fileno() + 4, most))
        while True:
            try:
                fillers.append(os.dup(file.fileno()))
            except OSError:
                break
        pid = os.fork()
        if pid == 0:
            os.closerange(max(fillers[1:]), max(fillers) + 1)  # free descriptors, for the checks
            found = [
                os.readlink(f"/proc/self/fd/{each}")
                for each in (kept, sock.fileno(), epoll.fileno())
            ]
            os.write(writer, json.dumps(found).encode())
            os._exit(0)
        os.close(writer)
        assert json.loads(os.read(reader, 1000)) == 3 * ["/dev/null"]
        os.waitpid(pid, 0)
        assert os.fstat(sock.fileno())
    close(kept)


def a_number_that_was_closed() -> None:
    """A descriptor number that was closed and reused is left alone, also in children."""
    sock = socket.socket()
    own_socket(sock)
    number = own(os.dup(0))
    taken = sock.fileno(), number
    close(number)
    sock.close()
    reader, writer = os.pipe()
    assert {reader, writer} == set(taken)
    assert in_a_child(lambda: os.write(writer, b"theirs")) == 6
    assert os.read(reader, 6) == b"theirs"


def a_signal_that_comes_at_once() -> None:
    """A signal that arrives before the child has its own handlers is delivered once it has them."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    # Registered as the first hook in the child, because its parent may be that fast.
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), *numbers[:1]))
    from spear.agent import _children

    _children.remember_handlers()
    for each in _children.WATCHED:
        signal.signal(each, lambda *_: None)
    _children.keep_from_children()
    while numbers:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -numbers.pop(0)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


if __name__ == "__main__":
    programs = {
        "a host and its child": lambda: trio.run(a_host_and_its_child),
        "a child that unwinds": lambda: trio.run(a_child_that_unwinds),
        "a full table": a_full_table,
        "a number that was closed": a_number_that_was_closed,
        "a signal that comes at once": a_signal_that_comes_at_once,
    }
    programs[sys.argv[1]]()
