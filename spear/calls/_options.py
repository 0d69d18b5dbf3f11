"""The options of a call, besides its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import InvalidArguments, LocalProtocolError
from spear._hooks import is_plain_function
from spear._limits import expect_timeout
from spear._retry_policy import RetryPolicy
from spear.annotations import build_expected_type

if TYPE_CHECKING:
    from spear.annotations import ExpectedType
    from spear.channels import Metadata

    from ._payloads import Result

MAX_KEY_CHARACTERS: Final = 256


@final
@attrs.frozen(kw_only=True)
class CallOptions:
    """A set of options of a call, besides its arguments.

    Attributes:
        timeout: seconds for the call, time in the queue included; by default those of the deployment.
            Pass ``math.inf`` to wait for ever. A surrounding cancel scope with an earlier deadline takes
            precedence.
        queue_timeout: seconds that the call may wait for a free slot. ``timeout`` then counts from the
            moment at which the call gets its slot. By default ``timeout`` includes the wait.
        retry: which failed calls are tried again; by default none. All attempts have one ``timeout``.
        metadata: a small map for the handler.
        key: an idempotency key, which must be the same each time the call is tried. Calls of a function
            with the same key, within ``dedup_seconds`` of each other, share one execution and its
            outcome. If the process is lost meanwhile, the function is executed again. A caller that
            gives up waiting does not cancel the execution. The key travels with the call: the function
            reads it as ``spear.context().key``.
        key_seconds: seconds for the execution that a call with a key begins; by default the deadline of
            the deployment.
        key_restarts: whether the execution starts again if its process is lost. If not, the loss is an
            outcome that is kept like others.
        session: the name of a session, whose calls go to the same replica with the policy ``sticky``.
        on_progress: called with each progress report that arrives, in the task that waits for the call.
            If it raises, the call is cancelled and raises the same. For a stream, it is called in a task
            that waits for the next item or the result, with the newest report that has arrived.
        returns: the type that results must have, such as a data class; they are checked and converted as
            the arguments of functions are. By default results are returned as they arrive.
        keywords: more keyword arguments of the function, for parameters whose names the methods of
            :class:`Function` use themselves, such as ``timeout``.
    """

    timeout: float | None = None
    queue_timeout: float | None = None
    retry: RetryPolicy | None = None
    metadata: Metadata | None = None
    key: str | None = None
    key_seconds: float | None = None
    key_restarts: bool = True
    session: str | None = None
    on_progress: Callable[[Result], None] | None = None
    returns: object = None
    keywords: Mapping[str, object] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for name in ("timeout", "queue_timeout", "key_seconds"):
            seconds = getattr(self, name)
            if seconds is not None:
                expect_timeout(seconds, name)
        metadata: object = self.metadata
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidArguments(f"metadata must be a map, not {metadata!r:.60}")
        keywords: object = self.keywords
        if not isinstance(keywords, Mapping) or not all(isinstance(each, str) for each in keywords):
            raise InvalidArguments(f"keywords must be a map with text keys, not {keywords!r:.60}")
        _expect_plain_function(self.on_progress)
        retry: object = self.retry
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidArguments(f"retry must be a spear.RetryPolicy, not {retry!r:.60}")
        for name in ("key", "session"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, str) or not 0 < len(value) <= MAX_KEY_CHARACTERS
            ):
                raise InvalidArguments(
                    f"{name} must be text of 1 to {MAX_KEY_CHARACTERS} characters, not {value!r:.60}"
                )

    def expected_type(self) -> ExpectedType | None:
        """Return the type of ``returns``; None if it allows every value. Raises InvalidArguments."""
        return build_expected_type(self.returns)


def _expect_plain_function(on_progress: object) -> None:
    if on_progress is None:
        return
    if not is_plain_function(on_progress):
        raise InvalidArguments(f"on_progress must be a plain function, not {on_progress!r:.60}")


_ADVICE: Final = {
    "types_not_supported": "; send text, numbers and lists",
    "payload_too_large": (
        "; send the data in parts, as items of a stream, or raise max_message_bytes of "
        "spear.WireLimits, for shared memory max_segment_bytes"
    ),
    "head_too_large": "; shorten metadata and key, or pass data as an argument",
    "head_not_sendable": (
        "; metadata may contain text, bytes, numbers up to 64 bits, booleans, None, lists, and maps with "
        "text keys"
    ),
}
"""Advice on arguments and options that the wire refuses, by the code of the error."""


def cannot_be_sent(function: str, error: LocalProtocolError) -> InvalidArguments:
    """Return the error for arguments or options that the wire refuses, with advice for the caller."""
    advice = _ADVICE.get(error.code)
    code = None if advice is None else error.code
    return InvalidArguments(f"{function}(): {error}{advice or ''}", code=code)
