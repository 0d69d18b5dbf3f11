"""AWS Lambda's Invoke API, so that programs written for Lambda can call functions of Spear.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html defines request, response and errors.
"""

from __future__ import annotations

import base64
import calendar
import json
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import trio

from spear._errors import (
    DeadlineExceeded,
    FunctionRaised,
    InvalidArguments,
    NotFound,
    Rejected,
    SpawnFailed,
    SpearError,
    WorkerDied,
)

from ._calls import expect_result, find_function, with_options
from ._errors import Problem, retry_after, retry_header, status_of
from ._exchange import JSON, bad, metadata_of, parse_json, path_part, printable, show
from ._signatures import is_signed, read_signature

if TYPE_CHECKING:
    from spear.calls import Answer, BoundCall, Function
    from spear.channels import Metadata
    from spear.spearlet import FollowedLines

    from ._app import App
    from ._request import Headers, Request

MAX_CLIENT_CONTEXT_BYTES: Final = 4096
LOG_TAIL_BYTES: Final = 4096
LOG_GRACE_SECONDS: Final = 0.05
"""Seconds to wait for log lines after a result: they use another channel, and may arrive later."""

MARGIN: Final = 0.02
MARGIN_SECONDS: Final = 1.0
"""Time reserved for sending the response to the client: a fraction of the call's time, and a maximum."""

_GIVES_UP: Final = re.compile(rb"\bttl=(\d{8}T\d{6}Z)", re.ASCII)

_VERSION: Final = (b"x-amz-executed-version", b"$LATEST")
_UNHANDLED: Final = (b"x-amz-function-error", b"Unhandled")

_KINDS: Final = ("RequestResponse", "Event", "DryRun")

# A name, or the end of an ARN, with or without a qualifier.
_NAME: Final = re.compile(
    r"(?:(?:arn:[\w-]+:lambda:[\w-]*:)?\d{12}:function:)?([\w.-]+)(?::[$\w-]+)?", re.ASCII
)


async def invoke(app: App, request: Request, name: str) -> None:
    """Handle ``POST /2015-03-31/functions/{name}/invocations``: AWS Lambda's Invoke."""
    request.extra.append((b"x-amzn-requestid", request.id.encode()))
    try:
        await _invoke(app, request, name)
    except (SpearError, Problem) as error:
        await _refuse(app, request, error)


async def _invoke(app: App, request: Request, name: str) -> None:
    verify = _expect_known(app, request)
    found = _NAME.fullmatch(path_part(name))
    if found is None:
        raise _invalid(f"{path_part(name)[:100]!r} is not a valid name of a function")
    kind = request.headers.get(b"x-amz-invocation-type", b"RequestResponse").decode("latin-1")
    if kind not in _KINDS:
        raise _invalid(
            f"X-Amz-Invocation-Type must be one of {', '.join(_KINDS)}, not {kind[:50]!r}"
        )
    body = await request.body(verify)
    function = find_function(app, found[1])
    function = _for_sdk(app, request, function, kind).options(metadata=_metadata(request))
    expect_result(function, "invoked")
    bound = function.bind(parse_json(body, "the payload") if body else {})
    del body  # the arguments are encoded now
    if kind == "DryRun":
        await request.respond(204, b"", b"", (_VERSION,))
    elif kind == "Event":
        bound.submit(on_end=request.hand_over())
        await request.respond(202, b"", b"", (_VERSION,))
    else:
        await _call(app, request, function, bound)


def _expect_known(app: App, request: Request) -> Callable[[bytes], None] | None:
    """Raise Problem unless the caller is known, or has signed; return the check of a signed body."""
    token = app.guard.token
    if token is not None and not request.is_local and is_signed(request):
        return partial(read_signature(request).check, secret=token)
    if not is_signed(request) and not app.guard.is_known(request):
        message = "the request is not signed: use the gateway's token as the secret access key"
        raise Problem(403, "Forbidden", message, aws_kind="MissingAuthenticationTokenException")
    return None


def _for_sdk(app: App, request: Request, function: Function, kind: str) -> Function:
    """Return the function with the options in the headers, including an SDK's. Raises Problem.

    An SDK repeats an invocation if no response arrives in time. All attempts have the same id, so each
    one joins the execution of the first. If the instance dies, that is the outcome: the call is not
    started again, since the client has not asked for it.
    """
    waits = kind != "Event"
    invocation = printable(request, b"amz-sdk-invocation-id")
    called = with_options(
        app,
        function,
        request,
        is_detached=invocation is not None or not waits,
        usual_seconds=_patience(request, function.timeout) if waits else None,
    )
    if invocation is None or b"idempotency-key" in request.headers:
        return called
    return called.options(key=invocation, key_restarts=False)


def _patience(request: Request, usual_seconds: float) -> float:
    """Return the seconds in which to respond before the client gives up and repeats the invocation.

    An SDK sends the time when it gives up, once a response has shown it our clock. Otherwise an SDK
    usually waits 60 s, which is also the default deadline of a call.
    """
    seconds = usual_seconds
    found = _GIVES_UP.search(request.headers.get(b"amz-sdk-request", b""))
    if found is not None:
        with suppress(ValueError):  # an invalid time, such as month 13
            left = calendar.timegm(time.strptime(found[1].decode(), "%Y%m%dT%H%M%SZ")) - time.time()
            if left > 0:  # otherwise the clocks differ
                seconds = min(seconds, left)
    return seconds - min(MARGIN_SECONDS, MARGIN * seconds)


