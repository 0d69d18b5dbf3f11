"""One call, as far as the protocol knows it."""

from __future__ import annotations

from typing import ClassVar, Final, final

from ._credit import Windows
from ._states import CALL_RECEIVES, CALL_SENDS, CallState, CallTable, Kind, Role

MESSAGES_ID: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The call id of one-way messages."""


class Call:
    """What the protocol knows of one call. The channel adds what it needs by subclassing.

    Attributes:
        id: unique on the connection; odd if the host called.
        state: where the call stands, seen from here.
        sequence: the number of the request's frame in the outbox.
        windows: credit, if the call streams.
    """

    __slots__ = ("id", "sequence", "state", "windows")

    role: ClassVar[Role]
    sends: ClassVar[CallTable]
    receives: ClassVar[CallTable]

    def __init__(self) -> None:
        self.id = 0
        self.state = CallState.IDLE
        self.sequence = 0
        self.windows: Windows | None = None


class CallerSide(Call):
    """A call that we made."""

    __slots__ = ()
    role = Role.CALLER
    sends = CALL_SENDS[Role.CALLER]
    receives = CALL_RECEIVES[Role.CALLER]


class CalleeSide(Call):
    """A call that the peer made.

    Attributes:
        request_bytes: what we hold for it.
    """

    __slots__ = ("request_bytes",)

    request_bytes: int
    role = Role.CALLEE
    sends = CALL_SENDS[Role.CALLEE]
    receives = CALL_RECEIVES[Role.CALLEE]


@final
class MessageStream(Call):
    """One-way messages: a stream in both directions that lives as long as the connection."""

    __slots__ = ()
    sends: ClassVar[CallTable] = {
        CallState.STREAMING: {
            Kind.ITEM: CallState.STREAMING,
            Kind.CREDIT: CallState.STREAMING,
        },
        CallState.DONE: {},
    }
    receives = sends

    def __init__(self) -> None:
        super().__init__()
        self.id = MESSAGES_ID
        self.state = CallState.STREAMING
