"""Functions that are asyncio coroutines: ``@app.function(asyncio=True)``.

All asyncio functions of an agent run in one asyncio loop, which has its own thread. The loop starts with
the first call and ends with the agent. Each call is one asyncio task:

* Cancelling the call cancels the task, like ``task.cancel()``, and waits until the task has ended.
* The task has the context variables of the call, so that ``spear.context()`` works.
* ``await spear.call(...)`` works, too: a Trio task makes the call, and ends with the function.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, TypeVarTuple, cast, final

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from spear._errors import FunctionRaised, NotInCall
from spear._util import summary_of
from spear.wire import NONE

from ._context import current
from ._dynamic_batches import BatchedFunction
from ._functions import RegisteredFunction, Stream
from ._generators import Handover, send_all

if TYPE_CHECKING:
    from spear.channels import InboundCall
    from spear.wire import Payload

    from ._service import AgentService

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOIN_SECONDS: Final = 5.0
"""Seconds that the loop has to cancel tasks that functions have left running."""


class BridgeBroken(Exception):
    """The coroutine was not begun: the loop has ended, or the program's task factory has failed."""


@final
class AsyncioBridge:
    """An asyncio loop in a thread of its own.

    The program's tasks run in the loop as well. A task that the program has left running may call
    ``sys.exit()``, or stop the loop. The bridge is then unusable.

    Args:
        token: the token of the Trio loop that uses the bridge.
        on_broken: called in Trio's thread with the reason.

    Attributes:
        broken_by: the reason why the loop has ended early; empty while it works.
        waiting: calls that wait for the loop.

    Raises:
        OSError, RuntimeError: no file descriptor is left for the loop, or no thread can be started.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, on_broken: Callable[[str], None]) -> None:
        self.token = token
        self.broken_by = ""
        self.waiting: set[BridgedCall] = set()
        self._on_broken = on_broken
        self._stop = asyncio.Event()
        self.loop = asyncio.new_event_loop()
        # A daemon thread: a coroutine that blocks the thread must not prevent the process from exiting.
        self._thread = threading.Thread(target=self._run, name="spear asyncio", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            raise

    def _run(self) -> None:
        runner = asyncio.Runner(loop_factory=lambda: self.loop)
        try:
            runner.run(self._serve())
        except BaseException as error:
            self.give_up(f"the asyncio loop has ended: {summary_of(error)}")
        # close() cancels all tasks, closes generators and executor, then the loop.
        with suppress(BaseException):
            self.loop.set_task_factory(None)  # a task factory of the program may raise
            runner.close()
        self._tell(self._abandon)

    def give_up(self, why: str) -> None:
        """Begin no further coroutines, and report the reason; called in asyncio's thread."""
        self.broken_by = self.broken_by or why
        self._tell(self._on_broken, self.broken_by)

    def _tell(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        with suppress(trio.RunFinishedError, OSError):  # on OSError, Trio calls it later
            self.token.run_sync_soon(function, *arguments)

    def _abandon(self) -> None:
        """End the calls whose coroutines the closed loop will not run or finish."""
        for call in list(self.waiting):
            call.abandon()

    async def _serve(self) -> None:
        await self._stop.wait()

    def soon(self, function: Callable[[], object]) -> bool:
        """Schedule a function in the loop; return False if the loop is closed."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            return False
        return True

    async def aclose(self) -> None:
        """End the loop: cancel its tasks, and wait up to ``JOIN_SECONDS``. A checkpoint."""
        self.soon(self._stop.set)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, JOIN_SECONDS)
        await trio.lowlevel.checkpoint()


@final
class BridgedCall:
    """A call whose function runs in asyncio, with methods to run code in the other loop.

    Args:
        bridge: the bridge to the asyncio loop.
        nursery: a nursery of the Trio task that handles the call; calls to the host run in it.
    """

    def __init__(self, bridge: AsyncioBridge, nursery: trio.Nursery) -> None:
        self._bridge = bridge
        self._nursery = nursery
        self._is_open = True
        self._trio_task: Task
        self._asyncio_task: asyncio.Task[outcome.Outcome[object]] | None = None

    # -- from Trio to asyncio -----------------------------------------------------------------------

    async def run(
        self, function: Callable[[], Coroutine[object, object, object]], context: Context
    ) -> outcome.Outcome[object]:
        """Run a coroutine function as an asyncio task; return its value or exception as an ``Outcome``.

        Cancellation cancels the task; this method still waits until the task has ended.

        Raises:
            BridgeBroken: no task was begun, because the loop has ended or its task factory has failed.
        """
        bridge = self._bridge
        self._trio_task = current_task()
        raise_cancel: Callable[[], object] | None = None

        def begin() -> None:  # called in asyncio's thread, as is end()
            if bridge.broken_by:
                bridge.token.run_sync_soon(self.abandon)
                return
            coroutine = _captured(function)
            try:
                task = bridge.loop.create_task(coroutine, context=context)
            except BaseException as error:  # an error of a task factory of the program
                coroutine.close()
                bridge.give_up(f"the asyncio loop cannot create tasks: {summary_of(error)}")
                bridge.token.run_sync_soon(self.abandon)
                return
            self._asyncio_task = task
            task.add_done_callback(end)

        def end(task: asyncio.Task[outcome.Outcome[object]]) -> None:
            result = outcome.Error(asyncio.CancelledError()) if task.cancelled() else task.result()
            bridge.token.run_sync_soon(self._wake, result)

        def cancel() -> None:
            # begin() has run before: asyncio runs callbacks in the order in which they were added.
            if self._asyncio_task is not None:
                self._asyncio_task.cancel()

        def abort(raise_it: Callable[[], object]) -> Abort:
            nonlocal raise_cancel
            raise_cancel = raise_it
            bridge.soon(cancel)
            return Abort.FAILED

        is_taken = not bridge.broken_by and bridge.soon(begin)
        if not is_taken:
            raise BridgeBroken
        bridge.waiting.add(self)
        try:
            result: outcome.Outcome[object] = await wait_task_rescheduled(abort)
        finally:
            self._is_open = False
        if isinstance(result, outcome.Error) and type(result.error) is asyncio.CancelledError:
            if raise_cancel is not None:
                raise_cancel()
            if self._asyncio_task is None:
                raise BridgeBroken
            why = bridge.broken_by or "the asyncio task was cancelled"
            return outcome.Error(FunctionRaised(why, type_name="CancelledError"))
        return result

    def _wake(self, result: outcome.Outcome[object]) -> None:
        self._bridge.waiting.remove(self)
        reschedule(self._trio_task, outcome.Value(result))

    def abandon(self) -> None:
        """End the call, because its coroutine never will. Does nothing if the call has ended."""
        if self in self._bridge.waiting:
            self._wake(outcome.Error(asyncio.CancelledError()))

    # -- from asyncio to Trio -----------------------------------------------------------------------

    async def run_in_trio(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Run a Trio function for the asyncio function of this call, and wait for its result.

        Cancelling the asyncio task cancels the Trio function. Exceptions of the Trio function are raised
        here.

        Raises:
            NotInCall: the asyncio function of this call has ended.
        """
        bridge, token = self._bridge, self._bridge.token
        future: asyncio.Future[T] = bridge.loop.create_future()
        scope = trio.CancelScope()

        async def work() -> None:  # called in Trio's thread, as is start()
            result: outcome.Outcome[T] = outcome.Error(asyncio.CancelledError())
            try:
                with scope:
                    result = outcome.Value(await function(*arguments))
            except Exception as error:
                result = outcome.Error(error)
            finally:
                bridge.soon(partial(_settle, future, result))

        def start() -> None:
            if self._is_open:
                self._nursery.start_soon(work)
            else:
                error = NotInCall("the call in which this asyncio code started has ended")
                bridge.soon(partial(_settle, future, outcome.Error(error)))

        token.run_sync_soon(start)
        try:
            return await future
        except asyncio.CancelledError:
            token.run_sync_soon(scope.cancel)
            raise


async def _captured(
    function: Callable[[], Coroutine[object, object, object]],
) -> outcome.Outcome[object]:
    # Return every exception as a value: asyncio would end the whole loop at a SystemExit.
    # outcome.acapture() is unsuitable: it calls with_traceback() of the exception, which may raise.
    try:
        return outcome.Value(await function())
    except BaseException as error:
        return outcome.Error(error)


def _settle(future: asyncio.Future[T], result: outcome.Outcome[T]) -> None:
    if future.done():  # it was cancelled meanwhile
        return
    try:
        future.set_result(result.unwrap())
    except asyncio.CancelledError:
        future.cancel()
    except Exception as error:
        future.set_exception(error)


async def _bridged(
    call: InboundCall,
    service: AgentService,
    name: str | None,
    function: Callable[[BridgedCall], Coroutine[object, object, object]],
) -> object:
    """Run a coroutine function in asyncio, and return its result.

    Args:
        call: a call that the function handles.
        service: the service of the agent.
        name: the name of the function, to set ``current`` to the call; None to leave it.
        function: the coroutine function.
    """
    bridge = await _bridge_of(service, call)
    result: outcome.Outcome[object] | None = None
    async with trio.open_nursery() as nursery:
        bridged = BridgedCall(bridge, nursery)
        context = copy_context()
        if name is not None:
            context.run(current.set, (call, name, call.deadline, service, bridged))
        with suppress(BridgeBroken):
            result = await bridged.run(partial(function, bridged), context)
        nursery.cancel_scope.cancel()
    if result is None:
        raise await service.unable(call, bridge.broken_by)
    return result.unwrap()


async def _bridge_of(service: AgentService, call: InboundCall) -> AsyncioBridge:
    try:
        return service.asyncio_bridge()
    except (OSError, RuntimeError) as error:
        raise await service.unable(call, f"cannot start an asyncio loop: {error}") from error


@final
class AsyncioFunction(RegisteredFunction):
    """An ``async def`` written for asyncio."""

    __slots__ = ()
    can_run_inline = False

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Run the function in asyncio's thread, and return its encoded result."""

        async def await_it(bridged: BridgedCall) -> object:
            positional, keywords = self.bind(call, bridged)
            return await cast("Awaitable[object]", self.function(*positional, **keywords))

        return self.encode(await _bridged(call, service, self.name, await_it))


@final
class AsyncioBatchedFunction(BatchedFunction):
    """An ``async def`` written for asyncio that gets a list of items."""

    __slots__ = ()
    can_run_inline = False

    async def _call(self, items: list[object], call: InboundCall, service: AgentService) -> object:
        async def await_it(_: BridgedCall) -> object:
            return await cast("Awaitable[object]", self._batch_function(items))

        return await _bridged(call, service, None, await_it)


@final
class AsyncioStream(Stream):
    """An async generator written for asyncio. The generator runs somewhat ahead of the caller."""

    __slots__ = ()
    can_run_inline = False

    async def run(self, call: InboundCall, service: AgentService) -> tuple[Payload, bool]:
        """Send the items of the generator."""
        self.check_wanted(call)
        bridge = await _bridge_of(service, call)
        room = asyncio.Event()
        handover = Handover(service.token, lambda: bridge.soon(room.set))

        async def produce(bridged: BridgedCall) -> None:
            failure: BaseException | None = FunctionRaised(
                "the asyncio task was cancelled", type_name="CancelledError"
            )
            try:
                positional, keywords = self.bind(call, bridged)
                generator = self.function(*positional, **keywords)
                async with aclosing(cast("AsyncGenerator[object, None]", generator)) as items:
                    async for item in items:
                        room.clear()
                        if not handover.put(self.encode_item(item)):
                            await room.wait()
                failure = None
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                failure = error
            finally:
                handover.end(failure)
            if failure is not None and call.cancelled is not None:
                raise failure  # the call is cancelled, so send_all() does not return it

        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_bridged, call, service, self.name, produce)
            failure = await send_all(call, handover)
            if failure is not None:
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return NONE, True
