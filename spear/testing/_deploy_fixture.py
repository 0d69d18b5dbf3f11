"""The value of the pytest fixture ``spear_deploy``: deployments that live as long as one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, final

import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

import spear.blocking
from spear._errors import ConfigurationError
from spear.calls import ExecutionStatus
from spear.channels import protected_block
from spear.runtimes import Instance, ProcessSettings
from spear.spearlet import open_spearlet
from spear.telemetry import InstanceState

if TYPE_CHECKING:
    from typing import Unpack

    from spear.spearlet import DeployArguments, Deployment, Spearlet, Target

IDLE_SECONDS: Final = 5.0
"""Seconds that calls have to end after a test; cancelled functions may need a moment for clean-up."""

LOOK_SECONDS: Final = 0.01
"""Seconds between two looks at calls that have not ended."""


class AsyncTest(Protocol):
    """An async test that gets fixtures."""

    def __call__(self, **values: object) -> Awaitable[None]:
        """Run the test."""


@final
class SpearDeploy:
    """The pytest fixture ``spear_deploy``: a function that deploys a program for one test.

    ::

        async def test_price(spear_deploy):
            shop = await spear_deploy("shop.py", replicas=2)
            assert await shop.price("tea") == 3.5

    The test fails if a submitted call has not ended with it, or if another call goes on for five more
    seconds. Await the call or cancel it.
    """

    def __init__(self) -> None:
        self._spearlet: Spearlet | None = None

    @property
    def spearlet(self) -> Spearlet:
        """The spearlet of the test. Raises ConfigurationError outside of the test."""
        if self._spearlet is None:
            raise ConfigurationError(
                "spear_deploy works while its test runs: call it in the test, or in an async fixture "
                "of pytest-trio or anyio"
            )
        return self._spearlet

    async def __call__(self, target: Target, **arguments: Unpack[DeployArguments]) -> Deployment:
        """Deploy a program until the end of the test; see :meth:`spear.Spearlet.deploy`.

        Args:
            target: an Agent, which runs in the process of the test, or a file, which runs in processes.
            arguments: as for :meth:`spear.Spearlet.deploy`; but ``debug`` is true by default, so that
                errors carry the tracebacks of functions.

        Raises:
            ConfigurationError: the target, the name or a setting cannot be used; or processes are to be
                started while Trio's clock is virtual.
            SpawnFailed: a replica did not become ready.
        """
        spearlet = self.spearlet
        clock = trio.lowlevel.current_clock()
        if isinstance(target, str | Path | ProcessSettings) and isinstance(clock, MockClock):
            raise ConfigurationError(
                f"{target!r} runs in processes, for which virtual time does not wait: remove the clock "
                "(such as autojump_clock) from the test, or deploy an Agent"
            )
        arguments.setdefault("debug", True)
        return await spearlet.deploy(target, **arguments)

    @protected_block
    async def open(self) -> AsyncIterator[None]:
        """Open the spearlet for a test; see ``open_test_spearlet`` for errors."""
        async with open_test_spearlet() as spearlet:
            self._spearlet = spearlet
            try:
                yield
            finally:
                self._spearlet = None


@final
class BlockingSpearDeploy:
    """The pytest fixture ``spear_deploy`` in a plain test: a function that deploys a program.

    ::

        def test_price(spear_deploy):
            shop = spear_deploy("shop.py", replicas=2)
            assert shop.price("tea") == 3.5

    The deployment is one of ``spear.blocking``. The test has an error if a call goes on after it, as
    with :class:`SpearDeploy`.
    """

    def __init__(self) -> None:
        self._spearlet: spear.blocking.Spearlet | None = None

    @property
    def spearlet(self) -> spear.blocking.Spearlet:
        """The spearlet of the test, which the first use opens."""
        if self._spearlet is None:
            self._spearlet = spear.blocking.Spearlet._create(open_test_spearlet)
        return self._spearlet

    def __call__(
        self, target: Target, **arguments: Unpack[DeployArguments]
    ) -> spear.blocking.Deployment:
        """Deploy a program until the end of the test; see :meth:`SpearDeploy.__call__`."""
        arguments.setdefault("debug", True)
        return self.spearlet.deploy(target, **arguments)

    def close(self) -> None:
        """End all deployments; see ``open_test_spearlet`` for errors."""
        if self._spearlet is not None:
            self._spearlet.close()


@protected_block
async def open_test_spearlet() -> AsyncIterator[Spearlet]:
    """Open a spearlet for a test.

    Raises:
        AssertionError: at the end of the block, calls go on, or a replica does not end properly.
    """
    async with open_spearlet() as spearlet:
        yield spearlet
        faults = [*await _unfinished(spearlet), *await _bad_exits(spearlet)]
    if faults:
        raise AssertionError("; ".join(faults))


async def _unfinished(spearlet: Spearlet) -> list[str]:
    """Return what the test has left running; submitted calls are cancelled."""
    found: list[str] = []
    with trio.move_on_after(IDLE_SECONDS):
        await wait_all_tasks_blocked()  # calls that the test has just cancelled end meanwhile
    for execution in spearlet.executions:
        if execution.status in (ExecutionStatus.PENDING, ExecutionStatus.RUNNING):
            name = f"{execution.deployment}.{execution.function}"
            found.append(
                f"the submitted call of {name} has not ended with the test: await or cancel it"
            )
            execution.cancel()
    with trio.move_on_after(IDLE_SECONDS):
        while _in_flight(spearlet):  # noqa: ASYNC110  # no event is set when the last call has ended
            await trio.sleep(LOOK_SECONDS)
    found += [f"calls of {name} have not ended with the test" for name in _in_flight(spearlet)]
    return found


def _in_flight(spearlet: Spearlet) -> list[str]:
    """Return the names of deployments whose replicas work on calls, cancelled calls included."""
    deployments = spearlet.deployments.items()
    return [name for name, each in deployments if each.statistics().calls_in_flight]


async def _bad_exits(spearlet: Spearlet) -> list[str]:
    """Stop all replicas; return what became of the ones that failed meanwhile."""
    replicas = [each for one in spearlet.deployments.values() for each in one.instances]
    await spearlet.stop()
    return [_end_of(each) for each in replicas if isinstance(each, Instance) and each.exit_status]


def _end_of(instance: Instance) -> str:
    """Return how an instance has ended, and the end of its output."""
    (reason,) = (each.reason for each in instance.history if each.state is InstanceState.EXITED)
    tail = f"\n--- stderr ---\n{instance.stderr_tail}" if instance.stderr_tail else ""
    return f"{instance.id} {reason}{tail}"


def run_test(test: AsyncTest, values: Mapping[str, object], deploy: SpearDeploy) -> None:
    """Run an async test with Trio, within the block in which ``deploy`` works.

    A value that is a clock of Trio, such as a ``MockClock``, is the clock of the run.
    """
    __tracebackhide__ = True

    @trio_test
    async def main(**values: object) -> None:
        __tracebackhide__ = True
        async with deploy.open():
            await test(**values)

    main(**values)
