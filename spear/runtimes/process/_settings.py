"""The settings of a process instance, and the environment and the command that result from them.

An instance inherits only the variables listed here. This module starts no process.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

import attrs

from spear._directories import temporary_directory
from spear._errors import ConfigurationError
from spear._limits import MAX_WHOLE, shown
from spear._paths import absolute
from spear._targets import file_of, is_file, split_target

from .._body import RuntimeSettings

INHERITED: Final = ("HOME", "LANG", "LANGUAGE", "PATH", "TMPDIR", "TZ")
"""Variables of the host that every instance inherits, in addition to all that begin with LC_."""

HANDOVER: Final = ("SERVICE_ADDR", "SECRET", "SPEAR_INSTANCE")
"""Variables that ``environment_handover`` sets."""

BOOTSTRAP_FD: Final = "{bootstrap_fd}"
"""The placeholder in a command for the number of the file descriptor with the bootstrap record."""

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Variables that a process which forks instances gets with the value 1, unless they are set.

Libraries of numerics start a thread for each core when they are imported. A process with threads cannot
be forked, and instances that share the cores need no further threads.
"""

LEAST_OPEN_FILES: Final = 16
"""File descriptors that an interpreter with one connection and one thread pool needs at least."""

_AGENT_MODULE: Final = "spear.agent"


@final
@attrs.frozen(kw_only=True)
class ResourceLimits:
    """An instance's resource limits, enforced by the kernel; None is the limit of the host itself.

    Attributes:
        memory_bytes: bytes of address space. A Python program with threads reserves far more address
            space than it uses: set 1 GiB rather than 64 MiB.
        open_files: open file descriptors.
        cpu_seconds: seconds of CPU time, after which the kernel kills the process (SIGXCPU).
        core_bytes: bytes of a core dump, which would contain all data of the function.
    """

    memory_bytes: int | None = None
    open_files: int | None = None
    cpu_seconds: int | None = None
    core_bytes: int | None = 0

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if value is not None and type(value) is not int:
                raise ConfigurationError.about(name, f"must be a whole number, not {shown(value)}")
            if value is not None and value < (0 if name == "core_bytes" else 1):
                raise ConfigurationError.about(name, f"must be positive, not {shown(value)}")
            if value is not None and value > MAX_WHOLE:
                raise ConfigurationError.about(
                    name, f"must be at most {MAX_WHOLE}, not {shown(value)}"
                )
        if self.open_files is not None and self.open_files < LEAST_OPEN_FILES:
            raise ConfigurationError.about(
                "open_files", f"must be at least {LEAST_OPEN_FILES}, not {self.open_files}"
            )

    def to_resources(self) -> dict[int, tuple[int, int]]:
        """Return the (soft, hard) limits by resource, such as ``resource.RLIMIT_AS``."""
        # At the soft limit on CPU time, ``cpu_seconds``, the kernel sends SIGXCPU, which shows the
        # reason. At the hard limit, one second later, it sends SIGKILL.
        wanted = {
            resource.RLIMIT_AS: (self.memory_bytes, self.memory_bytes),
            resource.RLIMIT_NOFILE: (self.open_files, self.open_files),
            resource.RLIMIT_CPU: (self.cpu_seconds, self.cpu_seconds and self.cpu_seconds + 1),
            resource.RLIMIT_CORE: (self.core_bytes, self.core_bytes),
        }
        return {
            kind: (soft, hard)
            for kind, (soft, hard) in wanted.items()
            if soft is not None and hard is not None
        }


_NAMES: Final = {
    resource.RLIMIT_AS: "memory_bytes",
    resource.RLIMIT_NOFILE: "open_files",
    resource.RLIMIT_CPU: "cpu_seconds",
    resource.RLIMIT_CORE: "core_bytes",
}


def _as_text(path: str | os.PathLike[str] | None) -> str | None:
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def _expect_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError.about(name, f"must be text, not {value!r}")
    if "\0" in value:
        raise ConfigurationError.about(name, "must not contain a NUL character")


