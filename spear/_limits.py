"""The limits of both ends of a connection, and checks of numbers that a caller gives.

A leaf module: it imports only Spear's errors. Everything that a peer can make grow has a bound here.
Times are seconds, sizes are bytes. ``_host_limits`` has limits for hosts only; agents do not load it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, TypeGuard, TypeVar, final

import attrs

from ._errors import ConfigurationError, InvalidArguments

T = TypeVar("T")

KIB = 1024
MIB = 1024 * KIB

MAX_WHOLE: Final = 2**62
"""The largest whole number that is accepted. The wire, and perhaps a float, cannot hold a larger one."""

LEAST_HEARTBEAT_SECONDS: Final = 0.001

DRAIN_SECONDS: Final = 5.0
"""Default time for running calls to finish when an instance ends (Dynamo: 5 s)."""

_MAY_BE_ZERO: Final = frozenset({"max_segment_bytes"})
"""Limits that may be 0. With 0 for any other limit, no connection would work."""


def check_limits(limits: attrs.AttrsInstance) -> None:
    """Check each number in an attrs object of limits.

    Raises:
        ConfigurationError: a value does not have the type of its default, is not above 0, or exceeds
            ``MAX_WHOLE``; ``key`` is its name.
    """
    # Every process checks limits when it starts: one loop is faster than attrs validators.
    for each in attrs.fields(type(limits)):
        name, value = each.name, getattr(limits, each.name)
        is_whole = type(each.default) is int
        if not is_whole and type(each.default) is not float:
            continue
        if type(value) is not int and (is_whole or type(value) is not float):
            kind = "whole number" if is_whole else "number"
            raise ConfigurationError.about(name, f"must be a {kind}, not {shown(value)}")
        if not value > 0 and (value != 0 or name not in _MAY_BE_ZERO):
            least = "not be negative" if name in _MAY_BE_ZERO else "be above 0"
            raise ConfigurationError.about(name, f"must {least}, and is {shown(value)}")
        if type(value) is int and value > MAX_WHOLE:
            raise ConfigurationError.about(
                name, f"must be at most {MAX_WHOLE}, and is {shown(value)}"
            )


@final
@attrs.frozen(kw_only=True)
class WireLimits:
    """Limits on the data that one end of a connection accepts from the other, and on its waits.

    A host hands its limits to its instances. Each end announces the limits that the other end has to
    keep; see ``docs/wire.md``.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    # -- sizes ------------------------------------------------------------------------------
    fragment_bytes: int = 1 * MIB
    """Payloads above this travel in several frames, so that a heartbeat or a small call waits for
    at most one of them: 0.25 ms on a local socket, 9 ms at 1 Gbit/s. Fragments of 256 KiB cost a third
    of the throughput of large payloads, because every frame takes a pass of the scheduler."""

    max_message_bytes: int = 32 * MIB
    """One payload, all fragments together (precedents: Dynamo's TCP plane 32 MiB, NATS 1 MiB)."""

    max_head_bytes: int = 64 * KIB
    """The optional head of one frame, a map. It is meant for metadata, not for data."""

    assembly_bytes: int = 4 * MIB
    """Total size of the fragmented payloads that one peer may have begun and not finished. A single
    larger one is allowed while it is alone: a peer uses at most ``max_message_bytes`` of our memory."""

    handshake_frame_bytes: int = 4 * KIB
    """Bytes that an unauthenticated peer can make us buffer."""

    error_message_bytes: int = 4 * KIB
    """The message of a remote error."""

    # -- segments: payloads in shared memory, whose file descriptors are sent -------------------
    max_segment_bytes: int = 1024 * MIB
    """One payload in a segment. It is not copied, so it costs address space, but no memory of our own.
    Split payloads above a GiB: a receiver cannot begin to read before all has arrived. 0: no segments."""

    mapped_segment_bytes: int = 2048 * MIB
    """All segments of one peer that this end holds: twice the largest, so that one can be read while the
    next arrives. While this end holds them, their memory is not freed, even if the peer is gone. As many
    bytes may the running calls of one peer hold whose arguments exceed ``max_message_bytes``."""

    max_segments: int = 32
    """Segments of one peer that this end holds: each is one of the 1,024 file descriptors that a process
    usually may have."""

    segment_threshold_bytes: int = 2 * MIB
    """Payloads from this size on are copied into a segment of a pool, instead of being written to the
    socket: the other side then copies them once, or not at all. Below this size the socket is faster."""

    segment_pool_bytes: int = 256 * MIB
    """Memory that one channel keeps for large payloads to come, in each direction: a new segment costs
    ten times as much as a copy into one that is kept. Twice 100 MB fit in."""

    segment_pool_seconds: float = 10.0
    """Time that an unused segment stays in the pool."""

    # -- counts -----------------------------------------------------------------------------
    max_calls: int = 100
    """Calls that one peer may have open; each counts until its handler has ended (100 is h2's default;
    ending the count at CANCEL is CVE-2023-44487)."""

    max_functions: int = 10_000
    """Functions that one peer may announce."""

    request_bytes_in_flight: int = 128 * MIB
    """Total size of the requests that one peer's running calls hold; above it a call is refused. Shared
    ones and those that exceed a message do not count; see ``mapped_segment_bytes``."""

    cancels_per_second: float = 100.0
    cancel_burst: int = 1000
    """Cancels of a peer that is not trusted: per second in the long run, and at once (CVE-2025-8671)."""

    control_frames_per_second: float = 1000.0
    control_frame_burst: int = 10_000
    """Heartbeats, credits, empty bodies, cancels of unknown calls, and reports of progress, together
    (CVE-2024-27316). A function that reports in a loop makes 30,000 to 70,000 reports a second. Its agent
    sends 500 of them a second, and 1,000 at once. The remaining rate is for other frames, and for a host
    that was stalled and then reads many frames at once."""

    max_strikes: int = 2
    """Times over a rate at which a peer's connection is closed (gRPC's ping strikes)."""

    # -- flow control -------------------------------------------------------------------------
    stream_window_bytes: int = 256 * KIB
    """Unread bytes of one stream: the stream's receiver, not the socket, slows the sender down."""

    connection_window_bytes: int = 1 * MIB
    """Unread bytes of all streams of one connection."""

    # -- times --------------------------------------------------------------------------------
    connect_seconds: float = 5.0
    """Time to resolve a name, connect, and finish TLS (NATS clients: 2 s, without name resolution)."""

    handshake_seconds: float = 2.0
    """Time from accept to authenticated (NATS: 2 s). A peer that sends very slowly lasts no longer."""

    write_seconds: float = 10.0
    """Time without taking a byte, after which a peer is disconnected (NATS: 10 s)."""

    heartbeat_seconds: float = 1.0
    """Time between two heartbeats on a connection on which nothing else is sent."""

    heartbeat_misses: int = 3
    """Heartbeats for which a peer may be silent before it is treated as dead."""

    busy_seconds: float = 60.0
    """Time after which a silent peer is treated as dead although its process uses the CPU. A function may
    hold the interpreter's lock in C code: sorting eight million numbers takes seconds."""

    reconnect_seconds: float = 10.0
    """Time in which the same incarnation may resume a broken connection."""

    call_seconds: float = 60.0
    """Default deadline of a call. Ask for ``math.inf`` to wait for ever."""

    def __attrs_post_init__(self) -> None:
        check_limits(self)
        if not LEAST_HEARTBEAT_SECONDS <= self.heartbeat_seconds < inf:
            raise ConfigurationError.about(
                "heartbeat_seconds",
                f"must be finite and at least {LEAST_HEARTBEAT_SECONDS:g}, not "
                f"{self.heartbeat_seconds!r}",
            )


