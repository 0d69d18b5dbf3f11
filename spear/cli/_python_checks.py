"""Checks of ``spear doctor``: the interpreter, the installed packages, and files that hide modules."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from spear._version import __version__

from ._findings import Finding, fail, ok, warn

OLDEST_PYTHON: Final = (3, 11)
NEWEST_PYTHON: Final = (3, 15)

DISTRIBUTION: Final = "spearlet"

EXTRAS: Final = {
    "http": "spear serve",
    "cli": "progress bars",
    "arrow": "data frames",
    "metrics": "metrics for Prometheus",
    "testing": "the pytest fixture",
}
"""The extras that users install, and the purpose of each."""

NEEDED_MODULES: Final = (
    "attr", "attrs", "cbor2", "h11", "idna", "numpy", "outcome", "pandas", "pyarrow", "rich", "sniffio",
    "sortedcontainers", "spear", "trio", "trio_websocket", "wsproto",
)  # fmt: skip
"""Modules that are often hidden by a file of the same name, beside the standard library's."""

_REQUIREMENT: Final = re.compile(r"([\w.-]+)[^>;]*(?:>=\s*([\d.]+))?[^;]*(?:;(.*))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def check_python() -> Iterator[Finding]:
    """Yield the findings about the interpreter."""
    version = platform.python_version()
    name = platform.python_implementation()
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_PYTHON, NEWEST_PYTHON))
    if name != "CPython":
        yield warn("python", f"{name} {version}", f"use CPython {oldest} to {newest}")
    elif sys.version_info[:2] < OLDEST_PYTHON:
        yield fail("python", f"CPython {version}", f"use CPython {oldest} to {newest}")
    elif sys.version_info[:2] > NEWEST_PYTHON:
        yield warn(
            "python", f"CPython {version} was not tested", f"use CPython {oldest} to {newest}"
        )
    else:
        yield ok("python", f"CPython {version}, {sys.executable}")
    if sys.platform != "linux":
        yield fail("system", f"{sys.platform} is not supported", "use Linux")
    if sys.dont_write_bytecode:
        yield warn(
            "bytecode",
            "compiled modules are not written, so each instance compiles its modules again",
            "unset PYTHONDONTWRITEBYTECODE",
        )
    if os.environ.get("PYTHONBREAKPOINT") is not None:
        yield ok("breakpoint", f"PYTHONBREAKPOINT is {os.environ['PYTHONBREAKPOINT']!r} here")


def check_packages() -> Iterator[Finding]:
    """Yield the findings about Spear's own distribution, its dependencies and its extras."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield warn(
            DISTRIBUTION,
            f"spear {__version__} is not installed, but found on the search path",
            "install it: its requirements cannot be checked",
        )
        return
    yield ok(DISTRIBUTION, __version__)
    missing: dict[str, list[str]] = {}
    for text in requirements:
        found = _REQUIREMENT.match(text)
        assert found is not None
        name, least, marker = found.groups()
        extra = _EXTRA.search(marker or "")
        if extra is None or extra[1] in EXTRAS:
            yield from _check_requirement(name, least, extra[1] if extra else "", missing)
    for extra_name, names in missing.items():
        if extra_name == "http":
            yield warn("http", f"{', '.join(names)}: not installed", _install(extra_name))
        else:
            said = f"not installed, for {EXTRAS[extra_name]}: {', '.join(names)}"
            yield ok(extra_name, said, _install(extra_name))


def _check_requirement(
    name: str, least: str | None, extra: str, missing: dict[str, list[str]]
) -> Iterator[Finding]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra:
            missing.setdefault(extra, []).append(name)
        else:
            yield fail(name, "not installed", f"pip install {DISTRIBUTION}")
        return
    if least is not None and _release(version) < _release(least):
        what = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
        yield fail(name, f"{version} is too old for {what}", f"pip install '{name}>={least}'")
    else:
        yield ok(name, version)


def _install(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]', to have {EXTRAS[extra]}"


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"[\d.]+", version)
    numbers = [int(each) for each in (found[0] if found else "0").split(".") if each]
    while numbers and numbers[-1] == 0:
        del numbers[-1]
    return tuple(numbers)


def check_names(place: str) -> Iterator[Finding]:
    """Yield a finding for each file in a directory that hides a module from programs there."""
    try:
        entries = sorted(os.scandir(place), key=lambda each: each.name)
    except OSError as error:
        yield fail("names", f"{place} cannot be read: {error.strerror}", "use another directory")
        return
    hidden = False
    for each in entries:
        name = each.name.removesuffix(".py")
        is_module = each.name.endswith(".py") or os.path.isfile(os.path.join(each, "__init__.py"))
        if is_module and (name in sys.stdlib_module_names or name in NEEDED_MODULES):
            if name == "spear" and os.path.isfile(os.path.join(each, "_version.py")):
                continue  # a checkout of Spear
            hidden = True
            yield warn(
                "names",
                f"{each.path} hides the module {name}",
                "rename it: programs beside it import it in place of the module",
            )
    if not hidden:
        yield ok("names", f"no file in {place} hides a module")
