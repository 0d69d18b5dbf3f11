"""Abandoned calls: those that go on in a replica although their callers have given up.

A plain function cannot be stopped, so a function that hangs holds its thread and its slot for good. Only a
new replica has them all again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from spear.channels import CommunicationChannel

    from ._replicas import ServingReplica

CHECK_SECONDS: Final = 1.0
"""Longest time between two looks at the calls of a replica. Nothing is noted as calls are cancelled, so that
many cancelled calls cost no more than before."""


async def wait_abandoned(replica: ServingReplica, seconds: float) -> int:
    """Wait until calls have gone on for so many seconds after their callers gave up; return their number."""
    channel: CommunicationChannel | None = None
    since: dict[int, float] = {}
    while True:
        await trio.sleep(min(CHECK_SECONDS, seconds / 4))
        if replica.channel is not channel:
            channel, since = replica.channel, {}
        if channel is not None:
            now = trio.current_time()
            since = {call: since.get(call, now) for call in channel.given_up_calls()}
            if found := sum(now - begun >= seconds for begun in since.values()):
                return found


async def wait_for_others(replica: ServingReplica) -> None:
    """Wait until a replica runs no calls but abandoned ones. A checkpoint."""
    while True:
        await trio.sleep(CHECK_SECONDS / 10)
        channel = replica.channel
        if channel is None or channel.calls_in_flight <= len(channel.given_up_calls()):
            return
