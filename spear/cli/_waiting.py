"""Waiting for a file descriptor of any number: ``select.select`` refuses numbers above 1,023."""

from __future__ import annotations

import select


def wait_writable(descriptor: int) -> None:
    """Wait until a write would not block; needed because other processes can make it non-blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def is_writable(descriptor: int) -> bool:
    """Return whether a write would not block now."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def wait_unread(descriptor: int, until: int) -> bool:
    """Wait until the reader of a pipe or a socket has closed its end; return whether it has.

    Args:
        descriptor: the writing end. If it is a file, it has no reader that could go away.
        until: the reading end of another pipe, whose end ends the waiting.
    """
    poll = select.poll()
    for each in (descriptor, until):
        poll.register(each, 0)  # the end is always reported
    return descriptor in dict(poll.poll())
