"""Progress reports of streams, on their way to the caller's callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import trio

from ._interrupts import call_unprotected

OnProgress: TypeAlias = Callable[[bytes, bool], None]


@final
class NewestReport:
    """The newest progress report of a stream that its callback has not received.

    Attributes:
        news: set when there is a report, or none will follow.
    """

    __slots__ = ("_newest", "_on_progress", "news")

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._newest: tuple[bytes, bool] | None = None
        self.news = trio.Event()

    def put(self, payload: bytes, *, is_cbor: bool) -> None:
        """Keep a report, in place of an older one."""
        self._newest = payload, is_cbor
        self.news.set()

    def pass_on(self) -> None:
        """Pass the report to the callback, if there is one. Raises what the callback raises."""
        if self._newest is not None:
            (payload, is_cbor), self._newest = self._newest, None
            call_unprotected(self._on_progress, payload, is_cbor)

    async def follow(self, done: trio.Event) -> None:
        """Pass reports to the callback until the call is done."""
        while True:
            self.pass_on()
            if done.is_set():
                return
            if self.news.is_set():  # another task may have renewed it
                self.news = trio.Event()
            await self.news.wait()
