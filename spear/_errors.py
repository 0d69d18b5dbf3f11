"""Every exception Spear raises, in one tree.

This module is a leaf: it knows no other part of Spear. An exception's name says who is at fault;
its ``delivered`` says whether the work may have happened, which is what a caller needs to know
before it tries again.

A message is for people, and its words may change with any release. Code decides by class, by ``code``
and by the other attributes, in Spear itself and elsewhere; ``docs/errors.md`` lists all codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Delivered: TypeAlias = Literal["no", "maybe", "yes"]
"""Whether the other side began to execute: ``no`` is always safe to retry, ``yes`` never is."""


class SpearError(Exception):
    """The base of everything Spear raises on purpose.

    Attributes:
        code: a stable name of the failure: that of its class, or of a case in :data:`CASES`.
        summary: the message without what other attributes hold, such as the end of stderr.
        delivered: whether the work that failed may have been executed.
    """

    code: str = "spear_error"
    summary: str = ""
    delivered: Delivered = "no"

    def __init__(
        self,
        message: str,
        *,
        summary: str | None = None,
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message)
        self.summary = message if summary is None else summary
        if code is not None:
            self.code = code
        if delivered is not None:
            self.delivered = delivered

    def __reduce__(self) -> tuple[object, ...]:
        # As BaseException does, but without __init__, whose parameters are not always `args`.
        return _restore, (type(self), self.args), vars(self)


def _restore(cls: type[SpearError], args: tuple[object, ...]) -> SpearError:
    """Make an exception that was copied or pickled; the attributes are set by the caller."""
    return cls.__new__(cls, *args)


class ConfigurationError(SpearError):
    """A setting, a path or an argument of ours cannot be used; the message says what to change.

    Attributes:
        key: the setting at fault, such as ``queue`` or ``replicas.min``; empty if none is.
    """

    code = "configuration_error"

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        summary: str | None = None,
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, summary=summary, code=code, delivered=delivered)
        self.key = key

    @staticmethod
    def about(key: str, fault: str) -> ConfigurationError:
        """Return the error whose message is the key and its fault; ``summary`` is the fault alone."""
        return ConfigurationError(f"{key} {fault}", key=key, summary=fault)


class ProtocolError(SpearError):
    """One side broke the rules of the wire protocol. Abstract: see the two subclasses."""

    def __init__(
        self, message: str, *, code: str | None = None, delivered: Delivered | None = None
    ) -> None:
        if type(self) is ProtocolError:
            raise TypeError(
                "ProtocolError is abstract: raise LocalProtocolError or RemoteProtocolError"
            )
        super().__init__(message, code=code, delivered=delivered)


class LocalProtocolError(ProtocolError):
    """We asked for something the protocol does not allow in this state; nothing was sent."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow; its connection is closed."""

    code = "remote_protocol_error"


class AuthenticationFailed(SpearError):
    """The two sides could not prove to each other who they are.

    The message never says why in detail: the side that refused has the reason in its log.
    """

    code = "authentication_failed"


class ChannelClosed(SpearError):
    """We closed this channel, or the peer announced that it takes no more calls."""

    code = "channel_closed"


class ChannelBroken(SpearError):
    """The connection failed from outside: peer gone, network error, missed heartbeats."""

    code = "channel_broken"


class NotInCall(SpearError, LookupError):
    """What was asked for exists only while a function handles a call, and none does here."""

    code = "not_in_call"


class CannotListen(ConfigurationError):
    """We cannot listen at an address: it is taken, it is not ours, or the system refuses.

    Attributes:
        transport: of the address: ``unix`` or ``tcp``.
    """

    code = "cannot_listen"

    def __init__(self, transport: str, message: str) -> None:
        super().__init__(message)
        self.transport = transport


class UnsupportedTransport(ConfigurationError):
    """No transport of that name can be used here.

    Attributes:
        transport: the name that was asked for.
    """

    code = "unsupported_transport"

    def __init__(self, transport: str, reason: str) -> None:
        super().__init__(f"transport {transport!r} cannot be used: {reason}")
        self.transport = transport


class BrokenEntryPoint(ConfigurationError):
    """An installed distribution says that it has a part of Spear, but the part cannot be used.

    Attributes:
        group: the group of entry points, such as ``spear.transports``.
        name: the name that was asked for.
        distribution: the name of the distribution, such as ``spear-quic``; empty if it is unknown.
    """

    code = "broken_entry_point"

    def __init__(self, group: str, name: str, distribution: str, reason: str) -> None:
        super().__init__(
            f"the entry point {name!r} ({group}) of {distribution or 'an unknown distribution'} "
            f"cannot be used: {reason}"
        )
        self.group = group
        self.name = name
        self.distribution = distribution


class ChannelCreationFailed(SpearError):
    """Every transport that the strategy allows was tried, and none worked.

    Attributes:
        attempts: (transport, reason) in the order in which they were tried.
    """

    code = "channel_creation_failed"

    def __init__(self, what: str, attempts: Iterable[tuple[str, str]]) -> None:
        self.attempts = tuple(attempts)
        tried = "; ".join(f"{transport}: {reason}" for transport, reason in self.attempts)
        super().__init__(f"no channel for {what} (tried {tried or 'nothing'})")


class UnsupportedRuntime(ConfigurationError):
    """No runtime of that name can be used here.

    Attributes:
        runtime: the name that was asked for.
    """

    code = "unsupported_runtime"

    def __init__(self, runtime: str, reason: str) -> None:
        super().__init__(f"runtime {runtime!r} cannot be used: {reason}", key="runtime")
        self.runtime = runtime


