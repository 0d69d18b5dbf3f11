"""An RPC on blocking sockets: recv_into and sendall, no event loop, one call at a time."""

from __future__ import annotations

import socket

from bench import drive
from bench.model import Effort, Sample, Workload
from bench.process import connected_pair, inherited_socket, serving

_LENGTH_BYTES = 4


def measure(load: Workload, effort: Effort) -> Sample:
    here, there = connected_pair()
    with here, serving("bench.peers.blocking:serve", str(load.size), sock=there) as server:
        received = bytearray(_LENGTH_BYTES + load.size)
        view = memoryview(received)
        head = load.size.to_bytes(_LENGTH_BYTES, "big")

        def call(sent: bytes) -> memoryview:
            here.sendall(head + sent)
            if not _receive_exactly(here, view):
                raise EOFError("the server is gone")
            return view[_LENGTH_BYTES:]

        return drive.blocking(call, load, effort, [server.pid])


def serve(size: str, descriptor: str) -> None:
    with inherited_socket(descriptor) as sock:
        frame = memoryview(bytearray(_LENGTH_BYTES + int(size)))
        while _receive_exactly(sock, frame):
            sock.sendall(frame)


def _receive_exactly(sock: socket.socket, view: memoryview) -> bool:
    """Fill `view`, or return False at the end of the stream."""
    while view:
        received = sock.recv_into(view)
        if not received:
            return False
        view = view[received:]
    return True
