"""``spear map FILE.py:FUNCTION --input WHAT``: call a function for many items, and write the results."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._codecs import values_passed_on
from spear._errors import ConfigurationError, InvalidArguments, SpawnFailed
from spear._host_limits import InstanceTimeouts
from spear._signatures import parse_signature_untrusted
from spear._targets import file_of, split_call, split_target
from spear._util import leaves_of

from ._bar import WITHOUT_RICH, MapProgress, can_draw
from ._call import perform_call
from ._command import CallCommand, add_env, add_startup_seconds, expect_times, read_variable
from ._error_lines import IMPATIENT_SECONDS
from ._hints import explained
from ._life import showing
from ._map_input import Input, identity_of
from ._map_output import CalledFunction, OpenedOutput, open_output
from ._map_run import MapRun
from ._output import ResultOutput
from ._program import UnfinishedLines, settings_of, usage_of, watch_signals
from ._say import complain
from ._status import ITEMS_FAILED, SIGNALLED, describe_statuses
from ._text import printable
from ._values import long_integers, parse_number, parse_whole
from ._words import FunctionWords, read_words

if TYPE_CHECKING:
    from spear._ids import InstanceId
    from spear.telemetry import InstanceEvent

    from ._error_lines import ErrorLines
    from ._parser import CommandParser

USAGE: Final = "spear map [options] FILE.py:FUNCTION --input WHAT [--name value ...]"

DESCRIPTION: Final = """\
Call a function for many items, in several processes, and write a line of JSON for each item.

On a terminal, a bar shows the progress. The output of the function is written to standard error."""

EPILOG: Final = """\
input:
  files.txt          a file: each line is an item, as text
  orders.jsonl       a file of JSON lines: the value of each line is an item
  '*.py'             a quoted pattern: each path that matches is an item; ** matches directories, too
  -                  the lines of standard input, as they arrive

Each item is the first argument of a call; --name value is the same argument for all calls. A line of text
is read for the type of its parameter: 3 is a number for an int, and text for a str.

A line of the output is {"index": 0, "item": ..., "result": ...}, or for an item that failed {"index": 0,
"item": ..., "error": {...}, "attempts": 1}, in the order in which the calls end. A failure does not stop
the other items.

examples:
  spear map work.py:summarise --input '*.txt' -j 4 --output out.jsonl
  spear map work.py:summarise --input files.txt --retries 2 --output out.jsonl --resume
  spear map shop.py:price --input items.txt --currency GBP
  find . -name '*.log' | spear map work.py:summarise --input - | head

