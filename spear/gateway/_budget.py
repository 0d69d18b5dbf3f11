"""What all clients together may take: bytes of bodies, open streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from ._errors import Problem

if TYPE_CHECKING:
    from spear._errors import Delivered


@final
class Budget:
    """So much of something.

    Args:
        what: it is, for messages.
        most: that may be taken at a time.
        delivered: whether a function has run when there is not enough left.
    """

    def __init__(self, what: str, most: int, delivered: Delivered = "no") -> None:
        self._what = what
        self._delivered: Delivered = delivered
        self._most = most
        self.taken = 0

    def take(self, amount: int) -> None:
        """Take some. Raises Problem if there is not so much left."""
        if self.taken + amount > self._most:
            message = f"{self._what}: there are as many as there may be"
            raise Problem(503, "Busy", message, delivered=self._delivered)
        self.taken += amount

    def give(self, amount: int) -> None:
        """Give it back."""
        self.taken -= amount

    @contextmanager
    def taking(self, amount: int = 1) -> Iterator[None]:
        """Have some while the block runs. Raises Problem."""
        self.take(amount)
        try:
            yield
        finally:
            self.give(amount)
