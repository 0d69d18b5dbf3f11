"""Streamed responses: the items of a function, log lines, or snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from spear._errors import InvalidArguments, SpearError
from spear.calls import FunctionStream
from spear.channels import open_private_nursery

from ._calls import add_usage, expect_stream, find_function, query_arguments, with_options
from ._errors import Problem, describe
from ._exchange import add_keywords, arguments_of
from ._forms import NOT_STORED, CallMessages, form_for
from ._reports import ReportSender

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.calls import BoundCall, Function

    from ._app import App
    from ._forms import Form
    from ._request import Request

GOING_AWAY: Final = "GoingAway"


class ItemSource(Protocol):
    """An iterator of items. If waiting for an item is cancelled, no item is lost."""

    def __aiter__(self) -> AsyncIterator[object]:
        """Return the iterator itself."""

    async def __anext__(self) -> object:
        """Return the next item, or raise StopAsyncIteration."""


async def stream(app: App, request: Request, name: str) -> None:
    """Handle ``POST /v1/functions/{name}/stream``: call a function, and respond with its items."""
    function = find_function(app, name)
    reporter: ReportSender | None = None
    if isinstance(form := form_for(request), CallMessages):
        reporter = ReportSender(request, form)
        function = function.options(on_progress=reporter.add)
    bound = await _bind_arguments(app, request, function)
    with app.budgets.streams.taking(1, request.client):
        try:
            async with bound.stream() as items:
                place = ((b"spear-instance", str(items.instance).encode()),)
                request.extra += place
                await send_items(app, request, items, reporter=reporter)
        except InvalidArguments as error:
            await add_usage(app, function, error)
            raise


async def _bind_arguments(app: App, request: Request, function: Function) -> BoundCall:
    """Return the call that a request asks for, as :func:`bind_arguments`, but of a stream."""
    positional, keywords = arguments_of(request, await request.body())
    function = with_options(app, function, request, is_stream=True)
    expect_stream(function)
    if request.query:
        add_keywords(keywords, await query_arguments(app, function, request))
    return function.bind(*positional, **keywords)


async def send_head(request: Request) -> None:
    """Respond to HEAD with the head that :func:`send_items` would send."""
    await request.begin(200, form_for(request).kind, NOT_STORED)
    await request.end()


async def send_items(
    app: App,
    request: Request,
    source: ItemSource,
    *,
    at_once: bool = False,
    reporter: ReportSender | None = None,
) -> None:
    """Respond with the items of a source, until it ends or the gateway closes.

    Args:
        app: the app, whose ``closing`` event ends the response.
        request: the request to respond to.
        source: the items.
        at_once: whether to begin the response before the first item. Otherwise an error that comes first
            can still be an error response.
        reporter: sends reports of progress between the items; None if the form has none.

    Raises:
        SpearError: the source failed before the response began.
    """
    form = form_for(request)
    with trio.CancelScope() as scope:
        async with open_private_nursery() as nursery:
            nursery.start_soon(_cancel_when, app.closing, scope)
            if reporter is not None:
                nursery.start_soon(reporter.run)
            if at_once or form.is_at_once:
                await request.begin(200, form.kind, NOT_STORED)
                await _send(request, form.sign_of_life())
            write = partial(_send, request) if reporter is None else reporter.send
            await _pump(app, request, source, form, write)
    if scope.cancelled_caught:
        problem = Problem(503, GOING_AWAY, "the host is shutting down", delivered=_known(source))
        await _fail(app, request, form, problem, _known(source))


def _known(source: ItemSource) -> Delivered:
    """Return ``delivered`` of the source's call; "no" if the source is not a function."""
    return source.delivered if isinstance(source, FunctionStream) else "no"


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _pump(
    app: App,
    request: Request,
    source: ItemSource,
    form: Form,
    write: Callable[[bytes], Awaitable[None]],
) -> None:
    count = 0
    items = aiter(source)
    try:
        while True:
            with trio.move_on_after(app.settings.keep_alive_seconds) as patience:
                item = await anext(items)
            if not request.status:
                await request.begin(200, form.kind, NOT_STORED)
            if patience.cancelled_caught:
                await write(form.sign_of_life())
            else:
                data = form.item(count, item)
                del item  # free its memory: sending, and waiting for the next item, can take long
                await write(data)
                count += 1
    except StopAsyncIteration:
        if not request.status:
            await request.begin(200, form.kind, NOT_STORED)
        await write(form.end(count))
        await request.end()
    except (SpearError, Problem) as error:
        if not request.status:
            raise
        await _fail(app, request, form, error, _known(source))


async def _send(request: Request, data: bytes) -> None:
    if data:
        await request.send(data)


async def _fail(app: App, request: Request, form: Form, error: Exception, known: Delivered) -> None:
    """Report a failure: in an error response, or in the stream, which is cut off if ``form.is_cut``."""
    if not request.status:
        await app.refuse(request, error)
        return
    tell_all = app.may_know_all(request)
    told = describe(error, request_id=request.id, tell_all=tell_all, known=known)
    await _send(request, form.failure(told))
    if not form.is_cut:
        await request.end()
