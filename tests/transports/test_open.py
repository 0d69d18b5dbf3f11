"""Listening and connecting by address."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, final

import pytest
import trio
import trio.testing

from spear._errors import AuthenticationFailed, ConfigurationError
from spear.transports import Acceptor, TcpAddress, connect, open_listener

from .helpers import receive_exactly, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .helpers import Transport


async def test_every_transport_is_reached_by_its_address(transport: Transport) -> None:
    one, other = await transport.pair()
    async with one, other:
        await one.send_all(b"there")
        assert await receive_exactly(other, 5) == b"there"
        await other.send_all(b"back")
        assert await receive_exactly(one, 4) == b"back"


async def test_a_certificate_goes_with_a_tls_address_and_with_no_other(
    transport: Transport, tls: Transport
) -> None:
    with pytest.raises(ConfigurationError, match="needs a certificate"):
        await open_listener(TcpAddress("127.0.0.1", 0, tls=True))
    if transport.tls_client is not None:
        return
    with pytest.raises(ConfigurationError, match="does not speak TLS"):
        await open_listener(transport.address, tls=tls.tls_server)
    with pytest.raises(ConfigurationError, match="does not speak TLS"):
        await connect(transport.address, tls=tls.tls_client)


async def test_without_settings_a_tls_client_trusts_the_system(tls: Transport) -> None:
    async with serving(Acceptor(), await tls.listen()) as listener:
        with pytest.raises(AuthenticationFailed):
            await connect(listener.address)


@final
class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to run for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(step: int, open_something: Callable[[], Awaitable[object]]) -> bool:
    """Whether ``open_something`` was still running at this step; it is then cancelled."""
    with trio.CancelScope() as scope:
        task = trio.lowlevel.current_task()
        instrument = CancelAtStep(task, scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            resource = await open_something()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        assert isinstance(resource, trio.abc.AsyncResource)
        await trio.aclose_forcefully(resource)
    return scope.cancelled_caught


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


async def test_r4_a_cancelled_connect_leaves_nothing_open(transport: Transport) -> None:
    async with serving(Acceptor(), await transport.listen()) as listener:
        await trio.testing.wait_all_tasks_blocked()
        before = open_files()
        step = 1
        while await cancelled_at(step, lambda: transport.connect(listener)):
            await trio.testing.wait_all_tasks_blocked()  # the acceptor's end
            assert open_files() == before
            step += 1
        assert step > 1


async def test_r4_a_cancelled_listen_leaves_nothing_open(transport: Transport) -> None:
    before = open_files()
    step = 1
    while await cancelled_at(step, transport.listen):
        assert open_files() == before
        step += 1
    assert step > 1
    async with await transport.listen():
        pass


def test_importing_the_package_imports_nothing_that_trio_does_not() -> None:
    # Every function process pays for it.
    program = (
        "import sys, attrs, trio; before = set(sys.modules); from spear.transports import *; "
        "print(sorted(name for name in sys.modules.keys() - before if name[:5] != 'spear'))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert output.stdout == b"[]\n"
