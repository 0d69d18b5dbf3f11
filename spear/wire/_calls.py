"""The protocol's state of one call."""

from __future__ import annotations

from typing import ClassVar, Final, final

from ._credit import Windows
from ._states import CALL_RECEIVES, CALL_SENDS, CallState, CallTable, Kind, Role

MESSAGES_ID: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The call id that all one-way messages use."""


class Call:
    """The protocol's state of one call. Channels add their own fields by subclassing.

    Attributes:
        id: id of the call, unique on the connection; odd if the host made the call.
        state: state of the call, as this end sees it.
        sequence: number of the request's frame in the outbox.
        windows: flow-control windows; None unless the call streams.
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
    """A call that this end made."""

    __slots__ = ()
    role = Role.CALLER
    sends = CALL_SENDS[Role.CALLER]
    receives = CALL_RECEIVES[Role.CALLER]


class CalleeSide(Call):
    """A call that the peer made.

    Attributes:
        request_bytes: bytes of the request that count against the limit of this end.
    """

    __slots__ = ("request_bytes",)

    request_bytes: int
    role = Role.CALLEE
    sends = CALL_SENDS[Role.CALLEE]
    receives = CALL_RECEIVES[Role.CALLEE]


@final
class MessageStream(Call):
    """The stream of one-way messages: items in both directions, open as long as the connection."""

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
