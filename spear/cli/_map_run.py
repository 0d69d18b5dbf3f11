"""The run of ``spear map``: it reads items, makes calls with retries, and writes lines.

Reading, calling and writing keep step: at most MAX_OPEN_ITEMS have been read and not yet written.

Failed items are called again by this module, not by the retries of ``spear.calls``: those share a budget
and the deadline of the first attempt, which protects a host from its clients. Here every item has the
number of attempts that the command line names, and its own time for each.
"""

from __future__ import annotations

import random
import re
from collections import deque
from typing import TYPE_CHECKING, Final, TypeGuard, final

import attrs
import trio

from spear._errors import (
    ConfigurationError,
    InvalidArguments,
    NotFound,
    Rejected,
    RemoteProtocolError,
    SpearError,
    WorkerDied,
)
from spear._json import dump_json, load_json
from spear._retry_policy import RetryPolicy
from spear.channels import open_private_nursery

from ._map_input import BadLine
from ._map_output import failure_line, result_line
from ._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from spear.calls import Function, MapItem

    from ._bar import MapProgress
    from ._map_input import Input
    from ._map_output import CalledFunction, DoneItems
    from ._output import ResultOutput

MAX_OPEN_ITEMS: Final = 10_000
"""Maximum number of items that were read, and whose lines are not written."""

SHOWN_FAILURES: Final = 3
"""Number of failures that are shown on standard error."""

SHOWN_CHARACTERS: Final = 60
"""Maximum number of characters shown of an item."""

DELAYS: Final = RetryPolicy()
"""The policy whose delays are those between the attempts for an item."""

# Failures that another attempt would meet again.
_LASTING: Final = (Rejected, NotFound, ConfigurationError, RemoteProtocolError)


@final
@attrs.define(eq=False)
class _Entry:
    """An item whose line is not written yet."""

    index: int
    item: object
    is_text: bool
    attempts: int = 0


