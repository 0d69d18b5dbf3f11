"""Agents in processes of their own: ``python -m spear.agent`` from start to exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import spear
from spear import InstanceId
from spear.channels import open_communication_factory
from spear.runtimes.process._guard_program import WORD
from spear.wire import encode_head

from .helpers import Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from spear.channels import CommunicationFactory, Endpoint
    from spear.wire import HeadValue

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "shop.py"
ORDER = {"customer": "Ada", "lines": [{"item": "tea", "count": 2}, {"item": "scone"}]}

WORKER = """
import gc, os, sys, threading, time
import spear, trio

app = spear.Agent()
released = threading.Event()

@app.function
async def about() -> dict:
    return {
        "argv": sys.argv, "path": sys.path[0], "name": __name__, "pid": os.getpid(),
        "gc": gc.isenabled(), "frozen": gc.get_freeze_count() > 1000,
        "secrets": [name for name in os.environ if name in ("SERVICE_ADDR", "SECRET", "SPEAR_INSTANCE")],
    }

@app.function
def busy() -> str:
    while not released.is_set():
        pass
    return "released"

@app.function
async def interrupt() -> None:
    raise KeyboardInterrupt("of its own")

@app.function
def interrupt_thread() -> None:
    raise KeyboardInterrupt("of its own")

@app.function
async def release() -> None:
    released.set()

@app.function
async def hold(until: str) -> str:
    spear.context().logger.warning("holding")
    print("printed")
    while not os.path.exists(until):
        await trio.sleep(0.001)
    return "held"

@app.function
async def inheritable(fd: int) -> bool:
    return os.get_inheritable(fd)

if __name__ == "__main__":
    app.run()
"""

FAILING = """
import spear
app = spear.Agent()

@app.lifespan
async def resources():
    raise ConnectionError("no database")
    yield
"""


def record_of(fields: Mapping[str, HeadValue]) -> bytes:
    record = encode_head(fields)
    return len(record).to_bytes(4, "little") + record


def nowhere(directory: Path) -> dict[str, HeadValue]:
    """Return a bootstrap record whose address leads to no host."""
    return {
        "version": 1,
        "addresses": [{"address": f"unix:{directory}/nobody"}],
        "secret": bytes(32),
        "runtime": "process",
        "instance": "shop",
        "incarnation": 1,
    }


class Child:
    """A process with an agent, and its output."""

    def __init__(self, process: trio.Process, fd: int, lifeline: int) -> None:
        self.process = process
        self.fd = fd
        self._lifeline = lifeline
        self.written: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    async def read(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self.written:
                nursery.start_soon(self._read, name)

    async def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "stdout" else self.process.stderr
        assert stream is not None
        async for data in stream:
            self.written[name] += data

    @property
    def stderr(self) -> str:
        return self.written["stderr"].decode()

    def let_go(self) -> None:
        """Close the host's end of the lifeline, as the kernel does when a host dies."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


@asynccontextmanager
async def spawned(
    target: Path, record: bytes, *options: str, new_session: bool
) -> AsyncIterator[Child]:
    """Start a child with a bootstrap pipe; kill it at the end if it still runs."""
    read_end, write_end = os.pipe()
    os.write(write_end, record)
    process = await trio.lowlevel.open_process(
        [sys.executable, *options, "-m", "spear.agent", target, "--bootstrap-fd", str(read_end)],
        pass_fds=(read_end,),
        start_new_session=new_session,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(read_end)
    child = Child(process, read_end, write_end)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.read)
            yield child
            with trio.move_on_after(5):
                await process.wait()
            nursery.cancel_scope.cancel()
    finally:
        child.let_go()
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                await trio.aclose_forcefully(stream)


@asynccontextmanager
async def hosted(
    factory: CommunicationFactory,
    target: Path,
    *options: str,
    new_session: bool = True,
    debug: bool = False,
    drain_seconds: float = 5.0,
) -> AsyncIterator[tuple[Caller, Child, Endpoint]]:
    """Run a child that serves ``target`` to this process."""
    instance = InstanceId("process", "shop")
    async with factory.open_endpoint(instance) as endpoint:
        record = record_of(
            {
                "version": 1,
                "addresses": [{"address": str(endpoint.address)}],
                "secret": endpoint.secret.reveal(),
                "runtime": instance.runtime,
                "instance": instance.name,
                "incarnation": instance.incarnation,
                "debug": debug,
                "drain_seconds": drain_seconds,
            }
        )
        async with spawned(target, record, *options, new_session=new_session) as child:
            yield Caller(await endpoint.wait_connected()), child, endpoint


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER, encoding="utf-8")
    return path


