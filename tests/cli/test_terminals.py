"""Terminals attached to instances at breakpoints: real instances, a host in this process."""

from __future__ import annotations

import math
import os
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear import FunctionRaised, NotFound, Rejected, WorkerDied
from spear._breakpoints import MAX_LINE_BYTES, VARIABLE
from spear.cli._terminals import Terminal, Terminals, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PROGRAM = """
import os
import spear

app = spear.Agent()


@app.function
async def stop(value: int) -> int:
    breakpoint()
    return value


@app.function
def stop_in_thread(value: int) -> int:
    breakpoint()
    return value


@app.function
async def pid() -> int:
    return os.getpid()
"""


PATIENT = spear.HostLimits(wire=spear.WireLimits(heartbeat_seconds=1e6))
"""Limits of a host whose instances may stand still."""


class Bench:
    """A deployment, and the terminals of its host."""

    def __init__(
        self,
        deployment: spear.Deployment,
        terminals: Terminals,
        name: str,
        offered: list[str],
    ) -> None:
        self.offered = offered
        self.deployment = deployment
        self.terminals = terminals
        self.name = name

    async def call(self, function: str, value: int = 1) -> object:
        return await self.deployment.function(function)(value, timeout=math.inf)


@asynccontextmanager
async def opened(place: Path, replicas: int = 1) -> AsyncIterator[Bench]:
    (place / "prog.py").write_text(PROGRAM)
    waiting: list[str] = []
    listener, name = listen()
    terminals = Terminals(listener, waiting.append)
    with listener:
        async with spear.open_spearlet(limits=PATIENT) as spearlet, trio.open_nursery() as nursery:
            nursery.start_soon(terminals.serve, spearlet)
            deployment = await spearlet.deploy(
                spear.ProcessSettings(target=str(place / "prog.py"), environment={VARIABLE: name}),
                name="prog",
                replicas=replicas,
            )
            yield Bench(deployment, terminals, name, waiting)
            nursery.cancel_scope.cancel()


async def until(terminal: Terminal, key: str) -> str:
    """Return the value of the next message with a key."""
    async for message in terminal:
        assert isinstance(message, dict)
        if key in message:
            return str(message[key])
    raise AssertionError(key)


async def test_a_terminal_debugs_one_breakpoint_after_the_other(tmp_path: Path) -> None:
    results: list[object] = []

    async with opened(tmp_path) as bench, trio.open_nursery() as nursery:

        async def call(value: int) -> None:
            results.append(await bench.call("stop_in_thread", value))

        async with bench.terminals.attach("prog") as terminal:
            assert await until(terminal, "attached") == "prog-1"
            for value in (1, 2):
                nursery.start_soon(call, value)
            for count in (1, 2):
                assert await until(terminal, "place") == "prog.py:16 in stop_in_thread"
                assert await until(terminal, "prompt") == "(Pdb) "
                await bench.terminals.enter("prog-1", "value *= 10")
                await until(terminal, "prompt")
                await terminal.enter("c")
                assert await until(terminal, "end") == "continued"
                while len(results) < count:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            await terminal.enter("too late")
    assert sorted(map(str, results)) == ["10", "20"]


async def test_a_breakpoint_waits_for_its_terminal_and_other_instances_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, replicas=2) as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.call, "stop")
        while "waits at a breakpoint" not in caplog.text:
            await trio.testing.wait_all_tasks_blocked(0.01)
        waiting = "prog-1" if "prog-1#1 waits" in caplog.text else "prog-2"
        other = await bench.deployment.function("pid")(timeout=math.inf)
        busy = next(each for each in bench.deployment.instances if each.id.name == waiting)
        assert other != busy.pid
        for each in (str(busy.id), f"{waiting}#1"):
            with pytest.raises(NotFound) as nowhere:
                await bench.terminals.enter(waiting, "c")
            assert "no terminal is attached" in str(nowhere.value)
            async with bench.terminals.attach(each) as terminal:
                await until(terminal, "attached")
                if each != str(busy.id):
                    continue
                with pytest.raises(Rejected) as refused:
                    async with bench.terminals.attach(waiting):
                        raise AssertionError
                assert refused.value.code == "attached"
                await until(terminal, "prompt")
        assert "goes on: its terminal was detached" in caplog.text
        for name in ("prog", "prog-3", "nothing"):
            with pytest.raises(NotFound, match="instances: prog-1, prog-2"):
                async with bench.terminals.attach(name):
                    raise AssertionError


async def test_a_breakpoint_behind_one_whose_terminal_is_detached_is_offered_again(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as bench, trio.open_nursery() as nursery:
        async with bench.terminals.attach("prog") as terminal:
            nursery.start_soon(bench.call, "stop_in_thread")
            await until(terminal, "prompt")
            nursery.start_soon(bench.call, "stop_in_thread")
            while bench.terminals.waiting == 0:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert bench.offered == []
        assert bench.offered == ["prog-1"]
        async with bench.terminals.attach("prog") as terminal:
            await until(terminal, "prompt")


async def test_an_instance_that_dies_at_a_breakpoint_ends_its_debugger(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(WorkerDied):
                await bench.call("stop")

        nursery.start_soon(call)
        async with bench.terminals.attach("prog-1") as terminal:
            await until(terminal, "prompt")
            (instance,) = bench.deployment.instances
            assert instance.pid is not None
            os.kill(instance.pid, signal.SIGKILL)
            assert await until(terminal, "end") == "lost"
            assert terminal.stop is None


async def test_quit_fails_the_call_and_the_instance_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(FunctionRaised) as raised:
                await bench.call("stop")
            assert raised.value.type_name == "BdbQuit"

        nursery.start_soon(call)
        async with bench.terminals.attach("prog-1") as terminal:
            await until(terminal, "prompt")
            await terminal.enter("q")
            assert await until(terminal, "end") == "quit"
        (instance,) = bench.deployment.instances
        assert await bench.deployment.function("pid")(timeout=math.inf) == instance.pid


async def test_a_host_that_ends_its_debugger_lets_functions_go_on(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(PROGRAM)
    listener, name = listen()
    with listener:
        async with spear.open_spearlet(limits=PATIENT) as spearlet, trio.open_nursery() as nursery:
            stopped = trio.Event()
            terminals = Terminals(listener, lambda _: stopped.set())
            nursery.start_soon(terminals.serve, spearlet)
            prog = await spearlet.deploy(
                spear.ProcessSettings(
                    target=str(tmp_path / "prog.py"), environment={VARIABLE: name}
                )
            )
            async with trio.open_nursery() as calls:
                calls.start_soon(lambda: prog.function("stop")(1, timeout=math.inf))
                await stopped.wait()
                nursery.cancel_scope.cancel()


async def test_strangers_and_nonsense_are_turned_away(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for message in (b'{"place": "x"}\n', b"nonsense\n", b"7\n", (MAX_LINE_BYTES + 1) * b"x"):
            with trio.socket.socket(socket.AF_UNIX) as sock:
                await sock.connect(f"\0{bench.name}")
                stream = trio.SocketStream(sock)
                try:
                    await stream.send_all(message)
                    assert await stream.receive_some() == b""
                except trio.BrokenResourceError:  # it was closed before all was read
                    continue


async def test_a_terminal_that_has_gone_takes_no_messages() -> None:
    terminal = Terminal("prog-1")
    terminal.close()
    await terminal.put({"text": "unread"})  # raises nothing
    await terminal.enter("unread")  # raises nothing