@final
class MapRun:
    """A run over the items of an input; as an asynchronous iterator, the items that are to be called.

    Args:
        source: the items.
        done: the items to skip.
        output: takes the lines.
        progress: is kept up to date.
        retries: the most further attempts for an item that has failed.
        unpack: whether each item is a list of arguments.
        ordered: whether lines are in the order of the items; otherwise as the calls end.
        say: is called with a line about each of the first failures.
        called: what all calls have in common.
        is_recorded: whether the first line has this, too.
    """

    def __init__(
        self,
        source: Input,
        done: DoneItems,
        output: ResultOutput,
        progress: MapProgress,
        *,
        retries: int,
        unpack: bool,
        ordered: bool,
        say: Callable[[str], object],
        called: CalledFunction,
        is_recorded: bool,
    ) -> None:
        self._source = source
        self._done = done
        self._output = output
        self._progress = progress
        self._retries = retries
        self._unpack = unpack
        self._ordered = ordered
        self._say = say
        self._called = called
        self._has_record = not is_recorded
        self._rng = random.Random()  # noqa: S311  # for delays
        self._reads_json = False
        self._has_ended = False  # whether the input has no more items
        self._read = 0  # items of the input
        self._open = 0  # items that were read, and have no final outcome
        self._pending: deque[_Entry] = deque()  # to be called
        self._sent: dict[int, _Entry] = {}  # being called, by their index among all calls
        self._calls = 0
        self._shown_retries = 0
        self._held: dict[int, bytes] = {}  # lines whose turn has not come, by index
        self._next = 0  # index of the next line in order
        self._writing = trio.Lock()
        self._news = trio.Event()
        self._room = trio.Event()

    async def has_items(self) -> bool:
        """Return whether any item has to be called; read until that is known. A checkpoint."""
        while not self._pending and not self._has_ended:
            await self._fill()
        return bool(self._pending)

    async def run(
        self, function: Function, *, limit: int, reads_json: bool
    ) -> InvalidArguments | None:
        """Call the function for all items, and write their lines. A checkpoint.

        If cancelled, the calls that run are cancelled; all lines that were written are whole.

        Args:
            function: the function.
            limit: the most calls, or batches of short ones, at a time.
            reads_json: whether the value of an item that is text is that of the text as JSON, if it is.

        Returns:
            The reason why no item can be called, if the arguments that all calls share do not fit. No
            such failure has a line.

        Raises:
            ConfigurationError: the input cannot be read.
            WorkerDied: no instance can be kept alive.
            BrokenPipeError: the reader of the output has closed it.
            SpearError: the output cannot be written.
        """
        self._reads_json = reads_json
        refusal: InvalidArguments | None = None
        async with open_private_nursery() as nursery:
            nursery.start_soon(self._read_all)
            call_all = function.starmap if self._unpack else function.map
            mapping = call_all(self, limit=limit, ordered=False, on_error="keep")  # type: ignore[call-overload]  # with starmap, the items are lists
            async with mapping as outcomes:
                async for outcome in outcomes:
                    if self._fits_no_item(outcome.error):
                        refusal = outcome.error
                        nursery.cancel_scope.cancel()
                        break
                    await self._settle(outcome, nursery)
        return refusal

    def _fits_no_item(self, error: SpearError | None) -> TypeGuard[InvalidArguments]:
        """Return whether a call was refused because of what all calls have in common."""
        if not isinstance(error, InvalidArguments) or error.delivered != "no":
            return False
        match error.code:
            case "unknown_argument":
                return True
            case "argument_type":
                return re.split(r"[.\[]", error.parameter)[0] in self._called.keywords
            case "missing_argument" | "too_many_arguments" | "repeated_argument":
                return not self._unpack  # else the number of arguments is the item's
        return False

    # -- items in -----------------------------------------------------------------------------

    async def _read_all(self) -> None:
        while not self._has_ended:
            while self._open + len(self._held) >= MAX_OPEN_ITEMS:
                self._room = trio.Event()
                await self._room.wait()
            await self._fill()

    async def _fill(self) -> None:
        """Read some items. Items that are done, or that no call can take, are settled at once."""
        items = await self._source.read()
        if not items:
            self._has_ended = True
            self._progress.total = self._read
        for item in items:
            entry = _Entry(self._read, item, self._source.is_text)
            self._read += 1
            self._open += 1
            if isinstance(item, BadLine):
                entry.item = item.content
                await self._fail(entry, item.error)
            elif self._unpack and not isinstance(item, list):
                error = InvalidArguments("--starmap needs items that are lists", code="bad_item")
                await self._fail(entry, error)
            elif self._done.take(item):
                self._progress.skipped += 1
                await self._finish(entry, b"")
            else:
                self._pending.append(entry)
        self._news.set()

    def __aiter__(self) -> MapRun:
        return self

    async def __anext__(self) -> object:
        """Return the next item to call; after the last one, wait for the outcomes of all calls."""
        while not self._pending:
            if self._has_ended and not self._open:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        entry = self._pending.popleft()
        self._sent[self._calls] = entry
        self._calls += 1
        return _read_word(entry.item) if entry.is_text and self._reads_json else entry.item

    # -- outcomes -----------------------------------------------------------------------------

    async def _settle(self, outcome: MapItem[object], nursery: trio.Nursery) -> None:
        entry, error = self._sent.pop(outcome.index), outcome.error
        entry.attempts += 1
        was_retried = entry.attempts > 1
        if error is None:
            try:
                line = result_line(entry.index, entry.item, outcome.result)
            except RemoteProtocolError as failure:
                error = failure
            else:
                self._progress.retrying -= was_retried
                self._progress.done += 1
                await self._finish(entry, line)
                return
        if isinstance(error, WorkerDied) and error.code == "given_up":
            raise error
        if entry.attempts <= self._retries and not isinstance(error, _LASTING):
            if entry.attempts == 1:
                self._progress.retrying += 1
                self._shown_retries += 1
                if self._shown_retries <= SHOWN_FAILURES:
                    self._show(entry, "failed, will be called again", error)
            nursery.start_soon(self._call_again, entry)
        else:
            self._progress.retrying -= was_retried
            await self._fail(entry, error)

    async def _call_again(self, entry: _Entry) -> None:
        await trio.sleep(DELAYS.delay_seconds(entry.attempts, self._rng))
        self._pending.appendleft(entry)
        self._news.set()

    async def _fail(self, entry: _Entry, error: SpearError) -> None:
        self._progress.note_failure(error)
        if self._progress.failed <= SHOWN_FAILURES:
            self._show(entry, "failed", error)
        await self._finish(entry, failure_line(entry.index, entry.item, error, entry.attempts))

    def _show(self, entry: _Entry, outcome: str, error: SpearError) -> None:
        shown = dump_json(entry.item)
        if len(shown) > SHOWN_CHARACTERS:
            shown = f"{shown[:SHOWN_CHARACTERS]}..."
        text = f"spear: item {entry.index}, {shown}, {outcome}: {error.summary}"
        self._say(printable(text, keep=""))

    # -- lines out ----------------------------------------------------------------------------

    async def _finish(self, entry: _Entry, line: bytes) -> None:
        """Write the line of an item, in its turn."""
        try:
            self._writing.acquire_nowait()  # usually: the other writer is _fill()
        except trio.WouldBlock:
            await self._writing.acquire()
        try:
            if self._ordered:
                self._held[entry.index] = line
                while (due := self._held.pop(self._next, None)) is not None:
                    self._next += 1
                    await self._write(due)
            else:
                await self._write(line)
        finally:
            self._writing.release()
        self._open -= 1
        self._room.set()
        if not self._open:
            self._news.set()

    async def _write(self, line: bytes) -> None:
        if line:
            if not self._has_record:
                self._has_record = True
                line = self._called.added_to(line)
            await self._output.write(line)


def _read_word(text: object) -> object:
    """Return the value of a text as JSON; the text itself if it is not JSON."""
    try:
        return load_json(str(text))
    except (ValueError, RecursionError):
        return text
