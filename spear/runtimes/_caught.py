"""Exceptions that are kept while the blocks of an instance end under a cancelled scope."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def catching(caught: list[BaseException]) -> Iterator[None]:
    """Keep an exception from the blocks around, which end under a cancelled scope.

    The nursery would put the exception into a group, and a checkpoint there would replace it by
    ``trio.Cancelled``. A cancellation goes on if it comes alone.
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
    """Return the first of the exceptions, or None. A KeyboardInterrupt goes before others."""
    interrupts = [each for each in caught if isinstance(each, KeyboardInterrupt)]
    return next(iter(interrupts or caught), None)
