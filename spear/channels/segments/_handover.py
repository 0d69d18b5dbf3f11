"""The segments of a connection, which only a Unix socket can pass.

The two ends agree in their handshake to hand over memory. A peer asks before it passes its first
descriptor, so a connection that passes no descriptors never has to look for any.
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
    """A connection's handover of segments. This base class passes none: payloads travel as bytes.

    Attributes:
        lender: hands our payloads to the peer in segments; None until both ends have agreed.
        borrower: holds the segments that the peer has passed; None until the peer asks whether it may.
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
        """Bytes of our memory that the peer holds."""
        return 0 if self.lender is None else self.lender.lent_bytes

    @property
    def borrowed_bytes(self) -> int:
        """Bytes of the peer's memory that we hold."""
        return 0 if self.borrower is None else self.borrower.borrowed_bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of our own segments that are kept for further payloads, in use or not."""
        return 0 if self.lender is None else self.lender.kept_bytes

    def agree(self, peer: WireLimits, *, trusts: bool, copies: bool = False) -> None:
        """Allow descriptors to be passed from now on.

        Args:
            peer: the peer's limits.
            trusts: whether we trust the peer; if so, the peer does not trust us.
            copies: whether both ends copy large payloads in memory that can still change.
        """

    def keep_time(self, timers: Timers) -> None:
        """Use timers to release and free segments in time."""

    def on_lend(self, *, is_answer: bool) -> None:
        """Allow the peer to pass descriptors, or note that the peer allows us to.

        Raises RemoteProtocolError if the handshake did not agree on segments.
        """
        raise RemoteProtocolError("LEND, although the handshake did not agree on segments")

    def close(self) -> None:
        """Free our segments and forget the peer's, because the connection has ended."""


NO_SEGMENTS: Final = SegmentHandover()
"""The handover of connections that pass no descriptors."""


@final
class SocketHandover(SegmentHandover):
    """A handover of segments over a Unix socket; over another socket, none.

    Args:
        sock: the socket.
        limits: the limits of this end.
        receiver: is handed the descriptors that arrive.
        outbox: sends payloads in segments, and releases of segments.
    """

    __slots__ = (
        "_copies", "_limits", "_outbox", "_receiver", "_socket", "_timers", "_trusts", "borrower",
        "lender",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, limits: WireLimits, receiver: Receiver, outbox: Outbox
    ) -> None:
        self._socket = sock
        self._limits = limits
        self._receiver = receiver
        self._outbox = outbox
        self._trusts = self._copies = False
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

    def agree(self, peer: WireLimits, *, trusts: bool, copies: bool = False) -> None:
        """Allow descriptors to be passed from now on; see :class:`SegmentHandover`."""
        self._trusts = trusts
        self._copies = copies
        self.lender = SegmentLender(self._limits, peer, self._outbox, seals=trusts, copies=copies)
        self._outbox.lend_through(self.lender)

    def keep_time(self, timers: Timers) -> None:
        """Use timers to release and free segments in time."""
        self._timers = timers
        if self.lender is not None:
            self.lender.keep_time(timers)

    def on_lend(self, *, is_answer: bool) -> None:
        """Allow the peer to pass descriptors, or note that the peer allows us to."""
        if self.lender is None:
            super().on_lend(is_answer=is_answer)
        elif is_answer:
            self.lender.ready()
        else:
            if self.borrower is None:
                # Made late, because a read that may bring descriptors costs 5 us more than a plain one.
                self.borrower = Borrower(
                    self._limits, self._receiver, self._outbox, self._timers,
                    trusts=self._trusts, copies=self._copies,
                )  # fmt: skip
            self._outbox.push_lend(is_answer=True)

    def close(self) -> None:
        """Free our segments and forget the peer's, because the connection has ended."""
        if self.lender is not None:
            self.lender.close()
        if self.borrower is not None:
            self.borrower.close()
