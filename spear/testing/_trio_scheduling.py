"""Seeded scheduling: the only module that uses private names of Trio.

Trio shuffles the tasks of each pass with a private generator, and orders them first only if a private
flag is set. There is no public way; Trio's own plug-in for Hypothesis sets the same two. A release of
Trio that has renamed one of them is refused here, because a seed without effect would look as if it
worked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from spear._errors import ConfigurationError

GENERATOR: Final = "_r"
"""A ``random.Random`` that shuffles the tasks of a pass."""

FLAG: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"
"""A boolean: order the tasks of a pass by their age before they are shuffled."""


@contextmanager
def seeded_scheduling(rng: random.Random) -> Iterator[None]:
    """Let ``rng`` decide the order of tasks in every ``trio.run()`` inside the block.

    The process has one generator for all of its threads: use one block at a time.

    Raises:
        ConfigurationError: this release of Trio does not have the two names; the message has its version.
    """
    scheduler = _scheduler()
    before = {name: getattr(scheduler, name) for name in (GENERATOR, FLAG)}
    setattr(scheduler, GENERATOR, rng)
    setattr(scheduler, FLAG, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(scheduler, name, value)


def _scheduler() -> object:
    """Return Trio's module with the two names, each of the expected type."""
    try:
        from trio._core import _run
    except ImportError as error:
        raise _unsupported("trio._core._run") from error
    for name, kind in ((GENERATOR, random.Random), (FLAG, bool)):
        if not isinstance(getattr(_run, name, None), kind):
            raise _unsupported(f"trio._core._run.{name}")
    return _run


def _unsupported(missing: str) -> ConfigurationError:
    return ConfigurationError(
        f"Trio {trio.__version__} cannot be simulated: its scheduler has no {missing} of the expected "
        "type; install a release of Trio that this release of Spear was tested with"
    )
