"""Every exception Spear raises, in one tree.

This module is a leaf: it knows no other part of Spear. An exception's name says who is at fault;
its ``delivered`` says whether the work may have happened, which is what a caller needs to know
before it tries again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Delivered: TypeAlias = Literal["no", "maybe", "yes"]
"""Whether the other side began to execute: ``no`` is always safe to retry, ``yes`` never is."""


class SpearError(Exception):
    """The base of everything Spear raises on purpose.

    Attributes:
        delivered: whether the work that failed may have been executed.
    """

    delivered: Delivered = "no"

    def __init__(self, message: str, *, delivered: Delivered | None = None) -> None:
        super().__init__(message)
        if delivered is not None:
            self.delivered = delivered


class ConfigurationError(SpearError):
    """A setting, a path or an argument of ours cannot be used; the message says what to change."""


class ProtocolError(SpearError):
    """One side broke the rules of the wire protocol. Abstract: see the two subclasses."""

    def __init__(self, message: str, *, delivered: Delivered | None = None) -> None:
        if type(self) is ProtocolError:
            raise TypeError(
                "ProtocolError is abstract: raise LocalProtocolError or RemoteProtocolError"
            )
        super().__init__(message, delivered=delivered)


class LocalProtocolError(ProtocolError):
    """We asked for something the protocol does not allow in this state; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow; its connection is closed."""


class AuthenticationFailed(SpearError):
    """The two sides could not prove to each other who they are.

    The message never says why in detail: the side that refused has the reason in its log.
    """


class ChannelClosed(SpearError):
    """We closed this channel, or the peer announced that it takes no more calls."""


class ChannelBroken(SpearError):
    """The connection failed from outside: peer gone, network error, missed heartbeats."""


class NotInCall(SpearError, LookupError):
    """What was asked for exists only while a function handles a call, and none does here."""


class CannotListen(ConfigurationError):
    """We cannot listen at an address: it is taken, it is not ours, or the system refuses.

    Attributes:
        transport: of the address: ``unix`` or ``tcp``.
    """

    def __init__(self, transport: str, message: str) -> None:
        super().__init__(message)
        self.transport = transport


class UnsupportedTransport(ConfigurationError):
    """No transport of that name can be used here.

    Attributes:
        transport: the name that was asked for.
    """

    def __init__(self, transport: str, reason: str) -> None:
        super().__init__(f"transport {transport!r} cannot be used: {reason}")
        self.transport = transport


class ChannelCreationFailed(SpearError):
    """Every transport that the strategy allows was tried, and none worked.

    Attributes:
        attempts: (transport, reason) in the order in which they were tried.
    """

    def __init__(self, what: str, attempts: Iterable[tuple[str, str]]) -> None:
        self.attempts = tuple(attempts)
        tried = "; ".join(f"{transport}: {reason}" for transport, reason in self.attempts)
        super().__init__(f"no channel for {what} (tried {tried or 'nothing'})")


class SpawnFailed(SpearError):
    """An instance did not become ready.

    Attributes:
        stderr_tail: the last lines the instance wrote, empty if there were none.
    """

    def __init__(self, message: str, *, stderr_tail: str = "") -> None:
        super().__init__(f"{message}\n--- stderr ---\n{stderr_tail}" if stderr_tail else message)
        self.stderr_tail = stderr_tail


class CallFailed(SpearError):
    """A call ended without a result. The subclasses say how.

    Attributes:
        code: the number that stands for this failure on the wire.
    """

    code: ClassVar[int] = 1
    delivered: Delivered = "maybe"


class FunctionRaised(CallFailed):
    """The function ran and raised.

    Attributes:
        type_name: the exception's class at the other side, as text.
        remote_message: what it said, at most 4 KiB.
        remote_traceback: text, only if the other side runs in debug mode.
    """

    code = 2
    delivered: Delivered = "yes"

    def __init__(
        self,
        remote_message: str,
        *,
        type_name: str = "Exception",
        remote_traceback: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        text = f"{type_name}: {remote_message}" if remote_message else type_name
        super().__init__(
            f"{text}\n{remote_traceback}" if remote_traceback else text, delivered=delivered
        )
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback


class DeadlineExceeded(CallFailed):
    """The call's time was up. The handler at the other side is cancelled."""

    code = 3

    @classmethod
    def of_call(cls, function: str, seconds: float, delivered: Delivered) -> DeadlineExceeded:
        """The one of a call that had so many seconds, in the same words whoever noticed it first."""
        if seconds <= 0:
            return cls(f"there was no time left to call {function}", delivered="no")
        if seconds < 1e-6:
            did = "was not begun" if delivered == "no" else "took longer"
            return cls(f"{function} had less than a microsecond, and {did}", delivered=delivered)
        decimals = 3 if seconds >= 0.001 else 6
        time = f"{f'{seconds:.{decimals}f}'.rstrip('0').rstrip('.')} s"
        did = "was not begun within" if delivered == "no" else "took longer than"
        return cls(f"{function} {did} {time}", delivered=delivered)


class CallCancelled(CallFailed):
    """The other side cancelled the call while we still waited for it (it drains or shuts down)."""

    code = 4


class Overloaded(CallFailed):
    """No capacity: refused before it was executed.

    Attributes:
        retry_after_seconds: when to try again, if the other side said so.

    Raises:
        ConfigurationError: ``retry_after_seconds`` is no number.
    """

    code = 5
    delivered: Delivered = "no"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, delivered=delivered)
        if retry_after_seconds is not None and type(retry_after_seconds) not in (int, float):
            kind = type(retry_after_seconds).__name__
            raise ConfigurationError(
                f"retry_after_seconds must be a number of seconds, not a {kind}"
            )
        self.retry_after_seconds = retry_after_seconds


class NotFound(CallFailed):
    """There is no function of that name at the other side."""

    code = 6
    delivered: Delivered = "no"


class Rejected(CallFailed):
    """The other side refused the call as it stands: wrong arguments, or it takes no more calls."""

    code = 7
    delivered: Delivered = "no"


class InvalidArguments(Rejected):
    """The arguments do not fit the function; the message names the parameter."""

    code = 8


class WorkerDied(CallFailed):
    """The instance that ran the call is gone.

    Attributes:
        exit_status: as ``subprocess`` counts it: negative for a signal, None if unknown.
        stderr_tail: the last lines the instance wrote.
    """

    code = 9

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None = None,
        stderr_tail: str = "",
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(
            f"{message}\n--- stderr ---\n{stderr_tail}" if stderr_tail else message,
            delivered=delivered,
        )
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail
