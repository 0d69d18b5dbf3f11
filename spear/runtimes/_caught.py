"""Keeping exceptions while the blocks of an instance end under a cancelled scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def catching(caught: list[BaseException]) -> Iterator[None]:
    """Append an exception of the block to ``caught`` instead of raising it.

    The enclosing blocks end under a cancelled scope. There, a nursery would put the exception into a
    group, and a checkpoint would replace it by ``trio.Cancelled``. A cancellation alone is raised.
    """
    try:
        yield
    except (trio.Cancelled, GeneratorExit):
        raise
    except BaseExceptionGroup as group:
        _, others = group.split(trio.Cancelled)
        if others is None:
            raise
        caught.append(others)
    except BaseException as error:
        caught.append(error)


def most_urgent(caught: list[BaseException]) -> BaseException | None:
    """Return the first KeyboardInterrupt, or else the first exception, or None."""
    interrupts = [each for each in caught if isinstance(each, KeyboardInterrupt)]
    return next(iter(interrupts or caught), None)