class SpawnFailed(SpearError):
    """An instance did not become ready.

    Attributes:
        stderr_tail: the last lines the instance wrote, empty if there were none.
    """

    code = "spawn_failed"

    def __init__(self, message: str, *, stderr_tail: str = "", code: str | None = None) -> None:
        super().__init__(_with_stderr(message, stderr_tail), summary=message, code=code)
        self.stderr_tail = stderr_tail


class CallFailed(SpearError):
    """A call ended without a result. The subclasses say how."""

    code = "call_failed"
    delivered: Delivered = "maybe"


class FunctionRaised(CallFailed):
    """The function ran and raised.

    Attributes:
        type_name: the exception's class at the other side, as text.
        remote_message: what it said, at most 4 KiB.
        remote_code: the code of what was raised, if that was an exception of Spear, such as the failure
            of a call that the function made; else empty.
        remote_traceback: text, only if the other side runs in debug mode.
    """

    code = "function_raised"
    delivered: Delivered = "yes"

    def __init__(
        self,
        remote_message: str,
        *,
        type_name: str = "Exception",
        remote_code: str = "",
        remote_traceback: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        text = f"{type_name}: {remote_message}" if remote_message else type_name
        super().__init__(
            f"{text}\n{remote_traceback}" if remote_traceback else text,
            summary=text,
            delivered=delivered,
        )
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_code = remote_code
        self.remote_traceback = remote_traceback


class DeadlineExceeded(CallFailed):
    """The call's time was up. The handler at the other side is cancelled."""

    code = "deadline_exceeded"

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

    code = "call_cancelled"


class Overloaded(CallFailed):
    """No capacity: refused before it was executed.

    Attributes:
        retry_after_seconds: when to try again, if the other side said so.

    Raises:
        ConfigurationError: ``retry_after_seconds`` is no number.
    """

    code = "overloaded"
    delivered: Delivered = "no"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, code=code, delivered=delivered)
        if retry_after_seconds is not None and type(retry_after_seconds) not in (int, float):
            kind = type(retry_after_seconds).__name__
            raise ConfigurationError(
                f"retry_after_seconds must be a number of seconds, not a {kind}"
            )
        self.retry_after_seconds = retry_after_seconds


class NotFound(CallFailed):
    """There is no function of that name at the other side."""

    code = "not_found"
    delivered: Delivered = "no"


class Rejected(CallFailed):
    """The other side refused the call as it stands: wrong arguments, or it takes no more calls."""

    code = "rejected"
    delivered: Delivered = "no"


class InvalidArguments(Rejected):
    """The arguments do not fit the function; the message names the parameter.

    Attributes:
        parameter: the parameter at fault, with the place inside its value, such as
            ``order.items[2].sku``; empty if none is.
        expected: the type that the parameter has, such as ``list[str]``; empty if the type is no fault.
        got: the name of the type that came instead, such as ``int``.
    """

    code = "invalid_arguments"

    def __init__(
        self,
        message: str,
        *,
        parameter: str = "",
        expected: str = "",
        got: str = "",
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, code=code, delivered=delivered)
        self.parameter = parameter
        self.expected = expected
        self.got = got


class WorkerDied(CallFailed):
    """The instance that ran the call is gone.

    Attributes:
        exit_status: as ``subprocess`` counts it: negative for a signal, None if unknown.
        stderr_tail: the last lines the instance wrote.
    """

    code = "worker_died"

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None = None,
        stderr_tail: str = "",
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(
            _with_stderr(message, stderr_tail), summary=message, code=code, delivered=delivered
        )
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail


def _with_stderr(message: str, tail: str) -> str:
    return f"{message}\n--- stderr ---\n{tail}" if tail else message


CASES: Final[Mapping[str, tuple[type[SpearError], ...]]] = {
    "needs_guard": (ConfigurationError,),
    "no_environment": (ConfigurationError,),
    "one_process": (ConfigurationError,),
    "no_listener": (ChannelBroken,),
    "max_instances": (SpawnFailed,),
    "too_many_arguments": (InvalidArguments,),
    "missing_argument": (InvalidArguments,),
    "unknown_argument": (InvalidArguments,),
    "repeated_argument": (InvalidArguments,),
    "argument_type": (InvalidArguments,),
    "argument_not_sendable": (InvalidArguments,),
    "payload_too_large": (LocalProtocolError, InvalidArguments),
    "head_too_large": (LocalProtocolError, InvalidArguments),
    "head_not_sendable": (LocalProtocolError, InvalidArguments),
    "gives_stream": (Rejected,),
    "gives_result": (Rejected,),
    "draining": (Rejected,),
    "key_reused": (Rejected,),
    "outcome_not_kept": (Rejected,),
    "result_too_large": (Rejected,),
    "bad_choice": (CallFailed,),
    "queue_full": (Overloaded,),
    "too_many_calls": (Overloaded,),
    "too_many_bytes": (Overloaded,),
    "ambiguous_name": (NotFound,),
    "stalled": (DeadlineExceeded,),
    "given_up": (WorkerDied,),
    "stopped": (WorkerDied,),
}
"""Codes that are more precise than those of their classes, and the classes that can have them."""


def is_case(code: str, cls: type[SpearError]) -> bool:
    """Whether a peer may say this code of a failure of this class."""
    return issubclass(cls, CASES.get(code, ()))
