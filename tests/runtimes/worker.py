"""A minimal process of functions: only the channel, no SDK.

Run as ``worker.py BOOTSTRAP_FD``. It offers the behaviours that tests need. Each function that runs for
ever first prints "begun" to stderr.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import trio

from spear import InstanceId, WireLimits
from spear._ids import Secret
from spear.channels import connect_channel
from spear.transports import connect
from spear.wire import Head, decode_head_untrusted

if TYPE_CHECKING:
    from spear.channels import InboundCall


class Functions:
    """A service whose functions are its methods: each takes a call and returns bytes."""

    def __init__(self) -> None:
        self.stays = False
        self._released = trio.Event()
        self._waiting = 0
        self._more = trio.Event()

    def refuse(self, function: int, head: Head | None) -> None:
        return None

    async def handle(self, call: InboundCall) -> tuple[bytes, bool]:
        method = getattr(self, NAMES[call.function - 1])
        return cast("bytes", await method(call)), False

    async def echo(self, call: InboundCall) -> bytes:
        return call.payload

    async def wait(self, call: InboundCall) -> bytes:
        """Wait until `release` is called."""
        self._waiting += 1
        self._more.set()
        self._more = trio.Event()
        released = self._released
        await released.wait()
        return call.payload

    async def wait_for_waiters(self, call: InboundCall) -> bytes:
        """Wait until so many calls of `wait` have begun."""
        while self._waiting < int(call.payload):
            await self._more.wait()
        return b""

    async def release(self, call: InboundCall) -> bytes:
        """End all calls of `wait`."""
        self._released.set()
        self._released = trio.Event()
        self._waiting = 0
        return b""

    async def until_leaving(self, call: InboundCall) -> bytes:
        """Wait until the host has sent CLOSE."""
        os.write(2, b"begun\n")
        await call.channel.peer_draining.wait()
        return call.payload

    async def busy(self, call: InboundCall) -> bytes:
        """Loop in Python for ever."""
        os.write(2, b"begun\n")
        while True:
            sum(range(1000))

    async def hold_gil(self, call: InboundCall) -> bytes:
        """Hold the GIL in C for ever."""
        os.write(2, b"begun\n")
        re.match(r"(a+)+$", "a" * 100 + "b")
        return b""

    async def hold_gil_for(self, call: InboundCall) -> bytes:
        """Hold the GIL in C for about so many seconds of CPU time; return how many it was."""
        rounds = float(call.payload) / min(_seconds_for(1) for _ in range(5))
        return b"%f" % _seconds_for(rounds)

    async def stubborn(self, call: InboundCall) -> bytes:
        """Ignore cancellation, and SIGTERM in the whole process from now on."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, b"begun\n")
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()
        return b""

    async def grandchild(self, call: InboundCall) -> bytes:
        """Start a child in the same process group; return its pid."""
        child = subprocess.Popen(["sleep", "1000"])
        return str(child.pid).encode()

    async def write(self, call: InboundCall) -> bytes:
        """Write the payload unchanged to stderr."""
        os.write(2, call.payload)
        return b""

    async def exit(self, call: InboundCall) -> bytes:
        os._exit(int(call.payload))

    async def call_back(self, call: InboundCall) -> bytes:
        """Call the host's one function."""
        return bytes((await call.channel.request("anything", call.payload)).payload)

    async def burn(self, call: InboundCall) -> bytes:
        """Use so many seconds of CPU time."""
        end = time.process_time() + float(call.payload)
        while time.process_time() < end:
            pass
        return b""

    async def leave(self, call: InboundCall) -> bytes:
        """Take no more calls. The process then exits, unless the payload tells it to stay."""
        self.stays = bool(call.payload)

        async def leave() -> None:
            await call.channel.drain(5)
            await call.channel.aclose()

        trio.lowlevel.spawn_system_task(leave)
        return b""

    async def disconnect(self, call: InboundCall) -> bytes:
        """Cut the connection without a CLOSE frame. The process stays."""
        self.stays = True
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as sock:
                if sock.getpeername():
                    sock.shutdown(socket.SHUT_RDWR)
        return b""


NAMES = [name for name in vars(Functions) if name[0] != "_" and name not in ("refuse", "handle")]


def _seconds_for(rounds: float) -> float:
    """Use CPU time without releasing the GIL; return the seconds used."""
    begun = time.process_time()
    assert sum(range(int(rounds * 2_000_000))) > 0
    return time.process_time() - begun


def read_record(fd: int) -> dict[str, object]:
    with open(fd, "rb", buffering=0, closefd=False) as pipe:
        size = int.from_bytes(pipe.read(4), "little")
        return cast("dict[str, object]", decode_head_untrusted(pipe.read(size)))


def identity(record: dict[str, object]) -> tuple[str, InstanceId, Secret]:
    """Return address, id and secret of a bootstrap record."""
    instance = InstanceId(
        cast("str", record["runtime"]),
        cast("str", record["instance"]),
        cast("int", record["incarnation"]),
    )
    addresses = cast("list[dict[str, str]]", record["addresses"])
    return addresses[0]["address"], instance, Secret(cast("bytes", record["secret"]))


async def main() -> None:
    record = read_record(int(sys.argv[1]))
    address, instance, secret = identity(record)
    functions, resumes = Functions(), False
    while True:
        async with (
            connect(address) as stream,
            connect_channel(
                stream,
                instance,
                secret,
                service=functions,
                functions=NAMES,
                limits=WireLimits(**cast("dict[str, int]", record["limits"])),
                resumes=resumes,
            ) as (channel, login),
        ):
            await channel.peer_draining.wait()
            if not channel.closed.is_set():
                await channel.drain(5)
                break
        if "reconnect" not in sys.argv:
            break
        secret, resumes = login.session, True
    if functions.stays and not resumes:
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
