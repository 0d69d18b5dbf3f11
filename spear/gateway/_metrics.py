"""``GET /metrics``: the figures of a host for Prometheus, as OpenMetrics or in Prometheus' older format.

The families are in ``_families``. They are filled while the host is scraped, so a call pays nothing for
them. They are written in slices, so that no call waits for a whole scrape of a large host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from ._errors import Problem
from ._exchange import accepts
from ._show import ask_usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    from ._app import App
    from ._request import Request

METRICS_EXTRA: Final = "metrics"
"""The extra that installs prometheus-client."""

OPENMETRICS: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN: Final = b"text/plain; version=0.0.4; charset=utf-8"

_SLICE: Final = 50
"""Samples that are written at a time, which takes a millisecond."""


async def get_metrics(app: App, request: Request, _: str) -> None:
    """Handle ``GET /metrics``: respond with all metric families."""
    await _load_library()
    from prometheus_client.exposition import generate_latest as write_plain
    from prometheus_client.openmetrics.exposition import generate_latest as write_openmetrics

    from ._families import collect

    deployments = tuple(app.spearlet.deployments.values())
    families = collect(app, deployments, await ask_usage(*deployments))
    if OPENMETRICS.partition(b";")[0].decode() in accepts(request):
        body = await _write(families, write_openmetrics) + b"# EOF\n"
        await request.respond(200, body, OPENMETRICS)
    else:
        await request.respond(200, await _write(families, write_plain), PLAIN)


async def _load_library() -> None:
    """Import prometheus-client. Raises Problem if it is not installed."""
    try:
        await trio.to_thread.run_sync(_import_library)  # the first time takes a tenth of a second
    except ImportError as error:
        raise Problem(
            501,
            "NotInstalled",
            f"metrics need {error.name}: install the extra spearlet[{METRICS_EXTRA}] for this host",
        ) from error


def _import_library() -> None:
    import prometheus_client  # noqa: F401  # the import is all that is wanted


@final
class _OneFamily:
    """A collector of one family, as the library's writers need it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """Return the family."""
        return (self._family,)


async def _write(families: Iterable[Metric], write: Callable[[Collector], bytes]) -> bytes:
    """Return families as text, without an end mark. A checkpoint after each slice."""
    parts: list[bytes] = []
    for family in families:
        samples = family.samples
        for start in range(0, max(len(samples), 1), _SLICE):
            family.samples = samples[start : start + _SLICE]
            lines = write(_OneFamily(family)).splitlines(keepends=True)
            # The head of the family is written once, and the end mark of OpenMetrics by the caller.
            head = [each for each in lines if each.startswith(b"#") and each != b"# EOF\n"]
            parts += [] if start else head
            parts += [each for each in lines if not each.startswith(b"#")]
            await trio.lowlevel.checkpoint()
    return b"".join(parts)
