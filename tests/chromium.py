"""A headless Chromium for tests, spoken to over its debugging pipe: how a page looks, and what it fetches.

The browser reaches nothing: every name and address outside the machine is refused.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--disable-dev-shm-usage", "--disable-domain-reliability"),
    *("--force-color-profile=srgb", "--metrics-recording-only", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_TIMEOUT_SECONDS = 60.0

SCALE = 2
"""As on most screens of today: a line of 1.6 CSS pixels has pixels of its own colour wherever it lies."""


def find_chromium() -> str | None:
    """The browser that $CHROMIUM names, or the first of the usual names on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Page:
    """A page as it was rendered.

    Attributes:
        pixels_HWC: of the whole page, RGB uint8, `SCALE` of them a CSS pixel.
        facts: what the script given to :meth:`Browser.open` says.
        requests: the URLs that the page asked for, itself included.
        complaints: what the console says.
    """

    pixels_HWC: np.ndarray
    facts: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """A running Chromium; one page at a time."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process = process
        self._write, self._read = write, read
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def open(self, path: Path, *, width: int, dark: bool, script: str) -> Page:
        """Renders a file at a width in CSS pixels, and evaluates `script` in it, an expression with a JSON value."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

        def call(method: str, **parameters: Any) -> dict[str, Any]:
            return self._call(method, session, **parameters)

        for domain in ("Page", "Network", "Runtime", "Log"):
            call(f"{domain}.enable")
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        call("Emulation.setEmulatedMedia", features=[theme])
        call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=SCALE, mobile=width < 600)
        self._events.clear()
        call("Page.navigate", url=path.resolve().as_uri())
        self._await("Page.loadEventFired")
        answer = call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        picture = call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        pixels_HWC = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        page = Page(pixels_HWC, answer["result"]["value"])
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                page.requests.append(event["params"]["request"]["url"])
            elif event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                page.complaints.append(json.dumps(event["params"]))
        self._call("Target.closeTarget", targetId=target)
        return page

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _await(self, event: str) -> None:
        while all(one["method"] != event for one in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {_TIMEOUT_SECONDS:.0f} seconds"
            data = os.read(self._read, 1 << 20)
            assert data, f"Chromium ended, status {self._process.poll()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)


@contextmanager
def run_chromium(directory: Path, net_log: Path) -> Iterator[Browser]:
    """A browser with a new profile in `directory`, which writes what its network stack did to `net_log`."""
    executable = find_chromium()
    assert executable is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    command = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    arguments = [executable, *_FLAGS, f"--user-data-dir={directory}", f"--log-net-log={net_log}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", *arguments],
        pass_fds=(to_browser[0], from_browser[1]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    browser = Browser(process, to_browser[1], from_browser[0])
    try:
        yield browser
        browser._call("Browser.close")
        process.wait(_TIMEOUT_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the browser and what it started
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])


def requested_urls(net_log: Path) -> list[str]:
    """What pages asked of the network, by the log of the browser's own network stack.

    What the browser asks for itself (the time, updates) has no page as its origin, and is refused like all else.
    """
    log = json.loads(net_log.read_text(encoding="utf-8"))
    kind = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event["params"] for event in log["events"] if event["type"] == kind and "url" in event.get("params", {})]
    return [job["url"] for job in begun if job.get("initiator") != "not an origin"]
