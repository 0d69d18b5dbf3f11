"""The instruments of a host: checked when the configuration is read, made when the host starts.

Making one may have effects, such as a connection to a collector, so it happens once and not at reloads.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from spear._errors import ConfigurationError
from spear._paths import absolute, working_directory
from spear.telemetry import find_instrument, load_instrument

if TYPE_CHECKING:
    from spear.telemetry import Instrument

    from ._faults import Faults
    from ._load import Loaded


def check_instruments(loaded: Loaded, faults: Faults) -> None:
    """Import the instruments of a configuration; each one that cannot be used becomes a fault.

    Modules are also looked up in the directory of the configuration file, or else in the working
    directory, but last.
    """
    names = loaded.configuration.spearlet.instruments
    if any(":" in each for each in names):
        place = os.path.dirname(absolute(loaded.file)) if loaded.file else working_directory()
        if place is not None and place not in sys.path:
            sys.path.append(place)
    for each in names:
        try:
            find_instrument(each)
        except ConfigurationError as error:
            faults.add(("spearlet", "instruments"), error.summary)


def make_instruments(loaded: Loaded) -> list[Instrument]:
    """Return the instruments of a configuration that has been checked, for :func:`open_spearlet`.

    Raises:
        UnsupportedInstrument: making an instrument has failed, or has made something else.
        BrokenEntryPoint: likewise, for the instrument of an entry point.
    """
    return [load_instrument(each) for each in loaded.configuration.spearlet.instruments]
