"""Staying connected to a host: connect, log in, serve, drain, and reconnect.

The caller provides the identity and the agent; the channel handles the protocol. After a broken
connection, a new one resumes the same incarnation with the session key of the last login. A broken
connection whose threads are still busy is kept beside its successor until the threads have ended.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import (
    AuthenticationFailed,
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    RemoteProtocolError,
    SpearError,
)
from spear._limits import DEFAULT_WIRE_LIMITS, DRAIN_SECONDS, WireLimits, expect_seconds
from spear._util import summary_of
from spear.channels import CommunicationChannel, connect_channel
from spear.transports import Address
from spear.wire import BootstrapRecord, OfferedAddress

from ._reaching import HostAddresses, unreachable

if TYPE_CHECKING:
    from spear._ids import InstanceId, Secret

    from ._app import Agent

logger: Final = logging.getLogger("spear.agent")

FIRST_DELAY_SECONDS: Final = 0.1
LONGEST_DELAY_SECONDS: Final = 30.0

STABLE_SECONDS: Final = 5.0
"""A connection that lasted this long resets the backoff to short delays."""

MAX_ABSENCES: Final = 3
"""Consecutive rounds of attempts without any listener after which the host counts as gone."""

NOT_ITS_OWN: Final = "did the program cancel tasks or close descriptors of Spear?"


async def serve(
    agent: Agent,
    addresses: Address | HostAddresses,
    secret: Secret,
    instance_id: InstanceId,
    *,
    limits: WireLimits = DEFAULT_WIRE_LIMITS,
    drain_seconds: float = DRAIN_SECONDS,
    low_latency: bool = False,
    debug: bool = False,
    stop: trio.Event | None = None,
    rng: random.Random | None = None,
) -> None:
    """Serve an agent's functions to a host until the host or ``stop`` ends it.

    The agent then drains: it accepts no further calls, finishes running calls, and this function returns.
    If the host began the drain, the host limits its time; otherwise ``drain_seconds`` does. When a
    connection breaks, the calls that ran on it are cancelled and the agent reconnects; plain functions
    run to their end.

    A round of attempts may take ``limits.connect_seconds`` plus ``limits.handshake_seconds`` altogether.

    Cancellation cancels running calls, and closes the connection without a CLOSE message. A checkpoint.

    Args:
        agent: the agent to serve.
        addresses: the addresses of the host.
        secret: the secret of this instance from the host; valid for one login.
        instance_id: the id of this instance.
        limits: the limits of this side; the agent's ``concurrency`` is applied to them.
        drain_seconds: the time for running calls after ``stop`` was set.
        low_latency: whether to poll for input for a moment before sleeping.
        debug: whether errors carry tracebacks.
        stop: an event that begins draining when it is set.
        rng: the source of random delays between attempts.

    Raises:
        AuthenticationFailed: the host refused this instance, or failed to authenticate itself.
        ChannelBroken: no connection could be made for ``limits.reconnect_seconds``.
        RemoteProtocolError: the peer at the address is not a Spear host.
        SpearError: functions can no longer be run, for example because no thread can be started.
        ConfigurationError: these addresses and arguments cannot work.
    """
    if isinstance(addresses, Address):
        addresses = HostAddresses((OfferedAddress(str(addresses)),))
    expect_seconds("drain_seconds", drain_seconds)
    record = BootstrapRecord(
        addresses=tuple(addresses.in_order()),
        secret=secret,
        instance_id=instance_id,
        limits=limits,
        drain_seconds=drain_seconds,
        debug=debug,
        low_latency=low_latency,
    )
    async with agent.running(limits, debug=debug):
        await serve_running(agent, addresses, record, trio.Event() if stop is None else stop, rng)


async def serve_running(
    agent: Agent,
    addresses: HostAddresses,
    record: BootstrapRecord,
    stop: trio.Event,
    rng: random.Random | None = None,
) -> None:
    """Serve an agent that already runs; see :func:`serve`, which also runs the agent."""
    await _Session(
        agent,
        addresses,
        record,
        stop,
        rng or random.Random(),  # noqa: S311  # spreads load, protects nothing
    ).run()


def backoff_seconds(rng: random.Random) -> Iterator[float]:
    """Yield the delay before each attempt: exponential backoff with a cap and full jitter.

    Full jitter spreads the attempts of all instances, which a restarting host loses at the same moment.
    """
    longest = FIRST_DELAY_SECONDS
    while True:
        yield rng.uniform(0, longest)
        longest = min(2 * longest, LONGEST_DELAY_SECONDS)


@final
class _Session:
    """A session of one incarnation with its host, resumed on a new connection whenever one breaks."""

    def __init__(
        self,
        agent: Agent,
        addresses: HostAddresses,
        record: BootstrapRecord,
        stop: trio.Event,
        rng: random.Random,
    ) -> None:
        self._agent = agent
        self._addresses = addresses
        self._secret = record.secret
        self._resumes = False
        self._instance_id = record.instance_id
        self._limits = agent.limits(record.limits)
        self._drain_seconds = record.drain_seconds
        self._low_latency = record.low_latency
        self._debug = agent.debug or record.debug
        self._stop = stop
        self._rng = rng
        self._failure: SpearError | None = None

    async def run(self) -> None:
        """Serve until the host, ``stop`` or a failure ends the session; see :func:`serve`."""
        # The failure is raised after the nursery, which would wrap it in a group.
        failure: SpearError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_unable)
            failure = await self._serve(nursery)
            nursery.cancel_scope.cancel()
        failure = failure or self._failure
        if failure is not None:
            raise failure

    async def _serve(self, nursery: trio.Nursery) -> SpearError | None:
        """Serve until the host, ``stop`` or a failure ends the session; return the failure, if any."""
        await trio.lowlevel.checkpoint()
        delays = backoff_seconds(self._rng)
        while not self._stop.is_set():
            channel = await self._reach(nursery, delays)
            if isinstance(channel, CommunicationChannel):
                since = trio.current_time()
                if not await self._until_broken(channel):
                    return None
                logger.warning("%s: %s; reconnecting", self._instance_id, channel.closed_by)
                if trio.current_time() - since >= STABLE_SECONDS:
                    delays = backoff_seconds(self._rng)
            else:
                return channel
        return None

    # -- connecting -----------------------------------------------------------------------------------

    async def _reach(
        self, nursery: trio.Nursery, delays: Iterator[float]
    ) -> CommunicationChannel | SpearError | None:
        """Connect, with retries; return a channel or the last error, or None if ``stop`` was set."""
        result: CommunicationChannel | SpearError | None = None
        async with trio.open_nursery() as watching:
            watching.start_soon(self._cancel_when_stopped, watching.cancel_scope)
            result = await self._try(nursery, delays)
            watching.cancel_scope.cancel()
        return result

    async def _try(
        self, nursery: trio.Nursery, delays: Iterator[float]
    ) -> CommunicationChannel | SpearError:
        give_up = trio.current_time() + self._limits.reconnect_seconds
        absences = 0
        if self._resumes:
            await trio.sleep(next(delays))
        while True:
            failures: list[tuple[OfferedAddress, SpearError]] = []
            channel = await self._try_each(nursery, failures)
            if channel is not None:
                return channel
            failure = unreachable(failures)
            is_absent = all(each.code == "no_listener" for _, each in failures)
            absences = absences + 1 if is_absent else 0
            if all(self._is_final(each) for _, each in failures) or absences >= MAX_ABSENCES:
                return failure
            delay = next(delays)
            if trio.current_time() + delay >= give_up:
                return _lost(failure)
            self._addresses.failed(*failures[-1])
            await trio.sleep(delay)

    async def _try_each(
        self, nursery: trio.Nursery, failures: list[tuple[OfferedAddress, SpearError]]
    ) -> CommunicationChannel | None:
        """Return a channel over the first address that works, or None; append to ``failures``."""
        offered = self._addresses.in_order()
        deadline = (
            trio.current_time() + self._limits.connect_seconds + self._limits.handshake_seconds
        )
        for number, each in enumerate(offered):
            if failures:
                self._addresses.failed(
                    *failures[-1]
                )  # _try() reports the last failure, unless it is final
            share = (deadline - trio.current_time()) / (len(offered) - number)
            try:
                channel = await self._attempt(nursery, each, share)
            except SpearError as error:
                failures.append((each, error))
            except Exception as error:  # a bug of a transport of another distribution
                failure = ChannelBroken(f"the transport failed: {summary_of(error)}")
                failure.__cause__ = error
                failures.append((each, failure))
            else:
                self._addresses.worked(each)
                return channel
        return None

    async def _attempt(
        self, nursery: trio.Nursery, offered: OfferedAddress, seconds: float
    ) -> CommunicationChannel:
        """Connect to one address, and log in."""
        with trio.move_on_after(seconds):
            channel: CommunicationChannel = await nursery.start(self._hold, offered, seconds)
            return channel
        raise ChannelBroken(f"the login was not complete after {seconds:.3g} s")

    async def _hold(
        self,
        offered: OfferedAddress,
        seconds: float,
        task_status: trio.TaskStatus[CommunicationChannel],
    ) -> None:
        """Hold one connection until the connection and all of its handlers have ended."""
        async with (
            self._addresses.connect(offered, min(seconds, self._limits.connect_seconds)) as stream,
            connect_channel(
                stream,
                self._instance_id,
                self._secret,
                service=self._agent.service,
                functions=self._agent.functions,
                streams=self._agent.streams,
                threaded=self._agent.service.threaded_functions(self._limits.max_calls),
                retry_policies=self._agent.retry_policies,
                limits=self._limits,
                resumes=self._resumes,
                low_latency=self._low_latency,
                debug=self._debug,
            ) as (channel, login),
        ):
            self._secret, self._resumes = login.session, True
            task_status.started(channel)
            await channel.closed.wait()

    def _is_final(self, failure: SpearError) -> bool:
        """Return whether another attempt is useless."""
        if self._resumes:
            # The host may refuse the login while it has not yet noticed the end of the old connection.
            return isinstance(failure, ConfigurationError)
        return isinstance(failure, AuthenticationFailed | ConfigurationError | RemoteProtocolError)

    # -- connected ------------------------------------------------------------------------------------

    async def _until_broken(self, channel: CommunicationChannel) -> bool:
        """Wait until the connection ends; drain and return False unless it broke."""
        broken = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopped, nursery.cancel_scope)
            await channel.peer_draining.wait()
            broken = channel.closed.is_set() and isinstance(channel.closed_by, ChannelBroken)
            nursery.cancel_scope.cancel()
        if isinstance(channel.closed_by, ChannelClosed) and channel.closed_by.__cause__ is None:
            # The channel was closed on this side, but not by this session.
            self._failure = SpearError(f"{channel.closed_by}: {NOT_ITS_OWN}")
        if not broken:
            await self._drain(channel)
        return broken

    async def _drain(self, channel: CommunicationChannel) -> None:
        """Let running calls finish, then close the channel, which cancels the remaining ones."""
        logger.debug("%s: draining", self._instance_id)
        seconds = self._drain_seconds
        async with trio.open_nursery() as nursery:
            if not self._stop.is_set():
                # The host began this drain and enforces the time limit. Setting ``stop`` ends the drain.
                seconds = inf
                nursery.start_soon(self._cancel_when_stopped, nursery.cancel_scope)
            await channel.drain(seconds)
            nursery.cancel_scope.cancel()
        await channel.aclose("drained")  # waits for the last results to be written

    async def _stop_when_unable(self) -> None:
        self._failure = SpearError(await self._agent.service.wait_failed())
        self._stop.set()

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()


def _lost(failure: SpearError) -> SpearError:
    """Return the error to raise when ``reconnect_seconds`` have passed."""
    if isinstance(failure, AuthenticationFailed | ChannelBroken):
        return failure
    lost = ChannelBroken(str(failure))
    lost.__cause__ = failure
    return lost
