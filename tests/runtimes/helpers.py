"""Helpers of the runtimes' tests: workers, and checks that nothing of them is left."""

from __future__ import annotations

import functools
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs
import pytest
import trio
import trio.testing

from spear import ChannelBroken, HostLimits, InstanceId
from spear.channels import (
    CommunicationFactory,
    CommunicationStrategy,
    open_communication_factory,
)
from spear.runtimes import (
    InstanceSpec,
    InstanceTemplate,
    MemoryRuntime,
    MemorySettings,
    ProcessRuntime,
    ProcessSettings,
    ProcessTemplate,
    Runtime,
    RuntimeSettings,
)

if TYPE_CHECKING:
    from spear import InstanceTimeouts
    from spear.channels import Endpoint, Service
    from spear.runtimes import Instance, InstanceBody, LogBook, TemplateSpec
    from spear.telemetry import InstanceEvent

HERE = Path(__file__).parent
WORKER = str(HERE / "worker.py")

PATIENCE_SECONDS = 15.0
"""Seconds within which an event must happen, on a busy machine."""


def worker(*arguments: str, environment: Mapping[str, str] | None = None) -> ProcessSettings:
    """Return settings for a process of ``worker.py``."""
    return ProcessSettings(
        command=(sys.executable, WORKER, "{bootstrap_fd}", *arguments),
        environment=environment or {},
    )


def python(code: str) -> ProcessSettings:
    """Return settings for a process of Python code; sys.argv[1] has the bootstrap descriptor's number."""
    return ProcessSettings(command=(sys.executable, "-c", code, "{bootstrap_fd}"))


def shell(code: str) -> ProcessSettings:
    """Return settings for a process of shell code."""
    return ProcessSettings(command=("/bin/sh", "-c", code))


@attrs.define
class Host:
    """A runtime with its factory, and the events of its instances."""

    factory: CommunicationFactory
    runtime: ProcessRuntime
    events: list[InstanceEvent] = attrs.Factory(list)
    template: ProcessTemplate | None = None
    """Template of all further instances, whatever their settings; None starts each by its settings."""

    @asynccontextmanager
    async def run(
        self,
        settings: RuntimeSettings,
        name: str = "worker",
        *,
        incarnation: int = 1,
        service: Service | None = None,
    ) -> AsyncIterator[Instance]:
        spec = InstanceSpec(
            instance_id=InstanceId("process", name, incarnation),
            service=service,
            on_event=self.events.append,
        )
        async with self.start(settings, spec) as instance:
            yield instance

    @asynccontextmanager
    async def start(self, settings: RuntimeSettings, spec: InstanceSpec) -> AsyncIterator[Instance]:
        async with AsyncExitStack() as stack:
            template: InstanceTemplate | None = self.template
            if template is None:
                opening = self.runtime.open_template(settings, self.factory)
                template = await stack.enter_async_context(opening)
            yield await stack.enter_async_context(template.open_instance(spec))

    @asynccontextmanager
    async def forking(self, settings: ProcessSettings) -> AsyncIterator[ProcessTemplate]:
        """Fork all instances that are started inside the block."""
        opening = self.runtime.open_template(settings, self.factory, several=True)
        async with opening as template:
            assert isinstance(template, ProcessTemplate)
            self.template = template
            try:
                yield template
            finally:
                self.template = None

    @asynccontextmanager
    async def ready(
        self, settings: RuntimeSettings, name: str = "worker"
    ) -> AsyncIterator[Instance]:
        async with self.run(settings, name) as instance:
            with trio.fail_after(PATIENCE_SECONDS):
                await instance.wait_ready()
            yield instance

    def states(self, name: str = "worker") -> list[str]:
        """Return the states of an instance so far."""
        return [each.state.value for each in self.events if each.instance_id.name == name]


@asynccontextmanager
async def open_host(limits: HostLimits | None = None) -> AsyncIterator[Host]:
    async with open_communication_factory(limits or HostLimits()) as factory:
        yield Host(factory, ProcessRuntime())


async def call(instance: Instance, function: str, payload: bytes = b"") -> bytes:
    """Call like a spearlet: the instance explains a lost connection."""
    assert instance.channel is not None
    try:
        return bytes((await instance.channel.request(function, payload)).payload)
    except ChannelBroken as error:
        raise await instance.explain_loss(error) from error


