"""What every runtime offers.

A :class:`Runtime` makes instances. Their life (logging in, being watched, drained, stopped, explained)
is the same everywhere and lives in ``_instance``; what a runtime brings is a way to start something,
and a handle on what it has started, an ``InstanceBody``.

This module knows no concrete runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from spear._ids import RuntimeType

    from ._body import InstanceSpec, RuntimeSettings
    from ._instance import Instance


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
