"""One request, and the way to answer it: what ASGI hands over, with bounds.

This module knows neither paths nor who may ask. A client that leaves cancels whoever handles its request,
so nothing here looks for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio

from ._errors import Problem
from ._settings import BODY_RATE

if TYPE_CHECKING:
    from ._budget import Budget
    from ._settings import GatewaySettings

Headers: TypeAlias = list[tuple[bytes, bytes]]
MoreHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]

Scope: TypeAlias = MutableMapping[str, object]
Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

LINGER_SECONDS: Final = 2.0
"""For a client to read why its body is not wanted, while it still sends it: a connection that is closed
meanwhile is reset, and the answer is lost."""

LARGE_BYTES: Final = 64 * 1024

_ALWAYS: Final = (b"x-content-type-options", b"nosniff")


@final
class Request:
    """A request, or the head of a WebSocket.

    Attributes:
        method: in capitals.
        path: as it was sent, percent signs and all.
        query: what stood behind the question mark.
        headers: by lower-case name; what came several times is joined by commas.
        repeated: the names of those that did.
        is_local: whether it came by the control socket.
        extra: headers for the response, whatever it will be.
        id: names it in logs and to whom it concerns.
        status: of the response; 0 before there is one.
    """

    __slots__ = (
        "_budget", "_held", "_is_read", "_receive", "_results", "_send", "_settings", "extra",
        "headers", "id", "is_local", "method", "path", "query", "repeated", "status",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        settings: GatewaySettings,
        budget: Budget,
        results: Budget,
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._budget = budget
        self._results = results
        self._held = 0  # bytes of the budget
        self._is_read = False
        self.method = str(scope.get("method", "GET"))
        self.query = cast("bytes", scope["query_string"]).decode("ascii")
        given = cast("list[tuple[bytes, bytes]]", scope["headers"])
        headers = dict(given)
        self.repeated: frozenset[bytes] = frozenset()
        if len(headers) < len(given):
            headers, self.repeated = _joined(given)
        self.headers: dict[bytes, bytes] = headers
        path = cast("bytes", scope["raw_path"]).decode("ascii")
        scheme, is_absolute, rest = path.partition("://")
        if is_absolute and "/" not in scheme:  # as proxies send it: http://host/path
            host, _, path = rest.partition("/")
            path = f"/{path}"
            headers[b"host"] = host.encode()
        self.path = path
        self.is_local = bool(cast("Scope", scope["state"]).get("is_local"))
        self.extra: Headers = []
        self.id = ""
        self.status = 0

    # -- the body -----------------------------------------------------------------------------

    @property
    def _has_body(self) -> bool:
        headers = self.headers
        return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers

    async def body(self) -> bytes:
        """All of its body. To be asked for once.

        Raises:
            Problem: it is too large, too slow, compressed, or there is no room for it now.
        """
        if not self._has_body:
            return b""
        self._expect_plain()
        most = self._settings.max_body_bytes
        length = int(self.headers.get(b"content-length", b"-1"))  # h11 has seen that it is a number
        if length > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        patience = self._settings.body_seconds
        begun = trio.current_time()
        with trio.CancelScope(deadline=begun + patience) as scope:
            while not self._is_read:
                part = await self._next_part()
                size += len(part)
                if size > most:
                    raise _too_large(most)
                self._budget.take(len(part))
                self._held += len(part)
                scope.deadline = begun + patience + size / BODY_RATE
                parts.append(part)
                if size == length:
                    self._is_read = True  # to be told so would take another pass of the scheduler
        if scope.cancelled_caught:
            seconds = trio.current_time() - begun
            raise Problem(408, "SlowRequest", f"the body did not come within {seconds:.0f} s")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _expect_plain(self) -> None:
        coding = self.headers.get(b"content-encoding", b"identity").lower()
        if coding not in (b"identity", b""):
            shown = coding.decode("latin-1")[:50]
            raise Problem(
                415,
                "UnsupportedMediaType",
                f"Content-Encoding {shown!r} is not taken: send the body as it is",
                headers=((b"accept-encoding", b"identity"),),
            )

    async def _next_part(self) -> bytes:
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return cast("bytes", message.get("body", b""))

    def release(self) -> None:
        """What is held of its body may be used for another one."""
        self._budget.give(self._held)
        self._held = 0

    # -- the response -------------------------------------------------------------------------

    async def respond(
        self, status: int, body: bytes, kind: bytes, headers: MoreHeaders = ()
    ) -> None:
        """Answer it, whole.

        Args:
            status: the number.
            body: may be empty.
            kind: its ``Content-Type``; none if it is empty.
            headers: more of them.

        Raises:
            Problem: it is large, and others that are have not been taken yet.
        """
        held = (
            len(body) if len(body) > LARGE_BYTES else 0
        )  # the others are in the system's hands at once
        with self._results.taking(held):
            await self._respond(status, body, kind, headers)

    async def _respond(self, status: int, body: bytes, kind: bytes, headers: MoreHeaders) -> None:
        head = [_ALWAYS, *self.extra, *headers]
        if status != 204:
            head.append((b"content-length", b"%d" % len(body)))
        if kind:
            head.append((b"content-type", kind))
        is_read = self._is_read or not self._has_body
        if not is_read:
            head.append((b"connection", b"close"))
        await self._start(status, head)
        if not is_read:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._linger()
            body = b""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_SECONDS):
            while not self._is_read:
                await self._next_part()

    async def begin(self, status: int, kind: bytes, headers: MoreHeaders = ()) -> None:
        """Begin an answer of unknown length: :meth:`send` its parts, then :meth:`end` it.

        One that is not ended is cut off, so that its client can tell.
        """
        await self._start(status, [_ALWAYS, (b"content-type", kind), *self.extra, *headers])

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """One more part."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """That was all of it."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _joined(
    headers: Iterable[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """(by name, those that came several times)."""
    joined: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in headers:
        if name in joined:
            repeated.add(name)
            joined[name] += b", " + value
        else:
            joined[name] = value
    return joined, frozenset(repeated)


def _too_large(most: int) -> Problem:
    return Problem(413, "TooLarge", f"the body has more than {most} bytes (max_body_bytes)")
