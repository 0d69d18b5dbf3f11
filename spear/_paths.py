"""The working directory, against which relative paths are resolved. A leaf.

The directory in which a process was started may be removed while the process runs, as a switch to a new
release does. From then on relative paths cannot be resolved, and absolute paths can. Only this module
asks for the working directory.
"""

from __future__ import annotations

import os

from spear._errors import ConfigurationError


def working_directory() -> str | None:
    """The directory of this process; None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def absolute(path: str, base: str | None = None) -> str:
    """An absolute path as it is, a relative one joined to ``base``, by default the working directory.

    ``..`` is resolved by name, as a shell does it, and not by what a symbolic link points to.

    Raises:
        ConfigurationError: the path is relative, and the working directory has been removed.
    """
    if os.path.isabs(path):
        return path
    base = working_directory() if base is None else base
    if base is None:
        raise ConfigurationError(
            f"{path} is a path from the working directory, which has been removed: write an absolute path"
        )
    return os.path.normpath(os.path.join(base, path))
