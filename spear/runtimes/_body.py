"""The request to start an instance, and the handle on a started one.

An :class:`InstanceSpec` describes the instance to start. An :class:`InstanceBody` is the handle on what
the runtime has started: a process, a WebAssembly module, a Pod. ``_instance`` uses only these two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import TYPE_CHECKING, final

import attrs
import trio

from spear._errors import ConfigurationError
from spear._hooks import expect_plain_function
from spear._limits import shown
from spear.channels import ChannelConfig

if TYPE_CHECKING:
    from spear._host_limits import InstanceTimeouts
    from spear._ids import InstanceId
    from spear.channels import Service

    from ._logs import OnLine
    from ._states import OnEvent


@attrs.frozen(kw_only=True)
class RuntimeSettings:
    """A deployment's settings for its instances; each runtime has a subclass.

    Attributes:
        debug: whether errors carry tracebacks.
    """

    debug: bool = False

    @property
    def title(self) -> str:
        """The program's name for people, from which a deployment's default name is made; may be empty."""
        return ""

    def check_replicas(self, most: int) -> None:
        """Raise ConfigurationError if a deployment cannot have ``most`` replicas."""

    def problems(self) -> Iterator[ConfigurationError]:
        """Yield an error for each reason why this machine cannot start the program.

        The ``key`` of each error is the setting at fault; empty if the fault is the machine's.
        """
        yield from ()


@final
@attrs.frozen(kw_only=True)
class InstanceSpec:
    """A request to start an instance.

    Attributes:
        instance_id: the runtime, name and incarnation; unique among the instances of the host.
        service: the functions of the host that the instance may call.
        channel: the channel's configuration; by default the strategy of the runtime decides.
        timeouts: the timeouts of the instance; None for the timeouts of its template.
        on_event: called with each state that the instance enters, in order; must neither block nor raise.
        on_line: called with each line that the instance writes; must neither block nor raise.

    Raises:
        ConfigurationError: ``on_event`` or ``on_line`` is not a plain function.
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
    """A snapshot of an instance's resource usage; None is a value that the runtime cannot tell.

    For a process, the numbers exclude its child processes.

    Attributes:
        cpu_seconds: CPU time of all threads since the start.
        memory_bytes: physical memory in use, shared pages included.
        descriptors: open file descriptors.
        threads: threads.
        others: further figures that the runtime knows, by name, such as the fuel of a WebAssembly module.

    Raises:
        ConfigurationError: ``others`` is not a map of finite numbers by name.
    """

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    descriptors: int | None = None
    threads: int | None = None
    others: Mapping[str, float] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        others: object = self.others
        if not isinstance(others, Mapping) or not all(
            isinstance(name, str) and type(value) in (int, float) and isfinite(value)
            for name, value in others.items()
        ):
            raise ConfigurationError.about(
                "others", f"must map names to finite numbers, not {shown(others)}"
            )


class InstanceBody(ABC):
    """A handle on what a runtime has started. Only :class:`Instance` uses it.

    ``terminate`` and ``kill`` act before their first checkpoint, so that a signal is sent even if they
    are cancelled. :class:`Instance` limits their time.

    Attributes:
        description: a name for log lines, such as "pid 17"; may be empty.
        pid: the pid of the process, if there is one on this machine.
        exit_status: the exit status as in ``subprocess``; None while running or if unknown.
        has_ended: whether the body is known to have ended; the exit status may become known later.
        failure: the reason why the body ended, as text to follow "it" ("has ended"); else empty.
    """

    description: str = ""
    pid: int | None = None
    exit_status: int | None = None
    has_ended: bool = False
    failure: str = ""

    @abstractmethod
    async def wait_exited(self) -> None:
        """Wait until the body and everything that it started have ended. One waiter at a time.

        Cancellation changes nothing; the method can be called again.
        """

    @abstractmethod
    async def watch(self) -> None:
        """Do the work that is necessary while the body runs, such as reading its output.

        Spear cancels this method when the instance has ended or could not be killed.
        """

    @abstractmethod
    async def terminate(self) -> None:
        """Ask the body to end. Does nothing if it has ended. May be called again."""

    @abstractmethod
    async def kill(self) -> None:
        """End the body by force. Does nothing if it has ended. May be called again."""

    async def metrics(self) -> InstanceMetrics | None:
        """Return the current resource usage; None if it has ended or is unknown. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return None

    def is_busy(self) -> bool:
        """Return whether the body has used CPU time since the last call, or waits for a processor now.

        Called when a heartbeat is missing: a busy instance is not taken for dead. Must not block.
        """
        return False
