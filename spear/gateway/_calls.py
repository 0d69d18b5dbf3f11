"""Handlers of calls, submitted calls, and the list of functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spear._errors import InvalidArguments, Rejected, SpearError
from spear.channels import open_private_nursery

from ._errors import Problem, describe
from ._exchange import (
    add_keywords,
    alone,
    arguments_of,
    bad,
    choose_form,
    execution_id_of,
    metadata_of,
    milliseconds,
    path_part,
    printable,
    queue_timeout_of,
    respond_json,
    retry_of,
    texts_of,
    timeout_of,
    value_of,
)
from ._forms import NOT_STORED, CallMessages, takes_messages
from ._reports import ReportSender
from ._show import show_execution, show_function

if TYPE_CHECKING:
    from spear._signatures import Signature
    from spear.calls import BoundCall, Function

    from ._app import App
    from ._request import Request


_SINGLE: Final = "called for a single result"


def find_function(app: App, name: str) -> Function:
    """Return the function that a path names. Raises NotFound, Problem."""
    return app.spearlet.find_function(path_part(name))


def with_options(
    app: App,
    function: Function,
    request: Request,
    *,
    is_stream: bool = False,
    is_detached: bool = False,
    usual_seconds: float | None = None,
) -> Function:
    """Return the function with the options that the request's headers set.

    Args:
        app: the app, whose settings bound a call that continues without its client.
        function: the function to call.
        request: the request with the headers.
        is_stream: whether the caller wants a stream of items.
        is_detached: whether the call always continues without its client, not only with
            ``Idempotency-Key``.
        usual_seconds: timeout for a request without ``Spear-Timeout``, if not that of the deployment.

    Raises:
        Problem: a header is invalid.
    """
    if is_stream and b"idempotency-key" in request.headers:
        raise bad(
            "Idempotency-Key is not supported for streams, whose items are not stored: remove the header"
        )
    if is_stream and b"spear-max-attempts" in request.headers:
        raise bad("Spear-Max-Attempts is not supported for streams: remove the header")
    asked, queue_timeout = _timeouts(app, request)
    timeout = usual_seconds if asked is None else asked
    key = None if is_stream else printable(request, b"idempotency-key")
    key_seconds = None
    if is_detached or key is not None:
        most = app.settings.detached_seconds
        if asked is not None and asked > most:
            raise bad(
                f"Spear-Timeout is {asked:g} s; a submitted call, or a call with a key, may take at most "
                f"{most:g} s (detached_seconds)"
            )
        if queue_timeout is not None and queue_timeout > most:
            raise bad(
                f"Spear-Queue-Timeout is {queue_timeout:g} s; a submitted call, or one with a key, may "
                f"wait at most {most:g} s (detached_seconds)"
            )
        usual = min(most, function.timeout)
        timeout = usual if timeout is None else min(most, timeout)
        key_seconds = max(timeout, usual)
    function = function.options(
        timeout=timeout,
        queue_timeout=queue_timeout,
        retry=retry_of(request),
        metadata=metadata_of(request),
        key=key,
        key_seconds=key_seconds,
        session=printable(request, b"spear-session"),
    )
    request.extra.append((b"spear-timeout", b"%g" % function.timeout))
    return function


def _timeouts(app: App, request: Request) -> tuple[float | None, float | None]:
    """Return the timeouts of a call, and of its wait for an instance, that a request sets, if any.

    A development host has no deadlines, whatever its callers ask for. Raises Problem.
    """
    timeouts = timeout_of(request), queue_timeout_of(request)
    return timeouts if app.terminals is None else (None, None)


def expect_result(function: Function, way: str) -> None:
    """Raise Rejected if a function gives a stream instead of one result.

    Args:
        function: the function to call.
        way: what cannot be done with a stream, for the message.
    """
    if function.is_stream:
        path = f"/v1/functions/{function.name}/stream"
        raise Rejected(
            f"{function.name}() gives a stream of items, and cannot be {way}: use POST {path}",
            code="gives_stream",
        )


def expect_stream(function: Function) -> None:
    """Raise Rejected if a function gives one result instead of a stream."""
    if not function.is_stream:
        path = f"/v1/functions/{function.name}/call"
        message = f"{function.name}() gives one result, not a stream: use POST {path}"
        raise Rejected(message, code="gives_result")


async def bind_arguments(
    app: App, request: Request, function: Function, way: str, *, is_detached: bool = False
) -> BoundCall:
    """Return the call that a request asks for, with encoded arguments.

    Decoded arguments could take 64 times the memory for as long as the call takes.

    Args:
        app: see :func:`with_options`.
        request: the request, with the arguments in body and query.
        function: the function to call.
        way: see :func:`expect_result`.
        is_detached: see :func:`with_options`.

    Raises:
        Problem: the request is invalid.
        Rejected: the function gives a stream.
        InvalidArguments: an argument cannot be sent.
    """
    positional, keywords = arguments_of(request, await request.body())
    expect_result(function, way)
    function = with_options(app, function, request, is_detached=is_detached)
    if request.query:
        add_keywords(keywords, await query_arguments(app, function, request))
    return function.bind(*positional, **keywords)


async def query_arguments(app: App, function: Function, request: Request) -> dict[str, object]:
    """Return the arguments in the query of a request, by name, each as its annotation has it.

    Args:
        app: knows the signatures of functions.
        function: the function to call.
        request: the request.

    Raises:
        Problem: the query cannot be used, or has a parameter twice that takes no list.
        CallFailed: an instance had to be asked for the signature, and has failed.
    """
    texts = texts_of(request)
    if not texts:
        return {}
    deployment = app.spearlet.deployments[function.deployment]
    signature = await app.catalogue.signature(deployment, function)
    return {name: _argument(name, several, signature) for name, several in texts.items()}


def _argument(name: str, texts: list[str], signature: Signature | None) -> object:
    """Return the argument that one or several texts of the query make. Raises Problem."""
    values = [value_of(name, each) for each in texts]
    if signature is None:
        return alone(name, values)
    if signature.makes_list(name, values):
        return [
            signature.read_text(name, text, value, item=index)
            for index, (text, value) in enumerate(zip(texts, values, strict=True))
        ]
    return signature.read_text(name, texts[0], alone(name, values))


async def add_usage(app: App, function: Function, error: InvalidArguments) -> None:
    """Add the signature of a function, if it is known, to the refusal of its arguments."""
    deployment = app.spearlet.deployments.get(function.deployment)
    if deployment is not None:
        described = (await app.catalogue.describe(deployment)).get(function.name)
        error.usage = "" if described is None else described.signature


async def call(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/functions/{name}/call``: call a function, and respond with its result."""
    function = find_function(app, name)
    if takes_messages(request):
        await _call_in_messages(app, request, function, CallMessages())
        return
    bound = await bind_arguments(app, request, function, _SINGLE)
    try:
        answer = await bound.ask()
    except InvalidArguments as error:
        await add_usage(app, function, error)
        raise
    body, kind = choose_form(request, answer.result)
    headers = milliseconds(answer.execution_seconds)
    if answer.instance is not None:
        headers.append((b"spear-instance", str(answer.instance).encode()))
    del answer  # the client may take the body slowly
    await request.respond(200, body, kind, headers)