class Lines(logging.Handler):
    """A log handler that receives the output of instances as soon as the host does."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self._more.set()
        self._more = trio.Event()

    async def wait_for(self, text: str, times: int = 1) -> str:
        """Wait for so many lines that contain ``text``; return the last one."""
        with trio.fail_after(PATIENCE_SECONDS):
            while len(found := [each for each in self.texts if text in each]) < times:
                await self._more.wait()
        return found[times - 1]


@contextmanager
def listening(name: str = "spear.instances") -> Iterator[Lines]:
    """Record the output of instances while the block runs."""
    logger = logging.getLogger(name)
    lines, before = Lines(), logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.setLevel(before)
        logger.removeHandler(lines)


@attrs.define(eq=False, kw_only=True)
class Spoiled(Runtime):
    """A runtime that runs agents in this process, with a fault in its bodies."""

    name: ClassVar[str] = "spoiled"
    settings_class: ClassVar[type[RuntimeSettings]] = MemorySettings
    strategy: ClassVar[CommunicationStrategy | None] = CommunicationStrategy(("memory",))

    spoil: Callable[[InstanceBody], None]

    @asynccontextmanager
    async def prepare(self, spec: TemplateSpec) -> AsyncIterator[InstanceTemplate]:
        async with MemoryRuntime().prepare(spec) as template:
            yield SpoiledTemplate(self, spec, template)


class SpoiledTemplate(InstanceTemplate):
    def __init__(self, runtime: Spoiled, spec: TemplateSpec, sound: InstanceTemplate) -> None:
        super().__init__(runtime, spec)
        self._spoil, self._sound = runtime.spoil, sound

    @asynccontextmanager
    async def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AsyncIterator[InstanceBody]:
        async with self._sound.launch(endpoint, book, timeouts) as body:
            self._spoil(body)
            yield body


MOST_SELECTED = 1024
"""``select.select`` takes only descriptors below this number."""


@contextmanager
def high_numbers() -> Iterator[None]:
    """Give every descriptor that is opened in the block a number that ``select.select`` refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_SELECTED
    if soft < wanted:
        if hard < wanted:  # pragma: no cover
            pytest.skip(f"{wanted} descriptors are not allowed here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while taken[-1] < MOST_SELECTED:
            taken.append(os.dup(taken[0]))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- checks of processes, descriptors and files -----------------------------------------------


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not count."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def wait_dead(pidfd: int) -> None:
    """Wait until the process behind ``pidfd`` has ended, and close the pidfd."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def children() -> set[int]:
    """Return the pids of the children of this process, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ended meanwhile
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def descriptors() -> dict[int, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def no_signals(mask: str) -> bool:
    """Return whether a signal mask of /proc/PID/status is empty, except for glibc's two reserved signals.

    No program can set the two. Processes started by posix_spawn, as by make, ignore them, as do their
    children.
    """
    return not int(mask, 16) & ~(1 << 32 - 1 | 1 << 33 - 1)


def private_files() -> set[str]:
    """Return the directories and sockets that Spear makes for instances; see conftest.py."""
    return {str(path) for path in Path(tempfile.gettempdir()).rglob("*")}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Assert that the block leaves no child, no descriptor, no socket and no directory behind."""
    before = children(), descriptors(), private_files()
    yield
    after = children(), descriptors(), private_files()
    assert after[0] <= before[0]
    assert after[1] == before[1]
    assert after[2] <= before[2]


def guards(host: int) -> dict[int, int]:
    """Return the guards of a host, with the number of descriptors of each."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if b"_guard_program" in (process / "cmdline").read_bytes():
                infos = [info for each in (process / "fdinfo").iterdir() if (info := text_of(each))]
                if any(f"\nPid:\t{host}\n" in info for info in infos):
                    found[int(process.name)] = len(infos)
    return found


def text_of(file: Path) -> str:
    """Return what is in a file; nothing if the file is gone, such as a descriptor that was closed."""
    with suppress(FileNotFoundError):
        return file.read_text()
    return ""


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await trio.sleep(0.01)


async def the_guard(*before: int) -> int:
    """Return the pid of this host's guard, as soon as a guard other than ``before`` has started."""
    limiter = trio.to_thread.current_default_thread_limiter()
    await until(lambda: guards(os.getpid()).keys() - {*before} and not limiter.borrowed_tokens)
    await trio.testing.wait_all_tasks_blocked()
    (pid,) = guards(os.getpid()).keys() - {*before}
    return pid


UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A prefix that makes a command the first process of a namespace."""


@functools.cache
def can_be_first() -> bool:
    """Return whether this process may create a namespace of processes."""
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
