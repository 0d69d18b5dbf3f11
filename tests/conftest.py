"""What every test gets: a time limit, a seed that can be given again, and Hypothesis profiles; and a
witness, who fails it if a secret is in its output.

A run under ``CI`` is deterministic: the same seed, the same Hypothesis examples. Elsewhere each run
draws anew, and prints what brings a failure back.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import trio
from coverage import Coverage

from spear._ids import Secret

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

ON_CI = bool(os.environ.get("CI"))

TESTS = Path(__file__).parent

FOR_PROCESSES = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage is measured in processes that a test starts."""

TIME_LIMIT_SECONDS = 20.0
SLOW_FACTOR = 3  # for tests marked slow
PARTS = 4
"""The time limit is counted in so many alarms. While the whole machine stands still, as virtual ones in a
busy data centre do for seconds, no alarm comes, and one comes afterwards."""

CLEAN_UP_SECONDS = 10.0
"""What a test may still use, once its time is up, before the whole run ends."""

MEASURED_THOUGH_SLOW = {"channels", "cli", "runtimes", "testing", "test_prefix_example.py"}
"""Of tests/. Measuring coverage doubles the time of a test, and what is slow elsewhere runs hardly a line
that these and all the quick ones do not."""

LONGEST_DIRECTORY_BYTES = 48
"""Of temporary files. A socket's path may have 107, and those of tests are up to 55 longer than this."""

# How long an example takes to draw and to run says more about the machine than about the code.
UNHURRIED = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.register_profile("spear", UNHURRIED, derandomize=ON_CI)
hypothesis.settings.register_profile("brief", UNHURRIED, derandomize=ON_CI, max_examples=25)
hypothesis.settings.register_profile("soak", UNHURRIED, max_examples=20_000)
hypothesis.settings.load_profile("spear")  # --hypothesis-profile comes later, and wins


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spear")
    group.addoption(
        "--seed",
        type=int,
        default=0 if ON_CI else random.SystemRandom().randrange(2**32),
        help="what the `seed` fixture derives its generators from, to replay a failure",
    )
    group.addoption(
        "--time-limit",
        type=float,
        default=TIME_LIMIT_SECONDS,
        help="seconds one test may take, 0 for no limit (tests marked slow: three times as long)",
    )


def pytest_configure() -> None:
    # The time limit interrupts by SIGINT. A shell without job control, as in most CI, starts what runs
    # in the background deaf for it, and Python then leaves it so.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_DIRECTORY_BYTES:
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ.pop(name, None)
        tempfile.tempdir = None  # look for another one


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> random.Random:
    """A generator of this test's own; a failure report says how to get the same one again."""
    value: int = request.config.getoption("--seed")
    node: pytest.Item = request.node
    node.add_report_section("setup", "seed", f"to replay: pytest '{node.nodeid}' --seed {value}")
    return random.Random(f"{value} {node.nodeid}")


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that has been removed."""
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    return place


class OutOfTime(BaseException):
    """A test took longer than it may. No Exception: nothing may catch it, Hypothesis least."""


def where_all_stand() -> str:
    """Where each thread and each Trio task stands, without the frames that they have in common."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        (f"thread {names.get(ident)}", list(traceback.walk_stack(frame))[::-1])
        for ident, frame in sys._current_frames().items()
    ]
    with contextlib.suppress(RuntimeError):  # Trio does not run
        tasks = [trio.lowlevel.current_root_task()]
        while tasks:
            if task := tasks.pop():
                stacks.append((f"task {task.name}", list(task.iter_await_frames())))
                for nursery in task.child_nurseries:
                    tasks.extend(nursery.child_tasks)
    machinery = (__file__, os.path.dirname(trio.__file__))
    lines: list[str] = []
    for name, frames in stacks:
        own = [each for each in frames if not each[0].f_code.co_filename.startswith(machinery)]
        if own:
            lines += (name, *traceback.StackSummary.extract(iter(own[-4:])).format())
    return "\n".join(line.rstrip() for line in lines)


def limited(item: pytest.Item, phase: str) -> Generator[None, object, object]:
    """Interrupt a phase of a test that takes too long, and fail it even if it gets over that."""
    __tracebackhide__ = True
    limit: float = item.config.getoption("--time-limit")
    if item.get_closest_marker("slow"):
        limit *= SLOW_FACTOR
    alarms = 0

    def on_alarm(signum: int, frame: FrameType | None) -> None:
        nonlocal alarms
        alarms += 1
        if alarms < PARTS:
            return
        if alarms > PARTS:
            # It is shielded and will not end; torn out of Trio's loop, it leaves one that no other
            # test can run in. So this is the end of the whole run.
            pytest.exit(f"{item.nodeid} cannot be stopped\n{where_all_stand()}", returncode=1)
        signal.setitimer(signal.ITIMER_REAL, CLEAN_UP_SECONDS)
        item.add_report_section(phase, "stacks when its time was up", where_all_stand())
        # Trio delivers an interrupt where it does no harm, so that nurseries still clean up.
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit / PARTS, limit / PARTS)
    try:
        result = yield
    except pytest.exit.Exception:
        raise
    except BaseException as error:
        if alarms >= PARTS:
            raise OutOfTime(f"longer than {limit:g} s") from error
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
            # In a group, as Trio's nurseries raise it, pytest takes it for the failure of one test.
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if alarms >= PARTS:
        raise OutOfTime(f"longer than {limit:g} s, though it came to its end")
    return result


def is_measured(item: pytest.Item) -> bool:
    """Whether the coverage of a test is worth its time."""
    if item.get_closest_marker("repetitive"):
        return False
    room = item.path.relative_to(TESTS).parts[0]
    return not item.get_closest_marker("slow") or room in MEASURED_THOUGH_SLOW


@contextlib.contextmanager
def unmeasured() -> Generator[None, None, None]:
    """Do not measure the coverage of what the block runs, here and in processes that it starts."""
    measuring = Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    for_processes = os.environ.pop(FOR_PROCESSES, None)
    try:
        yield
    finally:
        if for_processes is not None:
            os.environ[FOR_PROCESSES] = for_processes
        measuring.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with contextlib.nullcontext() if is_measured(item) else unmeasured():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = True
    return (yield from limited(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = True
    return (yield from limited(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    __tracebackhide__ = True
    return (yield from limited(item, "teardown"))


# -- secrets -------------------------------------------------------------------------------------


class Witness:
    """Knows all secrets of one test, however they come to be."""

    def __init__(self) -> None:
        self.secrets: set[bytes] = set()
        construct = Secret.__init__

        def construct_and_remember(secret: Secret, value: bytes) -> None:
            construct(secret, value)
            if len(set(value)) > 1:  # one that a test has not made up, such as bytes(32)
                self.secrets.add(bytes(value))

        pytest.MonkeyPatch().setattr(Secret, "__init__", construct_and_remember)  # for good

    def finds_in(self, text: str) -> bool:
        """Whether one of them is in a text, in any of the ways in which bytes are written."""
        return any(
            form in text
            for secret in self.secrets
            for form in (secret.hex(), secret.hex().upper(), repr(secret)[2:-1], str(list(secret)))
        )


WITNESS = Witness()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test if a secret is in what was written or logged meanwhile (S14)."""
    report = yield
    # In a report there are the sections of the phases before it, too.
    if any(
        title.endswith(report.when) and WITNESS.finds_in(content)
        for title, content in report.sections
    ):
        report.outcome = "failed"
        report.longrepr = f"a secret is in the output of the {report.when} of {item.nodeid}"
    if report.when == "teardown":
        WITNESS.secrets.clear()
    return report