def _expect_texts(name: str, values: object) -> None:
    if isinstance(values, str):
        raise ConfigurationError.about(
            name, f"must be a list of texts: [{values!r}], not {values!r}"
        )
    if not isinstance(values, Sequence):
        raise ConfigurationError.about(name, f"must be a list of texts, not {values!r}")
    for value in values:
        _expect_text(f"each of {name}", value)


def _absolute_program(program: str) -> str:
    return absolute(program) if os.sep in program else program  # otherwise PATH is searched


def _is_variable(name: object) -> bool:
    return isinstance(name, str) and name != "" and not set("=\0") & set(name)


def _show_names(environment: Mapping[str, str]) -> str:
    return f"<{', '.join(sorted(environment))}>"  # values may be secrets


StartMethod: TypeAlias = Literal["auto", "zygote", "spawn"]

STARTS: Final[tuple[StartMethod, ...]] = ("auto", "zygote", "spawn")


@final
@attrs.frozen(kw_only=True)
class ProcessSettings(RuntimeSettings):
    """A process instance's settings.

    Either ``target`` or ``command`` must be given. A target is run by a Python interpreter with Spear's
    agent. A command may be any program. A program that is not Spear's agent but speaks the protocol
    finds the bootstrap record at the file descriptor whose number replaces ``{bootstrap_fd}`` in the
    command; with ``environment_handover``, it finds address and secret in its environment instead.

    Attributes:
        target: a file with functions or an importable module, as ``shop.py`` or ``shop.api``, and
            the agent's name if the program has several agents, as ``shop.py:app``.
        python: the interpreter that runs ``target``; it needs Spear's dependencies.
        python_path: directories that the interpreter searches for modules before all others.
        command: a program and its command-line arguments, instead of ``target``.
        environment: variables to set, in addition to :data:`INHERITED` and the variables of Spear.
        pass_environment: names of more variables of the host to inherit, if they are set.
        working_directory: an existing directory; by default that of the host. If it has been removed,
            a private one takes its place.
        private_directory: whether each instance gets an empty directory of its own, which only the user
            may enter, and which is removed with the instance.
        limits: the resource limits that the kernel enforces.
        debug: whether errors carry tracebacks.
        low_latency: whether both ends poll for input for a moment before they sleep, which costs CPU
            time and saves a wake-up.
        environment_handover: whether to set SERVICE_ADDR, SECRET (in hex) and SPEAR_INSTANCE. Every
            process that can read our user's ``/proc`` can read these variables, and the program's
            children inherit them; a file descriptor has neither weakness.
        start: ``auto`` forks the program if it can be forked and may have several instances, and spawns
            it otherwise; ``zygote`` refuses a program that cannot be forked; ``spawn`` never forks.
    """

    target: str | None = attrs.field(default=None, converter=_as_text)
    python: str = sys.executable
    python_path: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=_show_names)
    pass_environment: tuple[str, ...] = ()
    working_directory: str | None = attrs.field(default=None, converter=_as_text)
    private_directory: bool = False
    limits: ResourceLimits = attrs.field(factory=ResourceLimits)
    low_latency: bool = False
    environment_handover: bool = False
    start: StartMethod = "auto"

    def __attrs_post_init__(self) -> None:
        self._check_types()
        if bool(self.target) == bool(self.command):
            raise ConfigurationError("a process needs either a target or a command")
        if self.private_directory and self.working_directory is not None:
            raise ConfigurationError.about(
                "private_directory", "replaces working_directory: set only one of them"
            )
        if self.environment_handover and not self.command:
            raise ConfigurationError.about("environment_handover", "needs a command")
        if self.start not in STARTS:
            raise ConfigurationError.about(
                "start", f"must be one of {', '.join(STARTS)}, not {self.start!r}"
            )
        if self.start == "zygote" and self.command:
            raise ConfigurationError(
                "start='zygote' forks a Python program: a command cannot be forked", key="start"
            )
        for name in self.environment:
            if name in HANDOVER and self.environment_handover:
                raise ConfigurationError.about(
                    "environment", f"must not set {name}, which environment_handover sets"
                )

    def _check_types(self) -> None:
        """Raise ConfigurationError for a value of a wrong type now, instead of during a start."""
        _expect_text("python", self.python)
        for name in ("target", "working_directory"):
            if getattr(self, name) is not None:
                _expect_text(name, getattr(self, name))
        for name in ("command", "python_path", "pass_environment"):
            _expect_texts(name, getattr(self, name))
        for name in self.pass_environment:
            if not _is_variable(name):
                raise ConfigurationError.about(
                    "pass_environment", f"has {name!r}, which is not a valid variable name"
                )
        for name in ("debug", "private_directory", "low_latency", "environment_handover"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError.about(
                    name, f"must be True or False, not {getattr(self, name)!r}"
                )
        if not isinstance(self.limits, ResourceLimits):
            raise ConfigurationError.about(
                "limits", f"must be ResourceLimits(...), not {self.limits!r}"
            )
        if not isinstance(self.environment, Mapping):
            raise ConfigurationError.about(
                "environment", "must be a dict, such as {'NAME': 'value'}"
            )
        for variable, value in self.environment.items():
            if not _is_variable(variable):
                raise ConfigurationError.about(
                    "environment", f"has {variable!r}, which is not a valid variable name"
                )
            if not isinstance(value, str):  # not shown: it may be a secret
                kind = type(value).__name__
                raise ConfigurationError(
                    f"environment[{variable!r}] must be text, not of type {kind}", key="environment"
                )
            if "\0" in value:
                raise ConfigurationError(
                    f"environment[{variable!r}] must not contain a NUL character",
                    key="environment",
                )

    @property
    def title(self) -> str:
        """The target, or the program of the command."""
        return self.target or self.program()

    def made_absolute(self) -> ProcessSettings:
        """Return these settings with absolute paths, so that a change of directory does not matter.

        Raises:
            ConfigurationError: a path is relative, and the working directory has been removed.
        """
        program, name = split_target(self.target or "")
        if program and is_file(program):
            program = absolute(program)
        directory = self.working_directory
        return attrs.evolve(
            self,
            target=self.target and (f"{program}:{name}" if name else program),
            python=_absolute_program(self.python),
            python_path=tuple(map(absolute, self.python_path)),
            command=(*map(_absolute_program, self.command[:1]), *self.command[1:]),
            working_directory=None if directory is None else absolute(directory),
        )

    def split_target(self) -> tuple[Path | None, str]:
        """Return the absolute path of a target that is a file, or None, and the agent's argument."""
        target = self.target or ""
        program, name = split_target(target)
        if not is_file(program):
            return None, target
        path = Path(absolute(file_of(program)))
        return path, f"{path}:{name}" if name else str(path)

    def validate(self) -> None:
        """Check whether this machine can start the program; see :meth:`Runtime.validate`."""
        for problem in self.problems():
            raise problem

    def validate_surroundings(self) -> None:
        """Do the part of :meth:`validate` that also matters if the program is already loaded."""
        for problem in self._problems_around():
            raise problem

    def problems(self) -> Iterator[ConfigurationError]:
        """Yield an error for each reason why this machine cannot start the program."""
        program, (path, _) = self.program(), self.split_target()
        if shutil.which(program, path=self._base_environment()["PATH"]) is None:
            key = "command" if self.command else "python"
            yield ConfigurationError(f"{program} was not found or is not executable", key=key)
        if path is not None and not os.access(path, os.R_OK):
            yield ConfigurationError(f"{path} was not found or is not readable", key="target")
        elif path is not None and not os.path.isfile(path):
            message = f"{path} is not a file: use a Python file with functions"
            yield ConfigurationError(message, key="target")
        yield from self._problems_around()

    def _problems_around(self) -> Iterator[ConfigurationError]:
        try:
            temporary_directory()
        except ConfigurationError as error:
            yield error
        directory = self.working_directory
        if directory is not None and not os.access(directory, os.X_OK):
            message = f"{directory} was not found or is not an accessible directory"
            yield ConfigurationError(message, key="working_directory")
        for kind, (soft, hard) in self.limits.to_resources().items():
            try:
                most = resource.getrlimit(kind)[1]
            except OSError as error:
                fault = f"cannot be limited here: {error.strerror}"
                yield ConfigurationError.about(_NAMES[kind], fault)
                continue
            if os.geteuid() != 0 and most != resource.RLIM_INFINITY and hard > most:
                fault = f"is {soft}, above the host's own limit of {most}"
                yield ConfigurationError.about(_NAMES[kind], fault)

    def program(self) -> str:
        """Return the program to execute: the first word of the command, or the interpreter."""
        return self.command[0] if self.command else self.python

    @property
    def names_bootstrap_fd(self) -> bool:
        """Whether ``command`` contains the placeholder ``{bootstrap_fd}``."""
        return any(BOOTSTRAP_FD in each for each in self.command[1:])

    def agent_command(self, bootstrap_fd: int) -> list[str]:
        """Return the command line of an agent that serves ``target``."""
        _, target = self.split_target()
        # -P: a file in the working directory must not be imported instead of one of our modules.
        agent = [self.python, "-P", "-m", _AGENT_MODULE]
        return [*agent, target, "--bootstrap-fd", str(bootstrap_fd)]

    def zygote_command(self, lifeline: int, control: int) -> list[str]:
        """Return the command line of a process that loads ``target`` and forks agents that serve it."""
        return [*self.agent_command(lifeline), "--zygote-fd", str(control)]

    def own_command(self, bootstrap_fd: int) -> list[str]:
        """Return ``command`` with the absolute path of the program and the number of the descriptor."""
        path = self._base_environment()["PATH"]
        program = shutil.which(self.command[0], path=path) or self.command[0]
        arguments = (each.replace(BOOTSTRAP_FD, str(bootstrap_fd)) for each in self.command[1:])
        return [absolute(program), *arguments]

    def full_environment(self) -> dict[str, str]:
        """Return the complete environment of the process."""
        environment = self._base_environment()
        search = [absolute(each) for each in self.python_path]
        if not self.command and not _finds_spear(self.python):
            search.append(str(_SPEAR_ROOT))
        if search:
            theirs = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join([*search, *([theirs] if theirs else [])])
        return environment

    def template_environment(self) -> dict[str, str]:
        """Return the complete environment of a process that forks instances."""
        environment = self.full_environment()
        for name in THREAD_VARIABLES:
            if name in os.environ:
                environment.setdefault(name, os.environ[name])
        # The other libraries follow OMP_NUM_THREADS if their own variables are not set.
        if "OMP_NUM_THREADS" not in environment:
            environment = dict.fromkeys(THREAD_VARIABLES, "1") | environment
        return environment

    def _base_environment(self) -> dict[str, str]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in INHERITED or name.startswith("LC_") or name in self.pass_environment
        }
        environment.setdefault("PATH", os.defpath)
        return environment | dict(self.environment)


def is_certain(target: str) -> bool:
    """Return whether a target certainly names Python code: a Python file, a directory, or a module.

    A module counts if it is found on this process's search path. Nothing is imported.
    """
    program, _ = split_target(target)
    if os.path.isfile(program):
        return os.path.splitext(program)[1] in ("", ".py")
    return os.path.isdir(program) or _is_module(program)


def _is_module(name: str) -> bool:
    """Return whether this process would find a module; its parent packages are not imported."""
    found, place = "", None
    for part in name.split("."):
        found = f"{found}.{part}" if found else part
        spec = PathFinder.find_spec(found, place) if part.isidentifier() else None
        if spec is None:
            return False
        place = spec.submodule_search_locations or ()
    return True


_SPEAR_ROOT: Final = Path(__file__).resolve().parents[3]


def _finds_spear(python: str) -> bool:
    """Return whether an interpreter finds an installed Spear without PYTHONPATH."""
    places = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return python == sys.executable and _SPEAR_ROOT in places
