"""Abandoned calls, which go on in a replica although their callers have given up.

A plain function cannot be stopped, so a function that hangs holds its thread and its slot for good, and
only a new replica has them all again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from spear.channels import CommunicationChannel

    from ._replicas import ServingReplica

logger: Final = logging.getLogger("spear.spearlet")

CHECK_SECONDS: Final = 1.0
"""Longest time between two looks at the calls of a replica. The time at which a call is cancelled is not
noted, so that many cancelled calls cost no more than before."""


@trio.lowlevel.enable_ki_protection
async def watch_abandoned(
    replica: ServingReplica,
    seconds: float | None,
    replace: Callable[[], Awaitable[object]],
    nursery: trio.Nursery,
) -> None:
    """Replace a replica with calls that were abandoned so many seconds ago. Waits for ever.

    Args:
        replica: the replica.
        seconds: the seconds; None if it is never replaced.
        replace: replaces the replica, unless no successor starts; it is called again later then.
        nursery: runs ``replace``, because this task is cancelled when the replica is retired.
    """
    while seconds is not None:
        calls = await _wait_abandoned(replica, seconds)
        logger.warning(
            "%s is to be replaced: %d calls go on %g s after their callers have given up "
            "(abandoned_seconds)", replica.id, calls, seconds,
        )  # fmt: skip
        done = trio.Event()
        nursery.start_soon(_run, replace, done)
        await done.wait()
    await trio.sleep_forever()


async def _run(replace: Callable[[], Awaitable[object]], done: trio.Event) -> None:
    await replace()
    done.set()


async def _wait_abandoned(replica: ServingReplica, seconds: float) -> int:
    """Wait until calls have gone on for so long after their callers gave up; return their number."""
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
