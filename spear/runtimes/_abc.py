"""The interface of a runtime.

A :class:`Runtime` runs instances of one kind. It decides which targets it accepts, and opens an
:class:`InstanceTemplate` for a target; the template starts the instances. The life of an instance (login,
supervision, drain, stop, error reports) is the same for all runtimes and is implemented in ``_instance``.
A runtime implements how to start an instance, and an ``InstanceBody``, the handle on a started one.

This module knows no concrete runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

import attrs
import trio

from spear._errors import ConfigurationError, SpawnFailed
from spear._hooks import expect_plain_function
from spear._limits import expect_whole
from spear.channels import (
    CommunicationStrategy,
    call_unprotected,
    expect_strategy,
    open_extension,
    protected_block,
    protected_class,
)
from spear.telemetry import InstanceEvent, InstanceState

from ._body import InstanceBody, RuntimeSettings
from ._foreign import call_runtime, expect_usable, problems_of
from ._instance import host_instance

if TYPE_CHECKING:
    from spear._host_limits import HostLimits, InstanceTimeouts
    from spear.channels import (
        ChannelConfig,
        CommunicationFactory,
        Endpoint,
    )

    from ._body import InstanceSpec
    from ._instance import Instance
    from ._logs import LogBook, OnLine
    from ._states import OnEvent


@final
@attrs.frozen(kw_only=True)
class RuntimeCapabilities:
    """A description of what a runtime's instances support.

    Attributes:
        can_limit_memory: whether a limit on memory is enforced.
        can_limit_cpu: whether a limit on CPU time is enforced.
        can_be_signalled: whether instances can be frozen, continued and signalled from outside.
        can_drain: whether an instance can finish its calls before it is stopped.
        can_run_any_program: whether programs other than functions for Spear's SDK can run.
    """

    can_limit_memory: bool = False
    can_limit_cpu: bool = False
    can_be_signalled: bool = False
    can_drain: bool = True
    can_run_any_program: bool = False


@final
@attrs.frozen(kw_only=True)
class RuntimeStatistics:
    """A runtime's counters.

    Attributes:
        instances: instances that exist now, in any state.
        started: instances that were started.
        failed: instances whose endpoint or ``launch`` failed or was cancelled. An instance that never
            logged in counts under ``started`` and ``exited``.
        exited: instances that were started and have exited.
    """

    instances: int
    started: int
    failed: int
    exited: int


@protected_class
@attrs.define(eq=False, kw_only=True)
class Runtime(ABC):
    """A way to run instances. Each object belongs to one host, which finds the runtime by name.

    A host knows the runtimes passed to ``open_spearlet(runtimes=...)``, Spear's own runtimes, and the
    entry points ``spear.runtimes`` of installed distributions. An entry point names a subclass, which
    is called without arguments, or an object.

    A subclass is decorated with ``@attrs.define(eq=False, kw_only=True)``. The fields of a subclass are
    settings of the runtime at one host: the keys of ``[runtimes.NAME]`` in a configuration.

    Attributes:
        name: the first part of each instance id: 1 to 32 of ``a-z 0-9 _ -``, the first a letter.
        settings_class: the class of the settings of one deployment.
        strategy: the strategy for channels to the instances, if the host was given none for this
            runtime. None is Spear's default.
        max_instances: most instances at the same time; None for no limit but the machine's.

    Raises:
        ConfigurationError: the name or a setting cannot be used.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[RuntimeSettings]]
    strategy: ClassVar[CommunicationStrategy | None] = None
    _replaces_own: ClassVar[bool] = False  # whether it may have the name of a runtime of Spear

    max_instances: int | None = None
    _instances: int = attrs.field(default=0, init=False)
    _seen: Counter[InstanceState] = attrs.field(factory=Counter, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        expect_usable(self)
        if self.strategy is not None:
            expect_strategy(self.name, self.strategy)
        if self.max_instances is not None:
            expect_whole("max_instances", self.max_instances, 1)

    def capabilities(self) -> RuntimeCapabilities:
        """Return what the instances support."""
        return RuntimeCapabilities()

    def takes(self, target: object) -> RuntimeSettings | None:
        """Return the settings that run a target; None if the target is not for this runtime.

        A target is settings of :attr:`settings_class`, or a text such as ``shop.py``, ``company.shop`` or
        ``filter.wasm``, or any other object. Return settings for a text only if the text certainly means
        this runtime: the first runtime that returns settings gets the target. Make all paths in the
        settings absolute; Spear does not check this. An exception other than ConfigurationError, or any
        other result, fails the deployment with an error that names the runtime.

        Raises:
            ConfigurationError: the target is for this runtime, and cannot be used.
        """
        return target if isinstance(target, self.settings_class) else None

    def validate(self, settings: RuntimeSettings) -> None:
        """Check whether this machine can start instances with these settings, without starting one.

        Raises:
            ConfigurationError: the machine cannot; the message says what to change.
        """
        if not isinstance(settings, self.settings_class):
            raise ConfigurationError(
                f"the runtime {self.name!r} needs {self.settings_class.__name__}, not "
                f"{type(settings).__name__}"
            )
        for problem in problems_of(self.name, settings):
            raise problem

    @protected_block
    async def open_template(
        self,
        settings: RuntimeSettings,
        factory: CommunicationFactory,
        *,
        several: bool = False,
        timeouts: InstanceTimeouts | None = None,
        on_line: OnLine | None = None,
    ) -> AsyncIterator[InstanceTemplate]:
        """Open a template, which starts instances of one program while the block runs.

        Instances must end before the block is left, unless the runtime says otherwise. An exception of
        the block is raised as it is, not in a group.

        Args:
            settings: the settings of all instances, of :attr:`settings_class`.
            factory: opens the channels to the instances; its limits apply to them.
            several: whether more than one instance is expected, so that preparation pays.
            timeouts: the timeouts of instances whose specs have none; by default the factory's.
            on_line: receives each line that is written while instances are prepared; must neither block
                nor raise.

        Raises:
            ConfigurationError: see :meth:`validate`; or ``on_line`` is not a plain function.
            SpawnFailed: the runtime cannot prepare instances, or not within ``startup_seconds``.
            SpearError: a bug of the runtime has ended the block.
        """
        call_runtime(self.name, "validate", self.validate, settings)
        if on_line is not None:
            expect_plain_function("on_line", on_line)
        await trio.lowlevel.checkpoint()
        if self.strategy is not None:
            factory.suggest_strategy(self.name, self.strategy)
        limits = factory.manager.limits
        if timeouts is not None:
            limits = attrs.evolve(limits, timeouts=timeouts)
        spec = TemplateSpec(
            settings=settings, factory=factory, limits=limits, several=several, on_line=on_line
        )
        async with open_extension(
            f"the runtime {self.name!r}",
            partial(self.prepare, spec),
            InstanceTemplate,
            limits.timeouts.startup_seconds,
            make_error=SpawnFailed,
        ) as template:
            yield template

    @abstractmethod
    def prepare(self, spec: TemplateSpec) -> AbstractAsyncContextManager[InstanceTemplate]:
        """Prepare for starting instances; leaving the block undoes the preparation.

        Only :meth:`open_template` calls this method, after it has checked the settings. Entering and
        leaving the block may each take ``startup_seconds`` of the timeouts.
        """

    def statistics(self) -> RuntimeStatistics:
        """Return the counters."""
        return RuntimeStatistics(
            instances=self._instances,
            started=self._seen[InstanceState.STARTING],
            failed=self._seen[InstanceState.FAILED],
            exited=self._seen[InstanceState.EXITED],
        )

    @contextmanager
    def _counting(self, spec: InstanceSpec) -> Iterator[InstanceSpec]:
        """Count an instance while the block runs, and each state that it enters."""
        if spec.instance_id.runtime != self.name:
            raise ConfigurationError.about(
                "instance_id", f"{spec.instance_id} does not name the runtime {self.name!r}"
            )
        if self.max_instances is not None and self._instances >= self.max_instances:
            raise SpawnFailed(
                f"{spec.instance_id} did not start: the runtime {self.name!r} has {self._instances} "
                f"instances; at most {self.max_instances} are allowed (max_instances)",
                code="max_instances",
            )
        self._instances += 1
        try:
            yield attrs.evolve(spec, on_event=partial(self._count, spec.on_event))
        finally:
            self._instances -= 1

    def _count(self, on_event: OnEvent | None, event: InstanceEvent) -> None:
        self._seen[event.state] += 1
        if on_event is not None:
            call_unprotected(on_event, event)


@final
@attrs.frozen(kw_only=True)
class TemplateSpec:
    """A request to open a template.

    Attributes:
        settings: the settings of the instances, of the runtime's ``settings_class``.
        factory: the factory of the channels to the instances.
        limits: the limits of the host, with the timeouts of these instances.
        several: whether more than one instance is expected.
        on_line: receives each line that is written while instances are prepared.
    """

    settings: RuntimeSettings
    factory: CommunicationFactory
    limits: HostLimits
    several: bool = False
    on_line: OnLine | None = None


@protected_class
class InstanceTemplate(ABC):
    """A preparation that makes starts of one program cheap: a zygote, a compiled module, a Pod template.

    Opened by :meth:`Runtime.open_template`.

    Attributes:
        runtime: the runtime that has opened the template, and counts its instances.
        spec: the request for the template.
    """

    def __init__(self, runtime: Runtime, spec: TemplateSpec) -> None:
        self.runtime = runtime
        self.spec = spec

    @property
    def obstacle(self) -> str:
        """The reason why preparation does not speed up starts, as a predicate: "has only one instance".

        Empty if preparation does speed up starts.
        """
        return ""

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        """Return the channel configuration of an instance, based on ``config`` from its spec."""
        return config

    @abstractmethod
    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        """Start the body of an instance, such as a process; leaving the block releases all it holds.

        The instance has to log in at ``endpoint.address`` as ``endpoint.instance_id``, with
        ``endpoint.secret``. Spear kills the body before it leaves the block. Entering and leaving the
        block may each take ``startup_seconds`` plus ``exit_seconds``. A runtime can therefore enforce
        ``startup_seconds`` itself, and name the step that took too long.

        Args:
            endpoint: the endpoint at which the instance logs in.
            book: keeps the lines that the instance writes.
            timeouts: the timeouts of this instance.

        Raises:
            SpawnFailed: the instance could not be started.
            ConfigurationError: the instance cannot be started with these settings.
        """

    @protected_block
    async def open_instance(self, spec: InstanceSpec) -> AsyncIterator[Instance]:
        """Start an instance, which lives at most as long as the block runs.

        Entering does not wait for the login: await :meth:`Instance.wait_ready` before the first call.
        Leaving the block stops the instance with :meth:`Instance.stop` if it still runs; an exception or
        a cancellation kills it at once. Afterwards Spear holds no resource of the instance. An instance
        that does not exit within ``kill_seconds`` of being killed may still run; an error is logged. An
        exception of the block is raised as it is, not in a group.

        Raises:
            ConfigurationError: the id names another runtime, or these settings cannot be used.
            ChannelCreationFailed: no endpoint could be opened for the instance.
            SpawnFailed: the instance could not be started.
            SpearError: an instance of that id exists, or a bug of the runtime has ended the block.
        """
        name = self.runtime.name
        config = call_runtime(name, "configure_channel", self.configure_channel, spec.channel)
        if spec.timeouts is None:
            spec = attrs.evolve(spec, timeouts=self.spec.limits.timeouts)
        with self.runtime._counting(spec) as counted:
            opening = host_instance(counted, self.spec.factory, config, self._launch)
            async with opening as instance:
                yield instance

    def _launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        return open_extension(
            self._whose,
            partial(self.launch, endpoint, book, timeouts),
            InstanceBody,
            timeouts.startup_seconds + timeouts.exit_seconds,
            make_error=SpawnFailed,
        )

    @property
    def _whose(self) -> str:
        return f"the runtime {self.runtime.name!r}"
