"""Instruments: objects whose hooks are called when something happens in a host. The word is Trio's.

A host has a tuple of functions for each hook. A hook that no instrument overrides costs one look at an
empty tuple, and no record is made for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from spear._errors import ConfigurationError
from spear._hooks import is_plain_function
from spear._limits import expect_several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spear._ids import InstanceId

    from ._records import (
        CallRecord,
        ConnectionEvent,
        DeploymentEvent,
        InstanceEvent,
        LogLine,
        OutputName,
    )


class Instrument:
    """A watcher of a host: override the hooks that you want. The hooks of this class do nothing.

    The host calls hooks synchronously in its own tasks, so a hook must neither block nor take long. An
    exception of a hook is logged, also SystemExit; the host and other instruments go on. Ctrl-C may
    interrupt a hook, and raises KeyboardInterrupt in the host's task. Hand an instrument to
    ``open_spearlet(instruments=...)``, or to ``spearlet.instruments.add()`` later.
    """

    def instance_changed(self, event: InstanceEvent) -> None:
        """Called when an instance has changed its state. The events of one instance come in order."""

    def line_written(self, instance: InstanceId, line: LogLine) -> None:
        """Called when an instance, or its fork template, has written a line to stdout or stderr."""

    def line_unfinished(self, instance: InstanceId, stream: OutputName, text: str) -> None:
        """Called when an instance has written the beginning of a line, or has ended that line.

        ``text`` is the line so far, as when a progress bar is redrawn; it is empty when the line has
        ended, after ``line_written``. At most one call for each read of the instance's output.
        """

    def connection_changed(self, event: ConnectionEvent) -> None:
        """Called when a connection was made, logged in, was refused, fell silent or ended."""

    def deployment_changed(self, event: DeploymentEvent) -> None:
        """Called when a deployment is ready, was scaled, or has ended; see :class:`DeploymentEvent`."""

    def call_started(self, call: CallRecord) -> None:
        """Called when a caller has called a function, before an instance is chosen.

        Texts that this hook puts into ``call.carrier`` are sent as metadata, and replace texts of the
        caller with the same keys. Later changes of the carrier are not sent. At most 16 texts of
        2,048 bytes each, key included, are sent; others are dropped, and an error is logged. Of calls
        that share an idempotency key, only the first caller's texts are sent.
        """

    def call_ended(self, call: CallRecord) -> None:
        """Called when a call has ended: with a result, or with ``call.failure``."""


HOOKS: Final = tuple(name for name in vars(Instrument) if not name.startswith("_"))


@final
class Instruments:
    """A host's instruments, as one table for each hook.

    The attribute with the name of a hook holds the bound methods of all instruments that override the
    hook, in the order in which the instruments were added.

    Attributes:
        watches_calls: whether an instrument overrides ``call_started`` or ``call_ended``.
    """

    __slots__ = ("_each", "watches_calls", *HOOKS)

    instance_changed: tuple[Callable[[InstanceEvent], object], ...]
    line_written: tuple[Callable[[InstanceId, LogLine], object], ...]
    line_unfinished: tuple[Callable[[InstanceId, OutputName, str], object], ...]
    connection_changed: tuple[Callable[[ConnectionEvent], object], ...]
    deployment_changed: tuple[Callable[[DeploymentEvent], object], ...]
    call_started: tuple[Callable[[CallRecord], object], ...]
    call_ended: tuple[Callable[[CallRecord], object], ...]

    def __init__(self, instruments: Iterable[Instrument] = ()) -> None:
        self._use(())
        for each in expect_several("instruments", instruments):
            self.add(each)

    def add(self, instrument: Instrument) -> None:
        """Call the instrument's hooks from now on.

        The instrument may receive ``call_ended`` of a running call without its ``call_started``, if
        another instrument watched calls when that call started.

        Raises:
            ConfigurationError: the object is not an :class:`Instrument`, one of its hooks is not a plain
                function, or it was added before.
        """
        if not isinstance(instrument, Instrument):
            raise ConfigurationError(
                f"an instrument must be a spear.Instrument, not {instrument!r}"
            )
        for name in HOOKS:
            if not is_plain_function(getattr(instrument, name)):
                raise ConfigurationError(
                    f"{type(instrument).__name__}.{name} must be a plain function: hooks are called, and "
                    "not awaited"
                )
        if any(each is instrument for each in self._each):
            raise ConfigurationError(
                f"the instrument {instrument!r} was already added to this host"
            )
        self._use((*self._each, instrument))

    def remove(self, instrument: Instrument) -> None:
        """Stop calling the instrument's hooks. Does nothing if the instrument was not added."""
        self._use(tuple(each for each in self._each if each is not instrument))

    def _use(self, instruments: tuple[Instrument, ...]) -> None:
        self._each: tuple[Instrument, ...] = instruments
        for name in HOOKS:
            idle = getattr(Instrument, name)
            hooks = (getattr(each, name) for each in instruments)
            setattr(self, name, tuple(each for each in hooks if not _is_bound(each, idle)))
        self.watches_calls: bool = bool(self.call_started or self.call_ended)


def _is_bound(hook: object, function: object) -> bool:
    """Return whether a hook is a bound method of this very function."""
    return getattr(hook, "__func__", None) is function
