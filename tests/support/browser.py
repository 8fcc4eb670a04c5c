"""A real Chromium, driven through its debugging pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--window-size=1400,900",
)


class Browser:
    """Chromium spoken to over its debugging pipe: NUL-ended JSON, commands on its descriptor 3, answers on 4."""

    def __init__(self, program: str, folder: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Numbers above 9 cannot be overwritten by the shell's redirections to 3 and 4.
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        script = f'exec "$@" 3<&{passed[0]} 4>&{passed[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs_in, theirs_out, *passed):
            os.close(fd)
        self.read_from, self.write_to = ours_in, ours_out
        self.buffer, self.number = b"", 0
        self.events: list[dict[str, Any]] = []
        self.own = "file:"
        self.session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_from], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.read_from, 1 << 20) if ready else b""
            assert data, "the browser ended or was silent for a minute"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        self.events.clear()
        self.own = url if url.startswith("http:") else "file:"
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        ready = "location.protocol !== 'about:' && document.documentElement?.dataset.ready"
        while not self.run(ready):
            assert time.monotonic() < deadline, self.problems()
            time.sleep(0.02)
        # Two frames: everything that the page's start asked to be laid out and drawn has been.
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def key(self, key: str, text: str = "") -> None:
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left" if kind != "mouseMoved" else "none",
            clickCount=int(kind != "mouseMoved"),
        )

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def problems(self) -> list[Any]:
        """Exceptions, refusals by the page's policy, and requests for anything but the page itself or what lies below it."""
        self.run("0")
        found: list[Any] = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(params)
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith((self.own, "about:")):
                found.append(params["request"]["url"])
        return found

    def picture(self, path: str) -> None:
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        os.close(self.write_to)
        os.close(self.read_from)
        self.process.terminate()
        self.process.wait(30)
