"""Waiting for a file descriptor, whatever its number: ``select.select`` refuses those above 1,023."""

from __future__ import annotations

import select


def wait_writable(descriptor: int) -> None:
    """Wait until a write does not block, as another process may have made the descriptor non-blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def is_writable(descriptor: int) -> bool:
    """Whether a write does not block now."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
