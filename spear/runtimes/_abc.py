"""What every runtime offers, and what it must bring.

A :class:`Runtime` makes instances. Their life (logging in, being watched, drained, stopped, explained)
is the same everywhere and lives in ``_instance``; what a runtime brings is a way to start something and
an :class:`InstanceBody`, the handle on what it has started: a process, a WebAssembly module, a Pod.

This module knows no concrete runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, final

import attrs

from spear.channels import ChannelConfig

if TYPE_CHECKING:
    from spear._ids import InstanceId, RuntimeType
    from spear.channels import Service

    from ._instance import Instance
    from ._logs import OnLine
    from ._states import OnEvent


@attrs.frozen(kw_only=True)
class RuntimeSettings:
    """What a runtime has to know to start an instance; each runtime has a subclass."""


@final
@attrs.frozen(kw_only=True)
class InstanceSpec:
    """An instance that is wanted.

    Attributes:
        instance_id: its name and incarnation; no other instance of the host may have it.
        settings: of the runtime that is to start it.
        service: what the host offers to it.
        channel: how to talk to it, if not as the strategy of its runtime says.
        on_event: told of every state it comes to, in order; must neither block nor raise.
        on_line: told of every line it writes; must neither block nor raise.
    """

    instance_id: InstanceId
    settings: RuntimeSettings
    service: Service | None = None
    channel: ChannelConfig = attrs.field(factory=ChannelConfig)
    on_event: OnEvent | None = None
    on_line: OnLine | None = None


@final
@attrs.frozen(kw_only=True)
class RuntimeCapabilities:
    """What can be asked of a runtime's instances.

    Attributes:
        can_limit_memory: a limit on memory is enforced.
        can_limit_cpu: so is one on CPU time.
        can_be_signalled: instances can be frozen, continued and signalled from outside.
        can_drain: an instance may finish its calls before it is stopped.
        can_run_any_program: not only functions written for Spear's SDK.
        max_instances: at the same time; None if there is no limit but the machine's.
    """

    can_limit_memory: bool
    can_limit_cpu: bool
    can_be_signalled: bool
    can_drain: bool
    can_run_any_program: bool
    max_instances: int | None


@final
@attrs.frozen(kw_only=True)
class RuntimeStatistics:
    """A runtime's counters.

    Attributes:
        instances: those that exist now, in whatever state.
        started: how many were started.
        failed: how many could not even be started.
        exited: how many that were started run no more.
    """

    instances: int
    started: int
    failed: int
    exited: int


@final
@attrs.frozen(kw_only=True)
class InstanceMetrics:
    """What an instance uses now; itself, without processes that it has started.

    Attributes:
        cpu_seconds: of all its threads, since it started.
        memory_bytes: that it has in physical memory, shared pages included.
        descriptors: that it has open.
        threads: that it has.
    """

    cpu_seconds: float
    memory_bytes: int
    descriptors: int
    threads: int


class InstanceBody(ABC):
    """The handle on what a runtime has started. Only :class:`Instance` uses it.

    Attributes:
        description: for log lines, such as "pid 17".
        pid: of its process, if it has one on this machine.
        exit_status: as ``subprocess`` counts it, None while it runs or if it is not known.
    """

    description: str
    pid: int | None = None
    exit_status: int | None = None

    @abstractmethod
    async def wait_exited(self) -> None:
        """Wait until it has ended, and all that it started with it. One waiter at a time.

        If cancelled, nothing changes, and it can be waited for again.
        """

    @abstractmethod
    async def watch(self) -> None:
        """Do what has to be done while it runs, such as reading what it writes."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to end. Does nothing if it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it, whatever it is doing. Does nothing if it has ended."""

    @abstractmethod
    def metrics(self) -> InstanceMetrics | None:
        """What it uses now; None if it has ended."""


class Runtime(ABC):
    """Starts instances of one kind."""

    @property
    @abstractmethod
    def runtime_type(self) -> RuntimeType:
        """The kind."""

    @abstractmethod
    def capabilities(self) -> RuntimeCapabilities:
        """What can be asked of its instances."""

    @abstractmethod
    def validate(self, settings: RuntimeSettings) -> None:
        """Find out whether instances could be started so, without starting one.

        Raises:
            ConfigurationError: no; the message says what to change.
        """

    @abstractmethod
    def open_instance(self, spec: InstanceSpec) -> AbstractAsyncContextManager[Instance]:
        """An instance that is starting; for as long as the block runs, it may live.

        Wait for it with :meth:`Instance.wait_ready`. Leaving the block stops it with
        :meth:`Instance.stop` if it still runs; leaving by an exception, or cancelled, kills it at once.
        Either way nothing of it is left afterwards. What the block raises comes out as it is, not in
        a group.

        Raises:
            ConfigurationError: see :meth:`validate`.
            ChannelCreationFailed: there is no way to talk to it.
            SpawnFailed: it could not be started.
            SpearError: there is an instance of that id.
        """

    @abstractmethod
    def statistics(self) -> RuntimeStatistics:
        """The counters."""
