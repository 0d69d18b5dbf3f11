"""State that deployments and functions share with their spearlet: submitted calls, outcomes, names."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

from spear._errors import NotFound, SpearError
from spear._util import did_you_mean
from spear.calls import Execution, Outcomes, run_execution
from spear.channels import notify, protected_class

from ._execution_table import Executions
from ._log_feed import Followers

if TYPE_CHECKING:
    import trio

    from spear._host_limits import HostLimits
    from spear.calls import Function, OnEnd, ReadResult, Work
    from spear.telemetry import Instruments

    from ._deployments import Deployment
    from ._pool import ReplicaPool

logger: Final = logging.getLogger("spear.spearlet")

_Index: TypeAlias = "dict[str, tuple[tuple[Deployment, str], ...]]"
"""Functions by each name that finds them: pairs of a deployment and the function's name in it."""


@final
@protected_class
class DeploymentRegistry:
    """A registry of the deployments and calls of one spearlet, the host.

    Attributes:
        deployments: the deployments, by name.
        executions: the calls made with ``submit``, running and recently ended ones.
        outcomes: the outcomes of calls with an idempotency key.
        followers: the open iterators over new lines of all deployments.
        instruments: Spear's own :class:`Instrument` objects, which are notified of every call.
        is_open: whether further calls can be submitted.
    """

    def __init__(self, limits: HostLimits, nursery: trio.Nursery, instruments: Instruments) -> None:
        self.deployments: dict[str, Deployment] = {}
        self.executions = Executions(limits)
        self.outcomes = Outcomes(limits, nursery)
        self.followers = Followers()
        self.instruments = instruments
        self.is_open = True
        self._nursery = nursery  # of executions; ends with open_spearlet's block
        self._index: _Index | None = None  # made when it is needed

    # -- calls --------------------------------------------------------------------------------

    def launch(
        self,
        deployment: str,
        function: str,
        pool: ReplicaPool,
        work: Work,
        read: ReadResult,
        *,
        argument_bytes: int,
        on_end: OnEnd | None,
        execution_id: str | None = None,
    ) -> Execution:
        """Run a submitted call in a task of the spearlet; ``on_end`` is not called if this raises."""
        if not self.is_open:
            raise SpearError("this spearlet has ended")
        pool.expect_open()
        self.executions._expect_capacity(argument_bytes)
        created = Execution._create(
            deployment, function, read, argument_bytes, self.executions.forgotten.add
        )
        execution = cast("Execution", created)
        if execution_id is not None:
            execution.id = execution_id
        # Raises RuntimeError if an error has ended the spearlet's nursery, before anything is counted.
        self._nursery.start_soon(
            self._execute, execution, work, on_end, name=f"execution of {function}"
        )
        self.executions._begin(execution)
        pool.accepted += 1
        execution._promise(partial(_count_turn, pool))
        return execution

    async def _execute(self, execution: Execution, work: Work, on_end: OnEnd | None) -> None:
        try:
            await run_execution(execution, work)
        finally:
            execution._release()
            self.executions._end(execution)
            if on_end is not None:
                notify(logger, "on_end", on_end)

    def end(self) -> None:
        """Accept no new submitted calls, because the spearlet has ended."""
        self.is_open = False
        self.followers.end()
        self.executions._close()

    # -- names --------------------------------------------------------------------------------

    def has_changed(self) -> None:
        """Forget the index of functions: a deployment has come or gone, or has other functions."""
        self._index = None

    def find_function(self, name: str) -> Function:
        """Return a function by its name, or by ``deployment.name``. In any thread.

        Raises:
            NotFound: no function has this name, or several have it.
        """
        index = self._index
        if index is None:
            index = self._index = self._make_index()
        homes = index.get(name, ())
        if len(homes) == 1:
            deployment, function = homes[0]
            return deployment.function(function)
        if homes:
            choices = ", ".join(f"{deployment.name}.{each}" for deployment, each in homes)
            message = f"several deployments have a function {name!r}: use one of {choices}"
            raise NotFound(message, code="ambiguous_name")
        raise NotFound(f"no deployment has a function {name[:100]!r}{did_you_mean(name, index)}")

    def _make_index(self) -> _Index:
        index: _Index = {}
        for deployment in list(self.deployments.values()):
            for function in deployment.functions:
                home = (deployment, function)
                for name in (function, f"{deployment.name}.{function}"):
                    index[name] = (*index.get(name, ()), home)
        return index


def _count_turn(pool: ReplicaPool) -> None:
    """Note that an accepted call has had its turn, or needs none any more."""
    pool.accepted -= 1
    pool.notify_if_served()
