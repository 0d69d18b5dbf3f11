"""What pipes have in common that cannot pass descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spear._errors import RemoteProtocolError

if TYPE_CHECKING:
    from spear._limits import WireLimits

    from ._timers import Timers


class Unshared:
    """A pipe through which no memory is handed over by descriptor."""

    __slots__ = ()

    lender = None
    borrower = None
    can_share = False

    def on_lend(self, *, is_answer: bool) -> None:
        """The peer asks whether it may pass descriptors. Raises RemoteProtocolError."""
        raise RemoteProtocolError("segments, which were not agreed on")

    def keep_time(self, timers: Timers) -> None:
        """Nothing takes time here."""

    def share(self, peer: WireLimits, *, trusts: bool) -> None:
        """Nothing changes."""
