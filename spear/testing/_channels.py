"""A conformance suite for channels over any transport, like Trio's suite for streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _channel_calls as _channel_calls
from . import _channel_ends as _channel_ends
from . import _channel_streams as _channel_streams
from ._conformance import CHANNEL_CASES as CHANNEL_CASES

if TYPE_CHECKING:
    from ._conformance import OpenPair


async def check_channel(open_pair: OpenPair) -> None:
    """Run all of :data:`CHANNEL_CASES` with pairs that ``open_pair`` opens.

    Each case opens a pair of its own, so that it starts from a known state.

    Raises:
        AssertionError: the channel fails a case; a note on the exception names it.
        trio.TooSlowError: a case hangs.
    """
    for name, case in CHANNEL_CASES.items():
        try:
            await case(open_pair)
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise
