"""``spear.connect``: the block in which a host can be called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

from spear._limits import expect_whole
from spear.channels import open_private_nursery, protected_block

from ._address import read_address
from ._client import HostClient
from ._host import RemoteHost
from ._pool import ConnectionPool
from ._submitted import abandon

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator


class ConnectArguments(TypedDict, total=False):
    """The keyword arguments of :func:`spear.connect`, for ``spear.blocking`` and ``spear.asyncio``."""

    token: str | None
    tls: ssl.SSLContext | None
    max_connections: int


MAX_CONNECTIONS: Final = 64
"""Connections of a client by default: as many calls and streams at a time."""


@protected_block
async def connect(
    address: str | os.PathLike[str] | None = None,
    *,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator[RemoteHost]:
    """Connect to a running host, which ``spear serve`` or a gateway has started, for the block.

    ::

        async with spear.connect("http://127.0.0.1:8080") as host:
            shop = await host.deployment("shop")
            print(await shop.price("tea", timeout=5))

    The block yields a :class:`RemoteHost`, whose deployments have the same functions, with the same
    methods, as deployments in this process. Each call and each stream has a connection of its own while
    it runs; connections are used again. If a call is cancelled, its connection is closed, and the host
    cancels the function. Leaving the block closes all connections; submitted calls go on at the host.

    Args:
        address: the URL of a host (``http://HOST:PORT``, ``https://HOST:PORT``), the path of its control
            socket, or the name that ``spear serve --name`` gave it; by default this user's only host.
        token: the host's token, for a URL.
        tls: the TLS settings, for https; by default those of ``ssl.create_default_context()``.
        max_connections: the most connections, and so the most calls and streams at a time; further ones
            wait, within their timeouts.

    Raises:
        NoHost: no host runs there, or what responds is none.
        AuthenticationFailed: the host needs another token.
        ConfigurationError: an argument cannot be used, or the extra ``http`` is not installed.
    """
    expect_whole("max_connections", max_connections, 1)
    pool = ConnectionPool(read_address(address, token, tls), max_connections)
    async with open_private_nursery() as nursery:
        client = HostClient(pool, nursery)
        host: RemoteHost = RemoteHost._create(client)
        try:
            await host.refresh()
            yield host
        finally:
            client.is_closed = True
            abandon(client)
            await pool.aclose()
