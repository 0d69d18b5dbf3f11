"""Listening and connecting by address."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, final

import attrs
import pytest
import trio
import trio.testing

from spear import AuthenticationFailed, ConfigurationError
from spear.transports import (
    Acceptor,
    ConnectOptions,
    ListenOptions,
    TcpAddress,
    TcpTransport,
    UnixTransport,
    connect,
)

from .helpers import receive_exactly, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .helpers import Carrier


async def test_every_transport_is_reached_by_its_address(transport: Carrier) -> None:
    one, other = await transport.pair()
    async with one, other:
        await one.send_all(b"there")
        assert await receive_exactly(other, 5) == b"there"
        await other.send_all(b"back")
        assert await receive_exactly(one, 4) == b"back"


async def test_a_certificate_goes_with_a_tls_address_and_with_no_other(
    tcp: Carrier, tls: Carrier
) -> None:
    with pytest.raises(ConfigurationError, match="requires a certificate"):
        await tcp.transport.listen(ListenOptions(address=tls.address)).__aenter__()
    with pytest.raises(ConfigurationError, match="is an address without TLS"):
        await tls.transport.listen(ListenOptions(address=tcp.address)).__aenter__()
    with pytest.raises(ConfigurationError, match="is an address without TLS"):
        await connect(tcp.address, ConnectOptions(tls=tls.tls_client)).__aenter__()


async def test_an_address_of_another_transport_is_refused(
    transport: Carrier, unix: Carrier, memory: Carrier
) -> None:
    wrong = memory.address if transport.address == unix.address else unix.address
    with pytest.raises(ConfigurationError, match=f"{wrong} is not "):
        await transport.transport.listen(ListenOptions(address=wrong)).__aenter__()
    with pytest.raises(ConfigurationError, match=f"{wrong} is not "):
        transport.transport.connect(wrong, ConnectOptions())


async def test_a_transport_chooses_an_address_by_the_name_of_the_listener(
    transport: Carrier, private_directory: str
) -> None:
    options = ListenOptions(name="shop-1", get_directory=lambda: private_directory)
    async with transport.transport.listen(options) as listener:
        parsed = transport.transport.parse(str(listener.advertised))
        assert parsed == listener.advertised == listener.bound
        connecting = transport.transport.connect(parsed, ConnectOptions(tls=transport.tls_client))
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                async with await listener.secure(await listener.accept()) as accepted:
                    await accepted.send_all(b"there")

            nursery.start_soon(accept)
            async with connecting as stream:
                assert await receive_exactly(stream, 5) == b"there"


async def test_a_unix_socket_needs_an_address_or_a_directory() -> None:
    with pytest.raises(ConfigurationError, match="pass address or get_directory"):
        await UnixTransport().listen(ListenOptions(name="shop-1")).__aenter__()


async def test_another_host_than_the_bound_one_can_be_advertised(tls: Carrier) -> None:
    assert isinstance(tls.transport, TcpTransport)
    for transport, scheme in (
        (TcpTransport(advertised_host="node-7"), "tcp"),
        (attrs.evolve(tls.transport, advertised_host="node-7"), "tls"),
    ):
        async with transport.listen(ListenOptions()) as listener:
            assert isinstance(listener.bound, TcpAddress)
            assert listener.bound.host == "127.0.0.1"
            assert str(listener.advertised) == f"{scheme}:node-7:{listener.bound.port}"


async def test_what_a_block_of_a_connection_raises_comes_out_of_it(transport: Carrier) -> None:
    async with serving(Acceptor(), await transport.listen()) as listener:
        block = transport.transport.connect(
            listener.advertised, ConnectOptions(tls=transport.tls_client)
        )
        streams: list[trio.abc.Stream] = []

        async def use() -> None:
            async with block as stream:
                streams.append(stream)
                scope.cancel()
                raise KeyError

        with trio.CancelScope() as scope, pytest.raises(KeyError):
            await use()
        with pytest.raises(trio.ClosedResourceError):
            await streams[0].send_all(b"x")


async def test_without_settings_a_tls_client_trusts_the_system(tls: Carrier) -> None:
    async with serving(Acceptor(), await tls.listen()) as listener:
        with pytest.raises(AuthenticationFailed):
            await connect(listener.bound).__aenter__()


@final
class CancelAtStep(trio.abc.Instrument):
    """An instrument that cancels a scope when its task is about to run for the n-th time."""

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
    """Return whether ``open_something`` was still running at this step, at which it is cancelled."""
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


async def test_r4_a_cancelled_connect_leaves_nothing_open(transport: Carrier) -> None:
    async with serving(Acceptor(), await transport.listen()) as listener:
        await trio.testing.wait_all_tasks_blocked()
        before = open_files()
        step = 1
        while await cancelled_at(step, lambda: transport.connect(listener)):
            await trio.testing.wait_all_tasks_blocked()  # until the acceptor has ended
            assert open_files() == before
            step += 1
        assert step > 1


async def test_r4_a_cancelled_listen_leaves_nothing_open(transport: Carrier) -> None:
    before = open_files()
    step = 1
    while await cancelled_at(step, transport.listen):
        assert open_files() == before
        step += 1
    assert step > 1
    async with await transport.listen():
        pass


def test_importing_the_package_imports_nothing_that_trio_does_not() -> None:
    # The import costs every instance time.
    program = (
        "import sys, attrs, trio; before = set(sys.modules); from spear.transports import *; "
        "print(sorted(name for name in sys.modules.keys() - before if name[:5] != 'spear'))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert output.stdout == b"[]\n"
