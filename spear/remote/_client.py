"""Requests to a host, and what became of them: responses, errors of the host, lost connections."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, final

import trio

from spear._errors import DeadlineExceeded, HostLost, NoHost, SpearError
from spear.channels import protected_class

from ._connection import Disconnected, HostConnection
from ._failures import failure_of_untrusted, read_document_untrusted
from ._pool import ConnectionPool

if TYPE_CHECKING:
    from spear.calls import Execution

    from ._address import HostAddress
    from ._connection import RequestHeaders, ResponseHead

MAX_RESPONSE_BYTES: Final = 64 << 20
"""Most bytes of a response, or of an item of a stream: more than any message between processes."""

CBOR_KIND: Final = b"application/cbor"

DOCUMENT_SECONDS: Final = 60.0
"""Seconds that a host has for a request that it answers itself."""


@final
@protected_class
class HostClient:
    """A client of one host, which makes its requests.

    Attributes:
        pool: the connections.
        address: the address of the host.
        nursery: the tasks of submitted calls; ends with the block of :func:`spear.connect`.
        is_closed: whether that block has ended.
        executions: submitted calls that have not ended.
        waits: limits the connections that wait for their ends, so that other calls have some, too.
    """

    def __init__(self, pool: ConnectionPool, nursery: trio.Nursery) -> None:
        self.pool = pool
        self.address: HostAddress = pool.address
        self.nursery = nursery
        self.is_closed = False
        self.executions: set[Execution] = set()
        self.waits = trio.CapacityLimiter(max(1, pool.max_connections // 2))
        self._always: RequestHeaders = [(b"host", self.address.authority)]
        if self.address.authorization:
            self._always.append((b"authorization", self.address.authorization))

    # -- requests -----------------------------------------------------------------------------

    async def begin(
        self,
        method: bytes,
        path: str,
        headers: RequestHeaders,
        body: bytes = b"",
        *,
        may_repeat: bool = False,
    ) -> tuple[HostConnection, ResponseHead]:
        """Send a request, and wait for the head of its response.

        The connection belongs to the caller. If cancelled, the connection is closed, by which the host
        notices it.

        Args:
            method: the method.
            path: the path at the gateway, percent-encoded, with the query.
            headers: headers beside those of every request.
            body: the body.
            may_repeat: whether the host does no more for two such requests than for one.

        Raises:
            NoHost: the host cannot be reached; nothing was done.
            HostLost: the connection was lost; the host may have done what was requested.
        """
        if self.is_closed:
            raise NoHost(f"the connection to {self.address.where} was closed: its block has ended")
        target = f"{self.address.prefix}{path}".encode()
        if body or method == b"POST":
            headers = [*self._always, *headers, (b"content-length", b"%d" % len(body))]
        else:
            headers = [*self._always, *headers]
        is_new = False
        while True:
            connection = await self.pool.acquire(is_new=is_new)
            was_used = connection.requests > 0
            try:
                await connection.request(method, target, headers, body)
                return connection, await connection.receive_head()
            except Disconnected as loss:
                await self.pool.discard(connection)
                # A host closes connections that are idle, and may do so while a request is on its way.
                if not was_used or not (may_repeat or not loss.was_sent):
                    raise self.lost(loss, is_safe=may_repeat) from loss
                is_new = True
            except BaseException:
                await self.pool.discard(connection)
                raise

    def lost(self, loss: Disconnected, *, is_safe: bool = False) -> SpearError:
        """Return the failure of a request whose connection has ended.

        Args:
            loss: what has happened.
            is_safe: whether the request changes nothing.
        """
        where = self.address.where
        if not loss.is_http:
            hint = "; check the address"
            return NoHost(f"{where} did not respond in HTTP{hint}", delivered="no")
        hint = "" if self.address.path or self.address.tls else "; if it uses TLS, use https://"
        if is_safe or not loss.was_sent:
            return NoHost(f"{where} closed the connection before it responded{hint}")
        return HostLost(f"{where} closed the connection: the request may have been carried out")

    async def read_body(self, connection: HostConnection) -> bytes:
        """Return the whole body of a response, and give the connection back.

        Raises:
            HostLost: the connection was lost, or the body is too large.
        """
        parts: list[bytes] = []
        size = 0
        try:
            while part := await connection.receive_part():
                parts.append(part)
                size += len(part)
                if size > MAX_RESPONSE_BYTES:
                    what = f"a response of more than {MAX_RESPONSE_BYTES} bytes"
                    raise HostLost(f"{self.address.where} has sent {what}", delivered="yes")
        except Disconnected as loss:
            await self.pool.discard(connection)
            where = self.address.where
            what = f"{where} closed the connection in the middle of its response"
            raise HostLost(what) from loss
        except BaseException:
            await self.pool.discard(connection)
            raise
        await self.pool.release(connection)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def exchange(
        self,
        method: bytes,
        path: str,
        headers: RequestHeaders,
        body: bytes = b"",
        *,
        may_repeat: bool = False,
    ) -> tuple[ResponseHead, bytes]:
        """Send a request; return its response. Raises as :meth:`begin`, and errors of the host."""
        connection, head = await self.begin(method, path, headers, body, may_repeat=may_repeat)
        content = await self.read_body(connection)
        if head.status >= 400:
            raise failure_of_untrusted(head, content, self.address.where)
        return head, content

    # -- documents ----------------------------------------------------------------------------

    async def get(self, path: str, *, seconds: float = DOCUMENT_SECONDS) -> dict[str, object]:
        """Return a document of the host. A checkpoint. Raises NoHost, and errors of the host."""
        return await self._document(b"GET", path, seconds=seconds)

    async def post(
        self, path: str, body: bytes = b"", *, seconds: float = inf
    ) -> dict[str, object]:
        """Request an operation; return the host's document. A checkpoint.

        Raises:
            HostLost: the connection was lost; the operation may have begun, and goes on.
        """
        return await self._document(b"POST", path, body, seconds=seconds)

    async def _document(
        self, method: bytes, path: str, body: bytes = b"", *, seconds: float
    ) -> dict[str, object]:
        headers = [(b"accept", CBOR_KIND)]
        if body:
            headers.append((b"content-type", b"application/json"))
        try:
            with trio.fail_after(seconds):
                head, content = await self.exchange(
                    method, path, headers, body, may_repeat=method == b"GET"
                )
        except trio.TooSlowError:
            where = self.address.where
            raise DeadlineExceeded(f"{where} did not respond within {seconds:g} s") from None
        try:
            document = read_document_untrusted(head.kind, content)
        except (ValueError, RecursionError) as error:
            raise self.not_a_host() from error
        if not isinstance(document, dict):
            raise self.not_a_host()
        return document

    def not_a_host(self) -> NoHost:
        """Return the error for responses that a Spear host would not send."""
        return NoHost(f"{self.address.where} is not a Spear host: check the address")
