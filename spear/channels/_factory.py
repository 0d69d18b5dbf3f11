"""The factory of channels, which chooses the transports of each instance.

Each runtime has a strategy: transports in order of preference. The factory opens a listener for each
transport that can be opened, up to the strategy's limit, and offers all addresses to the instance. If
none can be opened, the error names every attempt and its reason.

The factory also knows which instances have an endpoint, and which of them are connected.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar, final

import attrs
import trio

from spear._errors import (
    ChannelClosed,
    ChannelCreationFailed,
    ConfigurationError,
    DeadlineExceeded,
    SpearError,
)
from spear._host_limits import DEFAULT_HOST_LIMITS, HostLimits, InstanceTimeouts
from spear._limits import expect_seconds, shown
from spear.transports import (
    Address,
    Listener,
    ListenOptions,
    TlsClient,
    TransportRegistry,
    make_private_directory,
)

from ._channel import CommunicationChannel
from ._extensions import open_extension
from ._interrupts import protected_block, protected_class
from ._manager import ConnectionManager, Endpoint, open_connection_manager
from ._nursery import open_private_nursery
from ._strategy import (
    CommunicationStrategy,
    default_strategy,
    expect_strategy,
    place_of,
    read_strategies,
    transport_names,
)

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.telemetry import Instruments
    from spear.transports import GetDirectory, Reach, Transport

    from ._handlers import Service

logger: Final = logging.getLogger("spear.channels")

T = TypeVar("T")


@final
@attrs.frozen(kw_only=True)
class ChannelConfig:
    """A set of deviations of one instance from its runtime's strategy.

    Attributes:
        transports: names of transports, best first, instead of the strategy's; each transport that can
            be opened is offered.
        address: the address to listen at; requires exactly one transport.
        low_latency: whether to poll for input for a moment before blocking: costs CPU, saves a wake-up.
        connect_seconds: seconds that :meth:`CommunicationFactory.get_or_create` waits for the login of
            the instance; None for ``startup_seconds`` of the host's limits.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    transports: tuple[str, ...] | None = attrs.field(
        default=None, converter=attrs.converters.optional(transport_names)
    )
    address: Address | None = None
    low_latency: bool = False
    connect_seconds: float | None = None

    def __attrs_post_init__(self) -> None:
        if self.connect_seconds is not None:
            expect_seconds("connect_seconds", self.connect_seconds)
        if self.address is not None and len(self.transports or ()) != 1:
            raise ConfigurationError("an address requires exactly one name in transports")


