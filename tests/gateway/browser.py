"""A real browser, driven by its DevTools protocol over a pair of pipes, without a port or a driver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"
Object: TypeAlias = dict[str, Json]

PATIENCE_SECONDS: Final = 30.0

BY_ID: Final = "window.byId = (id) => document.getElementById(id);"
"""A short name for scripts of tests."""

_FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--remote-debugging-pipe", "--force-color-profile=srgb",
)  # fmt: skip


def find_browser() -> str | None:
    """Return the path of the browser, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Page:
    """A tab of the browser.

    Attributes:
        complaints: errors on the console of the page, and violations of its content policy.
    """

    def __init__(self, reader: trio.lowlevel.FdStream, writer: trio.lowlevel.FdStream) -> None:
        self.complaints: list[str] = []
        self._reader = reader
        self._writer = writer
        self._session: str | None = None
        self._number = 0
        self._replies: dict[int, Object] = {}
        self._arrived = trio.Condition()

    async def read(self) -> None:
        """Process the browser's messages until it ends."""
        rest = b""
        while data := await self._reader.receive_some(65536):
            *whole, rest = (rest + bytes(data)).split(b"\0")
            for each in whole:
                await self._take(json.loads(each))

    async def _take(self, message: Object) -> None:
        number = message.get("id")
        if isinstance(number, int):
            async with self._arrived:
                self._replies[number] = message
                self._arrived.notify_all()
        elif message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(message["params"]))

    async def send(self, method: str, **parameters: Json) -> Object:
        """Send a command, and return its result."""
        self._number += 1
        number = self._number
        message: Object = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._writer.send_all(json.dumps(message).encode() + b"\0")
        with trio.fail_after(PATIENCE_SECONDS):
            async with self._arrived:
                while number not in self._replies:
                    await self._arrived.wait()
        reply = self._replies.pop(number)
        assert "error" not in reply, reply
        result = reply["result"]
        assert isinstance(result, dict)
        return result

    async def open(self, url: str, script: str) -> None:
        """Open a tab with a page; the script runs before the page's own."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Page.addScriptToEvaluateOnNewDocument", source=f"{BY_ID}\n{script}")
        await self.send("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Json:
        """Return the value of a JavaScript expression."""
        done = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        result = done["result"]
        assert isinstance(result, dict)
        return result.get("value")

    async def wait_for(self, expression: str) -> Json:
        """Wait until an expression is true, and return its value."""
        value: Json = None
        with trio.move_on_after(PATIENCE_SECONDS):
            # Before the page is loaded, the expression fails.
            guarded = (
                f"(() => {{ try {{ return {expression} }} catch (error) {{ return null }} }})()"
            )
            while not (value := await self.evaluate(guarded)):
                await trio.sleep(0.05)
        assert value, f"the condition was not met in time: {expression}; {self.complaints}"
        return value

    async def use_scheme(self, scheme: str) -> None:
        """Let the system prefer "light" or "dark" colours."""
        feature: Json = {"name": "prefers-color-scheme", "value": scheme}
        await self.send("Emulation.setEmulatedMedia", features=[feature])

    async def resize(self, width: int, height: int) -> None:
        """Resize the window."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def press(self, key: str) -> None:
        """Press and release a key, such as "Enter", "Escape" or "Tab"."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            await self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                **more,
            )  # fmt: skip

    async def picture(self, width: int, height: int, kind: str = "png") -> bytes:
        """Return a picture of the page: "png", or "webp", which is smaller."""
        await self.resize(width, height)
        shot = await self.send("Page.captureScreenshot", format=kind, captureBeyondViewport=False)
        return base64.b64decode(str(shot["data"]))


@asynccontextmanager
async def open_page(url: str, script: str = "") -> AsyncIterator[Page]:
    """Open a page in a browser of its own, for as long as the block runs.

    The script runs before those of the page.
    """
    program = find_browser()
    assert program is not None
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    with tempfile.TemporaryDirectory(prefix="br-", ignore_cleanup_errors=True) as profile:
        # The browser expects the pipes as descriptors 3 and 4.
        launch = f'exec "$0" "$@" 3<&{their_input} 4>&{their_output}'
        process = await trio.lowlevel.open_process(
            ["/bin/bash", "-c", launch, program, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(their_input, their_output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(their_input)
        os.close(their_output)
        reader, writer = trio.lowlevel.FdStream(our_input), trio.lowlevel.FdStream(our_output)
        try:
            async with reader, writer, trio.open_nursery() as nursery:
                page = Page(reader, writer)
                nursery.start_soon(page.read)
                await page.open(url, script)
                yield page
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
