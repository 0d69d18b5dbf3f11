"""A Ray actor on a cluster of this one machine.

Ray's own daemons (raylet, gcs) also work for every call, but serve the whole cluster: their CPU time is
not counted, so Ray's CPU figures are too low.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

# Ray reads these at import: no usage reports to the vendor, no log lines in the output.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"
)

import ray

from bench import drive
from bench.model import BenchError, Effort, Sample, Workload
from bench.process import settle_gc

_OBJECT_STORE_BYTES = 300 << 20  # 64 MiB in flight each way, and spare room

_PRESTARTED = 4
"""Worker processes to take first: Ray keeps one ready per core, and starts more when they are taken."""


class _Echo:
    def start(self) -> int:
        settle_gc()
        return os.getpid()

    def echo(self, body: bytes) -> bytes:
        return body


class _Future:
    """A Ray object reference with the interface of a future of concurrent.futures."""

    def __init__(self, reference: ray.ObjectRef[bytes]) -> None:
        self._reference = reference

    def result(self) -> bytes:
        body: bytes = ray.get(self._reference)
        return body


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
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
            yield
        finally:
            ray.shutdown()


def measure(load: Workload, effort: Effort) -> Sample:
    with _cluster():
        actor = ray.remote(_Echo).remote()
        pid = ray.get(actor.start.remote())
        return drive.futures(lambda sent: _Future(actor.echo.remote(sent)), load, effort, [pid])


def measure_start(load: Workload, effort: Effort) -> Sample:
    """Measure the time from creating an actor to its first answer, without a prestarted worker."""
    with _cluster():
        # Actors that stay take the prestarted worker processes, one each.
        kept = [_start_actor() for _ in range(_PRESTARTED)]
        try:
            return drive.starts(_started, effort)
        finally:
            for actor in kept:
                ray.kill(actor)


def _start_actor() -> ray.actor.ActorHandle:
    actor = ray.remote(_Echo).options(num_cpus=0).remote()
    if ray.get(actor.echo.remote(b"first")) != b"first":
        raise BenchError("the actor did not answer")
    return actor


@contextlib.contextmanager
def _started() -> Iterator[None]:
    actor = _start_actor()
    try:
        yield
    finally:
        ray.kill(actor)
