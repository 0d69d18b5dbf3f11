"""What both ends of a connection accept, and how numbers are checked that a caller gives.

A leaf: it knows of Spear its errors only. Whatever a peer can make grow has a bound here. Times are
seconds, sizes are bytes. What only a host needs is in ``_host_limits``, which agents do not load.
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
"""The largest whole number that is taken: the wire has no room for a larger one, nor perhaps a float."""

LEAST_HEARTBEAT_SECONDS: Final = 0.001

DRAIN_SECONDS: Final = 5.0
"""How long calls that run may go on when an instance ends, if nobody says (Dynamo: 5 s)."""

_MAY_BE_ZERO: Final = frozenset({"max_segment_bytes"})
"""Limits that may be 0. With 0 for any other limit, no connection would work."""


def check_limits(limits: attrs.AttrsInstance) -> None:
    """Check each number of an object of limits, whose class is one of attrs.

    Raises:
        ConfigurationError: a value is not of its default's type, or not above 0; ``key`` is its name.
    """
    # Every process makes one before it does anything: so it is one loop, and no validators.
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
    """What one end of a connection accepts of the other, and how long it waits for it.

    A host hands its own to its instances. Each end announces to the other what that has to keep; see
    ``docs/wire.md``.

    Raises:
        ConfigurationError: a value cannot be used; ``key`` is its name.
    """

    # -- sizes ------------------------------------------------------------------------------
    fragment_bytes: int = 1 * MIB
    """Payloads above this travel in several frames, so that a heartbeat or a small call waits for
    at most one of them: 0.25 ms on a local socket, 9 ms at 1 Gbit/s. Fragments of 256 KiB take a third
    of the throughput of large payloads, because every frame is a pass of the scheduler."""

    max_message_bytes: int = 32 * MIB
    """One payload, all fragments together (precedents: Dynamo's TCP plane 32 MiB, NATS 1 MiB)."""

    max_head_bytes: int = 64 * KIB
    """The optional head map of one frame. Metadata belongs here, data does not."""

    assembly_bytes: int = 4 * MIB
    """Total size of the fragmented payloads that one peer may have begun and not finished. A single
    larger one is allowed while it is alone, so a peer holds at most ``max_message_bytes`` of ours."""

    handshake_frame_bytes: int = 4 * KIB
    """All that an unauthenticated peer can make us buffer."""

    error_message_bytes: int = 4 * KIB
    """What a remote error may say."""

    # -- segments: payloads on this machine that travel as descriptors -------------------------
    max_segment_bytes: int = 1024 * MIB
    """One payload in a segment. It is not copied, so it costs us no memory of our own but address space.
    More than a GiB is better cut up: nobody can begin to read it before all is there. 0: no segments."""

    mapped_segment_bytes: int = 2048 * MIB
    """All segments of one peer that we hold: twice the largest, so that one can be read while the next is
    coming. As long as we hold them, their memory is not freed, even if the peer is gone."""

    max_segments: int = 32
    """How many segments of one peer we hold: each is a descriptor of the 1,024 that a process usually may
    have."""

    segment_threshold_bytes: int = 2 * MIB
    """Payloads from here on are copied into a segment that is kept for that, instead of written to the
    socket: the other side then copies them once, or not at all. Below, the socket is faster."""

    segment_pool_bytes: int = 8 * MIB
    """Segments kept for that, of one channel, in use or not; a single one takes half at most. Larger
    payloads go through the socket: to copy them in one go would hold up everybody else."""

    segment_pool_seconds: float = 10.0
    """How long a segment is kept that nothing uses."""

    # -- counts -----------------------------------------------------------------------------
    max_calls: int = 100
    """Calls one peer may have open; each counts until its handler has ended (h2's default of 100;
    ending the count at CANCEL is CVE-2023-44487)."""

    max_functions: int = 10_000
    """Functions that one peer may announce."""

    request_bytes_in_flight: int = 128 * MIB
    """Total size of the requests that one peer's running calls hold; above it a call is refused."""

    cancels_per_second: float = 100.0
    cancel_burst: int = 1000
    """A peer we do not trust may cancel this often for ever, and this often at once (CVE-2025-8671)."""

    control_frames_per_second: float = 1000.0
    control_frame_burst: int = 10_000
    """Heartbeats, credits, empty bodies, cancels of unknown calls, and reports of progress, together
    (CVE-2024-27316). A function that reports in a loop makes 30,000 to 70,000 reports a second. Its agent
    sends 500 of them a second, and 1,000 at once: the rest is for the other frames, and for a host that
    has stood still and reads many at once."""

    max_strikes: int = 2
    """The connection is closed when a peer has exceeded a rate so many times (gRPC's ping strikes)."""

    # -- flow control -------------------------------------------------------------------------
    stream_window_bytes: int = 256 * KIB
    """Unread bytes of one stream. Its receiver, not the socket, slows the sender down."""

    connection_window_bytes: int = 1 * MIB
    """Unread bytes of all streams of one connection."""

    # -- times --------------------------------------------------------------------------------
    connect_seconds: float = 5.0
    """To resolve a name, connect, and finish TLS (NATS clients: 2 s, without name resolution)."""

    handshake_seconds: float = 2.0
    """From accept to authenticated (NATS: 2 s). Slow-drip peers cost no more than this."""

    write_seconds: float = 10.0
    """A peer that takes no byte for so long is cut (NATS: 10 s)."""

    heartbeat_seconds: float = 1.0
    """Between two heartbeats of a connection on which nothing else is sent."""

    heartbeat_misses: int = 3
    """A peer silent for this many heartbeats is treated as dead."""

    busy_seconds: float = 60.0
    """A silent peer whose process is seen to compute is treated as dead after so long. A function may
    hold the interpreter's lock in C, as sorting eight million numbers does for seconds."""

    reconnect_seconds: float = 10.0
    """How long a connection that broke may be resumed by the same incarnation."""

    call_seconds: float = 60.0
    """The deadline of a call that names none. Ask for ``math.inf`` to wait for ever."""

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
    """A value that cannot be used, for a message."""
    try:
        text = repr(value)
    except Exception:  # a number of more than 4,300 digits, for one
        text = f"an unprintable {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that times can be reckoned with; it may be negative or infinite."""
    if isinstance(value, float):
        return value == value  # a NaN is not
    return isinstance(value, int) and type(value) is not bool and abs(value) <= MAX_WHOLE


def expect_timeout(timeout: object, name: str = "timeout") -> None:
    """Raise InvalidArguments for what is no number of seconds. Zero, less, and infinity are numbers."""
    if not is_number(timeout):
        message = f"{name} must be a number of seconds, not {shown(timeout)}"
        raise InvalidArguments(message, parameter=name)


def expect_seconds(name: str, value: object) -> None:
    """Raise ConfigurationError for what is no time to wait; it may be infinite."""
    if not is_number(value) or not value >= 0:
        raise ConfigurationError.about(name, f"must be a number of seconds, not {shown(value)}")


def expect_several(name: str, values: Iterable[T]) -> Iterable[T]:
    """Return what an argument lists. Raises ConfigurationError for one thing in place of several."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError.about(name, f"must be a list, such as [...], not {values!r:.100}")
    return values


def expect_whole(name: str, value: object, least: int, most: int = MAX_WHOLE) -> None:
    """Raise ConfigurationError for what is no whole number in a range."""
    if type(value) is not int:
        raise ConfigurationError.about(name, f"must be a whole number, not {shown(value)}")
    if not least <= value <= most:
        raise ConfigurationError.about(name, f"must be from {least} to {most}, not {shown(value)}")
