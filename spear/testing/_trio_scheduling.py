"""Seeded scheduling: the only module of this package that uses private names of Trio.

Trio shuffles the tasks of each pass with a private generator, and sorts them first only if a private flag
is set. No public API sets either; Trio's own plug-in for Hypothesis sets the same two. Two more orders
depend on memory addresses: Trio keeps the tasks and the children of a cancel scope in sets, and sorts
scopes of equal deadlines by ``id()``. The order of cancellations then depends on the allocator, which
shows when an abort function wakes another task: 1 of 240 simulations changed under another allocator.

A release of Trio without one of these names is refused here, because a seed would silently have no
effect.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final, final

import trio

from spear._errors import ConfigurationError

GENERATOR: Final = "_r"
"""Name of the ``random.Random`` that shuffles the tasks of a pass."""

FLAG: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
"""Name of the flag that makes Trio sort the tasks of a pass by age before the shuffle."""

STATUS: Final = "CancelStatus"
"""Name of the class of a node in the tree of cancel scopes."""

SETS: Final = ("_tasks", "_children")
"""Names of the set attributes of :data:`STATUS`; its method :data:`FILL` fills the second."""

FILL: Final = "__attrs_post_init__"


@contextmanager
def seeded_scheduling(rng: random.Random) -> Iterator[None]:
    """Let ``rng`` decide the order of tasks in every ``trio.run()`` inside the block.

    Trio has one generator for all threads of the process: enter one block at a time.

    Raises:
        ConfigurationError: this release of Trio lacks a private name; the message has the version.
    """
    scheduler = _scheduler()
    before = {name: getattr(scheduler, name) for name in (GENERATOR, FLAG, STATUS)}
    setattr(scheduler, GENERATOR, rng)
    setattr(scheduler, FLAG, True)
    setattr(scheduler, STATUS, _in_order(before[STATUS]))
    numbers = count()
    # Shadows the built-in function in Trio's module: equal deadlines expire first in, first out.
    setattr(scheduler, "id", lambda _: next(numbers))  # noqa: B010  # the module has no such attribute
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(scheduler, name, value)
        delattr(scheduler, "id")


@final
class _OrderedSet(dict[Hashable, None]):
    """A set that iterates over its members in the order in which they were added."""

    def add(self, member: Hashable) -> None:
        self[member] = None

    def remove(self, member: Hashable) -> None:
        del self[member]


def _in_order(status: type) -> type:
    """Return a subclass of Trio's ``CancelStatus`` whose sets are ordered."""
    fill: Callable[[object], None] = getattr(status, FILL)

    def fill_in_order(self: object) -> None:
        for name in SETS:
            setattr(self, name, _OrderedSet())
        fill(self)

    return type(status.__name__, (status,), {"__slots__": (), FILL: fill_in_order})


def _scheduler() -> object:
    """Return Trio's scheduler module. Raises ConfigurationError if it lacks a name used here."""
    try:
        from trio._core import _run
    except ImportError as error:
        raise _unsupported("trio._core._run") from error
    for name, kind in ((GENERATOR, random.Random), (FLAG, bool), (STATUS, type)):
        if not isinstance(getattr(_run, name, None), kind):
            raise _unsupported(f"trio._core._run.{name}")
    for name in (*SETS, FILL):
        if not hasattr(getattr(_run, STATUS), name):
            raise _unsupported(f"trio._core._run.{STATUS}.{name}")
    return _run


def _unsupported(missing: str) -> ConfigurationError:
    return ConfigurationError(
        f"Trio {trio.__version__} cannot be simulated: its scheduler has no {missing} of the expected "
        "type; install a release of Trio that this release of Spear was tested with"
    )
