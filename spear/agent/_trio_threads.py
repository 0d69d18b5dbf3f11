"""The link from a thread to the Trio task that waits for it: the only private names of Trio in the agent.

``trio.from_thread`` finds the task through thread-local data, which Trio sets for its own threads only. A
thread that sets the same data for each function it runs has ``run``, ``run_sync`` and ``check_cancelled``
work as in Trio's threads. If a release of Trio has other names, functions run in Trio's own threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from trio._threads import Run, RunSync, _ParentTaskData

    Message: TypeAlias = Run[object] | RunSync[object]
    """A function that a thread sends to its task with ``trio.from_thread``."""

CancelRegister: TypeAlias = "list[Callable[[], NoReturn] | None]"
"""One entry: Trio's function that raises Cancelled, if the task of the thread was cancelled."""

TaskRegister: TypeAlias = "list[trio.lowlevel.Task | None]"
"""One entry: the task that waits for the thread."""

_ATTRIBUTES: Final = {"abandon_on_cancel", "cancel_register", "task_register", "token"}


@final
class ThreadLink:
    """Trio's thread-local data, and its messages from threads.

    Args:
        data: the thread-local data.
    """

    def __init__(self, data: _ParentTaskData) -> None:
        self._data = data

    def attach(self, token: trio.lowlevel.TrioToken) -> None:
        """Make this thread one of the Trio run of ``token``."""
        self._data.token, self._data.abandon_on_cancel = token, False

    def link(self, task: TaskRegister, cancel: CancelRegister) -> None:
        """Make a task the one that this thread works for."""
        self._data.task_register, self._data.cancel_register = task, cancel

    def detach(self) -> None:
        """Make this thread one without a task."""
        for each in _ATTRIBUTES:
            delattr(self._data, each)

    async def answer(self, message: Message) -> None:
        """Run the function of a message in the current task, and send its outcome to the thread."""
        if hasattr(message, "run_sync"):
            message.run_sync()
        else:
            await message.run()


def thread_link() -> ThreadLink | None:
    """Return the link of this release of Trio; None if it has other private names."""
    try:
        from trio import _threads

        data: _ParentTaskData = _threads.PARENT_TASK_DATA
        messages: tuple[object, ...] = _threads.Run.run, _threads.RunSync.run_sync
    except (ImportError, AttributeError):
        return None
    annotations: object = getattr(type(data), "__annotations__", None)
    if not isinstance(annotations, dict) or annotations.keys() != _ATTRIBUTES:
        return None
    return ThreadLink(data) if all(map(callable, messages)) else None