DEFAULT_WIRE_LIMITS: Final = WireLimits()


def shown(value: object) -> str:
    """Return the text of an unusable value for an error message, at most 60 characters."""
    try:
        text = repr(value)
    except Exception:  # a number of more than 4,300 digits, for one
        text = f"an unprintable {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that can be added to a time; it may be negative or infinite."""
    if isinstance(value, float):
        return value == value  # a NaN is not
    return isinstance(value, int) and type(value) is not bool and abs(value) <= MAX_WHOLE


def expect_timeout(timeout: object, name: str = "timeout") -> None:
    """Raise InvalidArguments unless a value is a number of seconds; it may be negative or infinite."""
    if not is_number(timeout):
        message = f"{name} must be a number of seconds, not {shown(timeout)}"
        raise InvalidArguments(message, parameter=name)


def expect_seconds(name: str, value: object) -> None:
    """Raise ConfigurationError unless a value is a time to wait: from 0 seconds to infinity."""
    if not is_number(value) or not value >= 0:
        raise ConfigurationError.about(name, f"must be a number of seconds, not {shown(value)}")


def expect_several(name: str, values: Iterable[T]) -> Iterable[T]:
    """Return ``values``. Raises ConfigurationError if it is a text, or cannot be iterated over."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError.about(name, f"must be a list, such as [...], not {values!r:.100}")
    return values


def expect_whole(name: str, value: object, least: int, most: int = MAX_WHOLE) -> None:
    """Raise ConfigurationError unless a value is a whole number from ``least`` to ``most``."""
    if type(value) is not int:
        raise ConfigurationError.about(name, f"must be a whole number, not {shown(value)}")
    if not least <= value <= most:
        raise ConfigurationError.about(name, f"must be from {least} to {most}, not {shown(value)}")
