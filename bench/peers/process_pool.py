"""The standard library's concurrent.futures.ProcessPoolExecutor with one worker."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import die_with, settle_gc


def measure(load: Workload, effort: Effort) -> Sample:
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    ) as pool:
        worker_pid = pool.submit(os.getpid).result()
        return drive.futures(lambda sent: pool.submit(_echo, sent), load, effort, [worker_pid])


def _start_worker(parent: int) -> None:
    die_with(parent)
    settle_gc()


def _echo(body: bytes) -> bytes:
    return body
