"""What a runtime is given to start an instance, and what it gives back.

An :class:`InstanceSpec` says what is wanted; an :class:`InstanceBody` is the handle on what was started
for it: a process, a WebAssembly module, a Pod. ``_instance`` knows instances by these two alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, final

import attrs
import trio

from spear._hooks import expect_plain_function
from spear.channels import ChannelConfig

if TYPE_CHECKING:
    from spear._errors import ConfigurationError
    from spear._host_limits import InstanceTimeouts
    from spear._ids import InstanceId
    from spear.channels import Service

    from ._logs import OnLine
    from ._states import OnEvent


@attrs.frozen(kw_only=True)
class RuntimeSettings:
    """What a runtime has to know to start the instances of a deployment; each runtime has a subclass.

    Attributes:
        debug: errors carry tracebacks.
    """

    debug: bool = False

    @property
    def title(self) -> str:
        """What is run, for people; a deployment's default name is taken from it. May be empty."""
        return ""

    def check_replicas(self, most: int) -> None:
        """Raise ConfigurationError if a deployment cannot have so many replicas."""

    def problems(self) -> Iterator[ConfigurationError]:
        """Yield an error for each reason why this machine cannot start the program.

        Its ``key`` is the setting at fault; empty if the fault is the machine's.
        """
        yield from ()


@final
@attrs.frozen(kw_only=True)
class InstanceSpec:
    """An instance that is wanted.

    Attributes:
        instance_id: its name and incarnation; no other instance of the host may have it.
        service: what the host offers to it.
        channel: how to talk to it, if not as the strategy of its runtime says.
        timeouts: of its life, if not those of its template.
        on_event: told of every state it comes to, in order; must neither block nor raise.
        on_line: told of every line it writes; must neither block nor raise.

    Raises:
        ConfigurationError: ``on_event`` or ``on_line`` is no plain function.
    """

    instance_id: InstanceId
    service: Service | None = None
    channel: ChannelConfig = attrs.field(factory=ChannelConfig)
    timeouts: InstanceTimeouts | None = None
    on_event: OnEvent | None = None
    on_line: OnLine | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("on_event", "on_line"):
            function = getattr(self, name)
            if function is not None:
                expect_plain_function(name, function)


@final
@attrs.frozen(kw_only=True)
class InstanceMetrics:
    """What an instance uses now; None is what its runtime cannot tell.

    Of a process, it is the process itself, without others that it has started.

    Attributes:
        cpu_seconds: of all its threads, since it started.
        memory_bytes: that it has in physical memory, shared pages included.
        descriptors: that it has open.
        threads: that it has.
    """

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    descriptors: int | None = None
    threads: int | None = None


class InstanceBody(ABC):
    """The handle on what a runtime has started. Only :class:`Instance` uses it.

    ``terminate`` and ``kill`` do what they can do at once in their first step, before any checkpoint: a
    signal is sent even if they are cancelled. :class:`Instance` limits their time.

    Attributes:
        description: for log lines, such as "pid 17"; may be empty.
        pid: of its process, if it has one on this machine.
        exit_status: as ``subprocess`` counts it, None while it runs or if it is not known.
        has_ended: whether it is known to run no more, though its exit status may still come.
        failure: why it has ended, as the end of "it ...", if the runtime knows more than an exit status.
    """

    description: str = ""
    pid: int | None = None
    exit_status: int | None = None
    has_ended: bool = False
    failure: str = ""

    @abstractmethod
    async def wait_exited(self) -> None:
        """Wait until it has ended, and all that it started with it. One waiter at a time.

        If cancelled, nothing changes, and it can be waited for again.
        """

    @abstractmethod
    async def watch(self) -> None:
        """Do what has to be done while it runs, such as reading what it writes.

        Cancelled when the instance has ended, or could not be killed.
        """

    @abstractmethod
    async def terminate(self) -> None:
        """Ask it to end. Does nothing if it has ended. May be called again."""

    @abstractmethod
    async def kill(self) -> None:
        """End it, whatever it is doing. Does nothing if it has ended. May be called again."""

    async def metrics(self) -> InstanceMetrics | None:
        """What it uses now; None if it has ended, or the runtime cannot tell. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return None

    def is_busy(self) -> bool:
        """Whether it is seen to compute, or waits for a processor, since this was last asked.

        Asked when a heartbeat is missing: one that is busy is not taken for dead. Must not block.
        """
        return False
