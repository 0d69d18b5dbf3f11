"""``spear call file.py:function ARGS``: start a function, call it once, print the result, and stop."""

from __future__ import annotations

import argparse
import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from spear._codecs import values_passed_on
from spear._errors import (
    ConfigurationError,
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Overloaded,
    Rejected,
    SpearError,
)
from spear._host_limits import InstanceTimeouts

from ._bar import WITHOUT_RICH, CallProgress, can_draw
from ._command import USAGE, CallCommand, add_env, add_startup_seconds, understand
from ._error_lines import IMPATIENT_SECONDS
from ._hints import explained
from ._life import Story, show_event, showing
from ._output import ResultOutput
from ._program import UnfinishedLines, keep_texts, settings_of, usage_of, watch_signals
from ._status import SIGNALLED, describe_statuses
from ._values import long_integers, parse_number, parse_whole, show_value
from ._words import ARGUMENTS_HELP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spear.calls import Function
    from spear.spearlet import Deployment

    from ._error_lines import ErrorLines
    from ._parser import CommandParser


DESCRIPTION: Final = """\
Start a function in a separate process, call it, print the result, and stop.

The result is written to standard output: bytes unchanged, any other value as JSON, the items of a stream
one by one as they arrive. Whatever the function prints or logs is written to standard error."""

EPILOG: Final = """\
"spear call FILE.py:FUNCTION --help" shows the signature of a function, "spear call FILE.py --help" the
signatures of all functions.

The function runs in the current directory (or in a temporary one, if the current one has been removed).
It gets the environment variables HOME, LANG, LANGUAGE, PATH, TMPDIR, TZ, LC_*, and those of --env.

examples:
  spear call shop.py:price tea --currency GBP
  spear call shop.py:fingerprint @README.md --timeout 10
  spear call company.shop:total @order.json --env DATABASE_URL --env LEVEL=high

"""


def define_call(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(
        usage=USAGE, description=DESCRIPTION, epilog=ARGUMENTS_HELP + EPILOG + describe_statuses()
    )
    parser.add(
        "--replicas", type=parse_whole, default=1, metavar="N", help="number of processes to start"
    )
    parser.add(
        "--timeout",
        type=parse_number,
        default=math.inf,
        metavar="SECONDS",
        help="timeout of the call (default: no timeout)",
    )
    add_startup_seconds(parser)
    add_env(parser)
    parser.add("--verbose", action="store_true", help="log the steps of the call")
    parser.add("--debug", action="store_true", help="show the function's tracebacks")
    parser.add(
        "words",
        nargs=argparse.REMAINDER,
        metavar="FILE.py:FUNCTION ...",
        help="a file or a module, its function, and the arguments",
    )
    parser.set_run(run_call, shows_lines=True)


def run_call(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    with long_integers(), values_passed_on():
        return perform_call(understand(options), verbose=options.verbose)


def perform_call(call: CallCommand, *, verbose: bool = False) -> int:
    """Make the call and print its result; return the exit status."""
    with showing(verbose=verbose) as lines:
        run = partial(_run, call, ResultOutput(lines.rows), lines)
        status = trio.run(run, restrict_keyboard_interrupt_to_checkpoints=True)
        if status >= SIGNALLED:
            lines.patience_seconds = IMPATIENT_SECONDS
        return status


# -- the call ---------------------------------------------------------------------------------


async def _run(call: CallCommand, output: ResultOutput, lines: ErrorLines) -> int:
    """Run the call, stopping at signals; return the exit status unless a failure decides it."""
    from spear.channels import open_private_nursery

    received: list[int] = []
    async with open_private_nursery() as nursery:
        await nursery.start(watch_signals, nursery.cancel_scope, received)
        await _call(call, output, lines)
    return SIGNALLED + received[0] if received else 0


async def _call(call: CallCommand, output: ResultOutput, lines: ErrorLines) -> None:
    from spear.spearlet import DeploymentSettings, open_spearlet

    failure: SpearError | None = None
    settings = DeploymentSettings(
        replicas=call.replicas, timeouts=InstanceTimeouts(startup_seconds=call.startup_seconds)
    )
    async with open_spearlet(instruments=[UnfinishedLines(lines.rows)]) as spearlet:
        deployment = await spearlet.deploy(
            settings_of(call.target, call.environment),
            settings=settings,
            debug=call.debug,
            on_event=show_event,
        )
        story = Story(call.function)
        try:
            if call.wants_help or not call.function:
                await _describe(deployment, call, output)
                return
            function = deployment.function(call.function)
            await keep_texts(function, call.words, call.arguments, call.keywords)
            function = function.options(timeout=call.timeout, keywords=call.keywords)
            if function.is_stream:
                await _print_items(function, call, output, story, lines)
            else:
                await _print_result(function, call.arguments, output, story, lines)
        except InvalidArguments as error:
            failure = explained(error, await usage_of(function), call.words)
        except (ConfigurationError, FunctionRaised, NotFound, Overloaded, Rejected) as error:
            failure = error
        # If the call has ended, the instance can shut down cleanly. On any other exception it is killed.
    if failure is not None:
        raise failure


async def _describe(deployment: Deployment, call: CallCommand, output: ResultOutput) -> None:
    """Print the signature of the function, or of all functions if none is named."""
    names = [call.function] if call.function else deployment.functions
    functions = [deployment.function(name) for name in names]
    lines = [await usage_of(each) or each.name for each in functions]
    if not call.wants_help:
        if not lines:
            raise ConfigurationError(
                f"{call.target!r} registers no functions: put `@app.function` above each of them"
            )
        known = "\n  ".join(["its functions are", *lines])
        raise ConfigurationError(f"{call.target!r} names no function; {known}")
    await output.write("".join(f"{line}\n" for line in lines).encode())


async def _print_items(
    function: Function,
    call: CallCommand,
    output: ResultOutput,
    story: Story,
    lines: ErrorLines,
) -> None:
    try:
        with (
            trio.move_on_after(call.timeout) as scope,  # also limits slow readers of our output
            _showing_progress(function, lines) as watched,
        ):
            async with watched.stream(*call.arguments) as stream:
                story.begins(stream.instance)
                async for item in stream:
                    story.gives_item()
                    await output.write(show_value(item))
        if scope.cancelled_caught:
            raise DeadlineExceeded.of_call(function.name, call.timeout, "yes")
    except BaseException as error:
        story.fails(error)
        raise
    story.ends()


async def _print_result(
    function: Function,
    arguments: list[object],
    output: ResultOutput,
    story: Story,
    lines: ErrorLines,
) -> None:
    with _showing_progress(function, lines) as watched:
        execution = watched.submit(*arguments)
        story.begins()
        try:
            text = show_value(await execution.result())
        except BaseException as error:
            story.fails(error, execution.instance)
            raise
    story.returns(len(text), execution)
    await output.write(text)


@contextmanager
def _showing_progress(function: Function, lines: ErrorLines) -> Iterator[Function]:
    """Show a bar on a terminal while the block runs, for calls of the function that it yields."""
    if lines.rows.is_terminal:
        progress = CallProgress(function.name, partial(_show_bar, lines))
        function = function.options(on_progress=progress.report)
    try:
        yield function
    finally:
        lines.rows.show_bar(None)


def _show_bar(lines: ErrorLines, progress: CallProgress) -> None:
    if not can_draw():
        lines.put(WITHOUT_RICH)
    lines.rows.show_bar(progress)
