"""What a channel knows of its peer: what it offers, and whether it is about to leave."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf
from typing import Final, final

import trio

from spear._errors import ChannelBroken, ChannelClosed, RemoteProtocolError, SpearError
from spear.wire import Head, HeadValue

FAREWELL_CHARACTERS: Final = 200
"""What is kept of the reason why a peer leaves."""

MOST_NAME_CHARACTERS: Final = 256

NAMES_PER_FRAME: Final = 200
"""Names of functions in one announcement; a head holds that many of any sensible length."""


@final
class Peer:
    """The other end of one channel, as it describes itself.

    Attributes:
        functions: the names it has announced, and their numbers.
        streams: those among them that send items.
        farewell: why it leaves; empty while it does not.
    """

    __slots__ = (
        "_has_announced", "_leaving", "_max_functions", "_took", "farewell", "functions", "streams",
    )  # fmt: skip

    def __init__(self, max_functions: int) -> None:
        self._max_functions = max_functions
        self._has_announced = False
        self.functions: dict[str, int] = {}
        self.streams: frozenset[str] = frozenset()
        self.farewell = ""
        self._leaving: trio.Event | None = None
        self._took: float = inf  # the newest of our calls that it has begun, as it says

    def on_announce(self, head: Head | None) -> bool:
        """It offers more functions; returns whether these were the last.

        Raises:
            RemoteProtocolError: they are too many, or come after the last.
        """
        if self._has_announced:
            raise RemoteProtocolError("an announcement after the last one")
        head = head or {}
        names, streams = head.get("functions"), head.get("streams")
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name not in self.functions:
                if len(name) > MOST_NAME_CHARACTERS:
                    raise RemoteProtocolError(f"a function's name of {len(name)} characters")
                if len(self.functions) >= self._max_functions:
                    raise RemoteProtocolError(f"more than {self._max_functions} functions")
                self.functions[name] = len(self.functions) + 1
        if isinstance(streams, list) and streams:
            known = {name for name in streams if isinstance(name, str)}
            self.streams |= known & self.functions.keys()
        self._has_announced = bool(head.get("last"))
        return self._has_announced

    def on_close(self, head: Head | None) -> None:
        """It takes no new calls, and goes when those that run are done."""
        head = head or {}
        reason, last = head.get("reason"), head.get("last")
        if type(last) is int:
            self._took = last
        # It ends up in messages and logs: one line, no control characters.
        words = "".join(filter(str.isprintable, reason)) if isinstance(reason, str) else ""
        self.farewell = words[:FAREWELL_CHARACTERS] or "closed"
        self.on_gone()

    def on_gone(self) -> None:
        """It is leaving, or has left without a word."""
        if self._leaving is not None:
            self._leaving.set()

    def leaving(self, *, has_begun: bool) -> trio.Event:
        """Set when it leaves; made with the first question."""
        if self._leaving is None:
            self._leaving = trio.Event()
            if has_begun:
                self._leaving.set()
        return self._leaving

    def has_never_begun(self, call_id: int) -> bool:
        """Whether it has said, by leaving, that it will not run this call of ours."""
        return call_id > self._took

    def as_farewell(self, broken: ChannelBroken) -> SpearError:
        """What the end of the connection means, if the peer had announced that it leaves."""
        if not self.farewell:
            return broken
        closed = ChannelClosed(f"the peer has closed the channel: {self.farewell}")
        closed.__cause__ = broken
        return closed


def announcements(names: Sequence[str], streams: Collection[str]) -> list[Head]:
    """The heads that tell a peer what we offer, numbered from 1 in this order.

    Args:
        names: all functions.
        streams: those among them that send items.
    """
    heads: list[Head] = []
    for start in range(0, max(len(names), 1), NAMES_PER_FRAME):
        part: list[HeadValue] = list(names[start : start + NAMES_PER_FRAME])
        heads.append(
            {
                "functions": part,
                "streams": [name for name in part if name in streams],
                "last": start + NAMES_PER_FRAME >= len(names),
            }
        )
    return heads
