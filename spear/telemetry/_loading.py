"""Instruments by name: those of installed distributions, and classes of modules.

A name comes from the configuration of a host or from its program, never from a peer.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Final

from spear._entry_points import find_entry_point, find_reference, names_of_entry_points
from spear._errors import UnsupportedInstrument
from spear._util import did_you_mean

from ._instruments import Instrument

if TYPE_CHECKING:
    from collections.abc import Callable

INSTRUMENTS_GROUP: Final = "spear.instruments"
"""The entry point group of instruments."""

_REFERENCE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_FORMS: Final = "the name of an entry point, or package.module:Class"


def load_instrument(name: str) -> Instrument:
    """Return the instrument of a name: of an entry point, or ``package.module:Class``.

    The entry points of the group ``spear.instruments`` belong to installed distributions. Each names an
    instrument, or a callable without arguments that makes one, such as its class. Modules are looked up
    on the import path of this process.

    Raises:
        UnsupportedInstrument: nothing has this name, or it cannot be loaded, or is no instrument.
        BrokenEntryPoint: the entry point of this name cannot be loaded, or gives no instrument.
    """
    return find_instrument(name)()


def find_instrument(name: str) -> Callable[[], Instrument]:
    """Import an instrument by its name, as :func:`load_instrument` does, and do not make it yet.

    The result makes the instrument, and raises as :func:`load_instrument`, as does this function.
    """
    refusal = partial(UnsupportedInstrument, name)
    if ":" in name:
        if not _REFERENCE.fullmatch(name):
            raise refusal(f"its name must be {_FORMS}")
        if name.partition(":")[0].endswith(".py"):
            raise refusal(f"a module is named without .py: use {name.replace('.py:', ':', 1)}")
        return find_reference(name, Instrument, refusal)
    found = find_entry_point(INSTRUMENTS_GROUP, name, Instrument)
    if found is None:
        known = names_of_entry_points(INSTRUMENTS_GROUP)
        hint = did_you_mean(name, known) or f"; it must be {_FORMS}"
        raise refusal(f"no installed distribution has an entry point of this name{hint}")
    return found
