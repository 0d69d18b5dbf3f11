"""The exceptions that Spear raises, in one tree.

A leaf module: it imports no other part of Spear. An exception's name says which side is at fault. Its
attribute ``delivered`` says whether the work may have happened, which a caller needs to know before it
tries again.

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
    """The base class of all exceptions that Spear raises on purpose.

    Attributes:
        code: a stable name of the failure: the code of its class, or a more precise one of :data:`CASES`.
        summary: the message without the parts that other attributes hold, such as the end of stderr.
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
        # Like BaseException, but without calling __init__, whose parameters are not always `args`.
        return _restore, (type(self), self.args), vars(self)


def _restore(cls: type[SpearError], args: tuple[object, ...]) -> SpearError:
    """Make an exception that is being copied or unpickled; the caller sets its attributes."""
    return cls.__new__(cls, *args)


class ConfigurationError(SpearError):
    """A setting, a path or an argument cannot be used; the message says what to change.

    Attributes:
        key: the setting at fault, such as ``queue`` or ``replicas.min``; empty if no single one is.
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
        """Return an error whose message is the key and its fault, and whose ``summary`` is the fault."""
        return ConfigurationError(f"{key} {fault}", key=key, summary=fault)


class ProtocolError(SpearError):
    """A side of a connection broke the rules of the wire protocol. Abstract: see the two subclasses."""

    def __init__(
        self, message: str, *, code: str | None = None, delivered: Delivered | None = None
    ) -> None:
        if type(self) is ProtocolError:
            raise TypeError(
                "ProtocolError is abstract: raise LocalProtocolError or RemoteProtocolError"
            )
        super().__init__(message, code=code, delivered=delivered)


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow in this state; nothing was sent."""

    code = "local_protocol_error"


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow; its connection is closed."""

    code = "remote_protocol_error"


class AuthenticationFailed(SpearError):
    """The two sides of a connection could not prove their identities to each other.

    The message never gives the exact reason, which is in the log of the side that refused.
    """

    code = "authentication_failed"


class ChannelClosed(SpearError):
    """This side closed the channel, or the peer announced that it takes no more calls."""

    code = "channel_closed"


class ChannelBroken(SpearError):
    """The connection failed: the peer is gone, the network failed, or heartbeats did not arrive."""

    code = "channel_broken"


class NotInCall(SpearError, LookupError):
    """A running call was needed, and no function handles a call here."""

    code = "not_in_call"


class CannotListen(ConfigurationError):
    """Listening at an address failed: it is taken, it is not this machine's, or the system refuses.

    Attributes:
        transport: the address's transport: ``unix`` or ``tcp``.
    """

    code = "cannot_listen"

    def __init__(self, transport: str, message: str) -> None:
        super().__init__(message)
        self.transport = transport


class UnsupportedTransport(ConfigurationError):
    """No transport of the given name, which is the attribute ``transport``, can be used here."""

    code = "unsupported_transport"

    def __init__(self, transport: str, reason: str) -> None:
        super().__init__(f"transport {transport!r} cannot be used: {reason}")
        self.transport = transport


class BrokenEntryPoint(ConfigurationError):
    """An installed distribution announces a part of Spear, but the part cannot be used.

    Attributes:
        group: the group of entry points, such as ``spear.transports``.
        name: the name of the entry point.
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
        attempts: (transport, reason) pairs, in the order of the attempts.
    """

    code = "channel_creation_failed"

    def __init__(self, what: str, attempts: Iterable[tuple[str, str]]) -> None:
        self.attempts = tuple(attempts)
        tried = "; ".join(f"{transport}: {reason}" for transport, reason in self.attempts)
        super().__init__(f"no channel for {what} (tried {tried or 'nothing'})")


class UnsupportedRuntime(ConfigurationError):
    """No runtime of the given name, which is the attribute ``runtime``, can be used here."""

    code = "unsupported_runtime"

    def __init__(self, runtime: str, reason: str) -> None:
        super().__init__(f"runtime {runtime!r} cannot be used: {reason}", key="runtime")
        self.runtime = runtime


class UnsupportedInstrument(ConfigurationError):
    """No instrument of the given name, which is the attribute ``instrument``, can be used here."""

    code = "unsupported_instrument"

    def __init__(self, instrument: str, reason: str) -> None:
        super().__init__(f"instrument {instrument!r} cannot be used: {reason}", key="instruments")
        self.instrument = instrument


class SpawnFailed(SpearError):
    """An instance did not become ready.

    Attributes:
        stderr_tail: the last lines that the instance wrote to stderr; empty if there were none.
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
        type_name: the name of the exception's class at the other side.
        base_names: the names of its base classes, nearest first, at most 16, without ``object``; empty
            for a class of Python itself, and if the other side sends none.
        remote_message: the exception's message, at most 4 KiB.
        remote_code: the exception's code, if it was an exception of Spear, such as the failure of a call
            that the function made; else empty.
        remote_traceback: the traceback as text, if the other side runs in debug mode; else None.
    """

    code = "function_raised"
    delivered: Delivered = "yes"

    def __init__(
        self,
        remote_message: str,
        *,
        type_name: str = "Exception",
        base_names: tuple[str, ...] = (),
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
        self.base_names = base_names
        self.remote_message = remote_message
        self.remote_code = remote_code
        self.remote_traceback = remote_traceback


class DeadlineExceeded(CallFailed):
    """The call's deadline has passed. The handler at the other side is cancelled."""

    code = "deadline_exceeded"

    @classmethod
    def of_call(cls, function: str, seconds: float, delivered: Delivered) -> DeadlineExceeded:
        """Return the error of a call that had so many seconds: the same words at either side."""
        if seconds <= 0:
            return cls(f"there was no time left to call {function}", delivered="no")
        if seconds < 1e-6:
            did = "did not start" if delivered == "no" else "took longer"
            return cls(f"{function} had less than a microsecond, and {did}", delivered=delivered)
        decimals = 3 if seconds >= 0.001 else 6
        time = f"{f'{seconds:.{decimals}f}'.rstrip('0').rstrip('.')} s"
        did = "did not start within" if delivered == "no" else "took longer than"
        return cls(f"{function} {did} {time}", delivered=delivered)


