"""Open a channel from an agent to its host, or with both ends in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from spear._limits import DEFAULT_WIRE_LIMITS, WireLimits
from spear.wire import Connection, Role

from ._channel import CommunicationChannel
from ._handshake import Login, log_in
from ._interrupts import protected_block
from ._memory_pipe import memory_pipes
from ._nursery import open_private_nursery
from ._peer import NO_THREADED
from ._pipes import open_pipe
from ._timers import open_timers

if TYPE_CHECKING:
    from spear._ids import InstanceId, Secret
    from spear._retry_policy import RetryPolicy

    from ._handlers import Service
    from ._peer import ThreadedFunctions
    from ._timers import Timers


@protected_block
async def connect_channel(
    stream: trio.abc.Stream,
    instance_id: InstanceId,
    secret: Secret,
    *,
    service: Service | None = None,
    functions: Sequence[str] = (),
    streams: Collection[str] = (),
    threaded: ThreadedFunctions = NO_THREADED,
    retry_policies: Mapping[str, RetryPolicy] | None = None,
    limits: WireLimits = DEFAULT_WIRE_LIMITS,
    resumes: bool = False,
    low_latency: bool = False,
    debug: bool = False,
) -> AsyncIterator[tuple[CommunicationChannel, Login]]:
    """Log in to a host over ``stream``, and serve the channel for as long as the block runs.

    Leaving the block closes the channel and the stream. The channel may end earlier: watch
    :attr:`CommunicationChannel.closed`.

    Args:
        stream: a connected stream, which this function owns from now on.
        instance_id: the instance that logs in.
        secret: the secret that the host issued; or, with ``resumes``, the session key of the last login.
        service: runs the functions that the host calls.
        functions, streams, threaded, retry_policies: see :meth:`CommunicationChannel.announce`.
        limits: the limits of this end.
        low_latency: whether to poll for input for a moment before sleeping.
        debug: whether to send tracebacks with errors.

    Raises:
        AuthenticationFailed: the host refused the login, or does not know the secret.
        DeadlineExceeded: the handshake took too long.
        ChannelBroken, RemoteProtocolError: the connection was lost, or the peer is not a Spear host.
    """
    try:
        async with open_timers() as timers, open_private_nursery() as nursery:
            pipe = open_pipe(stream, limits, nursery, low_latency=low_latency)
            try:
                sink, receiver = pipe.sink, pipe.receiver
                connection = Connection(Role.AGENT, limits, sink, receiver=receiver, trusted=True)
                login = await log_in(pipe, connection, limits, instance_id, secret, resumes=resumes)
                channel = CommunicationChannel(
                    pipe, connection, instance_id, limits, timers, service=service, debug=debug
                )
                channel.announce(
                    functions, streams, threaded=threaded, retry_policies=retry_policies
                )
                nursery.start_soon(channel.run_alone, name=f"spear channel of {instance_id}")
                try:
                    yield channel, login
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                        await channel.aclose()
            finally:
                pipe.close()
    finally:
        # Outside of the cancelled nursery, in which a checkpoint would replace the exception.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


@protected_block
async def open_memory_channels(
    instance_id: InstanceId,
    *,
    host_service: Service | None = None,
    agent_service: Service | None = None,
    functions: Sequence[str] = (),
    streams: Collection[str] = (),
    threaded: ThreadedFunctions = NO_THREADED,
    retry_policies: Mapping[str, RetryPolicy] | None = None,
    limits: WireLimits = DEFAULT_WIRE_LIMITS,
    debug: bool = False,
    timers: Timers | None = None,
) -> AsyncIterator[tuple[CommunicationChannel, CommunicationChannel]]:
    """Open both ends of a channel in this process, for as long as the block runs: (host's, agent's).

    Payloads that are ``bytes`` arrive as the same object. No authentication takes place. With
    ``debug``, errors carry tracebacks. Channels that share ``timers``, such as those of a
    :class:`ConnectionManager`, wake up together.
    """
    pipes = memory_pipes()
    async with AsyncExitStack() as stack:
        if timers is None:
            timers = await stack.enter_async_context(open_timers())
        nursery = await stack.enter_async_context(open_private_nursery())
        host, agent = (
            CommunicationChannel(
                pipe,
                Connection.opened(role, limits, pipe),
                instance_id,
                limits,
                timers,
                service=service,
                debug=debug,
            )
            for pipe, role, service in zip(
                pipes, (Role.HOST, Role.AGENT), (host_service, agent_service), strict=True
            )
        )
        announced = trio.Event()
        host.on_announced = announced.set
        agent.announce(functions, streams, threaded=threaded, retry_policies=retry_policies)
        nursery.start_soon(host.run_alone)
        nursery.start_soon(agent.run_alone)
        try:
            await announced.wait()
            yield host, agent
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await host.aclose()
                await agent.aclose()
