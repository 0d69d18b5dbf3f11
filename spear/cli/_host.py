"""A running host: deployments, a gateway, signals, and an orderly shutdown.

The first SIGTERM or SIGINT drains the host, the second ends it at once; SIGHUP reloads the configuration.
A host for development reloads by itself, and drains at SIGHUP, which the end of its terminal sends.
A drain requested over HTTP has the same effect as the first signal.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from spear._codecs import values_passed_on
from spear._errors import CannotListen, ConfigurationError, SpearError
from spear.channels import open_private_nursery, protected_block
from spear.config import Faults, Loaded, make_instruments, make_runtimes, make_strategies
from spear.gateway import open_gateway
from spear.runtimes import own_all_children
from spear.spearlet import open_spearlet

from ._claim import claim
from ._error_lines import IMPATIENT_SECONDS, UNREAD_SECONDS
from ._gateway import control_socket, gateway_settings
from ._notify import notify, notify_reloading
from ._reload import Applied, Reloader
from ._serve_log import showing_log
from ._status import SIGNALLED
from ._text import printable

if TYPE_CHECKING:
    from spear.gateway import Gateway, GatewaySettings
    from spear.spearlet import Spearlet

    from ._development import Development

logger: Final = logging.getLogger("spear.cli")

LoadConfiguration: TypeAlias = Callable[[], tuple[Loaded, Faults]]


def run_host(
    loaded: Loaded,
    load: LoadConfiguration,
    *,
    as_json: bool,
    development: Development | None = None,
) -> int:
    """Run a host until a signal or an operator ends it; return the exit status.

    Args:
        loaded: the configuration.
        load: reads the configuration again, after SIGHUP or ``spear reload``.
        as_json: whether the line with the address, printed at the start, is JSON.
        development: the additional part of a host for development.
    """
    own_all_children()
    settings = loaded.configuration.spearlet
    with ExitStack() as stack:
        lines = stack.enter_context(showing_log(settings))
        lines.patience_seconds = UNREAD_SECONDS
        stack.enter_context(claim(control_socket(settings)))
        host = _Host(loaded, load, development, as_json=as_json)
        stack.enter_context(values_passed_on())
        status = trio.run(host.run, restrict_keyboard_interrupt_to_checkpoints=True)
        if status != 0:
            lines.patience_seconds = IMPATIENT_SECONDS
        return status


@final
class _Host:
    """A single run of a host."""

    def __init__(
        self,
        loaded: Loaded,
        load: LoadConfiguration,
        development: Development | None,
        *,
        as_json: bool,
    ) -> None:
        self._loaded = loaded
        self._load = load
        self._development = development
        self._as_json = as_json
        self._signals: list[int] = []  # SIGINT and SIGTERM received so far
        self._ending = trio.Event()
        self._seconds: float | None = None  # for running calls, if an operator's drain set it
        self._wants_reload = trio.Event()

    async def run(self) -> int:
        """Run the host; return the exit status."""
        has_ended_well = False
        async with open_private_nursery() as nursery:
            await nursery.start(self._watch_signals, nursery.cancel_scope)
            await self._serve()
            has_ended_well = True
        return 0 if has_ended_well or not self._signals else SIGNALLED + self._signals[-1]

    async def _serve(self) -> None:
        configuration, development = self._loaded.configuration, self._development
        settings = gateway_settings(configuration)
        instruments = make_instruments(self._loaded)
        if development is not None:
            instruments.append(development.failures)
        async with open_spearlet(
            limits=configuration.limits,
            runtimes=make_runtimes(configuration),
            strategies=make_strategies(configuration),
            instruments=instruments,
        ) as spearlet:
            applied = Applied(spearlet)
            reloader = Reloader(applied, self._load, self._loaded)
            if development is None and not await self._start(reloader):
                return
            async with self._open_gateway(spearlet, settings, reloader) as gateway:
                async with open_private_nursery() as nursery:
                    if development is not None:
                        nursery.start_soon(development.debug, spearlet)
                        saves = await nursery.start(development.reload_on_save, reloader)
                        # After the gateway: an instance may wait at a breakpoint while it is loaded.
                        if not await self._start(reloader):
                            return
                        saves.set()
                    self._announce(applied, gateway)
                    notify("READY=1", f"STATUS=serving {len(spearlet.deployments)} deployments")
                    nursery.start_soon(self._reload, reloader)
                    await self._ending.wait()
                notify("STOPPING=1", "STATUS=draining")
                await spearlet.drain(self._seconds)

    @protected_block
    async def _open_gateway(
        self, spearlet: Spearlet, settings: GatewaySettings, reloader: Reloader
    ) -> AsyncIterator[Gateway]:
        async with AsyncExitStack() as stack:
            opening = open_gateway(
                spearlet,
                settings,
                on_drain=self._drain,
                on_start=reloader.start_again,
                terminals=None if self._development is None else self._development.terminals,
            )
            try:
                gateway = await stack.enter_async_context(opening)
            except CannotListen as error:
                flag = "--listen" if error.transport == "tcp" else "--control-socket"
                raise ConfigurationError(f"{error}; choose another address with {flag}") from error
            yield gateway

    async def _start(self, reloader: Reloader) -> bool:
        """Start all deployments; return False if a signal came first.

        A host for development goes on without a deployment that does not start: its next save starts it.
        """
        with trio.CancelScope() as scope:
            async with open_private_nursery() as nursery:
                nursery.start_soon(self._cancel_at_the_end, scope)
                try:
                    await reloader.start()
                except SpearError as error:
                    if self._development is None:
                        raise
                    logger.error("%s; save a file to try again", error.summary)
            return True
        return False

    async def _cancel_at_the_end(self, scope: trio.CancelScope) -> None:
        await self._ending.wait()
        scope.cancel()

    async def _watch_signals(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and self._development is None:
                    self._wants_reload.set()
                    continue
                if number == signal.SIGINT and self._is_for_debugger():
                    continue
                self._signals.append(number)
                if self._ending.is_set():
                    break
                self._ending.set()
        logger.warning("received a second signal; stopping at once")
        scope.cancel()

    def _is_for_debugger(self) -> bool:
        """Return whether the debugger has the terminal; then it drops the line that is being entered."""
        if self._development is None or not self._development.terminal.is_reading:
            return False
        self._development.terminal.interrupt()
        return True

    async def _reload(self, reloader: Reloader) -> None:
        while True:
            await self._wants_reload.wait()
            self._wants_reload = trio.Event()  # a signal from now on causes another reload
            notify_reloading()
            await reloader.reload()
            notify("READY=1")

    def _drain(self, seconds: float | None = None) -> None:
        """Start draining, as an operator requests."""
        if not self._ending.is_set():
            self._seconds = seconds
            self._ending.set()

    def _announce(self, applied: Applied, gateway: Gateway) -> None:
        """Print the deployments and the addresses."""
        deployments = applied.spearlet.deployments  # in the order in which they became ready
        wanted = self._loaded.configuration.functions
        deployments = {name: deployments[name] for name in wanted if name in deployments}
        if self._as_json:
            said = {
                "name": self._loaded.configuration.spearlet.name,
                "pid": os.getpid(),
                "urls": list(gateway.urls),
                "control_socket": gateway.control_socket,
                "deployments": {name: list(each.functions) for name, each in deployments.items()},
            }
            lines = [json.dumps(said)]
        else:
            lines = [
                f"{name}: {', '.join(each.functions) or 'no functions'} ({_count(len(each.replicas))})"
                for name, each in deployments.items()
            ]
            lines += [*gateway.urls, f"control socket {gateway.control_socket}"]
        if sys.stdout is not None:
            try:
                print(printable("\n".join(lines)), flush=True)
            except BrokenPipeError:  # the reader has gone
                sys.stdout = None
            except OSError as error:  # not fatal: the host can serve without output
                sys.stdout = None
                logger.warning("cannot write to standard output: %s", error.strerror)


def _count(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"