@final
@protected_class
class CommunicationFactory:
    """A factory of endpoints and channels; made by :func:`open_communication_factory`.

    Attributes:
        manager: accepts and authenticates connections.
        transports: the transports that can be used here.
    """

    def __init__(
        self,
        manager: ConnectionManager,
        get_directory: GetDirectory,
        nursery: trio.Nursery,
        transports: TransportRegistry,
        strategies: dict[str, CommunicationStrategy],
    ) -> None:
        self.manager = manager
        self.transports = transports
        self._get_directory = get_directory
        self._nursery = nursery  # runs get_or_create's endpoints until the block is left
        self._strategies = strategies
        self._kept: dict[InstanceId, _KeptEndpoint] = {}
        self._faulty: set[str] = set()

    # -- strategies ---------------------------------------------------------------------------

    def strategy(self, runtime: str) -> CommunicationStrategy:
        """Return the strategy of a runtime: the one given for it, or else Spear's default."""
        return self._strategies.get(runtime) or default_strategy(runtime)

    def suggest_strategy(self, runtime: str, strategy: CommunicationStrategy) -> None:
        """Use a strategy for a runtime from now on, unless one was given for it.

        Raises:
            ConfigurationError: the value is not a strategy.
        """
        expect_strategy(runtime, strategy)
        self._strategies.setdefault(runtime, strategy)

    # -- endpoints ----------------------------------------------------------------------------

    @protected_block
    async def open_endpoint(
        self,
        instance: InstanceId,
        *,
        service: Service | None = None,
        config: ChannelConfig | None = None,
        timeouts: InstanceTimeouts | None = None,
    ) -> AsyncIterator[Endpoint]:
        """Open an endpoint, where the instance can log in for as long as the block runs.

        The owner of the instance holds the block; leaving it closes the listeners and the channel.

        Args:
            instance: the instance that may log in.
            service: the functions that the host offers to the instance.
            config: deviations from the strategy of the instance's runtime.
            timeouts: the instance's timeouts; by default those of the host's limits.

        Raises:
            ChannelCreationFailed: no transport could be opened.
            SpearError: the instance has an endpoint already.
        """
        if self.manager.endpoint(instance) is not None:
            await trio.lowlevel.checkpoint()
            raise SpearError(f"{instance} has an endpoint already")
        config = config or ChannelConfig()
        async with AsyncExitStack() as stack:
            seconds = (timeouts or self.manager.limits.timeouts).startup_seconds
            listeners, failures = await self._listen(instance, config, seconds, stack)
            endpoint = await stack.enter_async_context(
                self.manager.open_endpoint(
                    instance,
                    *listeners,
                    service=service,
                    low_latency=config.low_latency,
                    timeouts=timeouts,
                )
            )
            endpoint.not_offered = tuple(failures)
            yield endpoint

    async def _listen(
        self, instance: InstanceId, config: ChannelConfig, seconds: float, stack: AsyncExitStack
    ) -> tuple[list[Listener], list[tuple[str, str]]]:
        """Open the listeners of a strategy, best first and at least one; ``stack`` closes them.

        Each transport has a share of the seconds, so that a transport that hangs leaves time for others
        and for the instance. Returns the listeners, and (transport, reason) of each failure.
        """
        strategy = self.strategy(instance.runtime)
        if config.transports is not None:
            strategy = attrs.evolve(strategy, transports=config.transports, most=None)
        listeners: list[Listener] = []
        attempts: list[tuple[str, str]] = []
        options = ListenOptions(
            name=f"{instance.name}-{instance.incarnation}",
            address=config.address,
            get_directory=self._get_directory,
        )
        for name in strategy.transports:
            if len(listeners) == strategy.most:
                break
            try:
                opening = open_extension(
                    f"the transport {name!r}",
                    partial(self.transports.find(name).listen, options),
                    Listener,
                    seconds / (len(strategy.transports) + 1),
                    check=partial(_check_listener, strategy.reach),
                    refusals=(SpearError, OSError),
                    make_error=partial(self._note_bug, name),
                )
                listeners.append(await stack.enter_async_context(opening))
            except (SpearError, OSError) as error:
                attempts.append((name, str(error)))
                logger.info("%s: cannot listen with %s: %s", instance, name, error)
        if not listeners:
            raise ChannelCreationFailed(str(instance), attempts)
        return listeners, attempts

    def _note_bug(self, transport: str, fault: str) -> SpearError:
        """Return the error of a transport that has a bug, and log the first one of each transport."""
        if transport not in self._faulty:
            self._faulty.add(transport)
            logger.warning("%s; instances use other transports", fault)
        return SpearError(fault)

    async def get_or_create(
        self,
        instance: InstanceId,
        *,
        service: Service | None = None,
        config: ChannelConfig | None = None,
    ) -> CommunicationChannel:
        """Wait for the login of an instance, and return its channel; open an endpoint if it has none.

        If the instance has an endpoint already, ``service`` and ``config.transports`` change nothing.

        An endpoint that is opened here stays open until :meth:`close`, or until the factory's block is
        left. It is closed earlier if all callers give up, or are cancelled, before the first login.

        Raises:
            ChannelCreationFailed: no transport could be opened.
            ChannelClosed: the endpoint was closed meanwhile.
            DeadlineExceeded: the instance did not log in within ``config.connect_seconds``.
        """
        seconds = config.connect_seconds if config else None
        if seconds is None:
            seconds = self.manager.limits.timeouts.startup_seconds
        with trio.move_on_after(seconds):
            endpoint = self.manager.endpoint(instance)
            if endpoint is not None and instance not in self._kept:
                return await endpoint.wait_connected()
            return await self._wait_kept(instance, service, config)
        raise DeadlineExceeded(f"{instance} did not log in within {seconds:g} s", delivered="no")

    async def _wait_kept(
        self, instance: InstanceId, service: Service | None, config: ChannelConfig | None
    ) -> CommunicationChannel:
        kept = self._kept.get(instance)
        if kept is None:
            kept = self._kept[instance] = _KeptEndpoint()
            self._nursery.start_soon(self._keep_open, kept, instance, service, config)
        kept.waiting += 1
        try:
            await kept.opened.wait()
            if kept.failure is not None:
                raise kept.failure
            if kept.endpoint is None:
                raise ChannelClosed(f"{instance} is being stopped")
            return await kept.endpoint.wait_connected()
        finally:
            kept.waiting -= 1
            if not kept.waiting and (kept.endpoint is None or kept.endpoint.channel is None):
                await kept.aclose()

    async def _keep_open(
        self,
        kept: _KeptEndpoint,
        instance: InstanceId,
        service: Service | None,
        config: ChannelConfig | None,
    ) -> None:
        try:
            with kept.scope:
                async with self.open_endpoint(instance, service=service, config=config) as opened:
                    kept.endpoint = opened
                    kept.opened.set()
                    await trio.sleep_forever()
        except Exception as error:
            if kept.opened.is_set():  # a transport has failed after it was opened
                logger.error("%s: %s", instance, error, exc_info=error)
            else:
                kept.failure = error  # for the tasks that wait
        finally:
            del self._kept[instance]
            kept.opened.set()
            kept.closed.set()

    # -- background tasks ---------------------------------------------------------------------

    async def start(self, function: Callable[[trio.TaskStatus[T]], Awaitable[None]]) -> T:
        """Run ``function(task_status)`` until the factory's block is left, which cancels it.

        Returns the value of ``task_status.started()``. If cancelled before, the function is cancelled.
        """
        started: T = await self._nursery.start(lambda *, task_status: function(task_status))
        return started

    # -- connected instances ------------------------------------------------------------------

    def has_channel(self, instance: InstanceId) -> bool:
        """Return whether the instance is connected now."""
        endpoint = self.manager.endpoint(instance)
        return endpoint is not None and endpoint.is_connected

    @property
    def active_instances(self) -> tuple[InstanceId, ...]:
        """The instances that are connected now."""
        return tuple(each.instance_id for each in self.manager.endpoints if each.is_connected)

    async def close(self, instance: InstanceId) -> None:
        """Close the instance's channel, and refuse further logins. A checkpoint.

        Calls in flight on the channel fail with ChannelClosed. If cancelled, the channel is closed, too.

        Raises:
            ChannelClosed: the instance has no endpoint.
        """
        await trio.lowlevel.checkpoint()
        endpoint, kept = self.manager.endpoint(instance), self._kept.get(instance)
        if endpoint is None and kept is None:
            raise ChannelClosed(f"{instance} has no channel")
        try:
            if endpoint is not None:
                await endpoint.aclose()
        finally:
            if kept is not None:
                await kept.aclose()

    async def close_all(self) -> None:
        """Close all channels, concurrently. A checkpoint."""
        await trio.lowlevel.checkpoint()  # an empty nursery is no checkpoint
        async with trio.open_nursery() as nursery:
            for instance in {each.instance_id for each in self.manager.endpoints} | set(self._kept):
                nursery.start_soon(self._close_if_open, instance)

    async def _close_if_open(self, instance: InstanceId) -> None:
        with suppress(ChannelClosed):  # another task has closed it first
            await self.close(instance)


