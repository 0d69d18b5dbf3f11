"""``spear call file.py:function ARGS``: start, call, print, stop; the whole system in one line."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from spear._errors import ConfigurationError

from ._output import Output
from ._status import describe_statuses
from ._values import parse_value, show_value, split_arguments

if TYPE_CHECKING:
    from spear.spearlet import Function

CALL_HELP: Final = "start a function in a process of its own, call it, print the result"

DESCRIPTION: Final = """\
Start a function in a process of its own, call it, print the result, stop.

The result goes to standard output: bytes as they are, everything else as JSON, the items of a stream
one by one as they come. What the function itself prints or logs goes to standard error."""

EPILOG: Final = """\
arguments:
  tea 3 '[1, 2]'     JSON; what is not JSON is text
  @photo.png         the bytes of a file; @order.json what its JSON says
  -                  the bytes of standard input
  --currency GBP     a keyword argument, also as --currency=GBP
  -- --timeout 3     behind a -- nothing is an option of spear's

examples:
  spear call shop.py:price tea --currency GBP
  spear call shop.py:fingerprint @README.md --timeout 10
  spear call company.shop:total @order.json

"""

logger: Final = logging.getLogger("spear.cli")

# Options that may also stand behind the target, where REMAINDER has swallowed them.
_OURS: Final = {"--replicas": int, "--timeout": float, "--verbose": None, "--debug": None}


def define_call(parser: argparse.ArgumentParser) -> None:
    """Say what the command understands."""
    parser.description = DESCRIPTION
    parser.usage = "spear call [options] FILE.py:FUNCTION [argument | --name value ...]"
    parser.epilog = EPILOG + describe_statuses()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="processes to start")
    parser.add_argument(
        "--timeout", type=float, default=math.inf, metavar="SECONDS", help="for the call"
    )
    parser.add_argument("--verbose", action="store_true", help="show the life of the call")
    parser.add_argument("--debug", action="store_true", help="show the function's tracebacks")
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="FILE.py:FUNCTION ...",
        help="a file or a module, its function, and the arguments",
    )
    parser.set_defaults(run=run_call)


@final
@attrs.frozen(kw_only=True)
class _Call:
    """What the command line asks for."""

    target: str
    function: str
    arguments: list[object]
    keywords: dict[str, object]
    replicas: int
    timeout: float
    debug: bool


def run_call(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    call = _understand(options)
    output = Output()
    with _showing(verbose=options.verbose):
        return trio.run(_run, call, output)


# -- the command line -------------------------------------------------------------------------


def _understand(options: argparse.Namespace) -> _Call:
    words = _take_ours(options)
    if not words:
        raise ConfigurationError("say what to call: spear call FILE.py:FUNCTION")
    target, _, function = words[0].rpartition(":")
    if not target or not function:
        raise ConfigurationError(f"{words[0]!r} is not FILE.py:FUNCTION")
    if not options.timeout > 0:
        raise ConfigurationError("--timeout must be more than 0 seconds")
    positional, keywords = split_arguments(words[1:])
    return _Call(
        target=target,
        function=function,
        arguments=[parse_value(word, _read_input) for word in positional],
        keywords={name: parse_value(word, _read_input) for name, word in keywords.items()},
        replicas=options.replicas,
        timeout=options.timeout,
        debug=options.debug,
    )


def _take_ours(options: argparse.Namespace) -> list[str]:
    """The words that are not ours. Ours may stand anywhere before a ``--``."""
    words: list[str] = []
    rest = list(options.words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return words + rest
        name, equals, value = word.partition("=")
        if name not in _OURS:
            words.append(word)
            continue
        convert = _OURS[name]
        if convert is None:
            if equals:
                raise ConfigurationError(f"{name} takes no value")
            setattr(options, name[2:], True)
            continue
        if not equals:
            if not rest:
                raise ConfigurationError(f"{name} needs a value")
            value = rest.pop(0)
        try:
            setattr(options, name[2:], convert(value))
        except ValueError:
            raise ConfigurationError(f"{name} needs a number, not {value!r}") from None
    return words


def _read_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


# -- what is shown ----------------------------------------------------------------------------


# What Spear itself has to say inside an instance, in the format of its agent.
_AGENTS_OWN: Final = re.compile(r"\S+ stderr: [A-Z] spear\.(?!function\.)")


def _is_the_functions(record: logging.LogRecord) -> bool:
    return not _AGENTS_OWN.match(record.getMessage())


@contextmanager
def _showing(*, verbose: bool) -> Iterator[None]:
    """Show what functions write, and with ``verbose`` all that is logged, on standard error."""
    ours, theirs = logging.getLogger("spear"), logging.getLogger("spear.instances")
    handler = logging.StreamHandler()
    if verbose:
        life = "%(relativeCreated)7.1f ms  %(name)-16s %(message)s"
        handler.setFormatter(logging.Formatter(life))
    else:
        handler.addFilter(_is_the_functions)
    before = ours.level, theirs.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else logging.ERROR)
    theirs.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        theirs.setLevel(before[1])


# -- the call ---------------------------------------------------------------------------------


async def _run(call: _Call, output: Output) -> int:
    """Returns the exit status, if there is no failure that decides it."""
    from spear.channels import open_private_nursery

    received: list[int] = []
    async with open_private_nursery() as nursery:
        await nursery.start(_watch_signals, nursery.cancel_scope, received)
        await _call(call, output)
    return 128 + received[0] if received else 0


async def _watch_signals(
    scope: trio.CancelScope, received: list[int], task_status: trio.TaskStatus[None]
) -> None:
    """Cancel what runs at the first signal; the second one does what it does elsewhere."""
    # A KeyboardInterrupt could come between any two steps of whatever runs; and SIGTERM would end us
    # before our sockets and directories are removed.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            scope.cancel()
            return


async def _call(call: _Call, output: Output) -> None:
    from spear.spearlet import ProcessSettings, open_spearlet

    settings = ProcessSettings(target=call.target)
    if settings.split_target()[0] is None:  # a module: `python -m` looks for it here, too
        settings = attrs.evolve(settings, python_path=(os.getcwd(),))
    async with open_spearlet() as spearlet:
        deployment = await spearlet.deploy(settings, replicas=call.replicas, debug=call.debug)
        function = deployment.function(call.function)
        function = function.options(timeout=call.timeout, keywords=call.keywords)
        logger.debug("%s: the call begins", call.function)
        if function.is_stream:
            await _print_items(function, call.arguments, output)
        else:
            await _print_result(function, call.arguments, output)


async def _print_items(function: Function, arguments: list[object], output: Output) -> None:
    items, end = 0, "failed"
    try:
        async with function.stream(*arguments) as stream:
            async for item in stream:
                await output.write(show_value(item))
                items += 1
        end = "ended"
    finally:
        logger.debug("%s: the stream %s after %d items", function.name, end, items)


async def _print_result(function: Function, arguments: list[object], output: Output) -> None:
    execution = function.submit(*arguments)
    try:
        await output.write(show_value(await execution.result()))
    finally:
        logger.debug(
            "%s: %s on %s after %.1f ms, of which the function took %.1f",
            function.name,
            execution.status.value,
            execution.instance,
            execution.duration_seconds * 1e3,
            (execution.execution_seconds or 0) * 1e3,
        )
