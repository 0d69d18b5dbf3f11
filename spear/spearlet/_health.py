"""Health checks of replicas whose agents have a check.

Heartbeats show that a process lives and that its event loop runs. Only a check that its author wrote can
show whether the process can do its work: whether its database answers, or its model is loaded.
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
    """Check a replica at intervals; returns the reason when too many checks in a row have failed.

    Waits for ever if all is well, or if the agent has no check. If cancelled, nothing changes.

    Args:
        replica: the replica.
        policy: the interval, the timeout and the number of failures.
        pool: the pool of the replica, whose load must not include these checks.
    """
    failures = 0
    while True:
        await trio.sleep(policy.interval_seconds)
        channel = replica.channel
        if channel is None or not channel.has_capacity:
            continue  # a lost channel is handled elsewhere, and a busy replica is alive
        pool.questions += 1  # counted as load, checks would keep idle replicas from being idle
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
                "%s failed a health check (%d in a row): %s [%s]",
                replica.id, failures, reason, failure.code,
            )  # fmt: skip
            if failures >= policy.failures:
                return f"its health check failed {failures} times in a row: {reason}"
        else:
            failures = 0
        finally:
            pool.questions -= 1
    await trio.sleep_forever()
    return ""  # pragma: no cover  # never
