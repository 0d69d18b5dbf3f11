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
