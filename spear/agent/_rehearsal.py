"""Preparing a process to be forked, so that each fork starts fast and needs little memory of its own.

A template and its forks share a page of memory until one of them writes to it. Python writes to every
object that it uses, because it counts references. A fork is cheap if it does little for the first time.

* The template imports and builds in advance what an instance needs at its start and at its first calls.
* The template starts, calls and ends an instance a few times, as a rehearsal. The rehearsal uses an agent
  and a host of Spear, and none of the program's code. Afterwards the interpreter has specialized the code
  that all instances run. No task, thread or file descriptor of the rehearsal is left.
* The template fills the free memory between objects, so that new objects of a fork share few pages.
"""

from __future__ import annotations

import gc
import hmac
import logging
from contextlib import suppress
from typing import Final

import trio

from spear.channels import open_connection_manager
from spear.transports import make_private_directory, open_unix_listener
from spear.wire import BootstrapRecord

from . import _item_annotations as _item_annotations
from ._app import Agent
from ._launch import serve_bootstrap
from ._warm_up import INSTANCE, record, stand_in, warm_up

logger: Final = logging.getLogger("spear.agent")

ROUNDS: Final = 10
"""Rounds of the rehearsal. The interpreter specializes a function that has run eight times or more."""

ROUND_SECONDS: Final = 1.0
"""Time limit of a round, which usually takes a hundredth of this time."""


def prepare(agent: Agent) -> None:
    """Do the work of an agent's start, and of the first calls of its functions, in advance."""
    hmac.digest(bytes(32), b"", "sha256")
    with suppress(Exception):  # a forked instance will raise the error again, and report it
        agent.prepare()


def rehearse() -> None:
    """Start, call and end an instance, and warm up as a pre-forked process does, several times."""
    try:
        for _ in range(ROUNDS):
            trio.run(_rehearse, restrict_keyboard_interrupt_to_checkpoints=True)
            trio.run(warm_up, restrict_keyboard_interrupt_to_checkpoints=True)
    except Exception as error:
        logger.warning("the rehearsal failed, so forks will start more slowly: %r", error)


async def _rehearse() -> None:
    with trio.fail_after(ROUND_SECONDS), make_private_directory() as directory:
        async with (
            open_connection_manager() as manager,
            open_unix_listener(f"{directory}/rehearsal.sock") as listener,
            manager.open_endpoint(INSTANCE, listener) as endpoint,
            trio.open_nursery() as nursery,
        ):
            bootstrap = BootstrapRecord.decode(
                record(str(endpoint.address), endpoint.secret.reveal())
            )
            nursery.start_soon(serve_bootstrap, stand_in, bootstrap)
            channel = await endpoint.wait_connected()
            await channel.request("echo", b"", timeout=ROUND_SECONDS)
            nursery.cancel_scope.cancel()


def settle() -> None:
    """Collect garbage, fill free memory, and exempt existing objects from later collections."""
    gc.collect()
    _fillers.append(_fill_holes())
    gc.freeze()


_fillers: Final[list[list[object]]] = []

LARGEST_POOLED: Final = 512
"""Python allocates objects up to this size in pools of 16 KiB, one pool for each multiple of 16 bytes."""

POOL_MASK: Final = 16 * 1024 - 1
FIRST_IN_POOL: Final = 48

MOST_FILLERS: Final = 5_000
"""Most fillers of each size; usually a few hundred suffice."""


def _fill_holes() -> list[object]:
    """Return objects that fill the pools of every size, each until a new pool begins."""
    fillers: list[object] = []
    for size in range(16, LARGEST_POOLED + 1, 16):
        for number in range(MOST_FILLERS):
            filler = _filler(size, number)
            fillers.append(filler)
            if id(filler) & POOL_MASK == FIRST_IN_POOL:
                break
        else:  # pragma: no cover
            break  # a different allocator or interpreter
    return fillers


def _filler(size: int, number: int) -> object:
    if size == 16:
        return object()
    return (1 << 40) + number if size == 32 else bytes(size - 33)
