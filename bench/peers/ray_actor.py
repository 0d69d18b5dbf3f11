"""A Ray actor on a cluster of this one machine.

Ray's own daemons (raylet, gcs) work for every call too, but serve the whole cluster: their CPU time
is not charged, so Ray's CPU figures flatter it.
"""

from __future__ import annotations

import os
import tempfile

# Read at import. No reports to the vendor, no log lines between ours.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"
)

import ray

from bench import drive
from bench.model import Effort, Load, Sample
from bench.process import settle_gc

_OBJECT_STORE_BYTES = 300 << 20  # 64 MiB in flight each way, and room


class _Echo:
    def start(self) -> int:
        settle_gc()
        return os.getpid()

    def echo(self, body: bytes) -> bytes:
        return body


class _Future:
    """A Ray reference, as a future of concurrent.futures."""

    def __init__(self, reference: ray.ObjectRef[bytes]) -> None:
        self._reference = reference

    def result(self) -> bytes:
        body: bytes = ray.get(self._reference)
        return body


def measure(load: Load, effort: Effort) -> Sample:
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as directory:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=directory,
        )
        try:
            actor = ray.remote(_Echo).remote()
            pid = ray.get(actor.start.remote())
            return drive.futures(lambda sent: _Future(actor.echo.remote(sent)), load, effort, [pid])
        finally:
            ray.shutdown()
