"""File descriptors that belong to this process alone, and are replaced in the children that it forks.

A forked child has a copy of every descriptor. A copy of a lifeline (the pipe that ends with the host)
keeps instances alive after their host, a copy of a connection can answer a call twice, and a copy of a
lock keeps a directory from being swept. So a child finds ``/dev/null`` under each of these numbers before
any other code runs in it. Closing the numbers instead would free them for new files, which a stale object
in the child would then use or close.

Only forks that Python makes are handled: ``os.fork``, ``multiprocessing``, ``preexec_fn``. An executed
program does not inherit these descriptors, because all of them are close-on-exec.

A leaf module: it imports no other part of Spear.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

if TYPE_CHECKING:
    import socket

_numbers: Final[set[int]] = set()
_sockets: Final[WeakSet[socket.socket]] = WeakSet()


def own(descriptor: int) -> int:
    """Replace ``descriptor`` in forked children until :func:`close` closes it; returns ``descriptor``."""
    _numbers.add(descriptor)
    return descriptor


def disown(descriptor: int) -> None:
    """Forget a descriptor that is about to be closed.

    Call this before closing it: once closed, its number may at once belong to another thread's file.
    """
    _numbers.discard(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor for which :func:`own` was called."""
    disown(descriptor)
    os.close(descriptor)


def own_socket(sock: socket.socket) -> None:
    """Replace the descriptor of a socket in forked children, for as long as the socket is open."""
    _sockets.add(sock)


def _replace_all() -> None:
    """Put ``/dev/null`` in the place of every descriptor that belongs to the parent alone."""
    numbers = (_numbers | {sock.fileno() for sock in _sockets}) - {-1}
    _numbers.clear()
    _sockets.clear()
    if not numbers:
        return
    os.close(next(iter(numbers)))  # makes room: the table of descriptors may be full
    numbers |= _epolls_that_watch(numbers)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in numbers - {nothing}:
        os.dup2(nothing, number, inheritable=False)
    if nothing not in numbers:
        os.close(nothing)


def _epolls_that_watch(numbers: set[int]) -> set[int]:
    """Return the epolls that watch one of ``numbers``, or watch such an epoll; Trio's is one of them.

    Parent and child share an epoll: a file that the child registers or removes changes for the parent.
    """
    watched: dict[int, set[int]] = {}
    with suppress(OSError):  # a system without /proc
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the descriptor that listed the others
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    with open(f"/proc/self/fdinfo/{name}") as file:
                        lines = [line.split() for line in file]
                    watched[int(name)] = {int(line[1]) for line in lines if line[0] == "tfd:"}
    found: set[int] = set()
    while more := {each for each in watched if watched[each] & (numbers | found)} - found:
        found |= more
    return found


os.register_at_fork(after_in_child=_replace_all)
