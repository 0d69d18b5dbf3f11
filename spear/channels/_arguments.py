"""The arguments of an incoming call: as bytes, or as a view of shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import Overloaded, Rejected
from spear._segments import Segment, forwarded
from spear.wire import CalleeSide, Payload, Received

if TYPE_CHECKING:
    from ._channel import CommunicationChannel


class Arguments(CalleeSide):
    """A call's undecoded arguments; the base class of :class:`InboundCall`.

    Attributes:
        is_cbor: whether the arguments are CBOR; otherwise they are raw bytes.
        is_shared: whether the caller sent a ``SharedBuffer``, of which the handler gets a view.
        is_segment: whether to use :meth:`view`: the arguments are shared, or lie in shared memory.
    """

    __slots__ = ("_channel", "_received", "is_cbor", "is_segment", "is_shared")

    _channel: CommunicationChannel
    _received: Received
    is_cbor: bool
    is_shared: bool
    is_segment: bool

    @property
    def payload(self) -> bytes:
        """The arguments as bytes. Arguments that arrived in shared memory are copied.

        Raises:
            Overloaded: the arguments are in shared memory, and no file descriptor was left to read it.
            Rejected: the shared memory holds more than ``max_message_bytes``, from an untrusted peer.
        """
        received = self._received
        if not isinstance(received, Segment):
            return received
        most = self._channel.limits.max_message_bytes
        if len(received) > most and not self._channel.connection.trusts_peer:
            raise Rejected(
                f"the arguments in shared memory have {len(received)} bytes; at most {most} can be copied"
            )
        try:
            self._received = received = received.as_bytes()
        except OSError as error:
            raise _cannot_be_taken(error) from error
        return received

    def view(self) -> memoryview:
        """Return a read-only view of the arguments. Call this at most once. Raises Overloaded."""
        received = self._received
        if not isinstance(received, Segment):
            return memoryview(received)
        try:
            return received.as_view()
        except OSError as error:
            raise _cannot_be_taken(error) from error

    @property
    def body(self) -> Payload:
        """The undecoded arguments, for forwarding unchanged; shared arguments stay shared.

        Arguments in shared memory stay there: forwarding copies them once, and this end never.
        """
        return forwarded(self._received, is_shared=self.is_shared)


def _cannot_be_taken(error: OSError) -> Overloaded:
    return Overloaded(f"cannot read the arguments in shared memory: {error.strerror}")
