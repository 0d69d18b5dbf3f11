"""HTTP clients for the benchmark: prepared requests on plain sockets, the fastest way in Python.

A client knows only the port of the server, not its kind. Each reply must contain the body that was sent;
otherwise the measurement ends. The reply's headers are skipped.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

from bench import drive
from bench.model import BenchError, WrongAnswer

HOST = "127.0.0.1"
PATH = "/v1/functions/echo/call"
PATIENCE_SECONDS = 30.0
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_CHUNK_BYTES = 1 << 16
_SUCCESS = b"HTTP/1.1 200"


def connect(port: int) -> socket.socket:
    """Return a connection to a server, retrying while the server does not listen yet."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            connection = socket.create_connection((HOST, port), PATIENCE_SECONDS)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(None)  # with a timeout, each operation would need an extra poll()
    return connection


def post(port: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a request with this body."""
    lines = {
        "Host": f"{HOST}:{port}",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Caller:
    """A connection with one request in flight at a time."""

    def __init__(self, port: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.socket = connect(port)
        self._request = post(port, body, headers)
        self._body = body
        self._received = b""

    def send(self) -> None:
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Read once, and return whether the reply is complete."""
        data = self.socket.recv(_CHUNK_BYTES)
        if not data:
            raise BenchError("the server has closed the connection")
        if self._received:
            data = self._received + data
        if not data.startswith(_SUCCESS[: len(data)]):
            raise BenchError(f"refused: {data[:500]!r}")
        end = data.find(b"\r\n\r\n") + 4
        missing = end + len(self._body) - len(data)
        if missing > 0 or end < 4:
            self._received = data
            return False
        if missing or not data.endswith(self._body):
            raise WrongAnswer(
                f"sent {len(self._body)} bytes, received different ones: {data[:200]!r}"
            )
        self._received = b""
        return True


class Crowd:
    """`count` connections that each send one request after another, each with a body of its own.

    One thread serves all connections. Requests stay in flight from one `run_for` to the next, so that a
    measured window has no ramp-up and no ramp-down.
    """

    def __init__(
        self, port: int, size: int, count: int, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        bodies = [drive.payload(size, number) for number in range(1, count + 1)]
        callers = [_Caller(port, body, headers) for body in bodies]
        self._callers = {caller.socket.fileno(): caller for caller in callers}
        self._begun: dict[int, float] = {}  # when each request in flight was sent, by descriptor
        self._poll = select.epoll()
        for descriptor in self._callers:
            self._poll.register(descriptor, select.EPOLLIN)

    def run_for(self, seconds: float) -> list[float]:
        """Send requests for `seconds`; return the latency of each request that was answered."""
        times: list[float] = []
        now, callers, begun = time.perf_counter, self._callers, self._begun
        end = now() + seconds
        for descriptor, caller in callers.items():
            if descriptor not in begun:
                begun[descriptor] = now()
                caller.send()
        while (remaining := end - now()) > 0:
            for descriptor, _ in self._poll.poll(remaining):
                caller = callers[descriptor]
                if caller.receive():
                    answered = now()
                    times.append(answered - begun[descriptor])
                    begun[descriptor] = answered
                    caller.send()
        return times

    def finish(self) -> None:
        """Wait for the outstanding replies, and close the connections."""
        self._poll.close()
        for descriptor, caller in self._callers.items():
            caller.socket.settimeout(PATIENCE_SECONDS)
            while descriptor in self._begun and not caller.receive():
                pass
            caller.socket.close()
