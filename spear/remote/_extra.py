"""The check for the library that only a client of a host needs."""

from __future__ import annotations

from spear._errors import ConfigurationError

try:
    import h11 as h11
except ImportError as error:
    raise ConfigurationError(
        f"spear.connect() needs {error.name}: install the extra spearlet[http]"
    ) from error
