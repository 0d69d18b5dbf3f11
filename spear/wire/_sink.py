"""The interface of a connection to its outgoing side: an outbox, or the peer in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spear._segments import Segment

    from ._frames import Buffer, Payload
    from ._heads import Head


class Sink(Protocol):
    """An object that takes a connection's outgoing frames."""

    pushed: int
    pending_bytes: int

    def push(
        self,
        type_: int,
        flags: int,
        call_id: int,
        a: int,
        b: int,
        payload: Payload = b"",
        head: Head | None = None,
    ) -> None:
        """Queue a frame.

        Arguments are positional because every call passes through here twice: keywords cost 0.2 µs each
        time.
        """

    def push_item(self, flags: int, call_id: int, item: Buffer) -> None:
        """Queue an item of a stream; small ones of the same stream may share a frame."""

    def push_latest(
        self,
        type_: int,
        call_id: int,
        a: int,
        b: int,
        payload: Buffer = b"",
        head: Head | None = None,
    ) -> None:
        """Queue a frame that replaces an unsent one of the same type and call."""

    def push_credit(self, call_id: int, credit: int) -> None:
        """Queue returned credit, added to unsent credit of the same call."""

    def may_lend(self, segment: Segment) -> bool:
        """Return whether this segment can be pushed as a payload; otherwise push a view of it.

        Raises as :meth:`spear._segments.Lender.may_lend`.
        """

    def released(self, number: int) -> bool:
        """Record that the peer released a segment; return False if it has none with that number."""

    def retract(self, call_id: int, sequence: int) -> bool:
        """Take back the frame pushed as number ``sequence``; return True if no byte of it was taken."""

    def abandon(self, call_id: int) -> bool:
        """Drop a call's fragmented payload and the frames behind it; return False if there is none."""

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        """Return whether no byte of the frame pushed as number ``sequence`` was taken."""