# -- serving ------------------------------------------------------------------------------------------


async def test_a_file_is_served_from_a_process_of_its_own() -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, EXAMPLE) as (caller, child, endpoint),
    ):
        assert list(caller.channel.functions) == [
            "price",
            "total",
            "receipt",
            "fingerprint",
            "refund",
        ]
        assert await caller.call("price", "tea", currency="GBP") == 3.01
        assert await caller.call("total", ORDER) == 9.75
        assert await caller.call("fingerprint", b"data", 10) == await caller.call(
            "fingerprint", rounds=10, data=b"data"
        )
        assert await caller.items("receipt", ORDER) == [
            "Thank you, Ada!",
            "2 x tea: 7.00",
            "1 x scone: 2.75",
        ]
        with pytest.raises(spear.FunctionRaised, match="PermissionError: Ada, please") as raised:
            await caller.call("refund", ORDER)
        assert raised.value.remote_traceback is None
        with pytest.raises(spear.InvalidArguments, match=r"total\(order.lines\[0\].item\)"):
            await caller.call("total", {"customer": "Ada", "lines": [{"item": 5}]})
        await endpoint.aclose()
        assert await child.process.wait() == 0
        assert child.stderr == ""


@pytest.mark.parametrize("options", [(), ("-P",)])
async def test_the_program_finds_itself_as_a_program_does(
    worker: Path, options: tuple[str, ...]
) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker, *options) as (caller, child, _),
    ):
        assert await caller.call("about") == {
            "argv": [str(worker)],
            "path": str(worker.parent),
            "name": "worker",
            "pid": child.process.pid,
            "gc": True,
            "frozen": True,
            "secrets": [],
        }
        assert await caller.call("inheritable", child.fd) is False
        child.process.terminate()


async def test_r13_busy_plain_functions_do_not_starve_the_others(worker: Path) -> None:
    """The agent runs as many plain functions as there are threads, and more wait for a thread."""
    results: list[object] = []
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, _, endpoint),
    ):

        async def busy() -> None:
            results.append(await caller.call("busy"))

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(busy)
            for _ in range(10):
                await caller.call("about")
            assert results == []
            await caller.call("release")
        assert results == 60 * ["released"]
        assert factory.manager.statistics().heartbeats_lost == 0
        await endpoint.aclose()


async def test_an_interrupt_that_a_function_raises_ends_its_call_alone(worker: Path) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, _, endpoint),
    ):
        for name in "interrupt", "interrupt_thread":
            with pytest.raises(spear.FunctionRaised, match="KeyboardInterrupt: of its own"):
                await caller.call(name)
        await caller.call("about")
        await endpoint.aclose()


async def test_r15_sigterm_lets_running_calls_finish(worker: Path, tmp_path: Path) -> None:
    until = tmp_path / "until"
    results: list[object] = []
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker) as (caller, child, _),
        trio.open_nursery() as nursery,
    ):

        async def hold() -> None:
            results.append(await caller.call("hold", str(until)))

        nursery.start_soon(hold)
        while "holding\n" not in child.stderr or b"\n" not in child.written["stdout"]:
            await trio.sleep(0.001)
        # Logged with the call's number; printed line by line, although stdout is a pipe.
        assert child.stderr == "W spear.function.hold[1]: holding\n"
        assert child.written["stdout"] == b"printed\n"
        child.process.send_signal(signal.SIGTERM)
        await caller.channel.peer_draining.wait()
        with pytest.raises(spear.ChannelClosed):
            await caller.call("about")
        until.touch()
        assert await child.process.wait() == 0
    assert results == ["held"]


async def test_s14_debug_mode_is_the_hosts_to_choose(worker: Path) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, EXAMPLE, debug=True) as (caller, child, endpoint),
    ):
        with pytest.raises(spear.FunctionRaised, match="Traceback"):
            await caller.call("refund", ORDER)
        await endpoint.aclose()
        assert await child.process.wait() == 0


async def test_a_process_may_have_no_stdout(worker: Path, tmp_path: Path) -> None:
    run = await trio.run_process(
        ["/bin/sh", "-c", f"exec {sys.executable} -m spear.agent {worker} >&-"],
        env={
            **os.environ,
            "SERVICE_ADDR": f"unix:{tmp_path}/nobody",
            "SECRET": "00" * 32,
            "SPEAR_INSTANCE": "process:shop#1",
        },
        capture_stderr=True,
        check=False,
    )
    assert run.returncode == 1
    assert b"cannot connect" in run.stderr


