"""Where a call runs, for those who asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from spear._ids import InstanceId


class Placed(Protocol):
    """Is notified of the instance that gets a call."""

    @property
    def is_promised(self) -> bool:
        """Whether the call was accepted before, and so gets its turn though its deployment may drain."""

    def place(self, instance: InstanceId) -> None:
        """Note the instance. Called again if the call was lost there and runs elsewhere."""


class CallTally(Protocol):
    """Counts calls, or records them: is notified of the end of each."""

    def ended(self, seconds: float, failure: BaseException | None) -> None:
        """Note that the call has ended. Must neither block nor raise.

        Args:
            seconds: from the call to its end, time in a queue included.
            failure: what the caller gets instead of a result; ``trio.Cancelled`` if it gave up.
        """


@final
class Place:
    """Remembers where a call ran."""

    __slots__ = ("instance",)

    is_promised: Final = False

    def __init__(self) -> None:
        self.instance: InstanceId | None = None

    def place(self, instance: InstanceId) -> None:
        """Note the instance."""
        self.instance = instance
