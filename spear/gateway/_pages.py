"""The dashboard's files. They contain no data of a host, so they need no token; the page asks for it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._app import App
    from ._request import Request

FILES: Final = (
    "app.js", "calls.js", "charts.js", "findings.js", "host.js", "icon.svg", "logs.js", "operate.js",
    "page.js", "style.css", "tables.js",
)  # fmt: skip
"""Files that the page loads."""

_KINDS: Final = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}

# Allows scripts, styles and images of this gateway, requests to it, and nothing else.
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)


@cache
def _read(name: str) -> bytes:
    return files("spear.gateway").joinpath("_dashboard", name).read_bytes()


async def _respond(request: Request, name: str) -> None:
    kind = _KINDS[name.rpartition(".")[2]]
    await request.respond(200, _read(name), kind, _HEADERS)


async def get_page(app: App, request: Request, _: str) -> None:
    """Handle ``GET /``."""
    await _respond(request, "index.html")


async def get_file(app: App, request: Request, _: str) -> None:
    """Handle ``GET /dashboard/...``: one of :data:`FILES`, as the table of routes has no other."""
    await _respond(request, request.path.rpartition("/")[2])
