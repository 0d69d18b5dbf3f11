"""What every runtime offers.

A :class:`Runtime` runs instances of one kind: it says which targets it takes, and opens an
:class:`InstanceTemplate` for one, which starts its instances. The life of an instance (logging in, being
watched, drained, stopped, explained) is the same everywhere and lives in ``_instance``; what a runtime
brings is a way to start something, and a handle on what it has started, an ``InstanceBody``.

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
    """What can be asked of a runtime's instances.

    Attributes:
        can_limit_memory: a limit on memory is enforced.
        can_limit_cpu: so is one on CPU time.
        can_be_signalled: instances can be frozen, continued and signalled from outside.
        can_drain: an instance may finish its calls before it is stopped.
        can_run_any_program: not only functions written for Spear's SDK.
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
        instances: those that exist now, in whatever state.
        started: how many were started.
        failed: instances whose endpoint or ``launch`` failed or was cancelled. An instance that never
            logged in counts under ``started`` and ``exited``.
        exited: how many that were started run no more.
    """

    instances: int
    started: int
    failed: int
    exited: int


@protected_class
@attrs.define(eq=False, kw_only=True)
class Runtime(ABC):
    """A way to run instances. An object serves one host, which finds it by its name.

    A host finds runtimes among those that ``open_spearlet(runtimes=...)`` was given, those of Spear, and
    the entry points ``spear.runtimes`` of installed distributions. An entry point names a subclass, which
    is called without arguments, or an object.

    A subclass is decorated with ``@attrs.define(eq=False, kw_only=True)``. Its fields are settings of the
    runtime at one host: the keys of ``[runtimes.NAME]`` in a configuration.

    Attributes:
        name: the first part of the ids of its instances: 1 to 32 of ``a-z 0-9 _ -``, the first a letter.
        settings_class: the class of the settings of one deployment.
        strategy: how its instances are reached, if the host was given no strategy for it. None is
            Spear's own.
        max_instances: at the same time; None if there is no limit but the machine's.

    Raises:
        ConfigurationError: the name or a setting cannot be used.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[RuntimeSettings]]
    strategy: ClassVar[CommunicationStrategy | None] = None
    _replaces_own: ClassVar[bool] = False  # and may have the name of one of Spear's

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
        """What can be asked of its instances."""
        return RuntimeCapabilities()

    def takes(self, target: object) -> RuntimeSettings | None:
        """Return the settings that run a target; None if the target is not for this runtime.

        A target is settings of :attr:`settings_class`, or a text such as ``shop.py``, ``company.shop`` or
        ``filter.wasm``, or any other object. Return settings for a text only if it is certainly
        yours: the first runtime that returns settings gets the target. Make all paths in the settings
        absolute; Spear does not check this. Another exception than ConfigurationError, or another result,
        fails the deployment and names the runtime.

        Raises:
            ConfigurationError: the target is for this runtime, and cannot be used.
        """
        return target if isinstance(target, self.settings_class) else None

    def validate(self, settings: RuntimeSettings) -> None:
        """Find out whether instances could be started so, without starting one.

        Raises:
            ConfigurationError: no; the message says what to change.
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
        """What starts instances of one program, for as long as the block runs.

        Instances must end before the block is left, unless the runtime says otherwise. What the block
        raises comes out as it is, not in a group.

        Args:
            settings: of :attr:`settings_class`; of all instances.
            factory: opens the channels to the instances; its limits are theirs.
            several: whether more than one instance is expected, so that preparation pays.
            timeouts: of the instances whose specs have none; by default those of the factory's limits.
            on_line: receives each line that is written while instances are prepared; must neither block
                nor raise.

        Raises:
            ConfigurationError: see :meth:`validate`; or ``on_line`` is no plain function.
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
        """Do what instances need before they start; leaving the block undoes it.

        :meth:`open_template` calls this, and has checked the settings. Entering the block and leaving
        it have ``startup_seconds`` of the timeouts each.
        """

    def statistics(self) -> RuntimeStatistics:
        """The counters."""
        return RuntimeStatistics(
            instances=self._instances,
            started=self._seen[InstanceState.STARTING],
            failed=self._seen[InstanceState.FAILED],
            exited=self._seen[InstanceState.EXITED],
        )

    @contextmanager
    def _counting(self, spec: InstanceSpec) -> Iterator[InstanceSpec]:
        """Count an instance while the block runs, and every state that it comes to."""
        if spec.instance_id.runtime != self.name:
            raise ConfigurationError.about(
                "instance_id", f"{spec.instance_id} is of another runtime than {self.name!r}"
            )
        if self.max_instances is not None and self._instances >= self.max_instances:
            raise SpawnFailed(
                f"{spec.instance_id} did not start: the runtime {self.name!r} has {self._instances} "
                "instances, which is its max_instances",
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
    """A template that is wanted.

    Attributes:
        settings: of its instances; of the runtime's ``settings_class``.
        factory: opens the channels to the instances.
        limits: of the host, with the timeouts of these instances.
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
    """What makes many instances of one program cheap: a zygote, a compiled module, a Pod template.

    Opened by :meth:`Runtime.open_template`.

    Attributes:
        runtime: has made it, and counts its instances.
        spec: what was wanted.
    """

    def __init__(self, runtime: Runtime, spec: TemplateSpec) -> None:
        self.runtime = runtime
        self.spec = spec

    @property
    def obstacle(self) -> str:
        """The reason that preparation does not speed up starts, as a predicate: "has but one instance".

        Empty if it does.
        """
        return ""

    def configure_channel(self, config: ChannelConfig) -> ChannelConfig:
        """Return the channel's configuration for an instance; ``config`` is the one in its spec."""
        return config

    @abstractmethod
    def launch(
        self, endpoint: Endpoint, book: LogBook, timeouts: InstanceTimeouts
    ) -> AbstractAsyncContextManager[InstanceBody]:
        """Start what an instance runs in; leaving the block releases all that it holds.

        The instance has to log in at ``endpoint.address`` as ``endpoint.instance_id``, with
        ``endpoint.secret``. Its body is killed before the block is left. Entering the block and leaving
        it have ``startup_seconds`` and ``exit_seconds`` together each, so that a runtime may say itself
        what took too long.

        Args:
            endpoint: where the instance logs in.
            book: keeps what the instance writes.
            timeouts: of this instance.

        Raises:
            SpawnFailed: it could not be started.
            ConfigurationError: it cannot be started so.
        """

    @protected_block
    async def open_instance(self, spec: InstanceSpec) -> AsyncIterator[Instance]:
        """An instance that is starting; for as long as the block runs, it may live.

        Wait for it with :meth:`Instance.wait_ready`. Leaving the block stops it with
        :meth:`Instance.stop` if it still runs; leaving by an exception, or cancelled, kills it at once.
        Afterwards Spear holds nothing of the instance. An instance that does not end within
        ``kill_seconds`` of being killed may still run; an error is logged. What the block raises comes
        out as it is, not in a group.

        Raises:
            ConfigurationError: its id is of another runtime, or it cannot be started so.
            ChannelCreationFailed: there is no way to talk to it.
            SpawnFailed: it could not be started.
            SpearError: there is an instance of that id, or a bug of the runtime has ended the block.
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
