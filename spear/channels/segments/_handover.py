"""The segments of a connection: only a Unix socket lets them pass.

The two ends agree in their handshake to hand over memory. A peer asks before it passes its first
descriptor, so a connection that never passes any never looks for descriptors.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, final

from spear._errors import RemoteProtocolError

from ._borrowing import Borrower
from ._lending import SegmentLender
from ._memory_files import can_share_memory

if TYPE_CHECKING:
    from spear._limits import WireLimits
    from spear.wire import Outbox, Receiver

    from .._timers import Timers


class SegmentHandover:
    """Segments of one connection. This class hands over none: payloads travel as bytes.

    Attributes:
        lender: hands out payloads in segments, once both ends have agreed on that.
        borrower: has the segments that the peer has handed out, once it has asked whether it may.
    """

    __slots__ = ()

    lender: SegmentLender | None = None
    borrower: Borrower | None = None

    @property
    def is_possible(self) -> bool:
        """Whether descriptors can be passed on this connection."""
        return False

    @property
    def lent_bytes(self) -> int:
        """Our memory that the peer has."""
        return 0 if self.lender is None else self.lender.lent_bytes

    @property
    def borrowed_bytes(self) -> int:
        """The peer's memory that we have."""
        return 0 if self.borrower is None else self.borrower.borrowed_bytes

    @property
    def kept_bytes(self) -> int:
        """Segments of our own that are kept for payloads to come, in use or not."""
        return 0 if self.lender is None else self.lender.kept_bytes

    def agree(self, peer: WireLimits, *, trusts: bool) -> None:
        """From now on, descriptors may be passed.

        Args:
            peer: its limits.
            trusts: whether we trust the peer. Then it does not trust us.
        """

    def keep_time(self, timers: Timers) -> None:
        """See to it that segments are released and freed in time."""

    def on_lend(self, *, is_answer: bool) -> None:
        """The peer asks whether it may pass descriptors, or says that we may.

        Raises RemoteProtocolError if that was not agreed on.
        """
        raise RemoteProtocolError("segments, which were not agreed on")

    def close(self) -> None:
        """The connection has ended: free what is ours, and forget what is the peer's."""


NO_SEGMENTS: Final = SegmentHandover()
"""For connections that pass no descriptors."""


@final
class SocketHandover(SegmentHandover):
    """Segments over a Unix socket; over another socket, none.

    Args:
        sock: the socket.
        limits: ours.
        receiver: gets what arrives.
        outbox: sends payloads in segments, and releases.
    """

    __slots__ = (
        "_limits", "_outbox", "_receiver", "_socket", "_timers", "_trusts", "borrower", "lender",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, limits: WireLimits, receiver: Receiver, outbox: Outbox
    ) -> None:
        self._socket = sock
        self._limits = limits
        self._receiver = receiver
        self._outbox = outbox
        self._trusts = False
        self._timers: Timers | None = None
        self.lender: SegmentLender | None = None
        self.borrower: Borrower | None = None

    @property
    def is_possible(self) -> bool:
        """Whether descriptors can be passed on this connection."""
        return (
            self._socket.family == socket.AF_UNIX
            and self._limits.max_segment_bytes > 0
            and can_share_memory()
        )

    def agree(self, peer: WireLimits, *, trusts: bool) -> None:
        """From now on, descriptors may be passed; see :class:`SegmentHandover`."""
        self._trusts = trusts
        self.lender = SegmentLender(self._limits, peer, self._outbox, seals=trusts)
        self._outbox.lend_through(self.lender)

    def keep_time(self, timers: Timers) -> None:
        """See to it that segments are released and freed in time."""
        self._timers = timers
        if self.lender is not None:
            self.lender.keep_time(timers)

    def on_lend(self, *, is_answer: bool) -> None:
        """The peer asks whether it may pass descriptors, or says that we may."""
        if self.lender is None:
            super().on_lend(is_answer=is_answer)
        elif is_answer:
            self.lender.ready()
        else:
            if self.borrower is None:
                # Not before: a read that may bring descriptors costs 5 us more than a plain one.
                self.borrower = Borrower(
                    self._limits, self._receiver, self._outbox, self._timers, trusts=self._trusts
                )
            self._outbox.push_lend(is_answer=True)

    def close(self) -> None:
        """The connection has ended: free what is ours, and forget what is the peer's."""
        if self.lender is not None:
            self.lender.close()
        if self.borrower is not None:
            self.borrower.close()
