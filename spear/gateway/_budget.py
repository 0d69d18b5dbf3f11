"""What all clients together may take: bytes of bodies, open streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from ._errors import Problem


@final
class Budget:
    """So much of something.

    Args:
        what: it is, for messages.
        most: that may be taken at a time.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self.taken = 0

    def take(self, amount: int) -> None:
        """Take some. Raises Problem if there is not so much left."""
        if self.taken + amount > self._most:
            raise Problem(503, "Busy", f"{self._what}: there are as many as there may be")
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