def _check_listener(reach: Reach, listener: Listener) -> None:
    """Raise for a listener that cannot be offered, such as one that instances cannot reach."""
    for each in (listener.bound, listener.advertised):
        if not isinstance(each, Address):
            raise TypeError(f"a listener's address must be an Address, not {shown(each)}")
    if not isinstance(listener.trust, TlsClient | None):
        raise TypeError(f"a listener's trust must be a TlsClient, not {shown(listener.trust)}")
    if listener.advertised.reach < reach:
        raise ConfigurationError(
            f"{listener.advertised} cannot be reached from {place_of(reach)}: set an address of the "
            "transport, or an advertised address, that can be reached"
        )


@final
@attrs.define(eq=False)
class _KeptEndpoint:
    """An endpoint that :meth:`CommunicationFactory.get_or_create` is opening, or has opened."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    opened: trio.Event = attrs.field(factory=trio.Event)  # or the endpoint has failed to open
    closed: trio.Event = attrs.field(factory=trio.Event)
    endpoint: Endpoint | None = None
    failure: Exception | None = None
    waiting: int = 0  # tasks that wait for a login

    async def aclose(self) -> None:
        """Close the endpoint, even if cancelled. Takes as long as its channel takes to send CLOSE."""
        self.scope.cancel()
        with trio.CancelScope(shield=True):
            await self.closed.wait()


@protected_block
async def open_communication_factory(
    limits: HostLimits = DEFAULT_HOST_LIMITS,
    *,
    transports: Iterable[Transport] = (),
    strategies: Mapping[str, CommunicationStrategy] | None = None,
    instruments: Instruments | None = None,
) -> AsyncIterator[CommunicationFactory]:
    """Open a factory for as long as the block runs; leaving it closes every channel.

    Args:
        limits: the host's limits, which apply to every connection.
        transports: further transports, found by name before those of Spear and of distributions.
        strategies: strategies by runtime; each replaces Spear's own strategy for the runtime.
        instruments: are notified of connections, and of the instances that use the factory.

    Raises:
        ConfigurationError: two transports have one name, or a strategy or a transport cannot be used.
    """
    registry = TransportRegistry(transports)
    chosen = read_strategies(strategies)
    with ExitStack() as stack:

        @cache
        def get_directory() -> str:
            return stack.enter_context(make_private_directory())

        async with (
            open_connection_manager(limits, instruments=instruments) as manager,
            open_private_nursery() as nursery,
        ):
            yield CommunicationFactory(manager, get_directory, nursery, registry, chosen)
