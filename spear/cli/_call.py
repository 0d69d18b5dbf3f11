"""``spear call file.py:function ARGS``: start a function, call it once, print the result, and stop."""

from __future__ import annotations

import argparse
import math
import signal
from typing import TYPE_CHECKING, Final

import attrs
import trio

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
from spear._paths import working_directory

from ._command import USAGE, CallCommand, understand
from ._error_lines import IMPATIENT_SECONDS
from ._hints import explained
from ._life import Story, show_event, showing
from ._output import StandardOutput
from ._status import SIGNALLED, describe_statuses
from ._values import long_integers, parse_number, parse_whole, show_value
from ._words import ARGUMENTS_HELP

if TYPE_CHECKING:
    from spear.runtimes import RuntimeSettings
    from spear.spearlet import Deployment, Function

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


USAGE_SECONDS: Final = 2.0
"""Seconds for asking for a function's signature after a wrong call."""


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
    parser.add(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="environment variable of the function; without =VALUE, its present value is passed",
    )  # fmt: skip
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
    with long_integers():
        call = understand(options)
        output = StandardOutput()
        with showing(verbose=options.verbose) as lines:
            status = trio.run(_run, call, output, restrict_keyboard_interrupt_to_checkpoints=True)
            if status >= SIGNALLED:
                lines.patience_seconds = IMPATIENT_SECONDS
            return status


# -- the call ---------------------------------------------------------------------------------


async def _run(call: CallCommand, output: StandardOutput) -> int:
    """Run the call, stopping at signals; return the exit status unless a failure decides it."""
    from spear.channels import open_private_nursery

    received: list[int] = []
    async with open_private_nursery() as nursery:
        await nursery.start(_watch_signals, nursery.cancel_scope, received)
        await _call(call, output)
    return SIGNALLED + received[0] if received else 0


async def _watch_signals(
    scope: trio.CancelScope, received: list[int], task_status: trio.TaskStatus[None]
) -> None:
    """Cancel the call at the first signal; a second signal has its default effect."""
    # A KeyboardInterrupt could interrupt any code between two steps, and SIGTERM and SIGHUP would end us
    # before sockets and directories are removed. An ignored SIGHUP (nohup) stays ignored.
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            scope.cancel()
            return


async def _call(call: CallCommand, output: StandardOutput) -> None:
    from spear.spearlet import open_spearlet

    failure: SpearError | None = None
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(
            _settings(call), replicas=call.replicas, debug=call.debug, on_event=show_event
        )
        story = Story(call.function)
        try:
            if call.wants_help or not call.function:
                await _describe(deployment, call, output)
                return
            function = deployment.function(call.function)
            function = function.options(timeout=call.timeout, keywords=call.keywords)
            if function.is_stream:
                await _print_items(function, call, output, story)
            else:
                await _print_result(function, call.arguments, output, story)
        except InvalidArguments as error:
            usage = await _usage(function)
            failure = explained(error, usage, call.options)
        except (ConfigurationError, FunctionRaised, NotFound, Overloaded, Rejected) as error:
            failure = error
        # If the call has ended, the instance can shut down cleanly. On any other exception it is killed.
    if failure is not None:
        raise failure


async def _usage(function: Function) -> str:
    """Return the function's signature; empty if its agent does not answer."""
    try:
        return await function.options(timeout=USAGE_SECONDS).signature()
    except SpearError:
        return ""


async def _describe(deployment: Deployment, call: CallCommand, output: StandardOutput) -> None:
    """Print the signature of the function, or of all functions if none is named."""
    names = [call.function] if call.function else deployment.functions
    functions = [deployment.function(name) for name in names]
    lines = [await _usage(each) or each.name for each in functions]
    if not call.wants_help:
        if not lines:
            raise ConfigurationError(f"{call.target!r} has no functions")
        known = "\n  ".join(["its functions are", *lines])
        raise ConfigurationError(f"{call.target!r} names no function; {known}")
    await output.write("".join(f"{line}\n" for line in lines).encode())


def _settings(call: CallCommand) -> RuntimeSettings:
    """Return the settings for the target, from the runtime that accepts it.

    Fields with the names used here must have the same meaning as in ProcessSettings.
    """
    from spear.runtimes import ProcessSettings, RuntimeRegistry, blaming_runtime

    runtime, settings = RuntimeRegistry().resolve(call.target)
    here, known = working_directory(), attrs.fields_dict(type(settings))
    changes: dict[str, object] = {}
    if "working_directory" in known:
        changes["working_directory"] = here
    if "environment" in known:
        changes["environment"] = call.environment
    elif call.environment:
        raise ConfigurationError(
            f"--env is not supported: instances of the runtime {runtime.name!r} have no environment "
            "variables",
            key="environment",
            code="no_environment",
        )
    if here and isinstance(settings, ProcessSettings) and settings.split_target()[0] is None:
        # A module: look for it in the working directory, as `python -m` does.
        changes["python_path"] = (here, *settings.python_path)
    with blaming_runtime(runtime.name, "settings class"):
        return attrs.evolve(settings, **changes)  # type: ignore[arg-type]  # only known fields


async def _print_items(
    function: Function, call: CallCommand, output: StandardOutput, story: Story
) -> None:
    try:
        with trio.move_on_after(call.timeout) as scope:  # also limits slow readers of our output
            async with function.stream(*call.arguments) as stream:
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
    function: Function, arguments: list[object], output: StandardOutput, story: Story
) -> None:
    execution = function.submit(*arguments)
    story.begins()
    try:
        text = show_value(await execution.result())
    except BaseException as error:
        story.fails(error, execution.instance)
        raise
    story.returns(len(text), execution)
    await output.write(text)
