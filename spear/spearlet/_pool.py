"""The replicas that take a deployment's calls, and the queue of calls that wait for them.

A call gets a replica with a free slot at once, without waiting. If no slot is free, the call joins one
queue of bounded length in front of all replicas: first come, first served. A slot that becomes free at
any replica goes to the first call in the queue. Other modules start and end replicas, and make the calls
at the chosen replicas.

Invariants:

* While the queue is not empty, no call overtakes: a new call joins the queue.
* Each free slot wakes one queued call. A call that finds the slot taken keeps its position in the queue.
* Each queued call is woken: by a free slot, by its deadline, or because no replica is to be expected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import CallFailed, DeadlineExceeded, Overloaded, Rejected, WorkerDied
from spear.calls import Candidate, Candidates, RetryBudget, make_policy

from ._autoscaler import Load
from ._counters import FunctionStatistics, OutcomeCounters
from ._pace import Pace
from ._stalls import Stalls
from ._thread_slots import ThreadSlots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from spear._retry_policy import RetryPolicy
    from spear.calls import CallAttributes, Choice, ChoicePolicy

    from ._replicas import Replica, ServingReplica
    from ._settings import DeploymentSettings

SHORTEST_RETRY_SECONDS: Final = 0.05
LONGEST_RETRY_SECONDS: Final = 60.0
"""Bounds of the ``retry_after_seconds`` of a refused call."""


@final
class ReplicaPool:
    """A pool of one deployment's replicas that take calls, with the queue in front of them.

    Attributes:
        clock: returns Trio's time.
        call_seconds: default timeout of a call, in seconds.
        queue_seconds: default timeout of the wait for a replica, in seconds; None if it is included in
            the timeout of the call.
        retry: default policy for failed calls; None if each function has its own, or none.
        retry_policies: the policies that the functions themselves announce, by name.
        keep_seconds: seconds that outcomes of calls with keys are kept.
        refused: calls that were refused because the queue was full.
        accepted: submitted calls that have not had their turn.
        rng: the source of random choices.
        questions: health-check calls in flight; excluded from the load.
        stalls: the stalls of instances that waited for themselves.
        late: returns the error of a call whose deadline has passed; see :class:`Chooser`.
        retries: the budget of retries, which all callers share.
        threads: the threads that calls of maps hold.
        on_demand: called when a call has to wait; must neither block nor raise.
    """

    def __init__(
        self, name: str, settings: DeploymentSettings, call_seconds: float, rng: Random
    ) -> None:
        self.clock = trio.lowlevel.current_clock().current_time
        self._default_seconds = call_seconds
        self.refused = 0
        self.on_demand: Callable[[], None] | None = None
        self._name = name
        self.rng = rng
        self._members: dict[ServingReplica, Candidate] = {}
        self._replicas: dict[Candidate, ServingReplica] = {}  # the same pairs, reversed
        self._candidates = Candidates()
        self._counters: dict[str, OutcomeCounters] = {}
        self._waiting: deque[Task] = deque()  # tasks of queued calls that were not woken yet
        self._queued = 0  # queued calls
        self._pace = Pace()
        self.retries = RetryBudget(name)
        self.threads = ThreadSlots(self._candidates, self._replicas)
        self.stalls = Stalls(self.clock)
        self.late = self.stalls.late
        self.accepted = 0
        self.retry_policies: Mapping[str, RetryPolicy] = {}
        self.questions = 0
        self._served: trio.Event | None = None  # set when the queue is empty, for wait_served()
        self._is_listening = False
        self._takes = 1  # calls that each replica takes at a time
        self._verdict: WorkerDied | None = None  # why no replica is to be expected
        self._is_closed = False
        self.configure(settings)

    def configure(self, settings: DeploymentSettings, policy: ChoicePolicy | None = None) -> None:
        """Use other settings from now on; ``policy`` is their policy, if it has been made already."""
        self._policy = policy or make_policy(settings.policy, self.rng)
        self._most = settings.concurrency
        self._candidates.set_limit(settings.concurrency)
        for replica in self._members:
            self.look_again(replica)
        self._queue = settings.queue
        self.keep_seconds = settings.dedup_seconds
        self.call_seconds = self._default_seconds if settings.timeout is None else settings.timeout
        self.queue_seconds = settings.queue_timeout
        self.retry = settings.retry

    # -- members ------------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[Replica, ...]:
        """The replicas that take calls now."""
        return tuple(self._replicas[each] for each in self._candidates.all if each.max_calls)

    def add(self, replica: ServingReplica) -> None:
        """Give calls to a replica from now on."""
        candidate = self._candidates.add(replica, replica.channel)
        self._members[replica], self._replicas[candidate] = candidate, replica
        self._verdict = None
        self.look_again(replica)

    def remove(self, replica: ServingReplica) -> bool:
        """Give no more calls to a replica; returns whether it was in the pool."""
        candidate = self._members.pop(replica, None)
        if candidate is None:
            return False
        del self._replicas[candidate]
        self._candidates.remove(candidate)
        return True

    # -- choosing -----------------------------------------------------------------------------

    def pick(self, call: CallAttributes) -> Choice | None:
        """Choose a replica with a free slot; None if the call has to wait. See :class:`Chooser`."""
        if self._queued or self._is_closed:
            return None
        return self._choose(call)

    def _choose(self, call: CallAttributes) -> Choice | None:
        candidate: object = self._policy.choose(self._candidates, call)
        if candidate is None:
            return None
        if type(candidate) is not Candidate or candidate not in self._replicas:
            raise CallFailed(
                f"the policy {type(self._policy).__name__} of {self._name} returned "
                f"{candidate!r:.100}, neither one of the candidates nor None",
                code="bad_choice",
                delivered="no",
            )
        if self.threads.taken:
            candidate = self.threads.better(candidate, call.function)
        target = candidate.target
        return None if target is None else (candidate.callee, target)

    async def wait_for_capacity(
        self, call: CallAttributes, deadline: float, *, is_accepted: bool = False
    ) -> Choice:
        """Wait for a replica with a free slot, and return its instance and target. Always a checkpoint.

        The slot is not reserved: the caller must start the call before its next checkpoint.

        Args:
            call: the call.
            deadline: when the caller gives up, in Trio's time.
            is_accepted: whether the call was accepted by ``submit``; it may then still wait in a closed
                pool.

        Raises:
            Overloaded: the queue is full: too many calls wait already.
            DeadlineExceeded: no slot became free in time.
            Rejected: the pool is closed, because the deployment is being stopped.
            WorkerDied: the pool has no replica, and none will be started.
        """
        await trio.lowlevel.checkpoint()
        if self._verdict is not None:
            raise self._refusal(self._verdict)
        if not is_accepted:
            self.expect_open()
        if not self._queued:
            choice = self._choose(call)
            if choice is not None:
                return choice
        if self._queued >= self._queue:
            self.refused += 1
            with trio.move_on_at(deadline):
                await self._pace.wait_known()
            raise self._overloaded()
        with trio.move_on_at(deadline):
            return await self._wait_in_queue(call)
        raise DeadlineExceeded(f"no replica of {self._name} had a free slot", delivered="no")

    async def _wait_in_queue(self, call: CallAttributes) -> Choice:
        self._queued += 1
        self._listen()
        choice: Choice | None = None
        try:
            position = len(self._waiting)
            while True:
                if self.on_demand is not None:
                    self.on_demand()
                await self._wait_at(position)
                choice = self._choose(call)
                if choice is not None:
                    self._pace.turn()
                    return choice
                if self._verdict is not None:
                    raise self._refusal(self._verdict)
                position = 0  # the slot was taken meanwhile: wait at the head of the queue
        finally:
            self._queued -= 1
            if choice is None:  # the policy may choose a free slot for the next call in the queue
                self._invite_one()
            self._listen()
            self.notify_if_served()

    async def _wait_at(self, position: int) -> None:
        task = current_task()
        self._waiting.insert(position, task)

        def abort(_: object) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def _listen(self) -> None:
        """Have free slots reported while the queue is not empty, which is rare."""
        wanted = self._queued > 0
        if wanted is not self._is_listening:
            self._is_listening = wanted
            if wanted:
                self._pace.begin(self._candidates.capacity or 1)
                self._candidates.when_free(self._invite_one)
            else:
                self._pace.end(self._candidates.capacity or 1)
                self._candidates.when_free(None)

    def _invite_one(self) -> None:
        if self._waiting:
            reschedule(self._waiting.popleft())

    def look_again(self, replica: ServingReplica) -> None:
        """Use a replica's present channel, and wake a queued call for each of its free slots."""
        candidate = self._members.get(replica)
        if candidate is None:
            return
        self._candidates.refresh(candidate, replica.channel)
        if candidate.has_capacity:
            for _ in range(candidate.max_calls - candidate.calls_in_flight):
                self._invite_one()

    # -- refusing -----------------------------------------------------------------------------

    def expect_open(self) -> None:
        """Raise Rejected if the pool takes no new calls any more."""
        if self._is_closed:
            message = f"{self._name} takes no new calls: the deployment is being stopped"
            raise Rejected(message, code="draining")

    def close(self) -> None:
        """Take no new calls; queued calls and accepted ones still get their turn."""
        self._is_closed = True

    async def wait_served(self) -> None:
        """Wait until the queue is empty, and no accepted call may still join it. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._queued or self.accepted:
            self._served = trio.Event()
            await self._served.wait()

    def notify_if_served(self) -> None:
        """Wake :meth:`wait_served` if the queue is empty and no call is accepted a turn."""
        if self._served is not None and not self._queued and not self.accepted:
            self._served.set()

    def give_up(self, verdict: WorkerDied) -> None:
        """Fail all calls that have to wait, until a replica is added: no replica is to be expected."""
        self._verdict = verdict
        while self._waiting:
            self._invite_one()

    def _refusal(self, verdict: WorkerDied) -> WorkerDied:
        """Return a new error for each caller: one exception must not be raised twice."""
        refusal = WorkerDied(
            f"{self._name} has no replica that takes calls: {verdict.summary}",
            exit_status=verdict.exit_status,
            code=verdict.code,
            delivered="no",
        )
        refusal.stderr_tail = verdict.stderr_tail
        return refusal

    def _overloaded(self) -> Overloaded:
        retry = self._estimate_seconds()
        return Overloaded(
            f"the queue of {self._name} is full: {self._queued} calls are queued, at most "
            f"{self._queue} are allowed (queue); try again in {retry:.2g} s",
            retry_after_seconds=retry,
            code="queue_full",
        )

    def _estimate_seconds(self) -> float:
        """Return how long the queue and one more call would take at its present pace, within bounds."""
        seconds = self._pace.measured()
        if seconds is None:
            seconds = self._pace.estimate(self._candidates.capacity or 1, self._usual_seconds())
        estimate = seconds * (self._queued + 1)
        return min(max(estimate, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)

    def _usual_seconds(self) -> float | None:
        """Return the mean duration of calls so far, waiting in the queue included."""
        counters = list(self._counters.values())
        succeeded = sum(each.succeeded for each in counters)
        seconds = sum(each.seconds for each in counters)
        return seconds / succeeded if succeeded else None

    # -- numbers ------------------------------------------------------------------------------

    def counters(self, function: str) -> OutcomeCounters:
        """Return the counters of a function's calls. In any thread: see :meth:`Deployment.function`."""
        counters = self._counters.get(function)
        return (
            self._counters.setdefault(function, OutcomeCounters()) if counters is None else counters
        )

    def function_statistics(self) -> dict[str, FunctionStatistics]:
        """Return the statistics of each function's calls, by name."""
        return {name: each.snapshot() for name, each in list(self._counters.items())}

    def load(self, *, is_full: bool = False) -> Load:
        """Return the present load.

        Args:
            is_full: whether a call waits because all slots are taken. Then calls need not be counted.
        """
        if is_full:
            in_flight = self._candidates.capacity
        else:
            in_flight = sum(each.calls_in_flight for each in self._candidates.all)
            in_flight += round(self.threads.weight)
        self._takes = self._candidates.smallest or self._takes
        return Load(
            in_flight=in_flight - self.questions,
            waiting=self._queued,
            concurrency=self._takes if self._most is None else min(self._takes, self._most),
        )