async def test_a_second_signal_does_not_wait(worker: Path, tmp_path: Path) -> None:
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker, drain_seconds=1000) as (caller, child, _),
        trio.open_nursery() as nursery,
    ):

        async def hold() -> None:
            with pytest.raises(spear.SpearError):
                await caller.call("hold", str(tmp_path / "never"))

        nursery.start_soon(hold)
        while "holding" not in child.stderr:
            await trio.sleep(0.001)
        child.process.send_signal(signal.SIGTERM)
        await caller.channel.peer_draining.wait()
        child.process.send_signal(signal.SIGINT)
        assert await child.process.wait() == 0  # draining alone would exceed the test's time limit


# -- the lifeline ---------------------------------------------------------------------------------------

HOST = """
import os, subprocess, sys, trio
from spear import InstanceId
from spear.channels import open_communication_factory
from tests.agent.test_process import record_of

async def main():
    async with open_communication_factory() as factory:
        instance = InstanceId("process", "shop")
        async with factory.open_endpoint(instance) as endpoint:
            read_end, write_end = os.pipe()
            os.write(write_end, record_of({
                "version": 1, "addresses": [{"address": str(endpoint.address)}],
                "secret": endpoint.secret.reveal(),
                "runtime": "process", "instance": "shop", "incarnation": 1,
            }))
            command = [sys.executable, "-m", "spear.agent", sys.argv[1], "--bootstrap-fd", str(read_end)]
            process = subprocess.Popen(command, pass_fds=(read_end,), start_new_session=True)
            os.close(read_end)
            channel = await endpoint.wait_connected()
            response = await channel.request("start", b"")
            print(process.pid, response.payload.decode(), flush=True)
            await channel.request("block", b"")

trio.run(main)
"""

BLOCKED = """
import subprocess, sys
import spear

app = spear.Agent()

@app.function
async def start(_: bytes) -> bytes:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return str(child.pid).encode()

@app.function
async def block(_: bytes) -> bytes:
    print("blocked", flush=True)
    return bytes(3 ** (10 ** 9))  # in C, with the GIL, for minutes
"""


async def wait_gone(pid: int) -> None:
    """Wait until a process, which need not be a child of this one, has exited or is a zombie."""
    pidfd = os.pidfd_open(pid)
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def test_r12_agent_and_grandchild_die_with_the_host(tmp_path: Path) -> None:
    """The host is killed while C code in the agent holds the GIL. R12: both are gone within 1 s; the
    bound here allows for a busy machine."""
    blocked = tmp_path / "blocked.py"
    blocked.write_text(BLOCKED, encoding="utf-8")
    host = await trio.lowlevel.open_process(
        [sys.executable, "-c", HOST, str(blocked)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )
    assert host.stdout is not None
    try:
        said = b""
        while b"blocked" not in said:
            said += await host.stdout.receive_some()
        pids = [int(word) for word in said.split() if word != b"blocked"]
        assert len(pids) == 2
        async with trio.open_nursery() as nursery:
            for pid in pids:
                nursery.start_soon(wait_gone, pid)
            await trio.testing.wait_all_tasks_blocked(0.01)
            host.kill()
            with trio.fail_after(5):
                while nursery.child_tasks:
                    await trio.sleep(0.001)
    finally:
        host.kill()
        await host.wait()
        await host.stdout.aclose()


async def test_r12_an_agent_whose_host_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, record_of(nowhere(tmp_path)))
    os.close(write_end)  # the host died before the lifeline was armed
    try:
        run = await started("x.py", "--bootstrap-fd", str(read_end), pass_fds=(read_end,))
    finally:
        os.close(read_end)
    assert (run.returncode, run.stderr) == (1, b"")


