"""Policies for calls that have failed: which are tried again, how often and after which delays.

A leaf module, because all sides need it: callers and deployments set policies, and an agent announces
those of its functions. It makes no calls, and knows no budget: see ``spear.calls``.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Final, TypeGuard, final

import attrs

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    FunctionRaised,
    HostLost,
    NoHost,
    Overloaded,
    Rejected,
    SpearError,
    WorkerDied,
)
from spear._limits import expect_several, expect_whole, is_number, shown

if TYPE_CHECKING:
    from random import Random

MAX_RETRIES: Final = 100

MAX_NAMES: Final = 16
"""Names of exception classes in a policy."""

MAX_NAME_CHARACTERS: Final = 128
"""Characters of such a name. With these two limits, ten thousand announced policies hold 20 MiB."""

_LOST: Final = (ChannelBroken, ChannelClosed, HostLost, NoHost, WorkerDied)


def _names(value: object) -> tuple[str, ...]:
    """Return the names of exception classes, some of which may be given as classes."""
    return tuple(map(_name_of, expect_several("retry.on", value)))  # type: ignore[arg-type]  # checked there


def _name_of(value: object) -> str:
    """Return the name of an exception class; another value as it is, to be refused."""
    known = vars(builtins).get(value) if isinstance(value, str) else value  # "IOError" is OSError
    return known.__qualname__ if _is_exception(known) else value  # type: ignore[return-value]  # checked later


def _is_exception(value: object) -> TypeGuard[type[BaseException]]:
    return isinstance(value, type) and issubclass(value, BaseException)


def _classes_of(failure: FunctionRaised) -> set[str]:
    """Return the names of the class of a function's exception and of its bases, as far as known."""
    names = {failure.type_name, *failure.base_names}
    for each in tuple(names):
        known = vars(builtins).get(each)
        if _is_exception(known):
            names.update(base.__qualname__ for base in known.__mro__[:-1])
    return names


def _is_name_of(wanted: str, name: str) -> bool:
    return wanted == name or wanted.endswith(f".{name}")


@final
@attrs.frozen(kw_only=True)
class RetryPolicy:
    """A policy for failed calls: which are tried again, how often and after which delays.

    A call that certainly was not executed (``delivered`` is "no") is tried again after a lost instance,
    an overload or a shutdown. The timeout of the call covers all attempts and the delays between them.
    Each attempt is a call in the statistics of its deployment. A deployment makes at most 100 retries
    and one more for every ten calls with a policy, those of maps not counted. ``max_attempts=1`` switches
    retries off.

    Attributes:
        max_attempts: the most attempts, the first one included.
        initial_seconds: the longest delay before the first retry; the delays double, with jitter.
        max_seconds: the longest delay before any retry.
        on: exception classes or their names, such as ``ConnectionError`` or "ConnectionError": a call
            whose function raised one of them, or a subclass, is tried again. The attribute has the names.
            A module in front ("builtins.ConnectionError") is allowed and ignored.
        idempotent: whether the function may run twice for one call. Needed for ``on``. With it, a call
            that may have run when its instance was lost is tried again, too.

    Raises:
        ConfigurationError: a value is out of its range, or ``on`` is given without ``idempotent``.
    """

    max_attempts: int = 3
    initial_seconds: float = 0.1
    max_seconds: float = 5.0
    on: tuple[str, ...] = attrs.field(default=(), converter=_names)
    idempotent: bool = False

    def __attrs_post_init__(self) -> None:
        expect_whole("retry.max_attempts", self.max_attempts, 1, MAX_RETRIES)
        for name in ("initial_seconds", "max_seconds"):
            seconds = getattr(self, name)
            if not is_number(seconds) or not 0 <= seconds < 1e9:
                raise ConfigurationError.about(
                    f"retry.{name}", f"must be seconds, not {shown(seconds)}"
                )
        if not all(type(each) is str and each for each in self.on):
            raise ConfigurationError.about(
                "retry.on", f"must be exception classes or their names, not {shown(self.on)}"
            )
        if len(self.on) > MAX_NAMES or any(len(each) > MAX_NAME_CHARACTERS for each in self.on):
            raise ConfigurationError.about(
                "retry.on",
                f"must be at most {MAX_NAMES} names of at most {MAX_NAME_CHARACTERS} characters, not "
                f"{shown(self.on)}",
            )
        if type(self.idempotent) is not bool:
            raise ConfigurationError.about(
                "retry.idempotent", f"must be True or False, not {shown(self.idempotent)}"
            )
        if self.on and not self.idempotent:
            raise ConfigurationError.about(
                "retry.on",
                "needs idempotent=True: a function that has raised has run, and would run again",
            )

    def may_repeat(self, failure: SpearError) -> bool:
        """Return whether a call with this failure may be tried again."""
        if isinstance(failure, FunctionRaised):
            if not self.on:
                return False
            names = _classes_of(failure)
            return any(_is_name_of(wanted, name) for wanted in self.on for name in names)
        if isinstance(failure, _LOST):
            return failure.delivered == "no" or self.idempotent
        is_busy = isinstance(failure, Overloaded)
        is_draining = isinstance(failure, Rejected) and failure.code == "draining"
        return (is_busy or is_draining) and failure.delivered == "no"

    def delay_seconds(self, attempts: int, rng: Random) -> float:
        """Return the delay after so many attempts: half of it fixed, half of it random."""
        longest = min(self.initial_seconds * 2.0 ** min(attempts - 1, 64), self.max_seconds)
        return rng.uniform(longest / 2, longest)
