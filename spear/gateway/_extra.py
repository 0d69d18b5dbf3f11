"""The check for libraries that only a gateway needs."""

from __future__ import annotations

from typing import Final

from spear._errors import ConfigurationError

EXTRA: Final = "http"
"""The extra that installs the libraries."""

try:
    import h11 as h11
    import wsproto as wsproto
except ImportError as error:
    raise ConfigurationError(
        f"the HTTP gateway needs {error.name}: install the extra spearlet[{EXTRA}]"
    ) from error
