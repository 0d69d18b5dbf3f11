"""Parts of commands that run a program's functions themselves: settings, signals, unfinished lines."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError, SpearError
from spear._paths import working_directory
from spear.telemetry import Instrument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spear._ids import InstanceId
    from spear.calls import Function
    from spear.runtimes import RuntimeSettings
    from spear.telemetry import OutputName

    from ._live_rows import LiveRows
    from ._words import FunctionWords

USAGE_SECONDS: Final = 2.0
"""Seconds for asking for a function's signature."""


async def watch_signals(
    scope: trio.CancelScope, received: list[int], task_status: trio.TaskStatus[None]
) -> None:
    """Note the first signal and cancel the scope; a second signal has its default effect."""
    # A KeyboardInterrupt could interrupt any code between two steps, and SIGTERM and SIGHUP would end us
    # before sockets and directories are removed. An ignored SIGHUP (nohup) stays ignored.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            scope.cancel()
            return


async def usage_of(function: Function) -> str:
    """Return the function's signature; empty if its agent does not answer."""
    try:
        return await function.options(timeout=USAGE_SECONDS).signature()
    except SpearError:
        return ""


async def keep_texts(
    function: Function,
    words: FunctionWords,
    positional: list[object],
    keywords: dict[str, object],
) -> None:
    """Put words back that are JSON, but are meant for a parameter of the function that takes text."""
    if words.are_ambiguous(positional, keywords):
        words.keep_texts(positional, keywords, await usage_of(function))


def settings_of(target: str, environment: Mapping[str, str]) -> RuntimeSettings:
    """Return the settings for a target, from the runtime that accepts it.

    Fields with the names used here must have the same meaning as in ProcessSettings.
    """
    from spear.runtimes import ProcessSettings, RuntimeRegistry, blaming_runtime

    runtime, settings = RuntimeRegistry().resolve(target)
    here, known = working_directory(), attrs.fields_dict(type(settings))
    changes: dict[str, object] = {}
    if "working_directory" in known:
        changes["working_directory"] = here
    if "environment" in known:
        changes["environment"] = environment
    elif environment:
        raise ConfigurationError(
            f"--env is not supported: instances of the runtime {runtime.name!r} have no environment "
            "variables",
            key="environment",
            code="no_environment",
        )
    if here and isinstance(settings, ProcessSettings) and settings.split_target()[0] is None:
        # A module: look for it in the working directory, as `python -m` does.
        changes["python_path"] = (here, *settings.python_path)
    with blaming_runtime(runtime.name, "settings class"):
        return attrs.evolve(settings, **changes)  # type: ignore[arg-type]  # only known fields


@final
class UnfinishedLines(Instrument):
    """An instrument that shows unfinished lines of functions on a terminal's last rows."""

    def __init__(self, rows: LiveRows) -> None:
        self._rows = rows

    def line_unfinished(self, instance: InstanceId, stream: OutputName, text: str) -> None:
        """Show the beginning of a line in the form of a finished one."""
        self._rows.show_unfinished((instance, stream), text and f"{instance} {stream}: {text}")
