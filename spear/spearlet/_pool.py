"""The replicas that take a deployment's calls, and the calls that wait for them.

A call that finds room is given a replica at once, without waiting for anybody. Otherwise it joins one
queue in front of all replicas, of bounded length, first come, first served; a slot that becomes free at
any of them goes to the first in the queue. What starts and ends replicas is elsewhere; so is what a call
does with the one it was given.

Invariants:

* While anybody is in line, no call overtakes: who comes finds the line, and joins it.
* Each free slot invites one; who was invited, and finds that the room is gone, keeps its place.
* Whoever waits is woken: by room, by the deadline, or because there will never be any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import CallFailed, DeadlineExceeded, Overloaded, Rejected, WorkerDied
from spear.calls import Candidate, Candidates, make_policy

from ._autoscaler import Load
from ._counters import FunctionCounters, FunctionStatistics
from ._pace import Pace
from ._stalls import Stalls

if TYPE_CHECKING:
    from random import Random

    from spear.calls import CallAttributes, Choice, ChoicePolicy

    from ._replicas import Replica, ServingReplica
    from ._settings import DeploymentSettings

SHORTEST_RETRY_SECONDS: Final = 0.05
LONGEST_RETRY_SECONDS: Final = 60.0
"""What a refused caller is told at the most."""


@final
class ReplicaPool:
    """The replicas of one deployment that take calls.

    Attributes:
        clock: Trio's time.
        call_seconds: the time for a call whose caller names none.
        keep_seconds: how long outcomes of calls with keys are kept.
        refused: calls for which there was no room in the queue.
        promised: submitted calls that have not had their turn.
        questions: health-check calls in flight; excluded from the load.
        stalls: when an instance waited for itself.
        late: makes the error of a call whose time is up; see :class:`Chooser`.
        on_demand: told when a call has to wait; must neither block nor raise.
    """

    def __init__(
        self, name: str, settings: DeploymentSettings, call_seconds: float, rng: Random
    ) -> None:
        self.clock = trio.lowlevel.current_clock().current_time
        self._default_seconds = call_seconds
        self.refused = 0
        self.on_demand: Callable[[], None] | None = None
        self._name = name
        self._rng = rng
        self._members: dict[ServingReplica, Candidate] = {}
        self._replicas: dict[Candidate, ServingReplica] = {}  # the same pairs
        self._candidates = Candidates()
        self._counters: dict[str, FunctionCounters] = {}
        self._waiting: deque[Task] = deque()  # those in line that were not invited yet
        self._in_line = 0
        self._pace = Pace()
        self.stalls = Stalls(self.clock)
        self.late = self.stalls.late
        self.promised = 0
        self.questions = 0
        self._served: trio.Event | None = None  # somebody waits for the end of the line
        self._is_listening = False
        self._takes = 1  # calls at a time, each replica
        self._verdict: WorkerDied | None = None  # why waiting is of no use
        self._is_closed = False
        self.configure(settings)

    def configure(self, settings: DeploymentSettings, policy: ChoicePolicy | None = None) -> None:
        """Do as these settings say from now on; ``policy`` is theirs, if it has been made."""
        self._policy = policy or make_policy(settings.policy, self._rng)
        self._most = settings.concurrency
        self._candidates.set_limit(settings.concurrency)
        for replica in self._members:
            self.look_again(replica)
        self._queue = settings.queue
        self.keep_seconds = settings.dedup_seconds
        self.call_seconds = self._default_seconds if settings.timeout is None else settings.timeout

    # -- members ------------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[Replica, ...]:
        """Those that take calls now."""
        return tuple(self._replicas[each] for each in self._candidates.all if each.max_calls)

    def add(self, replica: ServingReplica) -> None:
        """It takes calls from now on."""
        candidate = self._candidates.add(replica, replica.channel)
        self._members[replica], self._replicas[candidate] = candidate, replica
        self._verdict = None
        self.look_again(replica)

    def remove(self, replica: ServingReplica) -> bool:
        """It takes no calls any more; returns whether it did until now."""
        candidate = self._members.pop(replica, None)
        if candidate is None:
            return False
        del self._replicas[candidate]
        self._candidates.remove(candidate)
        return True

    # -- choosing -----------------------------------------------------------------------------

    def pick(self, call: CallAttributes) -> Choice | None:
        """Choose a replica with a free slot; None if the call has to wait. See :class:`Chooser`."""
        if self._in_line or self._is_closed:
            return None
        return self._choose(call)

    def _choose(self, call: CallAttributes) -> Choice | None:
        candidate: object = self._policy.choose(self._candidates, call)
        if candidate is None:
            return None
        if type(candidate) is not Candidate or candidate not in self._replicas:
            raise CallFailed(
                f"the policy {type(self._policy).__name__} of {self._name} has chosen "
                f"{candidate!r:.100}, not one of its candidates or None",
                code="bad_choice",
                delivered="no",
            )
        target = candidate.target
        return None if target is None else (candidate.callee, target)

    async def wait_for_capacity(
        self, call: CallAttributes, deadline: float, *, is_promised: bool = False
    ) -> Choice:
        """Wait for a replica with a free slot. A checkpoint.

        The caller has to start its call before it waits for anything else.

        Args:
            call: the call.
            deadline: in Trio's time.
            is_promised: it was submitted before, and so it is not new.

        Raises:
            Overloaded: too many wait already.
            DeadlineExceeded: there was no room in time.
            Rejected: the deployment is being stopped.
            WorkerDied: there is no replica, and none is to be expected.
        """
        await trio.lowlevel.checkpoint()
        if self._verdict is not None:
            raise self._refusal(self._verdict)
        if not is_promised:
            self.expect_open()
        if not self._in_line:
            choice = self._choose(call)
            if choice is not None:
                return choice
        if self._in_line >= self._queue:
            self.refused += 1
            with trio.move_on_at(deadline):
                await self._pace.wait_known()
            raise self._overloaded()
        with trio.move_on_at(deadline):
            return await self._stand_in_line(call)
        raise DeadlineExceeded(f"no replica of {self._name} had room for it", delivered="no")

    async def _stand_in_line(self, call: CallAttributes) -> Choice:
        self._in_line += 1
        self._listen()
        choice: Choice | None = None
        try:
            place = len(self._waiting)
            while True:
                if self.on_demand is not None:
                    self.on_demand()
                await self._wait_at(place)
                choice = self._choose(call)
                if choice is not None:
                    self._pace.turn()
                    return choice
                if self._verdict is not None:
                    raise self._refusal(self._verdict)
                place = 0  # who was woken in vain keeps its place
        finally:
            self._in_line -= 1
            if choice is None:  # the policy may have free slots for the next one in line
                self._invite_one()
            self._listen()
            self.tell_if_served()

    async def _wait_at(self, place: int) -> None:
        task = current_task()
        self._waiting.insert(place, task)

        def abort(_: object) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def _listen(self) -> None:
        """Be told of free slots as long as somebody is in line, which is rare."""
        wanted = self._in_line > 0
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
        """It may have another channel than before, or room: invite as many as that is for."""
        candidate = self._members.get(replica)
        if candidate is None:
            return
        self._candidates.refresh(candidate, replica.channel)
        if candidate.has_capacity:
            for _ in range(candidate.max_calls - candidate.calls_in_flight):
                self._invite_one()

    # -- refusing -----------------------------------------------------------------------------

    def expect_open(self) -> None:
        """Raise Rejected if new calls are not taken any more."""
        if self._is_closed:
            message = f"{self._name} takes no new calls: it is being stopped"
            raise Rejected(message, code="draining")

    def close(self) -> None:
        """Take no new calls; those that wait still get their turn."""
        self._is_closed = True

    async def wait_served(self) -> None:
        """Wait until nobody is in line, nor will be. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self._in_line or self.promised:
            self._served = trio.Event()
            await self._served.wait()

    def tell_if_served(self) -> None:
        """Wake who waits for the end of the line, if this is it."""
        if self._served is not None and not self._in_line and not self.promised:
            self._served.set()

    def give_up(self, verdict: WorkerDied) -> None:
        """Let nobody wait, because there is nothing to wait for, until a replica is added."""
        self._verdict = verdict
        while self._waiting:
            self._invite_one()

    def _refusal(self, verdict: WorkerDied) -> WorkerDied:
        """One for each caller: an exception must not be raised twice."""
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
            f"{self._in_line} calls wait for {self._name} already, which is its limit (queue): "
            f"try again in {retry:.2g} s",
            retry_after_seconds=retry,
            code="queue_full",
        )

    def _estimate_seconds(self) -> float:
        """How long the line would take, if it went on moving as it did."""
        seconds = self._pace.measured()
        if seconds is None:
            seconds = self._pace.estimate(self._candidates.capacity or 1, self._usual_seconds())
        estimate = seconds * (self._in_line + 1)
        return min(max(estimate, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)

    def _usual_seconds(self) -> float | None:
        """Return the mean duration of calls so far, waiting in the queue included."""
        succeeded = sum(each.succeeded for each in self._counters.values())
        seconds = sum(each.seconds for each in self._counters.values())
        return seconds / succeeded if succeeded else None

    # -- numbers ------------------------------------------------------------------------------

    def counters(self, function: str) -> FunctionCounters:
        """Where the calls of a function are counted."""
        counters = self._counters.get(function)
        if counters is None:
            counters = self._counters[function] = FunctionCounters()
        return counters

    def function_statistics(self) -> dict[str, FunctionStatistics]:
        """How the calls of each function went."""
        return {name: each.snapshot() for name, each in self._counters.items()}

    def load(self, *, is_full: bool = False) -> Load:
        """Return what there is to do now.

        Args:
            is_full: whether a call waits because all slots are taken. The slots need not be counted then.
        """
        if is_full:
            in_flight = self._candidates.capacity
        else:
            in_flight = sum(each.calls_in_flight for each in self._candidates.all)
        self._takes = self._candidates.smallest or self._takes
        return Load(
            in_flight=in_flight - self.questions,
            waiting=self._in_line,
            concurrency=self._takes if self._most is None else min(self._takes, self._most),
        )
