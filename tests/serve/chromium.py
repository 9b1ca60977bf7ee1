"""Chromium without a window, driven by its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page."""

    def __init__(self, socket):
        self._socket, self._numbers, self.complaints = socket, itertools.count(1), []

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(message["params"]["exceptionDetails"])
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"])
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def run(self, script):
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        while not (value := self.run(condition)):
            assert time.monotonic() < end, (condition, self.run("document.body.innerText"), self.complaints)
            time.sleep(0.1)
        return value

    def size(self, width, height, *, dark=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])  # fmt: skip

    def picture(self, path):
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder, *flags, language="en"):
    """A browser whose `open(url)` gives a Tab."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
               "--no-first-run", f"--user-data-dir={folder}", f"--lang={language}", f"--accept-lang={language}",
               "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--disable-background-networking",
               "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows", *flags]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sockets = []
    try:
        port_file = Path(folder) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().strip()):
            assert time.monotonic() < end, "Chromium does not start"
            time.sleep(0.05)
        port = port_file.read_text().split()[0]

        def listed(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/{path}", timeout=30) as answer:
                return json.load(answer)

        def attached(address):
            connection = connect(address, max_size=None, open_timeout=30)
            sockets.append(connection)
            return Tab(connection.__enter__())

        whole = attached(listed("version")["webSocketDebuggerUrl"])

        def open_tab(url):
            # A window of its own, because a tab behind another is hidden, and gets no pictures of its camera.
            target = whole.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
            (found,) = (one for one in listed("list") if one["id"] == target)
            tab = attached(found["webSocketDebuggerUrl"])
            for domain in ("Page", "Runtime", "Log"):
                tab.call(f"{domain}.enable")
            tab.call("Page.navigate", url=url)
            return tab

        yield open_tab
    finally:
        for connection in sockets:
            connection.__exit__(None, None, None)
        process.terminate()
        process.wait(30)
