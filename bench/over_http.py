"""The measurements of calls over HTTP: through Spear's gateway, and through hand-written servers.

Every server of `http_servers` runs in a process of its own. All have the same client, which sends one
request after another on each of its connections.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import drive
from bench.http_client import HOST, Crowd
from bench.http_servers import PIDS
from bench.model import Effort, Sample, Workload
from bench.process import serving


@contextmanager
def serving_http(entry: str, *args: str) -> Iterator[tuple[int, list[int]]]:
    """Run a server of `http_servers`; yield its port and its pids, the host's process first."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    with tempfile.NamedTemporaryFile("r") as pids:
        os.environ[PIDS] = pids.name
        with serving(f"bench.http_servers:{entry}", str(port), *args, announces=True):
            yield port, [int(each) for each in Path(pids.name).read_text().split()]


def _measure(entry: str, load: Workload, effort: Effort) -> Sample:
    with serving_http(entry) as (port, pids):
        crowd = Crowd(port, load.size, load.count)
        sample = drive.repeated(crowd.run_for, effort, pids)
        crowd.finish()
        return sample


def gateway(load: Workload, effort: Effort) -> Sample:
    """Measure a call through the gateway."""
    return _measure("gateway", load, effort)


def starlette_call(load: Workload, effort: Effort) -> Sample:
    """Measure a starlette handler that makes the gateway's call."""
    return _measure("starlette_call", load, effort)


def starlette_bare(load: Workload, effort: Effort) -> Sample:
    """Measure a starlette handler that answers without a call."""
    return _measure("starlette_bare", load, effort)


def h11_call(load: Workload, effort: Effort) -> Sample:
    """Measure an h11 loop that makes the gateway's call."""
    return _measure("h11_call", load, effort)


def h11_bare(load: Workload, effort: Effort) -> Sample:
    """Measure an h11 loop that answers without a call."""
    return _measure("h11_bare", load, effort)


def uvicorn_bare(load: Workload, effort: Effort) -> Sample:
    """Measure an application on uvicorn that answers without a call."""
    return _measure("uvicorn_bare", load, effort)
