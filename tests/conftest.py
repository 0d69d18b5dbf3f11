"""Fixtures and hooks for every test: a time limit, a repeatable seed, Hypothesis profiles, and a check
that no secret is in the test's output.

A run under ``CI`` is deterministic: it uses a fixed seed and the same Hypothesis examples. Any other run
draws a new seed, and prints the options that reproduce a failure.
"""

from __future__ import annotations

import contextlib
import gc
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
    from collections.abc import Collection, Generator
    from types import FrameType

ON_CI = bool(os.environ.get("CI"))

TESTS = Path(__file__).parent

FOR_PROCESSES = "COVERAGE_PROCESS_CONFIG"
"""The environment variable that turns on coverage in processes that a test starts."""

TIME_LIMIT_SECONDS = 20.0
SLOW_FACTOR = 3  # factor for tests marked slow
PARTS = 4
"""Number of alarms into which the time limit is divided. When the whole machine stands still for seconds,
as virtual machines in a busy data centre do, only one alarm is counted for that time."""

CLEAN_UP_SECONDS = 10.0
"""Seconds that a test has for clean-up after its time limit, before the whole run is ended."""

MEASURED_THOUGH_SLOW = {
    "agent", "channels/test_cancel_sweep.py", "channels/test_large_payloads.py",
    "channels/test_negatives.py", "channels/test_segments.py", "cli", "doors",
    "gateway/test_metrics.py", "runtimes", "testing", "test_forks.py", "test_prefix_example.py",
}  # fmt: skip
"""Paths in tests/. Measuring coverage doubles the time of a test. Slow tests elsewhere run hardly a line
that these and the quick tests do not run."""

MEASURED_WITH_PROCESSES = {
    "agent", "cli/test_dev.py", "cli/test_live_rows.py", "cli/test_scripts.py", "cli/test_serve.py",
    "cli/test_terminals.py", "cli/test_top.py", "runtimes", "test_forks.py",
    "test_prefix_example.py", "testing/test_pytest_plugin.py",
}  # fmt: skip
"""Paths in tests/ of tests whose child processes are measured, too. Measuring adds a quarter of a second
of processor time to each process. Processes of other tests run hardly a line that these and the tests
themselves do not run."""

LONGEST_DIRECTORY_BYTES = 48
"""Longest directory for temporary files. A socket's path may have 107 bytes; tests append up to 55."""

# How long an example takes to draw and to run depends more on the machine than on the code.
UNHURRIED = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.register_profile("spear", UNHURRIED, derandomize=ON_CI)
hypothesis.settings.register_profile("brief", UNHURRIED, derandomize=ON_CI, max_examples=25)
hypothesis.settings.register_profile("soak", UNHURRIED, max_examples=20_000)
hypothesis.settings.load_profile("spear")  # --hypothesis-profile comes later and wins


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spear")
    group.addoption(
        "--seed",
        type=int,
        default=0 if ON_CI else random.SystemRandom().randrange(2**32),
        help="seed of the generators of the fixture `seed`, to replay a failure",
    )
    group.addoption(
        "--time-limit",
        type=float,
        default=TIME_LIMIT_SECONDS,
        help="seconds that a test may take, three times as many if marked slow; 0 for no limit",
    )


def pytest_configure() -> None:
    # The time limit interrupts by SIGINT. A shell without job control, as in most CI, starts background
    # processes with SIGINT ignored, and Python keeps that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_DIRECTORY_BYTES:
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ.pop(name, None)
        tempfile.tempdir = None  # makes tempfile look for another directory


