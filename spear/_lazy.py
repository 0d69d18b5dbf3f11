"""Packages whose names are loaded when they are first used (PEP 562). A leaf module, fast to import."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def lazily(
    package: str, homes: Mapping[str, str], packages: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package.

    Args:
        package: the package's name.
        homes: the public names, each with the module that has it.
        packages: the names of its packages that are loaded likewise.
    """

    def load(name: str) -> object:
        from importlib import import_module

        if name in packages:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            home = import_module(homes[name], package)
        except (
            AttributeError
        ) as error:  # which `from package import name` would take for no such name
            raise ImportError(f"{package}.{name} cannot be loaded: {error}") from error
        value: object = getattr(home, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return load, names
