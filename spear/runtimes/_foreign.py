"""Calling the code of a runtime, which may come from another distribution.

An exception of a runtime's code is replaced by a Spear error that names the runtime. A result of the
wrong type is refused here as well, while the method that returned it is known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutine
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, Unpack

from spear._errors import ConfigurationError
from spear._ids import check_runtime_name
from spear._util import summary_of

from ._body import InstanceMetrics, RuntimeSettings

if TYPE_CHECKING:
    from spear._ids import InstanceId

    from ._abc import Runtime
    from ._body import InstanceBody

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger: Final = logging.getLogger("spear.runtimes")


BUGS: Final = (Exception, SystemExit, BaseExceptionGroup)
"""Exceptions that are bugs of a runtime's body. A group of them has no cancellation or interrupt."""


@contextmanager
def logging_bugs(instance: object, fault: str) -> Iterator[None]:
    """Log an exception of the block with a description such as "cannot be killed"."""
    try:
        yield
    except BUGS:
        logger.exception("%r %s", instance, fault)


@contextmanager
def blaming_runtime(name: str, method: str) -> Iterator[None]:
    """Replace an exception of the block by a ConfigurationError that names the runtime and method.

    A ConfigurationError of the block is raised as it is.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(name, method, f"has raised {summary_of(error)}") from error


def call_runtime(name: str, method: str, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Call a method of a runtime, and return its result.

    Raises:
        ConfigurationError: the method has raised this or any other exception, or is an async function.
    """
    with blaming_runtime(name, method):
        answer = function(*args)
    if iscoroutine(answer):
        answer.close()  # or Python warns that it was never awaited
        raise _broken(name, method, "is an async function")
    return answer


def expect_usable(runtime: Runtime) -> None:
    """Raise ConfigurationError for a runtime without a name, a settings class or an initialized base."""
    cls = type(runtime).__name__
    if not hasattr(runtime, "name"):
        raise ConfigurationError(f'{cls} has no name: set one in the class, as in name = "docker"')
    check_runtime_name(runtime.name)
    settings_class: object = getattr(runtime, "settings_class", None)
    if not isinstance(settings_class, type) or not issubclass(settings_class, RuntimeSettings):
        raise ConfigurationError(
            f"the runtime {runtime.name!r} needs a settings_class, a subclass of "
            f"spear.runtimes.RuntimeSettings, not {settings_class!r}"
        )
    if not hasattr(runtime, "_instances"):
        raise ConfigurationError(
            f"the runtime {runtime.name!r} has not been initialized: decorate {cls} with "
            "@attrs.define(eq=False, kw_only=True), or call super().__init__()"
        )


def settings_for(runtime: Runtime, target: object) -> RuntimeSettings | None:
    """Return the settings with which a runtime runs a target; None if the target is not for it.

    Raises:
        ConfigurationError: the target is for this runtime and cannot be used, or ``takes`` is broken.
    """
    taken: object = call_runtime(runtime.name, "takes", runtime.takes, target)
    if taken is None or isinstance(taken, RuntimeSettings):
        return taken
    expected = f"{runtime.settings_class.__name__} or None"
    raise _broken(runtime.name, "takes", f"has returned {taken!r:.100}, not {expected}")


def title_of(runtime: str, settings: RuntimeSettings) -> str:
    """Return the title of settings; may be empty.

    Raises:
        ConfigurationError: the title is not text, or the property raises.
    """
    with blaming_runtime(runtime, "title"):
        title: object = settings.title
    if not isinstance(title, str):
        raise _broken(runtime, "title", f"is {title!r:.100}, not text")
    return title


def problems_of(runtime: str, settings: RuntimeSettings) -> Iterator[ConfigurationError]:
    """Yield the reasons why this machine cannot start a program, including a bug of ``problems``."""
    try:
        with blaming_runtime(runtime, "problems"):
            for each in settings.problems():
                yield _expect_error(runtime, each)
    except ConfigurationError as error:
        yield error


async def metrics_of(
    instance: InstanceId, body: InstanceBody, told: set[str]
) -> InstanceMetrics | None:
    """Return the resource usage of an instance; None if its runtime does not know it, or fails.

    The first failure is logged, and remembered in ``told``.
    """
    try:
        with blaming_runtime(instance.runtime, "metrics"):
            metrics: object = await body.metrics()
        if metrics is None or isinstance(metrics, InstanceMetrics):
            return metrics
        fault = f"has returned {metrics!r:.100}, not InstanceMetrics or None"
        raise _broken(instance.runtime, "metrics", fault)
    except ConfigurationError as error:
        if "metrics" not in told:
            told.add("metrics")
            logger.warning("%s: %s", instance, error, exc_info=error.__cause__)
    return None


def _expect_error(runtime: str, problem: object) -> ConfigurationError:
    if isinstance(problem, ConfigurationError):
        return problem
    raise _broken(runtime, "problems", f"has yielded {problem!r:.100}, not a ConfigurationError")


def _broken(name: str, method: str, fault: str) -> ConfigurationError:
    return ConfigurationError(f"the runtime {name!r} is broken: its {method} {fault}")