def _metadata(request: Request) -> Metadata:
    metadata: dict[str, object] = {**metadata_of(request)}
    context = request.headers.get(b"x-amz-client-context")
    if context is not None:
        if len(context) > MAX_CLIENT_CONTEXT_BYTES:
            raise bad(
                f"the client context has {len(context)} bytes; at most {MAX_CLIENT_CONTEXT_BYTES} are "
                "allowed"
            )
        try:
            text = base64.b64decode(context, validate=True)
        except ValueError as error:
            raise bad("the client context is not Base64") from error
        metadata["client_context"] = parse_json(text, "the client context")
    return cast("Metadata", metadata)  # the channel checks the values


# -- the call -------------------------------------------------------------------------------------


async def _call(app: App, request: Request, function: Function, bound: BoundCall) -> None:
    headers = [_VERSION]
    wants_log = request.headers.get(b"x-amz-log-type", b"").lower() == b"tail"
    async with AsyncExitStack() as stack:
        following: FollowedLines | None = None
        if wants_log:
            deployment = app.spearlet.deployments[function.deployment]
            following = await stack.enter_async_context(deployment.follow_logs())
        begun = trio.current_time()
        answer: Answer | None = None
        try:
            answer = await bound.ask()
            body = show(answer.result)
        except (SpearError, Problem) as error:
            if not is_outcome(error):
                raise
            headers.append(_UNHANDLED)
            body = show(_failure(error, request.id))
        if following is not None:
            seconds = answer.execution_seconds if answer else trio.current_time() - begun
            headers.append(await _log_tail(following, request.id, answer, seconds))
    del answer  # the client may take the body slowly
    try:
        await request.respond(200, body, JSON, headers)
    except Problem as error:  # no budget for the response; an SDK must not repeat the call
        headers = [*(each for each in headers if each != _UNHANDLED), _UNHANDLED]
        await request.respond(200, show(_failure(error, request.id)), JSON, headers)


def is_outcome(error: SpearError | Problem) -> bool:
    """Return whether an SDK should take an error as the outcome, instead of repeating the invocation.

    Repeating is right for a call that has certainly not run and may succeed another time.
    """
    return error.delivered != "no" or isinstance(error, InvalidArguments | DeadlineExceeded)


def _failure(error: SpearError | Problem, request_id: str) -> dict[str, object]:
    """Return the response body of a failed function."""
    if isinstance(error, FunctionRaised):
        trace = (error.remote_traceback or "").splitlines()
        return {
            "errorMessage": error.remote_message,
            "errorType": error.type_name,
            "requestId": request_id,
            "stackTrace": trace,
        }
    kind = error.kind if isinstance(error, Problem) else type(error).__name__
    message = _message(error)
    if isinstance(error, DeadlineExceeded):
        kind, message = "Sandbox.Timedout", f"RequestId: {request_id} Error: {message}"
    elif isinstance(error, WorkerDied):
        kind, message = "Runtime.ExitError", f"RequestId: {request_id} Error: {message}"
    return {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": []}


async def _log_tail(
    following: FollowedLines, request_id: str, answer: Answer | None, seconds: float
) -> tuple[bytes, bytes]:
    """Return the header with the lines that were written meanwhile."""
    lines = [f"START RequestId: {request_id} Version: $LATEST"]
    with trio.move_on_after(LOG_GRACE_SECONDS):
        async for entry in following:
            if answer is None or answer.instance in (None, entry.instance):
                lines.append(entry.line.text)  # noqa: PERF401  # keep lines read before the timeout
    lines += (
        f"END RequestId: {request_id}",
        f"REPORT RequestId: {request_id}\tDuration: {seconds * 1e3:.2f} ms",
    )
    text = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    return b"x-amz-log-result", base64.b64encode(text[-LOG_TAIL_BYTES:])


# -- errors ---------------------------------------------------------------------------------------


def _message(error: Exception) -> str:
    """Return the message without any output of an instance, so that every client may read it."""
    return error.summary if isinstance(error, WorkerDied | SpawnFailed) else str(error)


def _invalid(message: str) -> Problem:
    return Problem(400, "BadRequest", message, aws_kind="InvalidParameterValueException")


_AWS: Final = {
    400: "InvalidRequestContentException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "InvalidRequestContentException",
    409: "InvalidParameterValueException",
    413: "RequestTooLargeException",
    415: "UnsupportedMediaTypeException",
    429: "TooManyRequestsException",
}
"""AWS's name for each status; every other status is a ServiceException."""


async def _refuse(app: App, request: Request, error: Exception) -> None:
    """Respond with an error in AWS's form."""
    status = status_of(error, is_draining=app.is_draining)
    if isinstance(error, Rejected) and status == 409:
        status = 400
        kind = "InvalidParameterValueException"
    elif isinstance(error, Problem) and error.aws_kind:
        kind = error.aws_kind
    else:
        kind = _AWS.get(status, "ServiceException")
    message = _message(error)
    if isinstance(error, NotFound):
        message = f"Function not found: {message}"
    told: dict[str, object] = {
        "Type": "Service" if status >= 500 else "User",
        "Message": message,
        "message": message,
    }
    if status == 429:
        told["Reason"] = "ConcurrentInvocationLimitExceeded"
    headers: Headers = [(b"x-amzn-errortype", kind.encode())]
    headers += retry_header(retry_after(error, status))
    if isinstance(error, Problem):
        headers += error.headers
    await request.respond(status, json.dumps(told).encode(), JSON, headers)
