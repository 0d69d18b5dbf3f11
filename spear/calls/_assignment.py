"""Observers of a call: of the instance that gets it, and of its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from spear._ids import InstanceId


class AssignmentObserver(Protocol):
    """An observer that is notified of the instance that gets a call."""

    @property
    def is_accepted(self) -> bool:
        """Whether the call was accepted before, so that it may run while its deployment drains."""

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance. Called again if the call is repeated at another instance."""


class CallTally(Protocol):
    """A counter or recorder of calls, which is notified of the end of each call."""

    def ended(self, seconds: float, failure: BaseException | None) -> None:
        """Note that the call has ended. Must neither block nor raise.

        Args:
            seconds: from the call to its end, time in a queue included.
            failure: the exception that the caller gets, if any; ``trio.Cancelled`` if it gave up.
        """


@final
class AssignedInstance:
    """A record of the instance where a call ran."""

    __slots__ = ("instance",)

    is_accepted: Final = False

    def __init__(self) -> None:
        self.instance: InstanceId | None = None

    def assigned(self, instance: InstanceId) -> None:
        """Note the instance."""
        self.instance = instance
