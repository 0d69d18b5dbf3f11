"""Telling systemd how the host is: its notification protocol, for units with ``Type=notify-reload``.

See ``man sd_notify``. Without ``NOTIFY_SOCKET``, nobody wants to know.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def notify(*assignments: str) -> None:
    """Send ``READY=1``, ``STOPPING=1``, ``STATUS=...``. Nothing depends on whether it arrives."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name without a file
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(assignments).encode(), address)


def notify_reloading() -> None:
    """A reload begins; ``READY=1`` ends it. systemd wants to know when, to tell two from each other."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
