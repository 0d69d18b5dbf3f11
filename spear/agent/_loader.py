"""Loading a user's program and finding the agent in it.

Only this module imports a program by its name. The name comes from the command line of the process, and
never from a message of a peer.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import CodeType, ModuleType
from typing import Final, final

from spear._errors import ConfigurationError
from spear._paths import absolute, working_directory
from spear._targets import ARTIFACT_FILE, GUARD, NEEDS_GUARD, file_of, is_file, split_target
from spear._util import text_of

from ._app import Agent
from ._failures import is_machinery

CHILDS_MAIN: Final = "__mp_main__"
"""The name that ``multiprocessing`` gives to its parent's ``__main__`` in a process that it spawns."""

_replaced: Final[list[ModuleType]] = []  # the former __main__, kept alive because its code runs


@final
class LoadFailed(ConfigurationError):
    """A program could not be loaded, or does not contain exactly one agent.

    The message is one line.

    Attributes:
        details: the traceback through the program's own code; empty if that code did not raise.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def load_agent(target: str) -> Agent:
    """Load a program, and return its agent.

    Args:
        target: a file (``shop.py``), a directory with a ``main.py`` (``./shop/``) or a module
            (``shop.api``), and the agent's name if the program has several (``shop.py:app``).

    A file in a directory with an ``__init__.py`` is a module of this package, as ``company.shop`` for
    ``company/shop.py``, and is imported as such. The directory around the package is first on
    ``sys.path``, and the directory of the file last.

    Any other file is loaded under its own name, not as ``__main__``, with its directory first on
    ``sys.path``. A file that cannot be imported by its name, such as ``shop.v2.py``, gets another name. A
    file with the name of another module gets another name, too, and its directory is last on
    ``sys.path``. The program itself is always compiled from its source, as a script would be.

    Raises:
        LoadFailed: the program does not exist, it raised, or has no agent or several.
    """
    program, name = split_target(target)
    module = _load_file(program) if is_file(program) else _load_module(program)
    return _find_agent(module, os.path.basename(program), name)


def _load_file(path: str) -> ModuleType:
    place, path = path, file_of(path)
    if not os.path.isfile(path):
        path = place
        is_directory = os.path.isdir(path)
        what = f"is a directory without {ARTIFACT_FILE}" if is_directory else "is not a file"
        what = what if os.path.exists(path) else "does not exist"
        raise LoadFailed(f"{path} {what}")
    path = absolute(path)
    place, package = _package_of(path)
    if package:
        _search(place, first=True)
        _search(os.path.dirname(path), first=False)
        return _load_module(f"{package}.{_stem(path)}")
    name = _module_name(path)
    # A file with the name of another module must not hide that module from later imports.
    _search(os.path.dirname(path), first=not _is_taken(_stem(path)))
    loader = _FromSource(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # because a loader is given
    module = importlib.util.module_from_spec(spec)
    # dataclasses, pickle and typing look for a class's module in sys.modules.
    sys.modules[name] = module
    if name == CHILDS_MAIN:
        # multiprocessing then treats the file as a script, and executes it in each process that it
        # spawns, but not as `__main__`; see multiprocessing.spawn.get_preparation_data().
        _replaced.append(sys.modules["__main__"])
        sys.modules["__main__"] = module
        module.__spec__ = None
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _failed(os.path.basename(path), error, path) from error
    return module


def _package_of(path: str) -> tuple[str, str]:
    """Return the directory around a file's package, and the package's dotted name; both empty if none.

    A package whose name is not valid, or that of another module, cannot be imported.
    """
    place, names = os.path.dirname(path), list[str]()
    while os.path.isfile(os.path.join(place, "__init__.py")):
        place, name = os.path.split(place)
        names.insert(0, name)
    if not names or not all(each.isidentifier() for each in (*names, _stem(path))):
        return "", ""
    loaded = getattr(sys.modules.get(names[0]), "__path__", ())
    if _is_taken(names[0]) and os.path.join(place, names[0]) not in loaded:
        return "", ""
    return place, ".".join(names)


@final
class _FromSource(importlib.machinery.SourceFileLoader):
    """A loader that ignores ``__pycache__``.

    Python uses a cached file if the source has the recorded size and the recorded time in whole seconds.
    An old version would therefore run if a program was changed within a second, or if a build gives all
    files the same time.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Return the code compiled from the source."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@final
class _FromSourceFinder:
    """A finder for one module, which finds it as ``import`` does, and compiles it from its source."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the module; None for every other module."""
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _FromSource(spec.loader.name, spec.loader.path)
        return spec


