"""Reports of progress inside of a response: sent at once, in their order, between the items."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

if TYPE_CHECKING:
    from ._forms import CallMessages
    from ._request import Request

MAX_REPORTS: Final = 64
"""Reports that wait for a slow client. Beyond that the oldest are dropped: the latest matters."""


@final
class ReportSender:
    """A sender of the reports of one call, and of all else in its response: one part at a time.

    The function of a call reports to :meth:`add`; a task runs :meth:`run`.

    Args:
        request: the request to respond to.
        form: the form of the response.
        keep_alive_seconds: seconds without a report after which a sign of life is sent.
    """

    def __init__(
        self, request: Request, form: CallMessages, keep_alive_seconds: float = inf
    ) -> None:
        self._request = request
        self._form = form
        self._keep_alive_seconds = keep_alive_seconds
        self._waiting: deque[object] = deque(maxlen=MAX_REPORTS)
        self._news = trio.Event()
        self._lock = trio.Lock()  # held while a part is sent

    def add(self, report: object) -> None:
        """Send a report soon."""
        self._waiting.append(report)
        self._news.set()

    async def run(self) -> None:
        """Send reports as they come, and signs of life if none comes for long."""
        while True:
            with trio.move_on_after(self._keep_alive_seconds):
                await self._news.wait()
            self._news = trio.Event()
            await self.send(b"" if self._waiting else self._form.sign_of_life())

    async def send(self, data: bytes) -> None:
        """Send the waiting reports, then a part of the response, which may be empty."""
        async with self._lock:
            while self._waiting:
                await self._request.send(self._form.report(self._waiting.popleft()))
            if data:
                await self._request.send(data)