def pytest_collection_finish() -> None:
    # Modules and collected tests stay to the end. The garbage collector need not look at their million
    # objects again and again.
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> random.Random:
    """Return a random generator for this test; a failure report says how to reproduce it."""
    value: int = request.config.getoption("--seed")
    node: pytest.Item = request.node
    node.add_report_section("setup", "seed", f"to replay: pytest '{node.nodeid}' --seed {value}")
    return random.Random(f"{value} {node.nodeid}")


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory that has been removed, and return its path."""
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    return place


class OutOfTime(BaseException):
    """A test exceeded its time limit. A BaseException, so that no ``except Exception`` catches it."""


def where_all_stand() -> str:
    """Return the stacks of all threads and Trio tasks, without the frames that they have in common."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        (f"thread {names.get(ident)}", list(traceback.walk_stack(frame))[::-1])
        for ident, frame in sys._current_frames().items()
    ]
    with contextlib.suppress(RuntimeError):  # raised if Trio does not run
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
    """Interrupt a phase of a test that exceeds its time limit, and fail the test in any case."""
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
            # The task is shielded and does not end. Tearing it out of Trio's loop would leave a loop in
            # which no other test can run. Therefore the whole run ends here.
            pytest.exit(f"{item.nodeid} did not stop in time\n{where_all_stand()}", returncode=1)
        signal.setitimer(signal.ITIMER_REAL, CLEAN_UP_SECONDS)
        item.add_report_section(phase, "stacks at the time limit", where_all_stand())
        # Trio delivers an interrupt at a safe point, so that nurseries still clean up.
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit / PARTS, limit / PARTS)
    try:
        result = yield
    except pytest.exit.Exception:
        raise
    except BaseException as error:
        if alarms >= PARTS:
            raise OutOfTime(f"the test took longer than {limit:g} s") from error
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
            # pytest counts an OutOfTime in a group, as Trio's nurseries raise it, as a failed test.
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if alarms >= PARTS:
        raise OutOfTime(f"the test took longer than {limit:g} s, and then ended by itself")
    return result


def is_measured(item: pytest.Item) -> bool:
    """Return whether to measure the coverage of a test."""
    if item.get_closest_marker("repetitive"):
        return False
    return not item.get_closest_marker("slow") or is_among(item, MEASURED_THOUGH_SLOW)


def is_among(item: pytest.Item, paths: Collection[str]) -> bool:
    """Return whether a test's file, or a directory above it, is one of some paths in tests/."""
    path = item.path.relative_to(TESTS)
    return any(str(each) in paths for each in (path, *path.parents))


@contextlib.contextmanager
def unmeasured() -> Generator[None, None, None]:
    """Turn coverage off for the block."""
    measuring = Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    try:
        yield
    finally:
        measuring.start()


@contextlib.contextmanager
def unmeasured_processes() -> Generator[None, None, None]:
    """Turn coverage off in processes that the block starts."""
    for_processes = os.environ.pop(FOR_PROCESSES, None)
    try:
        yield
    finally:
        if for_processes is not None:
            os.environ[FOR_PROCESSES] = for_processes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with contextlib.ExitStack() as stack:
        if not is_measured(item):
            stack.enter_context(unmeasured())
            stack.enter_context(unmeasured_processes())
        elif not is_among(item, MEASURED_WITH_PROCESSES):
            stack.enter_context(unmeasured_processes())
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
    """A record of all secrets that one test creates."""

    def __init__(self) -> None:
        self.secrets: set[bytes] = set()
        construct = Secret.__init__

        def construct_and_remember(secret: Secret, value: bytes) -> None:
            construct(secret, value)
            if len(set(value)) > 1:  # skip constant values of tests, such as bytes(32)
                self.secrets.add(bytes(value))

        pytest.MonkeyPatch().setattr(Secret, "__init__", construct_and_remember)  # never undone

    def finds_in(self, text: str) -> bool:
        """Return whether a secret is in a text, in any of the usual notations of bytes."""
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
    """Fail a test if a secret is in its output or its log (S14)."""
    report = yield
    # A report also contains the sections of earlier phases.
    if any(
        title.endswith(report.when) and WITNESS.finds_in(content)
        for title, content in report.sections
    ):
        report.outcome = "failed"
        report.longrepr = f"a secret is in the output of the {report.when} of {item.nodeid}"
    if report.when == "teardown":
        WITNESS.secrets.clear()
    return report
