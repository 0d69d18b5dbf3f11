"""The dashboard, in a real browser."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear.gateway import GatewaySettings, open_gateway

from .browser import find_browser, open_page
from .helpers import TOKEN, Probe, ask, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .browser import Page

pytestmark = pytest.mark.slow

needs_browser = pytest.mark.skipif(
    find_browser() is None,
    reason="no browser was found: install chromium to test the dashboard",
)

EVIL = "<img src=x onerror=\"window.owned = 'yes'\"><script>window.owned = 'yes'</script>"

FUNCTIONS = f"""
from collections.abc import AsyncIterator

import spear

EVIL = {EVIL!r}
app = spear.Agent("evil")


@app.function
async def greet(name: str, *, times: int = 1) -> str:
    '''Say <b>hello</b>.'''
    print("greeting", EVIL, flush=True)
    return f"hello, {{name}} {{EVIL}}"


@app.function
async def count(to: int) -> AsyncIterator[str]:
    for number in range(to):
        yield f"{{number}} {{EVIL}}"


@app.function
async def fail() -> None:
    raise ValueError(EVIL)


@app.function
async def odd(text: str = EVIL) -> None:
    pass
"""


@asynccontextmanager
async def open_dashboard(
    place: Path, settings: GatewaySettings | None = None
) -> AsyncIterator[tuple[Page, spear.Deployment]]:
    """Open a page that shows malicious functions."""
    file = place / "evil.py"
    file.write_text(FUNCTIONS, encoding="utf-8")
    async with spear.open_spearlet() as spearlet:
        evil = await spearlet.deploy(file)
        settings = settings or GatewaySettings(port=0)
        async with open_gateway(spearlet, settings) as gateway, open_page(gateway.urls[0]) as page:
            yield page, evil


async def choose(page: Page, function: str, arguments: object) -> None:
    """Fill in the form of a function, and send it."""
    await page.wait_for(f"byId('signature').textContent || {json.dumps(function)} === 'none'")
    await page.evaluate(
        f"byId('function').value = {json.dumps(function)};"
        "byId('function').dispatchEvent(new Event('change'));"
        "byId('result').hidden = true; byId('outcome').textContent = '';"
        f"byId('arguments').value = {json.dumps(json.dumps(arguments))}; byId('call').requestSubmit()"
    )


@needs_browser
async def test_s20_it_shows_what_runs_and_calls_it_and_all_of_it_is_text(tmp_path: Path) -> None:
    async with open_dashboard(tmp_path) as (page, evil):
        await page.wait_for("byId('state').textContent === 'running'")
        rows = await page.wait_for("byId('functions').textContent")
        assert "greet" in str(rows)
        (replica,) = evil.replicas
        assert str(replica.pid) in str(await page.evaluate("byId('instances').textContent"))
        await page.wait_for("byId('signature').textContent")
        assert await page.evaluate("byId('arguments').value") == '{"name":""}'

        await choose(page, "evil.greet", {"name": "Ada"})
        await page.wait_for("byId('result').textContent.includes('hello, Ada')")
        outcome = str(await page.evaluate("byId('outcome').textContent"))
        assert "process:evil-1#1" in outcome
        await page.wait_for("byId('logs').textContent.includes('greeting')")
        await page.wait_for("/^[0-9]/.test(byId('rate').textContent)")
        await page.wait_for("!!byId('rate-line').querySelector('.stroke')")

        await choose(page, "evil.count", [3])
        await page.wait_for("byId('result').textContent.split('\\n').length === 3")
        await choose(page, "evil.fail", {})
        await page.wait_for("byId('result').className === 'bad'")
        assert str(await page.evaluate("byId('outcome').textContent")).startswith("500")
        await page.wait_for("!!byId('functions').querySelector('td.bad')")

        # Names, descriptions and results of functions are shown as text.
        text = "byId('{}').textContent.includes('<script>')"
        await page.wait_for(text.format("logs"))
        await page.wait_for(text.format("result"))
        await choose(page, "evil.odd", {})
        await page.wait_for(text.format("signature"))
        await choose(page, "evil.greet", {"name": "Ada"})
        await page.wait_for("byId('summary').textContent === 'Say <b>hello</b>.'")
        markup = "document.querySelectorAll('main script, main img, form b').length"
        assert await page.evaluate(markup) == 0
        assert await page.evaluate("window.owned") is None
        (failed,) = page.complaints  # the call that was meant to fail
        assert "/v1/functions/evil.fail/call" in failed


@needs_browser
async def test_s20_its_policy_runs_no_script_of_others(tmp_path: Path) -> None:
    async with open_dashboard(tmp_path) as (page, _):
        await page.wait_for("byId('functions').textContent")
        # Even injected markup could run no script.
        await page.evaluate(f"byId('summary').innerHTML = {json.dumps(EVIL)}")
        await page.evaluate(
            "const made = document.createElement('script'); made.textContent = 'window.owned = 1';"
            "document.body.append(made)"
        )
        await wait_until(lambda: "inline event handler" in str(page.complaints))
        await wait_until(lambda: "inline script" in str(page.complaints))
        assert await page.evaluate("window.owned") is None
        assert "Content Security Policy" in str(page.complaints)


@needs_browser
async def test_with_a_token_it_asks_for_it_and_keeps_it_in_its_tab(tmp_path: Path) -> None:
    settings = GatewaySettings(port=0, token=TOKEN)
    async with open_dashboard(tmp_path, settings) as (page, _):
        await page.wait_for("byId('ask').open")

        async def enter(token: str) -> None:
            await page.evaluate(f"byId('token').value = '{token}'; byId('login').requestSubmit()")

        await enter("not-the-token-0123456789")
        await page.wait_for(
            "byId('ask').open && byId('why').textContent.startsWith('The token was wrong')"
        )
        await enter(TOKEN)
        await page.wait_for("byId('state').textContent === 'running'")
        assert await page.evaluate("sessionStorage.getItem('spear-token')") == TOKEN
        assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        await choose(page, "evil.greet", {"name": "Ada"})
        await page.wait_for("byId('result').textContent.includes('hello, Ada')")
        await page.evaluate("byId('forget').click()")
        await page.wait_for("typeof byId === 'function' && byId('ask').open")
        assert await page.evaluate("sessionStorage.length") == 0


@needs_browser
async def test_it_says_when_the_host_is_away_and_goes_on_when_it_is_back() -> None:
    probe = Probe()

    async def serve(
        port: int, until: trio.Event, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with open_gateway(spearlet, GatewaySettings(port=port)) as gateway:
            task_status.started(gateway.urls[0])
            await until.wait()

    async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
        await spearlet.deploy(probe.agent)
        until = trio.Event()
        url = await nursery.start(serve, 0, until)
        async with open_page(url) as page:
            await page.wait_for("byId('state').textContent === 'running'")
            until.set()
            await page.wait_for("byId('state').textContent === 'not connected'")
            until = trio.Event()
            await nursery.start(serve, int(url.rpartition(":")[2]), until)
            await page.wait_for("byId('state').textContent === 'running'")
        until.set()


PREFIX = b"/tools/spear"


async def strip_prefix(url: str, client: trio.SocketStream) -> None:
    """Serve a request through a proxy that strips a prefix from the path, and knows no other path."""
    async with client:
        head = b""
        while b"\r\n\r\n" not in head:
            data = bytes(await client.receive_some())
            if not data:  # the browser opened a connection that it does not need
                return
            head += data
        method, target, rest = head.split(b" ", 2)
        if not target.startswith(PREFIX + b"/"):
            await client.send_all(b"HTTP/1.1 404 Not Here\r\nContent-Length: 0\r\n\r\n")
            return
        line, fields = rest.split(b"\r\n", 1)
        path = target.removeprefix(PREFIX)
        head = b"%b %b %b\r\nConnection: close\r\n%b" % (
            method, path, line, fields.replace(b"Connection: keep-alive\r\n", b""),
        )  # fmt: skip
        host = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        async with host, trio.open_nursery() as nursery:
            await host.send_all(head)

            async def upload() -> None:
                async for part in client:
                    await host.send_all(part)
                nursery.cancel_scope.cancel()  # the browser has left

            nursery.start_soon(upload)
            async for part in host:
                await client.send_all(part)
            nursery.cancel_scope.cancel()


@needs_browser
async def test_below_a_prefix_all_that_it_asks_for_is_below_it(tmp_path: Path) -> None:
    file = tmp_path / "evil.py"
    file.write_text(FUNCTIONS, encoding="utf-8")
    async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
        await spearlet.deploy(file)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:

            async def handle(client: trio.SocketStream) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await strip_prefix(gateway.urls[0], client)

            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, handle, [listener])
            port = listener.socket.getsockname()[1]
            async with open_page(f"http://127.0.0.1:{port}{PREFIX.decode()}/") as page:
                await page.wait_for("byId('state').textContent === 'running'")
                await page.wait_for("document.styleSheets.length === 1")
                await choose(page, "evil.greet", {"name": "Ada"})
                await page.wait_for("byId('result').textContent.includes('hello, Ada')")
                await page.wait_for("byId('logs').textContent.includes('greeting')")
                await choose(page, "evil.count", [3])
                await page.wait_for("byId('result').textContent.split('\\n').length === 3")
                icon = await page.evaluate(
                    "fetch(document.querySelector('link[rel=icon]').href).then((each) => each.status)"
                )
                assert icon == 200
                assert page.complaints == []
        nursery.cancel_scope.cancel()


async def test_its_files_say_what_they_are_and_load_nothing_from_elsewhere() -> None:
    async with open_site() as site:
        for path, kind in (
            ("/", "text/html; charset=utf-8"),
            ("/dashboard/app.js", "text/javascript; charset=utf-8"),
            ("/dashboard/style.css", "text/css; charset=utf-8"),
            ("/dashboard/icon.svg", "image/svg+xml"),
        ):
            reply = await ask(site.gateway, "GET", path)
            assert (reply.status, reply.headers["content-type"]) == (200, kind)
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["x-frame-options"] == "DENY"
            text = reply.body.decode()
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
            if path == "/":
                assert "style=" not in text
                assert not re.search(r"\son\w+=", text)
            if path.endswith(".js"):
                assert "innerHTML" not in text
                assert "insertAdjacent" not in text
                assert "eval(" not in text
