"""Every state change of a connection and of a call, as tables.

Two rules hold. This module alone decides which state follows another. And it knows nothing but states and
frame kinds: no bytes, no limits, no callers.

A table answers one question: in this state, may a frame of this kind be sent (or received), and which
state follows? A frame that is not in the table is not allowed: the caller raises, and nothing changes.
The diagrams in ``docs/wire.md`` are generated from these tables.

A connection has two roles. The *host* accepts connections and sends the challenge; the *agent* connects
and proves its identity. Once OPEN, both may start calls, and either may shut down: it sends CLOSE,
finishes running calls, and starts no new ones.

A call has two roles as well, *caller* and *callee*; either end of the connection can have either. A call
consists of the caller's request, items in both directions if it streams, and exactly one final frame from
the callee: EXECUTION_RESPONSE or ERROR. CANCEL may cross the final frame: the caller stays in CANCELLING
until the final frame arrives, because a call counts against the limit until its handler has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

from ._frames import LAST, STREAM, FrameType


class Role(enum.Enum):
    """The role of one end of a connection, or of a call."""

    HOST = "host"
    AGENT = "agent"
    CALLER = "caller"
    CALLEE = "callee"


class ConnectionState(enum.IntEnum):
    """The state of a connection, as one end sees it."""

    START = 0
    CHALLENGED = 1  # the challenge was sent (host) or received (agent)
    PROVING = 2  # the proof was sent (agent) or received (host)
    OPEN = 3
    DRAINING = 4  # we sent CLOSE
    PEER_DRAINING = 5  # the peer sent CLOSE
    CLOSING = 6  # both sent CLOSE
    CLOSED = 7


class CallState(enum.IntEnum):
    """The state of a call, as one end sees it."""

    IDLE = 0
    STREAMING = 1  # the caller may still send items
    RUNNING = 2  # the caller has sent everything
    CANCELLING = 3  # the caller has cancelled; the callee's handler has not ended yet
    DONE = 4


class Kind(enum.IntEnum):
    """A frame type, or the variant of one that leads to another state."""

    CHALLENGE = FrameType.CHALLENGE
    AUTH_REQUEST = FrameType.AUTH_REQUEST
    AUTH_ACCEPTED = FrameType.AUTH_RESPONSE
    AUTH_REFUSED = 0x183
    ANNOUNCE = FrameType.ANNOUNCE
    HEALTH_CHECK = FrameType.HEALTH_CHECK
    HEALTH_RESPONSE = FrameType.HEALTH_RESPONSE
    CLOSE = FrameType.CLOSE
    REQUEST = FrameType.EXECUTION_REQUEST
    STREAM_REQUEST = 0x190
    RESPONSE = FrameType.EXECUTION_RESPONSE
    ERROR = FrameType.ERROR
    CANCEL = FrameType.CANCEL
    ITEM = FrameType.STREAM_DATA
    LAST_ITEM = 0x195
    CREDIT = FrameType.CREDIT
    SIGNAL = FrameType.SIGNAL
    LEND = FrameType.LEND
    RELEASE = FrameType.RELEASE


Moves: TypeAlias = Mapping[int, ConnectionState]
CallMoves: TypeAlias = Mapping[int, CallState]
ConnectionTable: TypeAlias = Mapping[ConnectionState, Moves]
CallTable: TypeAlias = Mapping[CallState, CallMoves]

_C = ConnectionState
_K = Kind

# Frames that do not change the state of an open connection. Frames of running calls are still allowed
# during shutdown. The connection checks separately that new calls start only while OPEN.
_TRAFFIC: Final = (
    _K.REQUEST, _K.STREAM_REQUEST, _K.RESPONSE, _K.ERROR, _K.CANCEL, _K.ITEM, _K.LAST_ITEM,
    _K.CREDIT, _K.SIGNAL, _K.LEND, _K.RELEASE, _K.HEALTH_CHECK, _K.HEALTH_RESPONSE,
)  # fmt: skip


def _traffic(state: ConnectionState, *extra: tuple[Kind, ConnectionState]) -> Moves:
    return {**dict.fromkeys(_TRAFFIC, state), **dict(extra)}


_SENT_WHILE_OPEN: Final[ConnectionTable] = {
    _C.OPEN: _traffic(_C.OPEN, (_K.CLOSE, _C.DRAINING)),
    _C.DRAINING: _traffic(_C.DRAINING),
    _C.PEER_DRAINING: _traffic(_C.PEER_DRAINING, (_K.CLOSE, _C.CLOSING)),
    _C.CLOSING: _traffic(_C.CLOSING),
    _C.CLOSED: {},
}
_RECEIVED_WHILE_OPEN: Final[ConnectionTable] = {
    _C.OPEN: _traffic(_C.OPEN, (_K.CLOSE, _C.PEER_DRAINING)),
    _C.DRAINING: _traffic(_C.DRAINING, (_K.CLOSE, _C.CLOSING)),
    _C.PEER_DRAINING: _traffic(_C.PEER_DRAINING),
    _C.CLOSING: _traffic(_C.CLOSING),
    _C.CLOSED: {},
}

CONNECTION_SENDS: Final[dict[Role, ConnectionTable]] = {
    Role.HOST: {
        _C.START: {_K.CHALLENGE: _C.CHALLENGED},
        _C.CHALLENGED: {},
        _C.PROVING: {_K.AUTH_ACCEPTED: _C.OPEN, _K.AUTH_REFUSED: _C.CLOSED},
        **_SENT_WHILE_OPEN,
    },
    Role.AGENT: {
        _C.START: {},
        _C.CHALLENGED: {_K.AUTH_REQUEST: _C.PROVING},
        _C.PROVING: {},
        **_SENT_WHILE_OPEN,
        _C.OPEN: {**_SENT_WHILE_OPEN[_C.OPEN], _K.ANNOUNCE: _C.OPEN},
    },
}

CONNECTION_RECEIVES: Final[dict[Role, ConnectionTable]] = {
    Role.HOST: {
        _C.START: {},
        _C.CHALLENGED: {_K.AUTH_REQUEST: _C.PROVING},
        _C.PROVING: {},
        **_RECEIVED_WHILE_OPEN,
        _C.OPEN: {**_RECEIVED_WHILE_OPEN[_C.OPEN], _K.ANNOUNCE: _C.OPEN},
        # An announcement that was in flight when we sent CLOSE.
        _C.DRAINING: {**_RECEIVED_WHILE_OPEN[_C.DRAINING], _K.ANNOUNCE: _C.DRAINING},
    },
    Role.AGENT: {
        _C.START: {_K.CHALLENGE: _C.CHALLENGED},
        _C.CHALLENGED: {},
        _C.PROVING: {_K.AUTH_ACCEPTED: _C.OPEN, _K.AUTH_REFUSED: _C.CLOSED},
        **_RECEIVED_WHILE_OPEN,
    },
}

_S = CallState

_ANSWERS: Final = (_K.ITEM, _K.CREDIT, _K.SIGNAL)
_FINAL: Final[CallMoves] = {_K.RESPONSE: _S.DONE, _K.ERROR: _S.DONE}


def _answers(state: CallState) -> CallMoves:
    return {**dict.fromkeys(_ANSWERS, state), **_FINAL}


_BY_CALLER: Final[CallTable] = {
    _S.IDLE: {_K.REQUEST: _S.RUNNING, _K.STREAM_REQUEST: _S.STREAMING},
    _S.STREAMING: {
        _K.ITEM: _S.STREAMING,
        _K.LAST_ITEM: _S.RUNNING,
        _K.CREDIT: _S.STREAMING,
        _K.CANCEL: _S.CANCELLING,
    },
    _S.RUNNING: {_K.CREDIT: _S.RUNNING, _K.CANCEL: _S.CANCELLING},
    _S.CANCELLING: {},
    _S.DONE: {},
}
_BY_CALLEE: Final[CallTable] = {
    _S.IDLE: {},
    _S.STREAMING: _answers(_S.STREAMING),
    _S.RUNNING: _answers(_S.RUNNING),
    _S.CANCELLING: _FINAL,
    _S.DONE: {},
}

# Each end of a call receives what the other end sends, with one difference: frames that were sent before
# the CANCEL arrived can still arrive after the caller has moved to CANCELLING.
CALL_SENDS: Final[dict[Role, CallTable]] = {Role.CALLER: _BY_CALLER, Role.CALLEE: _BY_CALLEE}
CALL_RECEIVES: Final[dict[Role, CallTable]] = {
    Role.CALLER: {**_BY_CALLEE, _S.CANCELLING: _answers(_S.CANCELLING)},
    Role.CALLEE: _BY_CALLER,
}


def kind_of(type_: int, flags: int) -> int:
    """Return the kind of a frame, as used in the tables: its type, or the variant that its flags select.

    AUTH_RESPONSE is the exception: its variants differ by the head, so the handshake distinguishes them.
    """
    if type_ == FrameType.EXECUTION_REQUEST and flags & STREAM:
        return Kind.STREAM_REQUEST
    if type_ == FrameType.STREAM_DATA and flags & LAST:
        return Kind.LAST_ITEM
    return type_