class CallCancelled(CallFailed):
    """The call was cancelled while its caller still waited: the other side drains or shuts down."""

    code = "call_cancelled"


class Overloaded(CallFailed):
    """The call was refused for lack of capacity, before it was executed.

    Attributes:
        retry_after_seconds: seconds to wait before the next try; None if the other side gave none.

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


class NoHost(CallFailed):
    """No host runs at the given place, or none that answers, or the choice among several is unclear."""

    code = "no_host"
    delivered: Delivered = "no"


class HostLost(CallFailed):
    """The connection to a host was lost after a request that changes something: it may have been done."""

    code = "host_lost"
    delivered: Delivered = "maybe"


class NotFound(CallFailed):
    """No function of the given name exists at the other side."""

    code = "not_found"
    delivered: Delivered = "no"


class Rejected(CallFailed):
    """A call was refused as it stands: its arguments are wrong, or no more calls are taken."""

    code = "rejected"
    delivered: Delivered = "no"


class InvalidArguments(Rejected):
    """The arguments do not fit the function; the message names the parameter.

    Attributes:
        parameter: the parameter at fault, with the place inside its value, such as
            ``order.items[2].sku``; empty if no single one is.
        expected: the parameter's type, such as ``list[str]``; empty if the type is not the fault.
        got: the name of the type that was given instead, such as ``int``.
        usage: the signature of the function, if a host that is called over HTTP adds it; else empty.
    """

    code = "invalid_arguments"

    def __init__(
        self,
        message: str,
        *,
        parameter: str = "",
        expected: str = "",
        got: str = "",
        usage: str = "",
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, code=code, delivered=delivered)
        self.parameter = parameter
        self.expected = expected
        self.got = got
        self.usage = usage


class UnexpectedResult(CallFailed):
    """The function ran, and its result does not fit the type that the caller expects.

    Attributes:
        path: the place at fault inside the result, such as ``.items[2].sku``; empty for all of it.
        expected: the expected type, such as ``list[str]``; empty if the type is not the fault.
        got: the name of the type that came instead, such as ``int``.
    """

    code = "unexpected_result"
    delivered: Delivered = "yes"

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        expected: str = "",
        got: str = "",
        code: str | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        super().__init__(message, code=code, delivered=delivered)
        self.path = path
        self.expected = expected
        self.got = got


class WorkerDied(CallFailed):
    """The instance that ran the call is gone.

    Attributes:
        exit_status: the instance's exit status as in ``subprocess``: negative for a signal, None if
            unknown.
        stderr_tail: the last lines that the instance wrote to stderr.
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
    "forked": (ConfigurationError,),
    "own_thread": (ConfigurationError,),
    "other_loop": (ConfigurationError,),
    "no_listener": (ChannelBroken,),
    "max_instances": (SpawnFailed,),
    "too_many_arguments": (InvalidArguments,),
    "missing_argument": (InvalidArguments,),
    "unknown_argument": (InvalidArguments,),
    "repeated_argument": (InvalidArguments,),
    "argument_type": (InvalidArguments,),
    "argument_not_sendable": (InvalidArguments,),
    "no_codec": (InvalidArguments, UnexpectedResult),
    "codec_failed": (InvalidArguments, UnexpectedResult),
    "bad_item": (InvalidArguments,),
    "types_not_supported": (LocalProtocolError, InvalidArguments),
    "payload_too_large": (LocalProtocolError, InvalidArguments),
    "head_too_large": (LocalProtocolError, InvalidArguments),
    "head_not_sendable": (LocalProtocolError, InvalidArguments),
    "gives_stream": (Rejected,),
    "gives_result": (Rejected,),
    "draining": (Rejected,),
    "key_reused": (Rejected,),
    "not_in_batch": (Rejected,),
    "outcome_not_kept": (Rejected,),
    "result_too_large": (Rejected,),
    "no_debugger": (Rejected,),
    "attached": (Rejected,),
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
    """Return whether a peer may send this code with a failure of this class."""
    return issubclass(cls, CASES.get(code, ()))