@contextmanager
def _compiled_from_source(name: str) -> Iterator[None]:
    finder = _FromSourceFinder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _search(directory: str, *, first: bool) -> None:
    """Put ``directory`` on ``sys.path``: first, as for a script, or last."""
    if sys.path and sys.path[0] == working_directory() and not sys.flags.safe_path:
        del sys.path[0]  # added by `python -m`
    if first and sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    elif not first and directory not in sys.path:
        sys.path.append(directory)


def _module_name(path: str) -> str:
    """Return the name by which other modules can import the file, or a name that hides no module.

    ``multiprocessing`` pickles the arguments for a process that it spawns, and this process imports the
    module by its name. If the file cannot be imported, it is loaded like a script instead.
    """
    stem = _stem(path)
    if stem and "." not in stem and not _is_taken(stem):
        found = importlib.machinery.PathFinder.find_spec(stem, [os.path.dirname(path)])
        if found is not None and found.origin == path:
            return stem
    return CHILDS_MAIN if _is_agents_process() else f"spear_function_{stem}"


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".py")


def _is_taken(stem: str) -> bool:
    return stem in sys.modules or stem in sys.stdlib_module_names


def _is_agents_process() -> bool:
    return getattr(sys.modules["__main__"].__spec__, "name", None) == f"{__package__}.__main__"


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise LoadFailed(f"{name} is neither a file nor the name of a module")
    try:
        with _compiled_from_source(name):
            return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name or name.startswith(f"{missing}."):
            raise LoadFailed(f"found neither a module nor a file named {name!r}") from None
        raise _failed(name, error) from error
    except BaseException as error:
        raise _failed(name, error) from error


def _failed(program: str, error: BaseException, path: str = "") -> LoadFailed:
    """Return the LoadFailed for an exception of the program, with the traceback as details.

    Args:
        program: the name of the program in the message.
        error: the exception.
        path: the path of the program if it is a file outside of packages.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, SyntaxError) and error.filename:
        file = os.path.basename(error.filename)
        return LoadFailed(f"{file}, line {error.lineno}: {type(error).__name__}: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not is_machinery(each.filename)]
    said = [type(error).__name__, " ".join(text_of(error).split())]
    needs_guard = isinstance(error, ConfigurationError) and error.code == NEEDS_GUARD
    if isinstance(error, SystemExit):
        needs_guard = True
        said.append(f"the program exited while it was being loaded: {GUARD}")
    if path and own and own[-1].filename == path and _is_relative_import(error, own[-1].line):
        said.append(_package_advice(path))
    where = program
    if own:
        # The guard must surround the line of the module, not a line in a function called from there.
        frame = own[0 if needs_guard else -1]
        where = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return LoadFailed(
        ": ".join([where, *filter(None, said)]),
        "".join(["Traceback (most recent call last):\n", *traceback.format_list(own)]),
    )


def _is_relative_import(error: BaseException, line: str | None) -> bool:
    """Return whether a line of a program failed because the program is not in a package."""
    # The exception has no attribute for this failure: its name is None, as that of few others.
    is_import = isinstance(error, ImportError) and error.name is None
    return is_import and re.match(r"from\s*\.", (line or "").strip()) is not None


def _package_advice(path: str) -> str:
    directory = os.path.dirname(path)
    name = os.path.basename(directory)
    if os.path.isfile(os.path.join(directory, "__init__.py")):
        return f"the directory {name!r} cannot be imported by this name: give it another one"
    return (
        f"{os.path.basename(path)} is not in a package: add an empty __init__.py to the directory "
        f"{name!r}, or use the module's name, {name}.{_stem(path)}, instead of the file"
    )


def _find_agent(module: ModuleType, program: str, name: str) -> Agent:
    # By type, because isinstance() accesses __class__, which may raise for proxies.
    agents = {key: value for key, value in vars(module).items() if type(value) is Agent}
    if name:
        if name in agents:
            return agents[name]
        if not hasattr(module, name):
            raise LoadFailed(f"{program} defines no {name!r}{_choice(program, agents)}")
        raise LoadFailed(f"{name!r} in {program} is not a spear.Agent{_choice(program, agents)}")
    if not agents:
        raise LoadFailed(
            f"{program} defines no spear.Agent; add `app = spear.Agent()`, and put `@app.function` above "
            "each function"
        )
    if len({id(agent) for agent in agents.values()}) > 1:
        raise LoadFailed(f"{program} defines {len(agents)} agents{_choice(program, agents)}")
    return next(iter(agents.values()))


def _choice(program: str, agents: dict[str, Agent]) -> str:
    names = ", ".join(f"{program}:{name}" for name in agents)
    return f": choose one of {names}" if names else ""