async def _call_in_messages(
    app: App, request: Request, function: Function, form: CallMessages
) -> None:
    """Call a function, and respond with its reports of progress and its end, as they come."""
    reporter = ReportSender(request, form, app.settings.keep_alive_seconds)
    function = function.options(on_progress=reporter.add)
    bound = await bind_arguments(app, request, function, _SINGLE)
    with app.budgets.streams.taking(1, request.client):
        await request.begin(200, form.kind, NOT_STORED)
        async with open_private_nursery() as nursery:
            nursery.start_soon(reporter.run)
            try:
                answer = await bound.ask()
            except SpearError as error:
                if isinstance(error, InvalidArguments):
                    await add_usage(app, function, error)
                tell_all = app.may_know_all(request)
                told = describe(error, request_id=request.id, tell_all=tell_all)
                last = form.failure(told)
            else:
                instance = None if answer.instance is None else str(answer.instance)
                details = {"instance": instance, "execution_seconds": answer.execution_seconds}
                last = form.details(details) + form.result(answer.result)
                del answer
            await reporter.send(last)
        await request.end()


async def submit(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/functions/{name}/submit``: start a call that continues without its client."""
    function = find_function(app, name)
    execution_id = execution_id_of(request)
    execution = None if execution_id is None else app.spearlet.executions.find(execution_id)
    if execution is None:
        bound = await bind_arguments(app, request, function, "submitted", is_detached=True)
        on_end = request.hand_over()
        execution = bound.submit(on_end=on_end, execution_id=execution_id)
    elif (execution.deployment, execution.function) != (function.deployment, function.name):
        raise Rejected(f"there is an execution {execution_id} of another function")
    path = f"/v1/executions/{execution.id}".encode()
    headers = ((b"location", path), (b"spear-execution-id", execution.id.encode()))
    await respond_json(request, show_execution(execution), 202, headers)


async def list_functions(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/functions``: list all functions."""
    shown: list[object] = []
    for deployment in app.spearlet.deployments.values():
        descriptions = await app.catalogue.describe(deployment)
        statistics = deployment.statistics().functions
        shown += [
            show_function(deployment, each, descriptions.get(each), statistics.get(each))
            for each in deployment.functions
        ]
    await respond_json(request, {"functions": shown})


async def get_function(app: App, request: Request, name: str) -> None:
    """Handle ``GET /v1/functions/{name}``: describe a function."""
    function = find_function(app, name)
    deployment = app.spearlet.deployments[function.deployment]
    descriptions = await app.catalogue.describe(deployment)
    statistics = deployment.statistics().functions
    await respond_json(
        request,
        show_function(
            deployment,
            function.name,
            descriptions.get(function.name),
            statistics.get(function.name),
        ),
    )


async def upgrade_required(app: App, request: Request, _: str) -> None:
    """Handle ``GET /v1/functions/{name}/socket`` without a handshake: raise Problem (426)."""
    headers = ((b"upgrade", b"websocket"), (b"connection", b"upgrade"))
    raise Problem(
        426,
        "UpgradeRequired",
        "this path accepts only WebSockets: connect with ws:// or wss://",
        headers=headers,
    )
