"""Zygotes that break the rules. One of them runs in place of a zygote that a host starts.

``spear/agent/_zygote.py`` has the rules. :class:`Honest` keeps them, and each class below breaks one rule
in one place. All forked processes are recorded, so that a test can check how they end.

The module uses only the protocol of Spear: forked processes begin like spawned instances.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NoReturn

SPAWNED, FAILED, FORKED = "spawned", "failed", "forked"

LATE_SECONDS = 1.0
"""Longer than the host waits in these tests."""


class Honest:
    """A zygote without faults.

    Attributes:
        outcomes: allowed outcomes of the first instance that it has to fork.
        starts: number of instances after which the fault shows.
    """

    outcomes: ClassVar[tuple[str, ...]] = (FORKED,)
    starts: ClassVar[int] = 1

    def __init__(self, target: str, control: int, journal: Path) -> None:
        self.target = target
        self.sock = socket.socket(fileno=control)
        self.journal = journal
        self.forks = 0

    def say(self, message: bytes) -> None:
        with suppress(OSError):  # the host has closed the socket
            self.sock.send(message)

    def serve(self) -> NoReturn:
        self.begin()
        while True:
            request, descriptors, _, _ = socket.recv_fds(self.sock, 65536, 3)
            if not request:
                sys.exit()
            if request[:1] == b"F":
                self.forks += 1
                self.fork(request[1:], descriptors)
                for each in descriptors:
                    os.close(each)
            else:
                self.collect(int(request[1:]))

    def begin(self) -> None:
        self.say(b"R")

    def fork(self, directory: bytes, descriptors: list[int]) -> None:
        self.answer(self.make(directory, descriptors))

    def make(self, directory: bytes, descriptors: list[int]) -> int:
        """Fork an instance, which runs if the host sends it a record."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(directory)
            lifeline, *outputs = descriptors
            for number, each in enumerate(outputs, 1):
                os.dup2(each, number)
            os.set_inheritable(lifeline, True)
            self.become(lifeline)
        with self.journal.open("a") as file:
            file.write(f"{pid}\n")
        return pid

    def become(self, lifeline: int) -> NoReturn:
        words = ["-P", "-m", "spear.agent", self.target, "--bootstrap-fd", str(lifeline)]
        os.execv(sys.executable, [sys.executable, *words])

    def answer(self, pid: int) -> None:
        self.say(b"P%d" % pid)

    def collect(self, pid: int) -> None:
        self.tell(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def tell(self, pid: int, status: int) -> None:
        self.say(b"X%d" % status)


class Spawned(Honest):
    """A zygote that the host gives up: instances are spawned instead."""

    outcomes = (SPAWNED,)


# -- faults before it is ready ----------------------------------------------------------------


class GreetsWithNonsense(Spawned):
    def begin(self) -> None:
        self.say(bytes(1000))


class HangsUpAtOnce(Spawned):
    def begin(self) -> None:
        self.sock.close()
        signal.pause()


class GreetsTwice(Spawned):
    def begin(self) -> None:
        self.say(b"R")
        self.say(b"R")


class NeverGreets(Honest):
    outcomes = (FAILED,)

    def begin(self) -> None:
        signal.pause()


# -- faults when it has to fork ---------------------------------------------------------------


class AnswersWithTheWrongByte(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"X")


class AnswersWithNothing(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"")


class NeverAnswers(Spawned):
    def answer(self, pid: int) -> None:
        pass


class AnswersLate(Spawned):
    def answer(self, pid: int) -> None:
        time.sleep(LATE_SECONDS)
        super().answer(pid)


class AnswersTwice(Honest):
    # The host may notice either answer first. A process without a session is killed with its zygote.
    outcomes = (FORKED, SPAWNED, FAILED)

    def answer(self, pid: int) -> None:
        super().answer(pid)
        super().answer(pid)


class AnswersAtLength(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"P" + b"1" * 150_000)


class AnswersWithDescriptors(Honest):
    def answer(self, pid: int) -> None:
        socket.send_fds(self.sock, [b"P%d" % pid], [0] * 100)


class IsAlwaysStale(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"S")


class RefusesAtLength(Honest):
    outcomes = (FAILED,)

    def answer(self, pid: int) -> None:
        self.say(b"E" + bytes(60_000))


class NamesNoNumber(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"Pwho knows")


class NamesZero(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"P0")


class NamesANegativeNumber(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"P-%d" % pid)


class NamesAHugeNumber(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"P9999999999")


class NamesNoProcess(Spawned):
    def answer(self, pid: int) -> None:
        self.say(b"P4194304")


class NamesItself(Spawned):
    def answer(self, pid: int) -> None:
        super().answer(os.getpid())


class NamesItsHost(Spawned):
    def answer(self, pid: int) -> None:
        super().answer(os.getppid())


class NamesAGrandchild(Spawned):
    def answer(self, pid: int) -> None:
        command = "read line & echo $!; wait"
        child = subprocess.Popen(command, shell=True, stdin=0, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        super().answer(int(child.stdout.readline()))


class NamesAForkTwice(Honest):
    """The first forked process serves; the next zygote forks the other one."""

    starts = 2

    def __init__(self, target: str, control: int, journal: Path) -> None:
        super().__init__(target, control, journal)
        self.first = 0

    def answer(self, pid: int) -> None:
        self.first = self.first or pid
        super().answer(self.first)


class Floods(Honest):
    outcomes = (
        FORKED,
        SPAWNED,
        FAILED,
    )  # a process without a session is killed with its zygote

    def answer(self, pid: int) -> None:
        with suppress(OSError):
            while True:
                self.sock.send(b"P%d" % pid)


class HangsUp(Spawned):
    def answer(self, pid: int) -> None:
        self.sock.close()
        signal.pause()


class StopsListening(Spawned):
    def answer(self, pid: int) -> None:
        self.sock.shutdown(socket.SHUT_RD)
        signal.pause()


class StopsSpeaking(Spawned):
    def answer(self, pid: int) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        signal.pause()


class Freezes(Spawned):
    def answer(self, pid: int) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class DiesInBetween(Spawned):
    def answer(self, pid: int) -> None:
        os._exit(0)


class DiesWithoutReading(Spawned):
    def serve(self) -> NoReturn:
        self.begin()
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        poll.poll()
        os._exit(0)


class ForksWhatNeverLogsIn(Honest):
    outcomes = (FAILED,)

    def become(self, lifeline: int) -> NoReturn:
        while os.read(lifeline, 1000):
            pass
        os._exit(0)


class ForksWhatExits(Honest):
    outcomes = (FAILED,)

    def become(self, lifeline: int) -> NoReturn:
        os._exit(0)


class CollectsItself(Honest):
    """The pid may belong to another process by now."""

    outcomes = (SPAWNED,)

    def become(self, lifeline: int) -> NoReturn:
        os._exit(0)

    def answer(self, pid: int) -> None:
        os.waitpid(pid, 0)
        super().answer(pid)


# -- faults when it has to reap ---------------------------------------------------------------


class CollectsWithNonsense(Honest):
    def tell(self, pid: int, status: int) -> None:
        self.say(b"Xnan")


class CollectsWithTheWrongByte(Honest):
    def tell(self, pid: int, status: int) -> None:
        self.say(b"P%d" % pid)


class CollectsWithoutStatus(Honest):
    def tell(self, pid: int, status: int) -> None:
        self.say(b"X")


class CollectsTwice(Honest):
    def tell(self, pid: int, status: int) -> None:
        self.say(b"X0")
        self.say(b"X0")


class CollectsWithAnImpossibleStatus(Honest):
    def tell(self, pid: int, status: int) -> None:
        self.say(b"X256")


class NeverCollects(Honest):
    def collect(self, pid: int) -> None:
        pass


class CollectsLate(Honest):
    def tell(self, pid: int, status: int) -> None:
        time.sleep(LATE_SECONDS)
        super().tell(pid, status)


class DiesWhenItCollects(Honest):
    def collect(self, pid: int) -> None:
        os._exit(0)


def _all(kind: type[Honest]) -> dict[str, type[Honest]]:
    found = {kind.__name__: kind}
    for each in kind.__subclasses__():
        found |= _all(each)
    return found


LIARS = {name: kind for name, kind in _all(Honest).items() if kind is not Spawned}


def main(name: str, journal: str) -> NoReturn:
    """Run a zygote, or, if a host spawns, the interpreter that the host started."""
    words = sys.argv[1:]
    if "--zygote-fd" not in words:
        os.execv(sys.executable, [sys.executable, *words])
    target = words[words.index("spear.agent") + 1]
    LIARS[name](target, int(words[-1]), Path(journal)).serve()
