"""A real browser without a window, driven over its own debugging protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
_SECONDS = 120.0
_PORT_FILE = "DevToolsActivePort"
_FLAGS = (
    *("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu"),
    # The tests run as root, in containers whose /dev/shm is small.
    *("--no-sandbox", "--disable-dev-shm-usage"),
    # What a browser does for itself would be taken for what the page does.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--no-default-browser-check", "--disable-default-apps"),
    # No other machine exists.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "about:blank",
)


@dataclass
class Page:
    """One page: what it asked for, and what it complained about."""

    socket: ClientConnection
    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Errors of scripts, of the console, of the network, and of the content policy."""
    _session: str = ""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    async def open(self, url: str) -> None:
        """Loads `url`."""
        target = await self._ask("Target.createTarget", url="about:blank")
        attached = await self._ask("Target.attachToTarget", flatten=True, **target)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._ask(f"{domain}.enable")
        await self._ask("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What an expression of JavaScript is worth in the page."""
        found = await self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Its value, once it is true."""
        async with asyncio.timeout(_SECONDS):
            while not (value := await self.value(expression)):
                await asyncio.sleep(0.05)
        return value

    async def listen(self) -> None:
        """Reads what the browser says, to its end."""
        async for frame in self.socket:
            message = json.loads(frame)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        await self.socket.send(json.dumps(request))
        async with asyncio.timeout(_SECONDS):
            message = await answer
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.loadingFailed":
            self.failures.append(f"loading failed: {params['errorText']}")
        elif event == "Runtime.exceptionThrown":
            self.failures.append(str(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.failures.append(str(params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.failures.append(str(params["entry"]))


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A browser of its own, with nothing in its profile."""
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        f"--user-data-dir={folder}",
        *_FLAGS,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with connect(await _address(process, folder), proxy=None, max_size=None) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            try:
                yield page
            finally:
                listening.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _address(process: asyncio.subprocess.Process, folder: Path) -> str:
    port_file = folder / _PORT_FILE
    async with asyncio.timeout(_SECONDS):
        while not port_file.exists() or len(lines := port_file.read_text().splitlines()) < 2:
            assert process.returncode is None, "the browser does not start"
            await asyncio.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
