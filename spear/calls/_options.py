"""What a caller may say about a call besides its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, final

import attrs

from spear._errors import InvalidArguments, LocalProtocolError
from spear._hooks import is_plain_function
from spear._limits import expect_timeout

if TYPE_CHECKING:
    from spear.channels import Metadata

    from ._payloads import Result

MAX_KEY_CHARACTERS: Final = 256


@final
@attrs.frozen(kw_only=True)
class CallOptions:
    """What a caller may say about a call besides its arguments.

    Attributes:
        timeout: seconds, by default that of the deployment; ``math.inf`` must be asked for. If less
            is left of the surrounding cancel scopes, that counts.
        metadata: a small map for the handler.
        key: a name for what the call does, the same each time it is tried. Calls of a function that have
            the same key, within ``dedup_seconds`` of each other, are one call: it is executed once,
            with the deadline of the deployment, and all get its outcome. If its process is lost
            meanwhile, it is executed again. A caller that gives up waiting does not cancel it. It
            travels with the call (``spear.context().key``).
        key_seconds: the deadline of the execution that a call with a key begins; by default that of the
            deployment.
        key_restarts: whether that execution starts again if its process is lost. If not, the loss is an
            outcome that is kept like others.
        session: calls of one session go to the same replica, with the policy ``sticky``.
        on_progress: called with each progress report that arrives, in the task that waits for the call.
            If it raises, the call is cancelled and raises the same.
        keywords: more keyword arguments, for parameters whose names mean something to the methods of
            :class:`Function` themselves, such as ``timeout``.
    """

    timeout: float | None = None
    metadata: Metadata | None = None
    key: str | None = None
    key_seconds: float | None = None
    key_restarts: bool = True
    session: str | None = None
    on_progress: Callable[[Result], None] | None = None
    keywords: Mapping[str, object] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        for name in ("timeout", "key_seconds"):
            seconds = getattr(self, name)
            if seconds is not None:
                expect_timeout(seconds, name)
        metadata: object = self.metadata
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InvalidArguments(f"metadata must be a small map, not {metadata!r:.60}")
        keywords: object = self.keywords
        if not isinstance(keywords, Mapping) or not all(isinstance(each, str) for each in keywords):
            raise InvalidArguments(f"keywords must be a map by name, not {keywords!r:.60}")
        _expect_plain_function(self.on_progress)
        for name in ("key", "session"):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, str) or not 0 < len(value) <= MAX_KEY_CHARACTERS
            ):
                raise InvalidArguments(
                    f"{name} must be text of 1 to {MAX_KEY_CHARACTERS} characters, not {value!r:.60}"
                )


def _expect_plain_function(on_progress: object) -> None:
    if on_progress is None:
        return
    if not is_plain_function(on_progress):
        raise InvalidArguments(f"on_progress must be a plain function, not {on_progress!r:.60}")


_ADVICE: Final = {
    "payload_too_large": "; send it in parts, as items, or raise max_message_bytes of spear.HostLimits",
    "head_too_large": ": metadata and key are too large; send less, or send it as an argument",
    "head_not_sendable": (
        ": metadata has text, bytes, numbers up to 64 bits, booleans, None, lists and maps by text"
    ),
}
"""What to do about what the wire does not take, by the code of the error."""


def cannot_be_sent(function: str, error: LocalProtocolError) -> InvalidArguments:
    """What a caller is told of arguments or options that the wire does not take."""
    advice = _ADVICE.get(error.code)
    code = None if advice is None else error.code
    return InvalidArguments(f"{function}(): {error}{advice or ''}", code=code)
