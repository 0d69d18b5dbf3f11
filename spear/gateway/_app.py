"""Routing of requests: find the action for a request, check access, and report errors.

The paths are in the table at the end of ``_routes``; ``_guard`` decides who has access.

Invariant: every request gets one response, or its connection ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, final

import attrs
import trio

from spear._errors import SpearError
from spear.spearlet import SpearletState

from ._budget import make_budgets
from ._catalogue import Catalogue
from ._errors import Problem, describe, retry_after, retry_header, status_of
from ._exchange import identify, show_document
from ._guard import AccessGuard
from ._history import History
from ._statistics import Connections, GatewayStatistics
from ._websocket import WebSocket, check_handshake

if TYPE_CHECKING:
    from spear.spearlet import Spearlet

    from ._request import Link, Request
    from ._settings import GatewaySettings
    from ._terminals import DebugTerminals

logger: Final = logging.getLogger("spear.gateway")

Action: TypeAlias = "Callable[[App, Request, str], Awaitable[None]]"
"""Handles a request; the text is the part of the path at ``{name}``. Raises SpearError or Problem."""

SocketAction: TypeAlias = "Callable[[App, Request, WebSocket, str], Awaitable[None]]"
"""Serves a WebSocket; the text is as in :data:`Action`. Raises only before the handshake is done."""

OnDrain: TypeAlias = Callable[[float | None], None]
"""Drains the host, within so many seconds if the operator has set a limit. Must not block."""

OnStart: TypeAlias = Callable[[str], Awaitable[None]]
"""Starts a deployment that was stopped, by its name. Raises SpearError; NotFound for an unknown name."""


_PATHS: Final = ": GET /openapi.json lists the paths"


@final
@attrs.frozen
class Operation:
    """A method of a path.

    Attributes:
        action: handles the request.
        summary: for ``/openapi.json``, which leaves out an operation without a summary.
        query: the parameters of the query.
    """

    action: Action
    summary: str = ""
    query: tuple[str, ...] = ()


@final
@attrs.frozen
class Route:
    """The operations at a path.

    Attributes:
        operations: the operations by method.
        socket: serves WebSockets at the path, if it has any.
        is_open: whether requests need no token.
        is_control: whether only operators have access.
        is_foreign: whether the action has its own form of errors, and checks credentials itself.
    """

    operations: Mapping[str, Operation]
    socket: SocketAction | None = None
    is_open: bool = False
    is_control: bool = False
    is_foreign: bool = False

    @property
    def allow(self) -> bytes:
        """The allowed methods, for the ``Allow`` header."""
        methods = ["GET", "HEAD"] if "GET" in self.operations else []
        methods += [each for each in self.operations if each != "GET"]
        return ", ".join([*methods, "OPTIONS"]).encode()


@final
class App:
    """The state that all requests of a gateway share.

    Attributes:
        spearlet: the spearlet that requests are about.
        settings: settings of the gateway.
        routes: routes by path, with a star in place of a name.
        catalogue: descriptions of the functions.
        history: counters of the last minutes.
        budgets: budgets for what clients hold.
        requests: number of requests so far.
        responses: number of responses by status; 0 counts clients that disconnected before one.
        closing: set when the gateway closes.
        begun: Trio's time when the gateway was opened.
        on_drain: called when an operator requests a drain of the host.
        on_start: called when an operator starts a deployment that was stopped; may be None.
        stopped: names of deployments that an operator has stopped, and may start again.
        terminals: terminals of a development host; None for every other host.
        connections: open connections, and counts of refused ones.
    """

    def __init__(
        self,
        spearlet: Spearlet,
        settings: GatewaySettings,
        routes: Mapping[str, Route],
        nursery: trio.Nursery,
        on_drain: OnDrain,
        on_start: OnStart | None,
        terminals: DebugTerminals | None = None,
    ) -> None:
        self.spearlet = spearlet
        self.settings = settings
        self.routes = routes
        self.guard = AccessGuard(settings)
        self.catalogue = Catalogue()
        self.history = History(spearlet)
        self.budgets = make_budgets(settings)
        self.requests = 0
        self.responses: dict[int, int] = {}
        self.closing = trio.Event()
        self.begun = trio.current_time()
        self.on_drain = on_drain
        self.on_start = on_start
        self.stopped: set[str] = set()
        self.terminals = terminals
        self.connections = Connections()
        self._nursery = nursery  # for work that continues when its client disconnects

    @property
    def is_draining(self) -> bool:
        """Whether the host takes no new calls."""
        return self.spearlet.state is not SpearletState.RUNNING or self.closing.is_set()

    async def handle(self, request: Request, link: Link) -> None:
        """Handle a request, or serve a WebSocket. Raises nothing but Cancelled."""
        self.requests += 1
        try:
            try:
                request.id = identify(request)
                if request.wants_socket:
                    await self._serve_socket(request, link)
                else:
                    await self._dispatch(request)
            except (SpearError, Problem) as error:
                await self.refuse(request, error)
            except Exception as error:
                logger.exception("request %s for %s failed", request.id, request.path[:200])
                await self.refuse(request, error)
        finally:
            request.release()
            self.responses[request.status] = self.responses.get(request.status, 0) + 1

    async def _serve_socket(self, request: Request, link: Link) -> None:
        self.guard.check_place(request)
        self.guard.expect_known(request)
        name, pattern = _split(request.path)
        route = self.routes.get(pattern)
        if route is None or route.socket is None:
            raise Problem(
                404, "NoSuchPath", f"there is no WebSocket at {request.path[:200]}{_PATHS}"
            )
        check_handshake(request)
        await route.socket(self, request, WebSocket(request, link, self.settings), name)

    async def _dispatch(self, request: Request) -> None:
        self.guard.check_place(request)
        if (request.method, request.path) == ("OPTIONS", "*"):  # about the server, not a path
            await request.respond(204, b"", b"", ((b"allow", b"GET, HEAD, POST, OPTIONS"),))
            return
        name, pattern = _split(request.path)
        route = self.routes.get(pattern)
        if route is None:
            raise Problem(404, "NoSuchPath", f"there is nothing at {request.path[:200]}{_PATHS}")
        if (
            request.method == "OPTIONS"
        ):  # the CORS preflight of another site's page gets no permission
            await request.respond(204, b"", b"", ((b"allow", route.allow),))
            return
        method = "GET" if request.method == "HEAD" else request.method
        operation = route.operations.get(method)
        if operation is None:
            raise Problem(
                405,
                "MethodNotAllowed",
                f"{request.method[:20]} is not supported at this path: use {route.allow.decode()}",
                headers=((b"allow", route.allow),),
            )
        if not route.is_open and not route.is_foreign:
            self.guard.expect_known(request)
        if route.is_control:
            self.guard.expect_operator(request)
        await operation.action(self, request, name)

    def may_know_all(self, request: Request) -> bool:
        """Return whether a request comes from a caller who may see the output of instances."""
        return request.is_local or self.settings.token is not None

    async def complete(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` to its end; it continues if the client disconnects meanwhile.

        Raises the exceptions of ``work``.
        """
        failures: list[Exception] = []
        done = trio.Event()

        async def run() -> None:
            try:
                await work()
            except Exception as failure:  # any exception, as a bug must fail this request alone
                failures.append(failure)
            finally:
                done.set()

        self._nursery.start_soon(run)
        await done.wait()
        if failures:
            raise failures.pop()

    def statistics(self) -> GatewayStatistics:
        """Return the counters."""
        return GatewayStatistics(
            connections=len(self.connections.open),
            streams=self.budgets.streams.taken,
            requests=self.requests,
            responses=dict(self.responses),
            refused=self.connections.refused(),
        )

    async def refuse(self, request: Request, error: Exception, status: int | None = None) -> None:
        """Respond with an error. If a response has begun already, it is cut off."""
        if request.status:
            return
        status = status or status_of(error, is_draining=self.is_draining)
        told = describe(error, request_id=request.id, tell_all=self.may_know_all(request))
        headers = retry_header(retry_after(error, status))
        if isinstance(error, Problem):
            headers += error.headers
        body, kind = show_document(request, {"error": told})
        await request.respond(status, body, kind, headers)


def _split(path: str) -> tuple[str, str]:
    """Return (the name in a path, the path with a star in the name's place)."""
    parts = path.split("/", 5)
    if len(parts) <= 3 or not parts[3]:
        return "", path
    name, parts[3] = parts[3], "*"
    return name, "/".join(parts)
