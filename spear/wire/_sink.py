"""What a connection needs of whatever takes its frames: an outbox, or the peer in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from spear._segments import Segment

    from ._frames import Buffer, Payload
    from ._heads import Head


class Sink(Protocol):
    """Where a connection puts its frames."""

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

        By position, because every call comes through here twice: keywords cost 0.2 µs each time.
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
        """Queue a frame that makes an unsent one of the same type and call superfluous."""

    def push_credit(self, call_id: int, credit: int) -> None:
        """Give credit back; unsent credit of the same call is added up."""

    def may_lend(self, segment: Segment) -> bool:
        """Whether this segment can be pushed as a payload; otherwise a view of it has to be.

        Raises as :meth:`spear._segments.Lender.may_lend`.
        """

    def released(self, number: int) -> bool:
        """The peer does not use this segment any more; False if it has none of that number."""

    def retract(self, call_id: int, sequence: int) -> bool:
        """Take back the frame pushed as number ``sequence`` if no byte of it was taken."""

    def abandon(self, call_id: int) -> bool:
        """Stop sending a call's fragmented payload and what is behind it; False if there is none."""

    def is_unsent(self, call_id: int, sequence: int) -> bool:
        """Whether no byte of the frame pushed as number ``sequence`` was taken."""
