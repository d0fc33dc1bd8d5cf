"""The pages in a real browser, wide and on a phone's width, with hostile texts."""

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.integration.serving_helpers import Server, Steps, served
from tests.integration.test_serving_pages import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]

LOOK = """({
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  scripts: document.querySelectorAll("script,img,iframe,object").length,
  title: document.title,
  text: document.body.innerText,
  rows: document.querySelectorAll(".runs li,.card").length,
})"""


class Browser:
    """A page of a headless Chromium, driven over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await self._until(lambda told: told.get("id") == number, "result")

    async def look(self, url: str, width: int) -> dict[str, Any]:
        """Load a page at a width and return what it is like."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        is_phone = width < 600
        await self.call("Emulation.setDeviceMetricsOverride", **size, mobile=is_phone)
        await self.call("Page.navigate", url=url)
        await self._until(lambda t: t.get("method") == "Page.loadEventFired", "params")
        found = await self.call("Runtime.evaluate", expression=LOOK, returnByValue=True)
        return found["result"]["value"]

    async def _until(self, wanted: Any, part: str) -> Any:
        while not wanted(told := await self._socket.receive_json()):
            pass
        return told.get(part)


@contextlib.asynccontextmanager
async def browser_in(folder: Path) -> AsyncGenerator[Browser]:
    """Start a Chromium; it has ended in the end."""
    assert CHROMIUM is not None
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
    where = ("--remote-debugging-port=0", f"--user-data-dir={folder}")
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *options, *where, "about:blank", stdout=quiet, stderr=quiet
    )
    try:
        told = folder / "DevToolsActivePort"
        while not told.exists() or "\n" not in told.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        base = f"http://127.0.0.1:{told.read_text().split()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/json") as reply:
                pages = [p for p in await reply.json() if p["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
                browser = Browser(socket)
                await browser.call("Page.enable")
                yield browser
    finally:
        process.terminate()
        await process.wait()


def test_pages_fit_and_run_nothing(tmp_path: Path) -> None:
    """No page is wider than the window, and no hostile text becomes an element."""

    async def check(server: Server) -> None:
        await server.run([HOSTILE, "b"])
        await server.run(["a", HOSTILE])
        async with browser_in(tmp_path) as browser:
            for width in (1280, 390):
                for path, rows in (("/?still", 2), ("/runs/1", 2), ("/runs/2", 2)):
                    page = await browser.look(server.http.url + path, width)
                    assert page["overflow"] <= 0, (path, width)
                    assert page["scripts"] == 0
                    assert page["rows"] == rows
                    assert "<script>alert(1)" in page["text"]
                    assert page["title"].startswith("Steps · ")

    served(Steps(), check, lambda _: HOSTILE.replace("\ud800", ""))