"""

MAX_FAILED_STARTS: Final = 5
"""Starts of instances that may fail in a row before the run ends."""


def define_map(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(usage=USAGE, description=DESCRIPTION, epilog=EPILOG + describe_statuses())
    parser.add(
        "--input", action="append", default=[], metavar="WHAT",
        help="the items: a file, a quoted pattern, or -; may be given several times",
    )  # fmt: skip
    parser.add("--jsonl", action="store_true", help="read JSON lines from all files, and from -")
    parser.add(
        "--starmap", action="store_true", help="pass each item, a list, as several arguments"
    )
    parser.add(
        "-j", "--replicas", type=parse_whole, metavar="N",
        help="number of processes (default: one for each processor)",
    )  # fmt: skip
    parser.add(
        "--limit", type=parse_whole, metavar="N",
        help="items at a time in all processes (default: one for each process)",
    )  # fmt: skip
    parser.add(
        "--timeout", type=parse_number, default=math.inf, metavar="SECONDS",
        help="timeout of each call, from its start (default: no timeout)",
    )  # fmt: skip
    add_startup_seconds(parser)
    parser.add(
        "--retries", type=parse_whole, default=0, metavar="N",
        help="further calls for an item that has failed, so the function may run again (default: 0)",
    )  # fmt: skip
    parser.add("--ordered", action="store_true", help="write lines in the order of the items")
    parser.add("--output", metavar="FILE", help="file for the lines (default: standard output)")
    parser.add(
        "--resume", action="store_true",
        help="continue the output of an earlier run: skip its results, call its failures again",
    )  # fmt: skip
    parser.add("--overwrite", action="store_true", help="replace the output of an earlier run")
    add_env(parser)
    parser.add("--quiet", action="store_true", help="show no progress and no summary")
    parser.add("--debug", action="store_true", help="add the function's tracebacks to failures")
    parser.add(
        "words", nargs=argparse.REMAINDER, metavar="FILE.py:FUNCTION ...",
        help="a file or a module, its function, and the arguments that all calls share",
    )  # fmt: skip
    parser.set_run(run_map, shows_lines=True)


@final
@attrs.frozen(kw_only=True)
class MapCommand:
    """A function to call for many items, with the settings of the run."""

    target: str
    function: str
    words: FunctionWords
    keywords: dict[str, object]
    inputs: list[str]
    is_json: bool
    unpack: bool
    replicas: int
    limit: int
    timeout: float
    startup_seconds: float
    retries: int
    ordered: bool
    output: str | None
    resume: bool
    overwrite: bool
    environment: dict[str, str]
    quiet: bool
    debug: bool

    @property
    def called(self) -> CalledFunction:
        """The properties that all calls have in common, as far as the command line shows it."""
        return CalledFunction.of(self.target, self.function, self.keywords, unpack=self.unpack)


def run_map(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    with long_integers(), values_passed_on():
        command = understand_map(options)
        if isinstance(command, CallCommand):
            return perform_call(command)
        written = sys.stdout.fileno() if command.output is None else command.output
        target = file_of(split_target(command.target)[0])
        if (identity := identity_of(written)) is not None and identity_of(target) == identity:
            raise ConfigurationError(f"{target} is the program: choose another file for the output")
        source = Input(command.inputs, is_json=command.is_json, output=identity)
        opened = OpenedOutput()
        if command.output is not None:
            opened = open_output(
                command.output, command.called, resume=command.resume, overwrite=command.overwrite
            )
        progress = MapProgress()
        try:
            status = _run_items(command, source, opened, progress)
        except Exception as error:
            if progress.done and not _is_broken_pipe(error):
                _say_counts(command, progress, "ended by an error: ")
            raise
        _say_counts(command, progress, "interrupted: " if status >= SIGNALLED else "")
        return status


def _run_items(
    command: MapCommand,
    source: Input,
    opened: OpenedOutput,
    progress: MapProgress,
) -> int:
    """Perform the run, and show its progress; return the exit status.

    Args:
        command: the command.
        source: the items.
        opened: the output, which is closed at the end unless it is standard output.
        progress: is kept up to date.
    """
    with showing(verbose=False) as lines:
        output = ResultOutput(lines.rows, opened.descriptor, opened.path, replaces=opened.replaces)
        run = MapRun(
            source, opened.done, output, progress, retries=command.retries, unpack=command.unpack,
            ordered=command.ordered, say=bool if command.quiet else lines.put,
            called=command.called, is_recorded=opened.descriptor is not None,
        )  # fmt: skip
        running = _RunningMap(command, source, run, progress, lines)
        try:
            status = trio.run(running.run, restrict_keyboard_interrupt_to_checkpoints=True)
            if status < SIGNALLED:
                output.begin()
        except BaseException:
            opened.remove_if_unused()
            raise
        finally:
            if opened.descriptor is not None:
                output.close()
        if status >= SIGNALLED:
            lines.patience_seconds = IMPATIENT_SECONDS
    return status


def understand_map(options: argparse.Namespace) -> MapCommand | CallCommand:
    """Build the command from argparse's options and unparsed words.

    A command line that asks for the description of a function gives a :class:`CallCommand`.

    Raises:
        ConfigurationError: an option has a wrong value, or one is missing.
    """
    parser: CommandParser = options.command_parser
    words = read_words(
        options, "no function was given: use spear map FILE.py:FUNCTION --input WHAT"
    )
    target, function = split_call(words.target)
    if not target:
        parser.error(f"{words.target!r} names no file: use FILE.py:FUNCTION")
    environment = dict(read_variable(each, USAGE) for each in options.env)
    if words.wants_help or not function:
        return CallCommand(
            target=target, function=function, wants_help=words.wants_help, words=words,
            arguments=[], keywords={}, environment=environment, replicas=1,
            timeout=math.inf, startup_seconds=options.startup_seconds, debug=False,
        )  # fmt: skip
    positional, keywords = words.arguments()
    if positional:
        parser.error(
            f"{positional[0]!r:.60} is no option; items come from --input, whose pattern needs quotes: "
            "--input '*.txt'"
        )
    if not options.input:
        parser.error("no items were given: use --input FILE, --input '*.txt' or --input -")
    replicas = _processors() if options.replicas is None else options.replicas
    limit = replicas if options.limit is None else options.limit
    _expect_numbers(options, replicas, limit)
    if options.resume and options.overwrite:
        parser.error("--resume keeps the output of an earlier run, --overwrite does not: use one")
    if options.output is None and (options.resume or options.overwrite):
        parser.error(f"{'--resume' if options.resume else '--overwrite'} needs --output FILE")
    return MapCommand(
        target=target, function=function, words=words, keywords=keywords, inputs=options.input,
        is_json=options.jsonl, unpack=options.starmap, replicas=replicas, limit=limit,
        timeout=options.timeout, startup_seconds=options.startup_seconds,
        retries=options.retries, ordered=options.ordered,
        output=options.output, resume=options.resume, overwrite=options.overwrite,
        environment=environment, quiet=options.quiet, debug=options.debug,
    )  # fmt: skip


def _expect_numbers(options: argparse.Namespace, replicas: int, limit: int) -> None:
    """Raise ConfigurationError if a number is out of its range."""
    parser: CommandParser = options.command_parser
    for flag, value, least in (
        ("-j", replicas, 1),
        ("--limit", limit, 1),
        ("--retries", options.retries, 0),
    ):
        if value < least:
            parser.error(f"{flag} must be at least {least}, not {value}")
    expect_times(options)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _is_broken_pipe(error: Exception) -> bool:
    return any(isinstance(each, BrokenPipeError) for each in leaves_of(error))


def _say_counts(command: MapCommand, progress: MapProgress, end: str) -> None:
    """Show the numbers of items; ``end`` is how the run was cut short, or empty."""
    if command.quiet:
        return
    left = ""
    if end and progress.left is not None:
        left = f", {progress.left - progress.retrying} left"
    if progress.failed:
        lines = f'; their lines in {command.output or "the output"} have "error"'
        complain(printable(f"spear: failed: {progress.kinds()}{lines}"))
    counts = f"{progress.counts()}{left}, {progress.seconds:.1f} s, {progress.rate} items/s"
    again = ""
    if end and command.resume:
        again = "; to go on, repeat the same command"
    elif end and command.overwrite:
        again = "; to go on, use --resume instead of --overwrite"
    elif end and command.output is not None:
        again = "; to go on, add --resume to the same command"
    complain(f"spear: {end}{counts}{again}")


@final
class _RunningMap:
    """The processes of a run, its signals and its progress bar."""

    def __init__(
        self,
        command: MapCommand,
        source: Input,
        run: MapRun,
        progress: MapProgress,
        lines: ErrorLines,
    ) -> None:
        self._command = command
        self._source = source
        self._run = run
        self._progress = progress
        self._lines = lines

    async def run(self) -> int:
        """Perform the run, stopping at signals; return the exit status unless a failure decides it."""
        from spear.channels import open_private_nursery

        received: list[int] = []
        try:
            async with open_private_nursery() as nursery:
                await nursery.start(watch_signals, nursery.cancel_scope, received)
                if await self._run.has_items():
                    self._show_progress(nursery)
                    await self._call_all()
                nursery.cancel_scope.cancel()
        finally:
            self._lines.rows.show_bar(None)
        if received:
            return SIGNALLED + received[0]
        return ITEMS_FAILED if self._progress.failed else 0

    def _show_progress(self, nursery: trio.Nursery) -> None:
        if self._command.quiet:
            return
        if self._lines.rows.is_terminal and not can_draw():
            self._lines.put(WITHOUT_RICH)
        self._lines.rows.show_bar(self._progress)
        nursery.start_soon(self._count)

    async def _count(self) -> None:
        try:
            total = await self._source.count()
        except OSError:  # reading the items reports it
            return
        if self._progress.total is None:
            self._progress.total = total

    async def _call_all(self) -> None:
        from spear.channels import open_private_nursery
        from spear.spearlet import DeploymentSettings, RestartPolicy, open_spearlet

        command, starts = self._command, _Starts()
        refusal: InvalidArguments | None = None
        # A process that an item has ended is replaced at once; _Starts notices failing starts.
        restart = RestartPolicy(intensity=1000, first_delay_seconds=0, longest_delay_seconds=0)
        async with open_spearlet(instruments=[UnfinishedLines(self._lines.rows)]) as spearlet:
            deployment = await spearlet.deploy(
                settings_of(command.target, command.environment),
                settings=DeploymentSettings(
                    replicas=command.replicas,
                    policy="least-loaded",
                    restart=restart,
                    timeouts=InstanceTimeouts(startup_seconds=command.startup_seconds),
                ),
                debug=command.debug,
                on_event=starts.note,
            )
            function = deployment.function(command.function)
            if function.is_stream:
                raise ConfigurationError(
                    f"{command.function}() returns a stream, of which spear map has no line: return a "
                    f"list instead, or use spear call {command.target}:{command.function} for each item"
                )
            usage, keywords = await usage_of(function), dict(command.keywords)
            command.words.keep_texts([], keywords, usage)
            function = function.options(timeout=command.timeout, keywords=keywords)
            signature = parse_signature_untrusted(usage)
            self._progress.start()
            async with open_private_nursery() as nursery:
                nursery.start_soon(starts.watch)
                refusal = await self._run.run(
                    function,
                    limit=command.limit,
                    reads_json=signature is not None and signature.reads_json(0),
                )
                nursery.cancel_scope.cancel()
        if refusal is not None:
            raise explained(refusal, usage, command.words)


@final
class _Starts:
    """A watch over the starts of instances."""

    def __init__(self) -> None:
        self._failed = 0  # in a row
        self._ready: set[InstanceId] = set()
        self._reason = ""
        self._is_hopeless = trio.Event()

    def note(self, event: InstanceEvent) -> None:
        """Note a state of an instance."""
        match event.state.value:
            case "ready":
                self._failed = 0
                self._ready.add(event.instance_id)
            case "failed" | "exited":
                self._reason = event.reason
            case "deleted" if event.instance_id in self._ready:
                self._ready.remove(event.instance_id)
            case "deleted":
                self._failed += 1
                if self._failed >= MAX_FAILED_STARTS:
                    self._is_hopeless.set()

    async def watch(self) -> None:
        """Wait until instances start no more, and raise SpawnFailed."""
        await self._is_hopeless.wait()
        raise SpawnFailed(f"processes no longer start: {self._reason}")
