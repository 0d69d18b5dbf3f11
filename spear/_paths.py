"""The working directory, against which relative paths are resolved. A leaf module.

The working directory may be removed while a process runs, for example by a switch to a new release. From
then on relative paths cannot be resolved, and absolute paths can. All parts of Spear get the working
directory from this module.
"""

from __future__ import annotations

import os

from spear._errors import ConfigurationError


def working_directory() -> str | None:
    """Return the working directory of this process; None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def absolute(path: str, base: str | None = None) -> str:
    """Return an absolute path as it is, and a relative one joined to ``base`` or the working directory.

    In a relative path ``..`` is resolved by name, as a shell does it, not through symbolic links.

    Raises:
        ConfigurationError: the path is relative, and the working directory has been removed.
    """
    if os.path.isabs(path):
        return path
    base = working_directory() if base is None else base
    if base is None:
        raise ConfigurationError(
            f"{path} is relative to the working directory, which has been removed: use an absolute path"
        )
    return os.path.normpath(os.path.join(base, path))
