"""The last lines that instances wrote, to be read or followed: of a deployment, or of a whole host."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._util import NoPublicConstructor
from spear.channels import protected_block, protected_class

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.telemetry import LogLine

LINE_OVERHEAD_BYTES: Final = 200
"""Bytes that each kept line counts in addition to its text."""

MAX_UNREAD: Final = 1024
"""Lines that a follower may leave unread; further lines are dropped for this follower, and counted."""


@final
@attrs.frozen
class InstanceLine:
    """A line, the instance that wrote it, and the name of the instance's deployment."""

    instance: InstanceId
    line: LogLine
    deployment: str


@final
@protected_class
class FollowedLines(metaclass=NoPublicConstructor):
    """An async iterator over new lines. Made by ``follow_logs()`` of a deployment or a spearlet.

    Attributes:
        lost: number of lines that were dropped because 1,024 lines were unread.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._unread: deque[InstanceLine] = deque()
        self._arrived = trio.Event()
        self._has_ended = False

    def __aiter__(self) -> FollowedLines:
        return self

    async def __anext__(self) -> InstanceLine:
        """Return the next line. If cancelled, no line is lost."""
        await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._has_ended:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._unread.popleft()

    def _put(self, line: InstanceLine) -> None:
        if len(self._unread) >= MAX_UNREAD:
            self.lost += 1
            return
        self._unread.append(line)
        self._arrived.set()

    def _end(self) -> None:
        self._has_ended = True
        self._arrived.set()


@final
@protected_class
class Followers:
    """The open iterators over new lines of the same instances."""

    def __init__(self) -> None:
        self._open: list[FollowedLines] = []
        self._has_ended = False

    def put(self, line: InstanceLine) -> None:
        """Hand a new line to all iterators."""
        for follower in self._open:
            follower._put(line)

    @protected_block
    async def follow(self) -> AsyncIterator[FollowedLines]:
        """Open an iterator over new lines, for as long as the block runs."""
        follower: FollowedLines = FollowedLines._create()
        if self._has_ended:
            follower._end()
        self._open.append(follower)
        try:
            yield follower
        finally:
            self._open.remove(follower)

    def end(self) -> None:
        """End all iterators once their lines are read, because no more lines will be written."""
        self._has_ended = True
        for follower in self._open:
            follower._end()


@final
@protected_class
class LogFeed:
    """A buffer of the last lines of a deployment, which hands each new line to all followers.

    Args:
        deployment: the deployment's name.
        most_bytes: bytes of lines that are kept; the last line is kept in any case.
        of_host: followers of all deployments of the host.

    Attributes:
        followers: followers of this deployment.
    """

    def __init__(self, deployment: str, most_bytes: int, of_host: Followers) -> None:
        self.followers = Followers()
        self._deployment = deployment
        self._most_bytes = most_bytes
        self._of_host = of_host
        self._bytes = 0
        self._lines: deque[InstanceLine] = deque()

    def put(self, instance: InstanceId, line: LogLine) -> None:
        """Add a line that an instance wrote."""
        entry = InstanceLine(instance, line, self._deployment)
        self._lines.append(entry)
        self._bytes += len(line.text) + LINE_OVERHEAD_BYTES
        while self._bytes > self._most_bytes and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft().line.text) + LINE_OVERHEAD_BYTES
        self.followers.put(entry)
        self._of_host.put(entry)

    def last(self, most: int | None = None) -> tuple[InstanceLine, ...]:
        """Return the last lines, oldest first."""
        lines = tuple(self._lines)
        return lines if most is None else lines[max(len(lines) - most, 0) :]
