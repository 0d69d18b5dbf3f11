"""Making a process ready to be forked, so that a fork has little left to do, and little own memory.

A page of memory is shared by a template and its forks until one of them writes to it, and Python writes
to whatever it looks at: it counts references. So what counts is what a fork still does for the first
time.

* What an instance imports or builds at its start or at its first calls is there before.
* An instance is started, called and ended a few times in this process, as a rehearsal: an agent of our
  own, a host of our own, none of the program's code. Afterwards the interpreter has specialized what
  all instances run, and nothing is left of it: no task, no thread, no descriptor.
* Free places between objects are taken, so that what a fork makes stands side by side.
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

from . import _annotations as _annotations
from ._app import Agent
from ._launch import serve_bootstrap
from ._warm_up import INSTANCE, record, stand_in, warm_up

logger: Final = logging.getLogger("spear.agent")

ROUNDS: Final = 10
"""The interpreter specializes a function when it has run eight times or more."""

ROUND_SECONDS: Final = 1.0
"""A rehearsal takes a hundredth of that."""


def prepare(agent: Agent) -> None:
    """Do what the agent would do when it is started, and when its functions are called first."""
    hmac.digest(bytes(32), b"", "sha256")
    with suppress(Exception):  # the instance that is forked will say what it is
        agent.prepare()


def rehearse() -> None:
    """Start an instance, call it, and end it; and do what forks do that wait."""
    try:
        for _ in range(ROUNDS):
            trio.run(_rehearse, restrict_keyboard_interrupt_to_checkpoints=True)
            trio.run(warm_up, restrict_keyboard_interrupt_to_checkpoints=True)
    except Exception as error:
        logger.warning("the rehearsal failed: %r", error)


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
    """Leave everything that is there as it is, for all forks to share."""
    gc.collect()
    _fillers.append(_fill_holes())
    gc.freeze()


_fillers: Final[list[list[object]]] = []

LARGEST_POOLED: Final = 512
"""Python keeps objects up to this size in pools of 16 KiB, one size to a pool, rounded to 16."""

POOL_MASK: Final = 16 * 1024 - 1
FIRST_IN_POOL: Final = 48

MOST_FILLERS: Final = 5_000
"""For each size. Usually a few hundred will do."""


def _fill_holes() -> list[object]:
    """Objects of every size, until the first of a new pool says that the others are full."""
    fillers: list[object] = []
    for size in range(16, LARGEST_POOLED + 1, 16):
        for number in range(MOST_FILLERS):
            filler = _filler(size, number)
            fillers.append(filler)
            if id(filler) & POOL_MASK == FIRST_IN_POOL:
                break
        else:  # pragma: no cover
            break  # another allocator, or another interpreter
    return fillers


def _filler(size: int, number: int) -> object:
    if size == 16:
        return object()
    return (1 << 40) + number if size == 32 else bytes(size - 33)
