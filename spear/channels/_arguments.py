"""What a call brings: its arguments, as bytes or where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import Overloaded, Rejected
from spear._segments import Segment, SharedBytes
from spear.wire import CalleeSide, Payload, Received

if TYPE_CHECKING:
    from ._channel import CommunicationChannel


class Arguments(CalleeSide):
    """The part of a call that its handler decodes.

    Attributes:
        is_cbor: whether the arguments are CBOR.
        is_shared: whether the caller has sent them to be viewed, not copied.
        is_segment: whether a view of them is cheaper than their bytes, or was meant by the caller.
    """

    __slots__ = ("_channel", "_received", "is_cbor", "is_segment", "is_shared")

    _channel: CommunicationChannel
    _received: Received
    is_cbor: bool
    is_shared: bool
    is_segment: bool

    @property
    def payload(self) -> bytes:
        """The arguments' bytes; a copy of those that came in a segment.

        Raises:
            Overloaded: they came in a way that needs a descriptor, and none was left.
            Rejected: they are more than this side takes as bytes.
        """
        received = self._received
        if not isinstance(received, Segment):
            return received
        most = self._channel.limits.max_message_bytes
        if len(received) > most and not self._channel.connection.trusts_peer:
            raise Rejected(f"shared arguments of {len(received)} bytes; as bytes, {most} are taken")
        try:
            self._received = received = received.as_bytes()
        except OSError as error:
            raise _cannot_be_taken(error) from error
        return received

    def view(self) -> memoryview:
        """The arguments' bytes where they lie, read-only. Call this once. Raises Overloaded."""
        received = self._received
        if not isinstance(received, Segment):
            return memoryview(received)
        try:
            return received.as_view()
        except OSError as error:
            raise _cannot_be_taken(error) from error

    @property
    def body(self) -> Payload:
        """The arguments as they came: good for being sent once more, by somebody who does not look."""
        received = self._received
        if not self.is_shared:
            return self.payload
        return received if isinstance(received, Segment) else SharedBytes(received)


def _cannot_be_taken(error: OSError) -> Overloaded:
    return Overloaded(f"the arguments cannot be taken: {error.strerror}")
