"""The peer of a channel: the functions that it has announced, and whether it shuts down."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import (
    ChannelBroken,
    ChannelClosed,
    ConfigurationError,
    RemoteProtocolError,
    SpearError,
)
from spear._limits import MAX_WHOLE, expect_whole
from spear.wire import Head, HeadValue

if TYPE_CHECKING:
    from spear._retry_policy import RetryPolicy

CLOSE_REASON_CHARACTERS: Final = 200
"""Characters that are kept of the reason in a peer's CLOSE."""

MOST_NAME_CHARACTERS: Final = 256

NAMES_PER_FRAME: Final = 200
"""Function names in one announcement. A frame's head has room for that many of any sensible length."""

POLICIES_PER_FRAME: Final = 6
"""Retry policies in one announcement. A frame's head has room for that many of any size."""


@final
@attrs.frozen
class ThreadedFunctions:
    """The functions of an agent that run in threads, if the agent has fewer threads than slots.

    Attributes:
        names: the names of the functions.
        threads: the most calls of these functions together that run at a time.

    Raises:
        ConfigurationError: the number of threads cannot be used.
    """

    names: frozenset[str] = frozenset()
    threads: int = 0

    def __attrs_post_init__(self) -> None:
        expect_whole("threads", self.threads, 0)


NO_THREADED: Final = ThreadedFunctions()
"""No such functions: as many calls run at a time as the agent takes."""


@final
class Peer:
    """A record of what the peer of one channel has announced.

    Attributes:
        functions: the announced functions: their numbers, by name.
        streams: the names of the functions that send items.
        threaded: the functions that run in threads, of which the peer has fewer than slots.
        retry_policies: the retry policies of functions that have one, by name.
        close_reason: the reason in the peer's CLOSE; empty until CLOSE has arrived.
    """

    __slots__ = (
        "_draining",
        "_has_announced",
        "_max_functions",
        "_took",
        "close_reason",
        "functions",
        "retry_policies",
        "streams",
        "threaded",
    )  # fmt: skip

    def __init__(self, max_functions: int) -> None:
        self._max_functions = max_functions
        self._has_announced = False
        self.functions: dict[str, int] = {}
        self.streams: frozenset[str] = frozenset()
        self.threaded = NO_THREADED
        self.retry_policies: dict[str, RetryPolicy] = {}
        self.close_reason = ""
        self._draining: trio.Event | None = None
        self._took: float = inf  # the newest of our calls that the peer took, as its CLOSE says

    def on_announce(self, head: Head | None) -> bool:
        """Note functions that the peer announces; return whether the announcement is complete.

        Raises:
            RemoteProtocolError: a name is too long, there are too many, a policy is invalid, or the last
                announcement has come before.
        """
        if self._has_announced:
            raise RemoteProtocolError("an announcement after the last announcement")
        head = head or {}
        names, streams = head.get("functions"), head.get("streams")
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name not in self.functions:
                if len(name) > MOST_NAME_CHARACTERS:
                    raise RemoteProtocolError(
                        f"a function's name has {len(name)} characters; at most "
                        f"{MOST_NAME_CHARACTERS} are allowed"
                    )
                if len(self.functions) >= self._max_functions:
                    raise RemoteProtocolError(
                        f"the peer has more than {self._max_functions} functions"
                    )
                self.functions[name] = len(self.functions) + 1
        self.streams |= self._known(streams)
        plain, threads = head.get("plain"), head.get("threads")
        if type(threads) is int and 0 < threads <= MAX_WHOLE:
            known = self.threaded.names | self._known(plain)
            self.threaded = ThreadedFunctions(known, threads)
        for name, described in _map_untrusted(head.get("retry"), "retry policies").items():
            if name in self.functions:
                self.retry_policies[name] = _policy_untrusted(name, described)
        self._has_announced = bool(head.get("last"))
        return self._has_announced

    def _known(self, names: HeadValue) -> set[str]:
        """Return those of the names that are announced functions."""
        if not isinstance(names, list):
            return set()
        return {name for name in names if isinstance(name, str)} & self.functions.keys()

    def on_close(self, head: Head | None) -> None:
        """Note the peer's CLOSE: it takes no new calls, and closes when its running calls have ended."""
        head = head or {}
        reason, last = head.get("reason"), head.get("last")
        if type(last) is int:
            self._took = last
        # The reason appears in messages and logs: keep it on one line, without control characters.
        words = "".join(filter(str.isprintable, reason)) if isinstance(reason, str) else ""
        self.close_reason = words[:CLOSE_REASON_CHARACTERS] or "closed"
        self.on_gone()

    def on_gone(self) -> None:
        """Set the event of :meth:`draining`: the peer shuts down, or the channel has ended."""
        if self._draining is not None:
            self._draining.set()

    def draining(self, *, has_begun: bool) -> trio.Event:
        """Return the event that is set when the peer shuts down; set it at once if that has begun."""
        if self._draining is None:
            self._draining = trio.Event()
            if has_begun:
                self._draining.set()
        return self._draining

    def has_never_begun(self, call_id: int) -> bool:
        """Return whether the peer's CLOSE says that this call of ours will not run."""
        return call_id > self._took

    def as_closed(self, broken: ChannelBroken) -> SpearError:
        """Return why the connection was lost: ChannelClosed after the peer's CLOSE, else ``broken``."""
        if not self.close_reason:
            return broken
        closed = ChannelClosed(f"the peer has closed the channel: {self.close_reason}")
        closed.__cause__ = broken
        return closed


