"""``spear invoke NAME ARGS``: call a function of a running host."""

from __future__ import annotations

import argparse
import math

from spear._errors import ConfigurationError, InvalidArguments, NoHost, SpearError
from spear._json import dump_json, load_json

from ._documents import inner, text
from ._failures import failure_from
from ._hints import explained
from ._remote import Remote, define_host, part_of_path
from ._say import say, write
from ._status import describe_statuses
from ._text import printable
from ._values import (
    HOST_DIGITS,
    long_integers,
    parse_number,
    show_value,
)
from ._words import ARGUMENTS_HELP, read_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from ._parser import CommandParser
    from ._remote import HostResponse

USAGE: Final = "spear invoke [options] NAME [argument | --name value ...]"

DESCRIPTION: Final = "Call a function of a running host, and print the result as `spear call` does."

EPILOG: Final = """\
NAME is the name of a function, or DEPLOYMENT.FUNCTION if several deployments have a function of that
name; "spear ps" lists the functions.

examples:
  spear invoke price tea --currency GBP
  spear invoke shop.fingerprint @README.md --timeout 10

"""

GRACE_SECONDS: Final = 5.0
"""Seconds beyond the call's own timeout, which the host enforces, to wait for an answer."""


def define_invoke(parser: CommandParser) -> None:
    """Define the command's arguments and help."""
    parser.describe(
        usage=USAGE, description=DESCRIPTION, epilog=ARGUMENTS_HELP + EPILOG + describe_statuses()
    )
    define_host(parser)
    parser.add(
        "--timeout", type=parse_number, metavar="SECONDS",
        help="timeout of the call (default: that of the deployment)",
    )  # fmt: skip
    parser.add("--key", help="idempotency key: calls with the same key run once, with one outcome")
    parser.add("--session", help="calls of one session go to the same instance")
    parser.add(
        "--async", action="store_true",
        help="submit the call, print its id for spear result, and do not wait",
    )  # fmt: skip
    parser.add(
        "words", nargs=argparse.REMAINDER, metavar="NAME ...", help="the function and its arguments"
    )
    parser.set_run(run_invoke)


def run_invoke(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    with long_integers():
        words = read_words(options, "no function was given: use spear invoke NAME")
        if options.timeout is not None and not options.timeout > 0:
            options.command_parser.error(
                f"--timeout must be more than 0 seconds, not {options.timeout:g}"
            )
        remote, name = Remote(options), words.target
        path = f"/v1/functions/{part_of_path(name, 'a function')}"
        if words.wants_help:
            say(text(remote.get(path), "signature") or name)
            return 0
        arguments = words.arguments()
        if words.are_ambiguous(*arguments):
            words.keep_texts(*arguments, _usage(remote, path))
        content, body = _body(*arguments)
        try:
            _call(remote, path, content, body, options)
        except InvalidArguments as error:
            usage = _usage(remote, path)
            raise explained(error, usage, words) from None
    return 0


def _body(values: list[object], named: dict[str, object]) -> tuple[str, bytes]:
    """Return (content type, body) of a call with these arguments."""
    if len(values) == 1 and not named and isinstance(values[0], bytes):
        return "application/octet-stream", values[0]
    try:
        with long_integers(HOST_DIGITS):
            return "application/json", dump_json({"$args": values, **named}).encode()
    except UnicodeEncodeError as error:
        wrong = printable(error.object[error.start : error.end])
        raise ConfigurationError(
            f"an argument contains {wrong}, which is not UTF-8: pass bytes as @FILE, or as -"
        ) from None


def _call(
    remote: Remote, path: str, content: str, body: bytes, options: argparse.Namespace
) -> None:
    headers = {"Content-Type": content}
    seconds = None
    if options.timeout is not None:
        headers["Spear-Timeout"] = repr(options.timeout)
        if options.timeout < math.inf:
            seconds = options.timeout + GRACE_SECONDS
    if options.key is not None:
        headers["Idempotency-Key"] = options.key
    if options.session is not None:
        headers["Spear-Session"] = options.session
    if getattr(options, "async"):
        with remote.request("POST", f"{path}/submit", body, headers, seconds) as answer:
            say(text(answer.json(), "id"))
        return
    if text(remote.get(path), "kind") == "stream":
        headers["Accept"] = "application/x-ndjson"
        with remote.request("POST", f"{path}/stream", body, headers, seconds) as answer:
            for line in answer.lines():
                write(show_value(_item(line)))
        return
    with remote.request("POST", f"{path}/call", body, headers, seconds) as answer:
        write(show_value(read_result(answer)))


def read_result(answer: HostResponse) -> object:
    """Return the result in a response. Raises NoHost if it is not valid."""
    result = answer.read()
    return result if answer.kind == "application/octet-stream" else _load(result)


def _load(data: bytes) -> object:
    try:
        return load_json(data)
    except ValueError as error:
        message = "the host sent an invalid response: it may not be a spearlet"
        raise NoHost(message, delivered="maybe") from error


def _item(line: bytes) -> object:
    """Return the item in a line of a stream. Raises the error that ended the stream, if it is one."""
    item = _load(line)
    if isinstance(item, dict) and list(item) == ["$error"]:
        raise failure_from(inner(item, "$error"))
    return item


def _usage(remote: Remote, path: str) -> str:
    try:
        return text(remote.get(path), "signature")
    except SpearError:
        return ""
