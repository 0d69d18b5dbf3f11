"""Counters of the last minutes, so that a client that begins to watch knows what happened before.

A sample is taken every few seconds, whether a client watches or not. It takes 10 to 20 µs for each
function that was called, and all samples of a deployment take 20 KiB.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

if TYPE_CHECKING:
    from spear.spearlet import DeploymentStatistics, Spearlet

SAMPLE_SECONDS: Final = 2.0
MAX_SAMPLES: Final = 150
"""Samples that are kept: five minutes."""

COLUMNS: Final = (
    "calls", "failures", "succeeded", "seconds", "refused", "lost", "in_flight", "waiting", "ready",
    "wanted",
)  # fmt: skip

_Sample: TypeAlias = tuple[float, ...]
"""The numbers of a deployment, in the order of :data:`COLUMNS`."""


def _sample_of(statistics: DeploymentStatistics) -> _Sample:
    functions = statistics.functions.values()
    failures = sum(sum(each.failures.values()) for each in functions)
    calls = sum(each.calls for each in functions)
    return (
        calls,
        failures,
        calls - failures,
        round(sum(each.latency.total_seconds for each in functions), 6),
        statistics.refused,
        statistics.lost,
        statistics.calls_in_flight,
        statistics.waiting,
        statistics.ready,
        statistics.wanted,
    )


@final
class History:
    """The samples of the last five minutes of a spearlet."""

    def __init__(self, spearlet: Spearlet) -> None:
        self._spearlet = spearlet
        self._samples: deque[tuple[float, dict[str, _Sample]]] = deque(maxlen=MAX_SAMPLES)

    async def run(self) -> None:
        """Take a sample at once, and then one each :data:`SAMPLE_SECONDS`, until cancelled."""
        while True:
            self._take()
            await trio.sleep(SAMPLE_SECONDS)

    def _take(self) -> None:
        deployments = self._spearlet.deployments
        rows = {name: _sample_of(each.statistics()) for name, each in deployments.items()}
        self._samples.append((round(time.time(), 3), rows))

    def show(self) -> dict[str, object]:
        """Return the samples as columns, oldest first; None where a deployment did not exist."""
        names = {name: None for _, rows in self._samples for name in rows}
        deployments = {
            name: {
                column: [rows[name][index] if name in rows else None for _, rows in self._samples]
                for index, column in enumerate(COLUMNS)
            }
            for name in names
        }
        return {
            "interval_seconds": SAMPLE_SECONDS,
            "times": [at for at, _ in self._samples],
            "deployments": deployments,
        }
