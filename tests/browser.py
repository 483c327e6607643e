"""Chromium without a window, for tests of pages: spoken to over a pipe in its own DevTools protocol, so no package is
needed for it.

    with page("http://127.0.0.1:7860/") as tab:
        tab.wait_for("document.querySelector('canvas')", seconds=10)
        assert tab.evaluate("document.title") == "…"
        assert not tab.console_errors
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

FLAGS = (
    *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--mute-audio", "--no-first-run", "--disable-quic"),
    # It looks for updates and lists of its own otherwise.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb", "--no-default-browser-check"),
)


def chromium() -> str | None:
    """The browser's file, None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class PageError(AssertionError):
    """What the page did not do."""


class Page:
    """One tab. `requests`: the addresses that it asked for, in order, `data:` and `blob:` among them.
    `console_errors`: what it said with console.error, uncaught exceptions, and files that it could not load."""

    def __init__(self, read: int, write: int):
        self.requests: list[str] = []
        self.console_errors: list[str] = []
        self.console: list[str] = []
        self._read, self._write, self._rest = read, write, b""
        self._number, self._session = 0, ""
        self._loaded = False

    def open(self, url: str, width: int = 1400, height: int = 900, seconds: float = 30) -> None:
        if not self._session:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
                self.call(f"{domain}.enable")
        self.resize(width, height)
        self._loaded = False
        output = self.call("Page.navigate", url=url)
        if output.get("errorText"):
            raise PageError(f"{url} can't be opened: {output['errorText']}")
        end = time.monotonic() + seconds
        while not self._loaded:
            self._pump(end, f"{url} to load")

    # ---- what a test does with it ---------------------------------------------------------------------------------
    def evaluate(self, js: str) -> Any:
        """The value of an expression, as JSON has it; of a promise, once it is kept."""
        output = self.call("Runtime.evaluate", expression=js, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in output:
            raise PageError(f"{js}\n{_thrown(output['exceptionDetails'])}")
        return output["result"].get("value")

    def wait_for(self, js: str, seconds: float = 10) -> Any:
        """The value of the expression, once it is true in JavaScript's sense; `true` for a node."""
        end = time.monotonic() + seconds
        asked = f"Promise.resolve({js}).then(v => v ? [v instanceof Node || v] : null)"
        while (result := self.evaluate(asked)) is None:
            if time.monotonic() > end:
                raise PageError(f"not within {seconds} s: {js}; console: {self.console_errors or self.console}")
            time.sleep(0.05)
        return result[0]

    def drop(self, selector: str, *files: str | Path) -> None:
        """Gives files to an <input type=file>, as its dialog does."""
        result = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        if "objectId" not in result:
            raise PageError(f"there is no {selector} in the page")
        names = [str(Path(file).resolve()) for file in files]
        self.call("DOM.setFileInputFiles", files=names, objectId=result["objectId"])

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Moves the pointer there, in pixels of the window, and presses its left button."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int = 0) -> None:
        """A key by its name in KeyboardEvent.key; `code` is its old number, as 39 for ArrowRight."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, path: str | Path, width: int | None = None, height: int | None = None) -> Path:
        """A PNG of the window, resized first where a size is given."""
        if width and height:
            self.resize(width, height)
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return Path(path)

    # ---- the protocol -----------------------------------------------------------------------------------------------
    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Any method of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        _write_all(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while True:
            output = self._pump(end, f"an answer to {method}")
            if output.get("id") == self._number:
                if "error" in output:
                    raise PageError(f"{method}: {output['error']['message']}")
                return output.get("result", {})

    def _pump(self, end: float, what: str) -> dict[str, Any]:
        """The next message, and what it tells of the page noted."""
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise PageError(f"waited in vain for {what}")
            block = os.read(self._read, 1 << 16)
            if not block:
                raise PageError("the browser has ended")
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            self.console_errors.append(_thrown(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            said = " ".join(str(arg.get("value", arg.get("description", ""))) for arg in params["args"])
            (self.console_errors if params["type"] in ("error", "assert") else self.console).append(said)
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.console_errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())


@contextmanager
def page(url: str, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A browser with nothing in its memory that has this page open: http://, or the file:// of Path.as_uri()."""
    result = chromium()
    if result is None:
        raise PageError(f"there is no Chromium here (looked for {', '.join(NAMES)})")
    with (
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder,
        _started(result, folder) as (read, write),
    ):
        tab = Page(read, write)
        tab.open(url, width, height)
        yield tab


@contextmanager
def _started(browser: str, folder: str) -> Iterator[tuple[int, int]]:
    """The ends of the pipe of a browser that keeps what it keeps in this folder."""
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root can't have one
    command = [browser, *FLAGS, *sandbox, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
    theirs_in, write = os.pipe()
    read, theirs_out = os.pipe()
    # Chromium reads from file 3 and writes to 4; a shell puts them there, whatever numbers the pipes have here.
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder},
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield read, write
    finally:
        os.close(write)  # at the end of what it reads it ends
        os.close(read)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
