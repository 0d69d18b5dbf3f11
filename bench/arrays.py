"""A large numpy array to a function in another process, and back: Spear and pickle."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy
import trio

from bench import drive
from bench.drive import Reply
from bench.model import Effort, Sample, Workload
from bench.process import die_with, settle_gc
from spear import open_spearlet

_FUNCTIONS = Path(__file__).with_name("array_functions.py")


def deployed(load: Workload, effort: Effort) -> Sample:
    """Measure `Function.call` with an array as the argument and as the result."""
    return trio.run(_drive, load, effort)


async def _drive(load: Workload, effort: Effort) -> Sample:
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(_FUNCTIONS)
        (replica,) = deployment.replicas
        assert replica.pid is not None

        async def call(body: bytes) -> Reply:
            return _as_reply(await deployment.back(numpy.frombuffer(body, "f8")))

        return await drive.with_trio(call, load, effort, [replica.pid])


def pooled(load: Workload, effort: Effort) -> Sample:
    """Measure the same with a ProcessPoolExecutor, which pickles the array."""
    with ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(),),
    ) as pool:
        worker_pid = pool.submit(os.getpid).result()

        def call(body: bytes) -> Reply:
            return _as_reply(pool.submit(_back, numpy.frombuffer(body, "f8")).result())

        return drive.blocking(call, load, effort, [worker_pid])


def _start_worker(parent: int) -> None:
    die_with(parent)
    settle_gc()


def _back(array: object) -> object:
    return array


def _as_reply(array: object) -> Reply:
    """Return the bytes of an array, without a copy."""
    view: memoryview = numpy.asarray(array).view("u1").data
    return view