async def test_r12_an_agent_whose_hosts_guard_was_faster_does_not_begin(tmp_path: Path) -> None:
    """The host died before the lifeline was armed, and another process has a copy of its write end."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, record_of(nowhere(tmp_path)) + WORD)
        run = await started("x.py", "--bootstrap-fd", str(read_end), pass_fds=(read_end,))
        assert (run.returncode, run.stderr) == (1, b"")
        os.write(write_end, WORD)  # written before there is a record
        run = await started("x.py", "--bootstrap-fd", str(read_end), pass_fds=(read_end,))
        assert run.returncode == 2
    finally:
        os.close(read_end)
        os.close(write_end)


async def test_r12_an_agent_that_leads_no_group_dies_alone(worker: Path) -> None:
    """An agent that shares its process group, here with this test, must not kill the group."""
    async with (
        open_communication_factory() as factory,
        hosted(factory, worker, new_session=False) as (caller, child, _),
    ):
        await caller.call("release")
        child.let_go()
        assert await child.process.wait() == -signal.SIGKILL


# -- exit statuses --------------------------------------------------------------------------------------


async def started(
    *arguments: str,
    pass_fds: tuple[int, ...] = (),
    environment: Mapping[str, str] | None = None,
    module: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run an agent until it exits."""
    before = ["-m", "spear.agent"] if module else []
    return await trio.run_process(
        [sys.executable, *before, *arguments],
        pass_fds=pass_fds,
        env={**os.environ, **(environment or {})},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


async def started_with(
    fields: Mapping[str, HeadValue], target: Path
) -> subprocess.CompletedProcess[bytes]:
    """Run an agent with a bootstrap record until it exits."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, record_of(fields))
        return await started(str(target), "--bootstrap-fd", str(read_end), pass_fds=(read_end,))
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a.py", "b.py"),
        ("--unknown",),
        ("a.py", "--bootstrap-fd"),
        ("a.py", "--bootstrap-fd", "x"),
        ("a.py", "b.py", "--bootstrap-fd"),
    ],
)
async def test_wrong_usage_is_explained(arguments: tuple[str, ...]) -> None:
    run = await started(*arguments)
    assert run.returncode == 2
    assert run.stderr.startswith(b"usage: python -m spear.agent")


async def test_help_is_given() -> None:
    run = await started("--help")
    assert run.returncode == 0
    assert b"exit status: 0 drained, 1 connection lost permanently" in run.stdout


async def test_what_is_no_bootstrap_pipe_is_said(tmp_path: Path) -> None:
    file = os.open(__file__, os.O_RDONLY)
    run = await started("--bootstrap-fd", str(file), "a.py", pass_fds=(file,))
    os.close(file)
    assert run.returncode == 2
    assert run.stderr.decode() == (
        f"spear: file descriptor {file} is not a bootstrap pipe: the file is not a pipe\n"
    )
    run = await started("a.py", "--bootstrap-fd", "99")
    assert run.returncode == 2
    assert b"spear: file descriptor 99 is not a bootstrap pipe: [Errno 9]" in run.stderr
    run = await started_with({**nowhere(tmp_path), "runtime": 5}, tmp_path / "a.py")
    assert run.returncode == 2
    assert run.stderr == b"spear: the bootstrap record is invalid: runtime must be text\n"
    run = await started_with({**nowhere(tmp_path), "version": 2}, tmp_path / "a.py")
    assert run.returncode == 2
    assert run.stderr == (
        b"spear: the bootstrap record is invalid: version 2 is not supported, only 1: "
        b"use the same release of Spear for host and function\n"
    )


@pytest.mark.parametrize(
    ("text", "message", "details"),
    [
        (None, "{path} does not exist", ""),
        (
            "x = 1",
            (
                "a.py defines no spear.Agent; add `app = spear.Agent()`, and put `@app.function` "
                "above each function"
            ),
            "",
        ),
        ("x = (", "a.py, line 1: SyntaxError: '(' was never closed", ""),
        (
            "def f():\n    return 1 / 0\nf()\n",
            "a.py, line 2: ZeroDivisionError: division by zero",
            "return 1 / 0",
        ),
    ],
)
async def test_what_cannot_be_loaded_is_said_in_one_line(
    tmp_path: Path, text: str | None, message: str, details: str
) -> None:
    path = tmp_path / "a.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    run = await started_with(nowhere(tmp_path), path)
    assert run.returncode == 2
    said = run.stderr.decode().splitlines()
    assert said[-1] == f"spear: {message.format(path=path)}"
    assert details in run.stderr.decode()
    assert bool(details) == (len(said) > 1)


async def test_a_lifespan_that_fails_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(FAILING, encoding="utf-8")
    run = await started_with(nowhere(tmp_path), path)
    assert run.returncode == 2
    assert run.stderr.endswith(b"ConnectionError: no database\n")
    assert b"ExceptionGroup" not in run.stderr


async def test_a_host_that_is_not_there(worker: Path, tmp_path: Path) -> None:
    run = await started_with(nowhere(tmp_path), worker)
    assert run.returncode == 1
    assert run.stderr.decode().splitlines()[-1] == (
        f"spear: process:shop#1: cannot connect to unix:{tmp_path}/nobody: No such file or directory"
    )


async def test_several_hosts_that_are_not_there(worker: Path, tmp_path: Path) -> None:
    """Each address is tried; an invalid address is one failure among the others."""
    texts = [f"unix:{tmp_path}/nobody", "pigeon:loft", f"unix:{tmp_path}/nobody-else"]
    addresses: list[HeadValue] = [{"address": each} for each in texts]
    run = await started_with({**nowhere(tmp_path), "addresses": addresses}, worker)
    assert run.returncode == 1
    said = run.stderr.decode().splitlines()
    missing = "cannot connect to {}: No such file or directory"
    known = {"memory", "tcp", "unix", *entry_points(group="spear.transports").names}
    pigeon = f"transport 'pigeon' cannot be used: known transports are {', '.join(sorted(known))}"
    assert said[0] == (
        f"spear: process:shop#1: cannot reach the host at {texts[0]}: {missing.format(texts[0])} "
        "[no_listener]"
    )
    assert said[1] == (
        f"spear: process:shop#1: cannot reach the host at {texts[1]}: {pigeon} [unsupported_transport]"
    )
    assert said[-1] == (
        "spear: process:shop#1: none of the host's 3 addresses can be reached: "
        f"{texts[0]}: {missing.format(texts[0])}; {texts[1]}: {pigeon}; "
        f"{texts[2]}: {missing.format(texts[2])}"
    )


async def test_an_address_that_cannot_be_one(worker: Path, tmp_path: Path) -> None:
    run = await started_with(
        {**nowhere(tmp_path), "addresses": [{"address": f"tcp:{'x' * 70}:1"}]}, worker
    )
    assert run.returncode == 2
    assert b"invalid host name" in run.stderr


async def test_a_host_that_refuses(worker: Path) -> None:
    async with open_communication_factory() as factory:
        instance = InstanceId("process", "shop")
        async with factory.open_endpoint(instance) as endpoint:
            addresses: list[HeadValue] = [{"address": str(endpoint.address)}]
            run = await started_with({**nowhere(worker.parent), "addresses": addresses}, worker)
    assert run.returncode == 3
    assert run.stderr == (
        b"spear: process:shop#1: the host refused this instance; the host's log has the reason\n"
    )


# -- started by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [True, False])
async def test_the_environment_may_say_where_the_host_is(worker: Path, module: bool) -> None:
    """Both ``python -m spear.agent worker.py`` and ``python worker.py`` read the environment."""
    async with open_communication_factory() as factory:
        instance = InstanceId("process", "by-hand", 2)
        async with (
            factory.open_endpoint(instance) as endpoint,
            trio.open_nursery() as nursery,
        ):
            runs: list[subprocess.CompletedProcess[bytes]] = []

            async def start() -> None:
                environment = {
                    "SERVICE_ADDR": str(endpoint.address),
                    "SECRET": endpoint.secret.reveal().hex(),
                    "SPEAR_INSTANCE": str(instance),
                }
                runs.append(await started(str(worker), environment=environment, module=module))

            nursery.start_soon(start)
            caller = Caller(await endpoint.wait_connected())
            about = await caller.call("about")
            assert isinstance(about, dict)
            assert about["secrets"] == []
            assert about["name"] == ("worker" if module else "__main__")
            await endpoint.aclose()
    assert [(run.returncode, run.stderr) for run in runs] == [(0, b"")]


@pytest.mark.parametrize("module", [True, False])
async def test_without_a_host_one_is_told_what_to_do(worker: Path, module: bool) -> None:
    run = await started(str(worker), module=module)
    assert run.returncode == 2
    name = str(worker) if module else worker.name
    assert run.stderr.decode() == (
        f"spear: {name} cannot find a host: SERVICE_ADDR, SECRET and SPEAR_INSTANCE are not set; to "
        f"call a function of {name} without a host: spear call {name}:NAME\n"
    )
    run = await started(str(worker), environment={"SERVICE_ADDR": "unix:/x"}, module=module)
    assert run.returncode == 2
    assert run.stderr == b"spear: SERVICE_ADDR is set, but SECRET is not\n"


# -- the order of imports -------------------------------------------------------------------------------


async def test_the_first_lines_run_before_anything_heavy_is_imported() -> None:
    """The lifeline is armed before Trio, attrs and CBOR are imported: no host's death goes unnoticed."""
    program = (
        "import sys, spear.agent._main, spear.agent._lifeline\n"
        "print([name for name in ('trio', 'attrs', 'attr', 'cbor2', 'logging', 'ssl', 'asyncio')"
        " if name in sys.modules])"
    )
    run = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert run.stdout == b"[]\n"


async def test_serving_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "before = set(sys.modules)\n"
        "import spear.agent._launch, spear.agent._loader\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('spear')))"
    )
    run = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    found = run.stdout.decode()
    for name in ("asyncio", "argparse", "dataclasses", "decimal", "json", "uuid", "difflib"):
        assert f"'{name}'" not in found, found
