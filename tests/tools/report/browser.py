# SPDX-License-Identifier: GPL-2.0-or-later
"""A headless Chromium that a test talks to through two pipes (DevTools protocol).

With pipes there is no port to choose and nothing to find, and messages come in order. Each
wait has a limit; the whole process group ends with the browser.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--remote-debugging-pipe")
ANSWER_SECONDS = 60

Message = dict[str, Any]


class BrowserError(Exception):
    """It does not answer, or answers with an error."""


def program() -> str | None:
    return shutil.which("chromium")


class Browser:
    """One page; "events" are all messages that were no answers."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="report-chromium-")
        self._buffer, self._number = b"", 0
        self.events: list[Message] = []
        self._session = ""
        self._start()
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        """Chromium reads from descriptor 3 and writes to descriptor 4."""
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [program() or "chromium", *FLAGS, f"--user-data-dir={self._profile}",
                   "about:blank"]
        # the shell gives the pipes their numbers; neither is 3 or 4 while it does
        script = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._log = open(Path(self._profile) / "stderr.log", "wb")
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, "chromium", *command], pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            start_new_session=True)
        os.close(to_read)
        os.close(to_write)

    def _attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next((t for t in targets if t["type"] == "page"), None)
        target = page["targetId"] if page else self.call("Target.createTarget",
                                                         url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target,
                                  flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(timeout=ANSWER_SECONDS)
        self._log.close()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _log_tail(self) -> str:
        text = (Path(self._profile) / "stderr.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-20:])

    def _read(self, deadline: float) -> Message:
        """One message; they end with a zero byte."""
        while b"\0" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._from], [], [], left)
            data = os.read(self._from, 1 << 16) if ready else b""
            if not data:
                why = "has ended" if ready else f"does not answer within {ANSWER_SECONDS} s"
                raise BrowserError(f"chromium {why}:\n{self._log_tail()}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: Message = json.loads(line)
        return message

    def call(self, method: str, **params: Any) -> Message:
        self._number += 1
        request: Message = {"id": self._number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data):]
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = self._read(deadline)
            if message.get("id") != self._number:
                self.events.append(message)
            elif "error" in message:
                raise BrowserError(f"{method}: {message['error']}")
            else:
                result: Message = message["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, waited for if it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise BrowserError(details.get("exception", details).get("description", details))
        return found["result"].get("value")

    def open(self, path: Path, width: int, height: int, scheme: str = "light") -> None:
        """Load a file into a window of this size, a phone if it is narrow."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if width < 640 else 1, mobile=width < 640)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])
        answer = self.call("Page.navigate", url=path.resolve().as_uri())
        if "errorText" in answer:
            raise BrowserError(f"{path}: {answer['errorText']}")
        deadline = time.monotonic() + ANSWER_SECONDS
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._read(deadline))

    def complaints(self) -> list[str]:
        """Script errors, console messages, and what the browser itself logs."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses of all that the page has asked for."""
        return [e["params"]["request"]["url"] for e in self.events
                if e.get("method") == "Network.requestWillBeSent"]

    def screenshot(self, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def colours(self, png: bytes) -> int:
        """How many colours are in a picture; the browser knows how to read it."""
        data = base64.b64encode(png).decode()
        return int(self.evaluate(f"""(async () => {{
            const image = new Image();
            image.src = "data:image/png;base64,{data}";
            await image.decode();
            const canvas = document.createElementNS(
                "http://www.w3.org/1999/xhtml", "canvas");
            canvas.width = image.width; canvas.height = image.height;
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const pixels = context.getImageData(0, 0, image.width, image.height).data;
            return new Set(new Uint32Array(pixels.buffer)).size;
        }})()"""))
