"""Who is at the other end. Only those who accept ask for it, so it is a module of its own."""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen
class PeerCredentials:
    """Who the kernel says is at the other end of a Unix socket, at the moment it connected."""

    pid: int
    uid: int
    gid: int
