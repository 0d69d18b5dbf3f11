"""The dashboard, in a real browser."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

import spear
from spear.gateway import GatewaySettings, open_gateway
from spear.telemetry import LogLine

from .browser import find_browser, open_page
from .helpers import TOKEN, Probe, ask, items_of, open_site, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from spear.telemetry import OutputName

    from .browser import Page
    from .helpers import Json

pytestmark = pytest.mark.slow

needs_browser = pytest.mark.skipif(
    find_browser() is None,
    reason="no browser was found: install chromium to test the dashboard",
)

EVIL = "<img src=x onerror=\"window.owned = 'yes'\"><script>window.owned = 'yes'</script>"

FUNCTIONS = f"""
import os
import sys
from collections.abc import AsyncIterator

import spear
import trio

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


@app.function
async def die() -> None:
    sys.stderr.write(EVIL + "\\nthe last words\\n")
    sys.stderr.flush()
    os._exit(3)


@app.function
async def sleep() -> None:
    await trio.sleep_forever()
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
async def test_a_late_refusal_of_an_earlier_token_does_not_cost_the_present_one() -> None:
    async with (
        open_site(GatewaySettings(token=TOKEN)) as site,
        open_page(site.gateway.urls[0]) as page,
    ):
        await page.wait_for("byId('ask').open")
        status = await page.evaluate(
            "import('/dashboard/host.js').then(async ({ ask }) => {"
            "const fetches = window.fetch; let refuse;"
            "sessionStorage.setItem('spear-token', 'an-earlier-token');"
            "window.fetch = () => new Promise((resolve) => { refuse = resolve; });"
            "const answer = ask('v1/statistics'); window.fetch = fetches;"
            f"sessionStorage.setItem('spear-token', {json.dumps(TOKEN)});"
            "refuse(new Response('', { status: 401 })); return (await answer).status })"
        )
        assert status == 200
        assert await page.evaluate("sessionStorage.getItem('spear-token')") == TOKEN


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
SCRIPTS = (
    "app", "calls", "charts", "findings", "host", "logs", "operate", "page", "tables",
)  # fmt: skip


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
            *((f"/dashboard/{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS),
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


# -- what an operator sees and does ----------------------------------------------------------------

CONTROL = GatewaySettings(port=0, allow_control=True)

FIRST_VIEW = """
addEventListener("DOMContentLoaded", () => {
  new MutationObserver((_, observer) => {
    if (!byId("deployments").children.length) return;
    window.first = {
      tiles: byId("tiles").innerText, lines: document.querySelectorAll(".tile .stroke").length,
      rows: byId("deployments").innerText, functions: byId("functions").innerText,
    };
    observer.disconnect();
  }).observe(document.body, { subtree: true, childList: true });
});
"""
"""Keeps what the page shows when it shows a deployment for the first time."""


@asynccontextmanager
async def open_operated(
    place: Path, settings: GatewaySettings = CONTROL, script: str = ""
) -> AsyncIterator[tuple[Page, spear.Spearlet]]:
    """Open a page for an operator of a host that can start its deployment again."""
    file = place / "evil.py"
    file.write_text(FUNCTIONS, encoding="utf-8")

    async def start(name: str) -> None:
        await spearlet.deploy(file, name=name)

    async with spear.open_spearlet() as spearlet:
        await start("evil")
        async with (
            open_gateway(spearlet, settings, on_start=start) as gateway,
            open_page(gateway.urls[0], script) as page,
        ):
            yield page, spearlet


def button(label: str) -> str:
    """Return an expression for the button with a label."""
    return f"document.querySelector('button[aria-label={json.dumps(label)}]')"


async def click(page: Page, label: str) -> None:
    """Wait for a button, and click it."""
    await page.wait_for(f"{button(label)}.checkVisibility()")
    await page.evaluate(f"{button(label)}.click()")


async def answer(page: Page, *, yes: bool = True) -> None:
    """Answer the page's question."""
    await page.wait_for("byId('confirm').open")
    await page.evaluate(f"byId('{'confirm-go' if yes else 'confirm-keep'}').click()")


@needs_browser
async def test_the_first_view_has_all_figures_and_the_history() -> None:
    probe = Probe()
    async with spear.open_spearlet() as spearlet:
        deployment = await spearlet.deploy(probe.agent)
        async with open_gateway(spearlet, GatewaySettings(port=0)) as gateway:
            for number in range(7):
                await deployment.echo(number)
            with pytest.raises(spear.FunctionRaised):
                await deployment.boom()
            history = gateway._app.history
            await wait_until(lambda: history.show()["deployments"]["probe"]["calls"][-1] == 8)  # type: ignore[index]  # JSON
            async with open_page(gateway.urls[0], FIRST_VIEW) as page:
                first = await page.wait_for("window.first")
                assert isinstance(first, dict)
                tiles, rows = str(first["tiles"]), str(first["rows"])
                assert "8 in all" in tiles
                assert "1 in all" in tiles
                assert re.search(r"[\d.]+ (µs|ms|s)\n", tiles)  # a latency
                for missing in (
                    "\N{EN DASH}",
                    "\N{HORIZONTAL ELLIPSIS}",
                    "NaN",
                    "undefined",
                    "no calls",
                ):
                    assert missing not in tiles + rows
                assert first["lines"] == 4
                assert tiles.count("min ") == tiles.count(" ago") == tiles.count("now") == 4
                assert re.search(r"probe\s+ready\s+1 of 1\s", rows)
                assert re.search(r"boom\s+probe\s.*1 FunctionRaised", str(first["functions"]))
                label = "byId('rate-line').getAttribute('aria-label')"
                assert re.fullmatch(
                    r"Calls a second: now [\d.]+, min [\d.]+ · max [\d.]+, in the last \d+ s",
                    str(await page.evaluate(label)),
                )


@needs_browser
async def test_an_operator_scales_restarts_stops_and_starts(tmp_path: Path) -> None:
    async with open_operated(tmp_path) as (page, spearlet):
        evil = spearlet.deployments["evil"]
        await click(page, "Scale evil")
        await page.wait_for("byId('confirm').open")
        await page.evaluate(
            "document.querySelectorAll('#confirm-fields input').forEach((each) => { each.value = 2 })"
        )
        await page.press("Enter")
        await page.wait_for("byId('notices').textContent.includes('evil was scaled to 2')")
        assert len(evil.replicas) == 2

        before = {replica.pid for replica in evil.replicas}
        await click(page, "Restart evil")
        await answer(page, yes=False)
        await click(page, "Restart evil")  # at once: the event of the first end may still come
        assert {replica.pid for replica in evil.replicas} == before
        await answer(page)
        await page.wait_for("byId('notices').textContent.includes('evil was restarted')")
        assert not before & {replica.pid for replica in evil.replicas}

        execution = evil.sleep.submit()
        await click(page, f"Cancel {execution.id}")
        await answer(page)
        await page.wait_for("byId('executions').textContent.includes('cancelled')")
        assert execution.status.value == "cancelled"

        await click(page, "Stop evil")
        await answer(page)
        await page.wait_for("byId('notices').textContent.includes('evil was stopped')")
        assert not spearlet.deployments
        await page.wait_for("byId('deployments').textContent.includes('stopped')")
        await click(page, "Start evil")
        await page.wait_for("byId('notices').textContent.includes('evil was started')")
        assert len(spearlet.deployments["evil"].replicas) == 1

        (tmp_path / "evil.py").write_text("raise SystemExit('no such thing')", encoding="utf-8")
        await click(page, "Restart evil")
        await answer(page)
        await page.wait_for("byId('notices').textContent.includes('evil was not restarted: ')")
        refused = [each for each in page.complaints if "/v1/deployments/evil/restart" not in each]
        assert refused == []


@needs_browser
async def test_a_caller_who_may_only_read_has_no_buttons(tmp_path: Path) -> None:
    async with open_operated(tmp_path, GatewaySettings(port=0)) as (page, spearlet):
        await page.wait_for("byId('read-only').checkVisibility()")
        assert not await page.evaluate(f"{button('Restart evil')}.checkVisibility()")
        # A request that is made all the same is refused.
        status = await page.evaluate(
            "fetch('v1/deployments/evil/stop', { method: 'POST' }).then((each) => each.status)"
        )
        assert status == 403
        assert spearlet.deployments["evil"].health().state.value == "ready"


@needs_browser
async def test_a_crash_is_shown_with_its_last_words_which_stay_text(tmp_path: Path) -> None:
    async with open_operated(tmp_path) as (page, spearlet):
        with pytest.raises(spear.WorkerDied):
            await spearlet.deployments["evil"].die()
        await page.wait_for("byId('attention').checkVisibility()")
        await page.wait_for("byId('findings').textContent.includes('exited with status 3')")
        await page.wait_for("byId('findings').textContent.includes('the last words')")
        await page.wait_for("byId('failed-instances').textContent.includes('the last words')")
        assert "evil is " in str(await page.evaluate("byId('announced').textContent"))
        await page.wait_for("byId('instances').textContent.includes('evil-1 #2')")

        # One click leads to what the ended instance wrote.
        await page.evaluate("byId('failed-instances').querySelector('details').open = true")
        await click(page, "Show the logs of process:evil-1#1")
        await page.wait_for("byId('instance').value === 'process:evil-1#1'")
        await page.wait_for("byId('logs').textContent.includes('the last words')")
        markup = "document.querySelectorAll('main script, main img').length"
        assert await page.evaluate(markup) == 0
        assert await page.evaluate("window.owned") is None
        assert page.complaints == []


SAMPLES = 11
STEADY = {
    "calls": 50, "failures": 0, "succeeded": 50, "seconds": 5, "refused": 0, "lost": 0, "in_flight": 4,
    "waiting": 0, "ready": 1, "wanted": 1,
}  # fmt: skip
"""Counters of a deployment in which 4 calls are in flight, and none ends."""


def rising(most: int) -> list[int]:
    """Return a counter that rises from 0 with each sample."""
    return [most * step // (SAMPLES - 1) for step in range(SAMPLES)]


BUSY = {"calls": rising(50), "succeeded": rising(50)}

TROUBLES: list[tuple[dict[str, list[int]], str, str]] = [
    (
        {}, "hanging",
        "4 calls in flight, and none has ended for 18 s. It waits for something: CPU 0 %.",
    ),
    ({"waiting": [7] * SAMPLES}, "hanging", "4 calls in flight, 7 waiting, and none has ended for"),
    (
        {**BUSY, "waiting": [7] * SAMPLES}, "overloaded",
        "7 calls waiting: 1 instance is busy with 4 calls.",
    ),
    (
        {**BUSY, "refused": rising(3)}, "overloaded",
        "3 calls refused in the last minute: the queue of 1000 was full.",
    ),
    (
        {"calls": rising(50), "failures": rising(30), "succeeded": rising(20)}, "failing",
        "60 % of 50 calls in the last minute failed; most since its start: echo: KeyError (30).",
    ),
    ({**BUSY, "lost": rising(2)}, "restarted", "2 instances ended without being asked to"),
    (BUSY, "", ""),
]  # fmt: skip


@needs_browser
async def test_the_page_names_the_trouble_of_a_deployment() -> None:
    """The snapshot is of a real host; its history and its figures are those of hosts in trouble."""
    async with open_site() as site, open_page(site.gateway.urls[0]) as page:
        shown = (await ask(site.gateway, "GET", "/v1/statistics")).json
        (deployment,) = items_of(shown["deployments"])
        deployment["streams"] = []
        deployment["function_statistics"] = {
            "echo": {"calls": 50, "failures": {"KeyError": 30}, "latency": {}}
        }
        statistics = deployment["statistics"]
        assert isinstance(statistics, dict)
        statistics["calls_in_flight"] = 4
        shown["time"] = 1020.0
        times = [1000 + 2 * step for step in range(SAMPLES)]
        await page.wait_for("byId('state').textContent === 'running'")
        for columns, kind, says in TROUBLES:
            filled = {name: [value] * SAMPLES for name, value in STEADY.items()} | columns
            statistics["waiting"] = filled["waiting"][-1]
            history = {"times": times, "deployments": {"probe": filled}}
            found = await page.evaluate(
                "Promise.all([import('/dashboard/charts.js'), import('/dashboard/findings.js')])"
                ".then(([{ begin }, { findingsOf }]) => {"
                f"begin({json.dumps(history)});"
                f"return findingsOf({json.dumps(shown)}, () => [], () => 0) }})"
            )
            assert isinstance(found, list)
            assert [each["kind"] for each in found if isinstance(each, dict)] == [kind] * bool(kind)
            assert says in str(found)


@needs_browser
async def test_logs_are_filtered_and_paused_and_go_on_after_the_host_was_away() -> None:
    async def serve(
        port: int, until: trio.Event, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with open_gateway(spearlet, GatewaySettings(port=port)) as gateway:
            task_status.started(gateway.urls[0])
            await until.wait()

    times = count()

    def say(name: str, text: str, stream: OutputName = "stdout") -> None:
        place = spear.InstanceId("memory", f"{name}-1", 1)
        spearlet.deployments[name]._feed.put(place, LogLine(1, stream, float(next(times)), text))

    shown = (
        "[...byId('logs').children].filter((each) => !each.hidden).map((each) => each.textContent)"
    )

    async def texts(*wanted: str) -> None:
        """Wait until these lines, and no others, are shown."""
        ends = " && ".join(
            f"shown[{number}].endsWith({json.dumps(text)})" for number, text in enumerate(wanted)
        )
        await page.wait_for(
            f"((shown) => shown.length === {len(wanted)} && ({ends or 'true'}))({shown})"
        )

    async def fill(field: str, value: str, event: str) -> None:
        await page.evaluate(
            f"byId('{field}').value = {json.dumps(value)};"
            f"byId('{field}').dispatchEvent(new Event('{event}'))"
        )

    async with spear.open_spearlet() as spearlet, trio.open_nursery() as nursery:
        for name in ("tea", "coffee"):
            await spearlet.deploy(Probe(name).agent)
        say("tea", "first")
        until = trio.Event()
        url = await nursery.start(serve, 0, until)
        async with open_page(url) as page:
            await texts("first")
            say("coffee", "SECOND", "stderr")
            await texts("first", "SECOND")
            await fill("text", "second", "input")
            await texts("SECOND")
            await fill("text", "", "input")
            await page.evaluate("byId('only-stderr').click()")
            await texts("SECOND")
            await page.evaluate("byId('only-stderr').click()")
            await fill("deployment", "tea", "change")
            await texts("first")
            await fill("deployment", "", "change")
            await texts("first", "SECOND")

            await page.evaluate("byId('pause').click()")
            say("tea", "third")
            await page.wait_for("byId('pause').textContent === 'Resume (1 new)'")
            await texts("first", "SECOND")
            await page.evaluate("byId('pause').click()")
            await texts("first", "SECOND", "third")

            until.set()
            await page.wait_for("byId('state').textContent === 'not connected'")
            await texts("first", "SECOND", "third")  # they can still be read
            until = trio.Event()
            await nursery.start(serve, int(url.rpartition(":")[2]), until)
            await page.wait_for("byId('state').textContent === 'running'")
            say("tea", "fourth")
            await texts("first", "SECOND", "third", "fourth")
        until.set()


LOOKS = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const mixed = (colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const each of colors) { canvas.fillStyle = each; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => each / 255);
  };
  const luminance = (rgb) => {
    const linear = (each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !parent.checkVisibility() || parent.closest(".unseen, .skip, option")) continue;
    const grounds = [];
    for (let each = parent; each; each = each.parentElement) {
      grounds.unshift(getComputedStyle(each).backgroundColor);
    }
    const ground = luminance(mixed(grounds));
    const ink = luminance(mixed([...grounds, getComputedStyle(parent).color]));
    const contrast = (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05);
    found.push([contrast, text.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]).slice(0, 5);
})()"""
"""The five texts with the least contrast to their background, by the formula of WCAG 2.2."""

NAMED = {"button", "combobox", "textbox", "searchbox", "checkbox", "spinbutton", "link", "image"}


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everyone_can_read_and_reach_everything(tmp_path: Path, scheme: str) -> None:
    """WCAG 2.2: text has a contrast of 4.5, controls have names, and the keyboard reaches them."""
    async with open_operated(tmp_path) as (page, spearlet):
        await page.use_scheme(scheme)
        evil = spearlet.deployments["evil"]
        with pytest.raises(spear.WorkerDied):
            await evil.die()
        evil.fail.submit()
        await page.wait_for("byId('failed').checkVisibility()")
        await page.wait_for("byId('executions').textContent.includes('failed')")
        ground = str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (int(ground[4:].split(",")[0]) < 100) == (scheme == "dark")
        for width in (1280, 390):
            await page.resize(width, 900)
            low = await page.evaluate(LOOKS)
            assert isinstance(low, list)
            assert len(low) == 5
            for each in low:
                assert isinstance(each, list)
                assert isinstance(each[0], float)
                assert each[0] >= 4.5, low
            assert await page.evaluate("document.documentElement.scrollWidth") == width

        tree = items_of((await page.send("Accessibility.getFullAXTree"))["nodes"])
        controls = [
            (under(each, "role", "value"), under(each, "name", "value"))
            for each in tree
            if not each["ignored"] and under(each, "role", "value") in NAMED
        ]
        assert len(controls) > 10
        assert [role for role, name in controls if not name] == []

        # The focus stays on a button while the figures around it change.
        await page.wait_for(f"{button('Stop evil')}.focus(), true")
        seen = await page.evaluate("byId('uptime').textContent")
        await page.wait_for(f"byId('uptime').textContent !== {json.dumps(seen)}")
        assert (
            await page.evaluate("document.activeElement.getAttribute('aria-label')") == "Stop evil"
        )
        await page.press("Enter")
        await page.wait_for("document.activeElement === byId('confirm-keep')")
        await page.press("Escape")
        await page.wait_for("!byId('confirm').open")
        assert (
            await page.evaluate("document.activeElement.getAttribute('aria-label')") == "Stop evil"
        )
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        assert evil.health().state.value != "stopping"


def under(node: dict[str, Json], *path: str) -> Json:
    """Return a value deep in an object; None if it is not there."""
    value: Json = node
    for each in path:
        value = value.get(each) if isinstance(value, dict) else None
    return value
