"""Asking replicas whether they are well, those whose agents can tell.

Heartbeats show that a process lives and that its loop turns. Whether it can do its work (its database
answers, its model is loaded) only its author knows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from spear._errors import ChannelBroken, ChannelClosed, NotFound, SpearError
from spear._failures import first_line
from spear._signatures import HEALTH
from spear.wire import encode_arguments

if TYPE_CHECKING:
    from ._pool import ReplicaPool
    from ._replicas import ServingReplica
    from ._settings import HealthPolicy

logger: Final = logging.getLogger("spear.spearlet")


_NO_ARGUMENTS, _ = encode_arguments((), {})


async def watch_health(replica: ServingReplica, policy: HealthPolicy, pool: ReplicaPool) -> str:
    """Ask again and again; returns what was wrong as soon as that was so too often.

    Waits for ever if all is well, or if the replica cannot tell. If cancelled, nothing changes.

    Args:
        replica: who is asked.
        policy: how often, and so on.
        pool: where the questions are not to count as load.
    """
    failures = 0
    while True:
        await trio.sleep(policy.interval_seconds)
        channel = replica.channel
        if channel is None or not channel.has_capacity:
            continue  # others see to who has lost its channel; who is busy lives
        pool.questions += 1  # otherwise an idle replica would never be idle
        try:
            await channel.request(
                HEALTH, _NO_ARGUMENTS, is_cbor=True, timeout=policy.timeout_seconds
            )
        except NotFound:
            break
        except (ChannelBroken, ChannelClosed):
            continue
        except SpearError as failure:
            failures += 1
            reason = first_line(failure)
            logger.warning(
                "%s is not well (%d): %s [%s]", replica.id, failures, reason, failure.code
            )
            if failures >= policy.failures:
                return f"it was not well {failures} times in a row: {reason}"
        else:
            failures = 0
        finally:
            pool.questions -= 1
    await trio.sleep_forever()
    return ""  # pragma: no cover  # never
