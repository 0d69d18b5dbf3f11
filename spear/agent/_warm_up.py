"""Warming up a pre-forked process while it waits for its request.

A page of memory that a fork shares with its template must be copied when either writes to it, and Python
writes to every object that it uses. The login of a fork writes to some three hundred pages, while a
caller waits. A pre-forked process therefore logs in and answers a call in advance. At one end of a socket
it runs an agent of Spear; at the other end it sends a host's messages with as little code as possible.
"""

from __future__ import annotations

import socket
from os import urandom
from typing import Final

import trio

from spear._ids import InstanceId, Secret
from spear.channels import connect_channel
from spear.transports import SocketStream
from spear.wire import (
    NO_DEADLINE,
    NONCE_BYTES,
    AuthAccepted,
    AuthRequest,
    BootstrapRecord,
    Challenge,
    FrameType,
    Head,
    OfferedAddress,
    Receiver,
    encode_head,
    host_text,
    pack_prefix,
)

from ._app import Agent
from ._launch import watch_signals

MOST_SECONDS: Final = 1.0
"""Time limit of a warm-up, which usually takes some milliseconds."""

MOST_BYTES: Final = 64 * 1024

FIRST: Final = 1
"""The number of the first call, and of the first function."""

SECRET_BYTES: Final = 32

INSTANCE: Final = InstanceId("process", "rehearsal")

stand_in: Final = Agent()
"""An agent in place of the program's agent, so that none of the program's code runs."""


@stand_in.function
async def echo(body: bytes) -> bytes:
    """Return the payload."""
    return body


def record(address: str, secret: bytes) -> bytes:
    """Return an encoded bootstrap record such as a host makes."""
    return BootstrapRecord(
        addresses=(OfferedAddress(address),), secret=Secret(secret), instance_id=INSTANCE
    ).encode()


async def warm_up() -> None:
    """Log in and answer a call, so that the next time is faster. May raise any exception."""
    bootstrap = BootstrapRecord.decode(record("unix:/nowhere", urandom(SECRET_BYTES)))
    ours, other = socket.socketpair()
    with ours, other, trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, trio.Event(), nursery.cancel_scope)
            nursery.start_soon(_serve, ours, bootstrap)
            await _play_host(other, bootstrap)
            nursery.cancel_scope.cancel()


async def _serve(sock: socket.socket, bootstrap: BootstrapRecord) -> None:
    async with (
        stand_in.running(bootstrap.limits),
        connect_channel(
            SocketStream(sock),
            bootstrap.instance_id,
            bootstrap.secret,
            service=stand_in.service,
            functions=stand_in.functions,
            limits=bootstrap.limits,
        ) as (channel, _),
    ):
        await channel.closed.wait()


async def _play_host(sock: socket.socket, bootstrap: BootstrapRecord) -> None:
    nonce = bytes(NONCE_BYTES)
    sock.sendall(_frame(FrameType.CHALLENGE, Challenge(nonce).to_head()))
    await trio.lowlevel.wait_readable(sock)
    (frame,) = Receiver(bootstrap.limits).receive_data(sock.recv(MOST_BYTES))
    request = AuthRequest.from_head_untrusted(frame[5])
    text = host_text(request.version, request.instance, nonce, request.nonce)
    accepted = AuthAccepted(bootstrap.secret.prove(text), bootstrap.limits)
    sock.sendall(_frame(FrameType.AUTH_RESPONSE, accepted.to_head()))
    await trio.lowlevel.wait_readable(sock)
    sock.recv(MOST_BYTES)  # the announcement of the agent
    request_prefix = pack_prefix(FrameType.EXECUTION_REQUEST, 0, FIRST, FIRST, NO_DEADLINE, None, 0)
    sock.sendall(request_prefix)
    await trio.lowlevel.wait_readable(sock)


def _frame(type_: FrameType, head: Head) -> bytes:
    return pack_prefix(type_, 0, 0, 0, 0, encode_head(head), 0)
