"""Hypothesis's state machines with async rules.

Each example runs in a ``trio.run`` of its own, in a thread beside Hypothesis's thread, and in virtual
time: an hour's deadline takes no real time, and the clock moves only while a rule runs and all tasks are
blocked. A rule ends when all tasks are blocked. Therefore the next rule starts from a quiescent state,
and the same choices give the same history.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, TypeAlias, TypeVar, cast

import outcome
import trio
import trio.testing
from hypothesis.stateful import RuleBasedStateMachine

from spear.channels import open_private_nursery

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound="TrioStateMachine")

Job: TypeAlias = Callable[[], Awaitable[object]]

JOIN_SECONDS: Final = 5.0
"""Seconds that a Trio run may take to end after its jobs are closed."""


class TrioStateMachine(RuleBasedStateMachine):
    """A rule-based state machine whose rules run in a Trio run.

    Rules, initializers and invariants are ``async`` and carry :func:`in_trio` below Hypothesis's own
    decorator. Override :meth:`run_example` to open, with ``async with``, the objects that rules share::

        class Machine(TrioStateMachine):
            async def run_example(self, rules):
                async with open_something() as self.something:
                    await rules()

            @rule(size=st.integers(0, 10))
            @in_trio
            async def send(self, size):
                await self.something.send(bytes(size))

    Attributes:
        rule_seconds: most seconds of virtual time for a rule; a longer rule fails with TooSlowError.
        nursery: a nursery that lives as long as the example, for background tasks of rules.
        clock: the virtual clock, which jumps by itself; rules may move it, too.
    """

    rule_seconds = 1000.0
    nursery: trio.Nursery

    def __init__(self) -> None:
        super().__init__()
        self.clock = trio.testing.MockClock()
        self._results: queue.SimpleQueue[outcome.Outcome[object]] = queue.SimpleQueue()
        self._end: outcome.Outcome[object] | None = (
            None  # the run's outcome, until _take_result() or teardown() takes it
        )
        self._is_over = False  # whether all rules have run
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._take_result()

    async def run_example(self, rules: Callable[[], Awaitable[None]]) -> None:
        """Run one example: set up, ``await rules()``, which returns after the last rule, and clean up."""
        await rules()

    def teardown(self) -> None:
        """End the example. Raises the exception of its clean-up or of a background task, if any."""
        super().teardown()
        with suppress(trio.RunFinishedError):  # the run has ended by itself
            self._token.run_sync_soon(self._jobs.close)
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            raise AssertionError(f"the example did not end within {JOIN_SECONDS:g} s")
        end, self._end = self._end, None
        if end is not None:
            end.unwrap()

    def perform(self, job: Job) -> object:
        """Run ``await job()`` in the example's Trio run, and wait until all tasks are blocked."""
        self._token.run_sync_soon(self._jobs.send_nowait, job)
        return self._take_result()

    def _take_result(self) -> object:
        result = self._results.get()
        if result is self._end:
            self._end = None
        return result.unwrap()

    # -- the other thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock)
        except BaseException as error:
            self._end = outcome.Error(error)
        else:
            self._end = outcome.Error(AssertionError("the example ended before its last rule"))
            if self._is_over:
                self._end = None
                return
        # Raised by perform() if a rule is running, else by teardown().
        self._results.put(self._end)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._jobs, jobs = trio.open_memory_channel[Job](1)
        async with open_private_nursery() as self.nursery:
            self.clock.autojump_threshold = 0
            await self.run_example(functools.partial(self._rules, jobs))

    async def _rules(self, jobs: trio.MemoryReceiveChannel[Job]) -> None:
        self._results.put(outcome.Value(None))  # ready
        self.clock.autojump_threshold = math.inf
        async for job in jobs:
            self.clock.autojump_threshold = 0
            result = await self._outcome_of(job)
            self.clock.autojump_threshold = math.inf
            await trio.testing.wait_all_tasks_blocked()
            self._results.put(result)
        self._is_over = True
        self.clock.autojump_threshold = 0

    async def _outcome_of(self, job: Job) -> outcome.Outcome[object]:
        try:
            with trio.fail_after(self.rule_seconds):
                return outcome.Value(await job())
        except trio.Cancelled:
            raise  # the example is being torn down; _run() reports the outcome
        except BaseException as error:
            return outcome.Error(error)


def in_trio(
    function: Callable[Concatenate[M, P], Awaitable[T]],
) -> Callable[Concatenate[M, P], T]:
    """Turn an async method of a :class:`TrioStateMachine` into a method that Hypothesis can call."""

    @functools.wraps(function)
    def method(self: M, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast("T", self.perform(functools.partial(function, self, *args, **kwargs)))

    return method
