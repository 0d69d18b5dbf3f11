"""Entering code of a runtime that another distribution may have written.

Its errors are the author's, and name the runtime: none comes out of a host as it was raised. An answer of
the wrong type is refused here, where it is known who gave it.
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
"""Exceptions of a runtime's body. Cancellations and interrupts are never in a group there."""


@contextmanager
def logging_bugs(instance: object, fault: str) -> Iterator[None]:
    """A block that enters a body of a runtime: log a bug of it, such as "cannot be killed"."""
    try:
        yield
    except BUGS:
        logger.exception("%r %s", instance, fault)


@contextmanager
def blaming_runtime(name: str, method: str) -> Iterator[None]:
    """Raise ConfigurationError, which names the runtime and its method, for whatever the block raises.

    A ConfigurationError comes out as it is.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(name, method, f"has raised {summary_of(error)}") from error


def call_runtime(name: str, method: str, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
    """Return what a method of a runtime returns.

    Raises:
        ConfigurationError: the method raises, or would have to be awaited; or it has raised this itself.
    """
    with blaming_runtime(name, method):
        answer = function(*args)
    if iscoroutine(answer):
        answer.close()  # or Python warns of it, somewhere else
        raise _broken(name, method, "is an async function")
    return answer


def expect_usable(runtime: Runtime) -> None:
    """Raise ConfigurationError for a runtime whose class does not say what a host has to know."""
    cls = type(runtime).__name__
    if not hasattr(runtime, "name"):
        raise ConfigurationError(f'{cls} has no name: give the class one, as in name = "docker"')
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
    """Return what settings run, for people; may be empty.

    Raises:
        ConfigurationError: that is no text.
    """
    with blaming_runtime(runtime, "title"):
        title: object = settings.title
    if not isinstance(title, str):
        raise _broken(runtime, "title", f"is {title!r:.100}, not text")
    return title


def problems_of(runtime: str, settings: RuntimeSettings) -> Iterator[ConfigurationError]:
    """Yield the reasons why this machine cannot start a program; a bug of ``problems`` is one, too."""
    try:
        with blaming_runtime(runtime, "problems"):
            for each in settings.problems():
                yield _expect_error(runtime, each)
    except ConfigurationError as error:
        yield error


async def metrics_of(
    instance: InstanceId, body: InstanceBody, told: set[str]
) -> InstanceMetrics | None:
    """Return what an instance uses; None if its runtime cannot tell, or fails to.

    A failure is logged, unless ``told`` has it already.
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
