"""A Ray actor on a cluster of this one machine.

Ray's own daemons (raylet, gcs) work for every call too, but serve the whole cluster: their CPU time
is not charged, so Ray's CPU figures flatter it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

# Read at import. No reports to the vendor, no log lines between ours.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"
)

import ray

from bench import drive
from bench.model import BenchError, Effort, Sample, Workload
from bench.process import settle_gc

_OBJECT_STORE_BYTES = 300 << 20  # 64 MiB in flight each way, and room

_PRESTARTED = 4
"""Ray keeps a worker process ready for each core, and starts more when they are taken."""


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
    """From asking for an actor to its first answer, when no worker process waits for one."""
    with _cluster():
        # Those that Ray starts ahead are taken first; each actor that stays keeps one of them.
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
