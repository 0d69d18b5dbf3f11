"""Taking items of an asynchronous iterator by the page, as each way into Trio's thread costs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Generic, TypeVar, final

import trio

T = TypeVar("T")

PAGE_ITEMS: Final = 256
"""Most items of a page. It has only what is there already; windows of streams and maps bound that."""


@final
class Page(Generic[T]):
    """Items of an iterator.

    Attributes:
        items: the items, at least one unless the iterator has ended.
        end: what ended the iterator after them: its failure, or StopAsyncIteration; None if it goes on.
    """

    __slots__ = ("end", "items")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.end: Exception | None = None


async def take_page(iterator: AsyncIterator[T]) -> Page[T]:
    """Wait for the next item, and return it with all items that are there already.

    If cancelled, no item is lost, provided that cancelling ``anext(iterator)`` loses none.
    """
    page: Page[T] = Page()
    try:
        page.items.append(await anext(iterator))
        with trio.CancelScope() as scope:
            scope.cancel()  # from now on, whatever would have to wait ends the page
            while len(page.items) < PAGE_ITEMS:
                page.items.append(await anext(iterator))
    except Exception as end:
        page.end = end
    return page
