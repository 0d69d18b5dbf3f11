"""Responses that go on: the items of a function, or whatever else comes piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Protocol

import trio

from spear._errors import SpearError
from spear.calls import FunctionStream
from spear.channels import open_private_nursery

from ._calls import expect_stream, find_function, with_options
from ._errors import Problem, describe
from ._exchange import arguments_of
from ._forms import form_for

if TYPE_CHECKING:
    from spear._errors import Delivered
    from spear.spearlet import BoundCall, Function

    from ._app import App
    from ._forms import Form
    from ._request import Request

_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
"""Nobody on the way is to collect what should be seen as it comes."""

GOING_AWAY: Final = "GoingAway"


class ItemSource(Protocol):
    """Where items come from; if cancelled while it waits for one, none is lost."""

    def __aiter__(self) -> AsyncIterator[object]:
        """Itself."""

    async def __anext__(self) -> object:
        """The next one."""


async def stream(app: App, request: Request, name: str) -> None:
    """``POST /v1/functions/{name}/stream``."""
    function = find_function(app, name)
    bound = await _bind_arguments(app, request, function)
    with app.budgets.streams.taking(1, request.client):
        async with bound.stream() as items:
            place = ((b"spear-instance", str(items.instance).encode()),)
            request.extra += place
            await send_items(app, request, items)


async def _bind_arguments(app: App, request: Request, function: Function) -> BoundCall:
    """As :func:`bind_arguments`, for a function that gives a stream."""
    positional, keywords = arguments_of(request, await request.body())
    function = with_options(app, function, request, is_stream=True)
    expect_stream(function)
    return function.bind(*positional, **keywords)


async def send_head(request: Request) -> None:
    """Answer HEAD as :func:`send_items` begins to answer GET."""
    await request.begin(200, form_for(request).kind, _HEADERS)
    await request.end()


async def send_items(
    app: App, request: Request, source: ItemSource, *, at_once: bool = False
) -> None:
    """Answer with what comes from a source, as long as it does.

    Args:
        app: whose closing ends it.
        request: what is answered.
        source: items, or an error.
        at_once: begin before there is a first item, which otherwise may still be an error.

    Raises:
        SpearError: the source failed before its first item.
    """
    form = form_for(request)
    with trio.CancelScope() as scope:
        async with open_private_nursery() as nursery:
            nursery.start_soon(_cancel_when, app.closing, scope)
            if at_once:
                await request.begin(200, form.kind, _HEADERS)
                await _send(request, form.sign_of_life())
            await _pump(app, request, source, form)
    if scope.cancelled_caught:
        problem = Problem(503, GOING_AWAY, "the host goes away", delivered=_known(source))
        await _fail(app, request, form, problem, _known(source))


def _known(source: ItemSource) -> Delivered:
    """Whether a function has run that items come from; what else there is may always be read again."""
    return source.delivered if isinstance(source, FunctionStream) else "no"


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _pump(app: App, request: Request, source: ItemSource, form: Form) -> None:
    count = 0
    items = aiter(source)
    try:
        while True:
            with trio.move_on_after(app.settings.keep_alive_seconds) as patience:
                item = await anext(items)
            if not request.status:
                await request.begin(200, form.kind, _HEADERS)
            if patience.cancelled_caught:
                await _send(request, form.sign_of_life())
            else:
                data = form.item(count, item)
                del item  # the client may take it slowly, and the next one may be late
                await _send(request, data)
                count += 1
    except StopAsyncIteration:
        if not request.status:
            await request.begin(200, form.kind, _HEADERS)
        await _send(request, form.end(count))
        await request.end()
    except (SpearError, Problem) as error:
        if not request.status:
            raise
        await _fail(app, request, form, error, _known(source))


async def _send(request: Request, data: bytes) -> None:
    if data:
        await request.send(data)


async def _fail(app: App, request: Request, form: Form, error: Exception, known: Delivered) -> None:
    """Tell of a failure after the response has begun. If it is not ended, it will be cut off."""
    if not request.status:
        await app.refuse(request, error)
        return
    tell_all = app.may_know_all(request)
    told = describe(error, request_id=request.id, tell_all=tell_all, known=known)
    await _send(request, form.failure(told))
    if not form.is_cut:
        await request.end()