def _policy_untrusted(function: str, described: HeadValue) -> RetryPolicy:
    """Return the retry policy that a peer announces for a function. Raises RemoteProtocolError."""
    from spear._retry_policy import RetryPolicy  # few peers announce any

    what = f"the retry policy of {function[:100]!r}"
    known = attrs.fields_dict(RetryPolicy)
    fields = {name: each for name, each in _map_untrusted(described, what).items() if name in known}
    try:
        return RetryPolicy(**fields)  # type: ignore[arg-type]  # checked there
    except ConfigurationError as error:
        raise RemoteProtocolError(f"{what} is invalid: {error}") from error


def _described(policy: RetryPolicy) -> dict[str, HeadValue]:
    """Return a retry policy as in an announcement."""
    return {**attrs.asdict(policy), "on": list(policy.on)}


def _map_untrusted(value: HeadValue, what: str) -> dict[str, HeadValue]:
    """Return a map of a peer; an empty one instead of None. Raises RemoteProtocolError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{what}: a map was expected")
    return value


def announcements(
    names: Sequence[str],
    streams: Collection[str],
    threaded: ThreadedFunctions,
    retry_policies: Mapping[str, RetryPolicy] | None = None,
) -> list[Head]:
    """Return the heads that announce our functions, which are numbered from 1 in this order.

    Args:
        names: the names of all functions.
        streams: the names of the functions that send items.
        threaded: the functions that run in threads, of which we have fewer than slots.
        retry_policies: the retry policies of functions that have one, by name.
    """
    heads: list[dict[str, HeadValue]] = []
    for start in range(0, max(len(names), 1), NAMES_PER_FRAME):
        part: list[HeadValue] = list(names[start : start + NAMES_PER_FRAME])
        head: dict[str, HeadValue] = {
            "functions": part,
            "streams": [name for name in part if name in streams],
            "last": False,
        }
        if threaded.names:
            head["plain"] = [name for name in part if name in threaded.names]
            head["threads"] = threaded.threads
        heads.append(head)
    described = [(name, _described(each)) for name, each in (retry_policies or {}).items()]
    for start in range(0, len(described), POLICIES_PER_FRAME):
        retry: dict[str, HeadValue] = dict(described[start : start + POLICIES_PER_FRAME])
        heads.append({"functions": [], "streams": [], "retry": retry, "last": False})
    heads[-1]["last"] = True
    return [*heads]
