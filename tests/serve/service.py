"""A service of a model that counts pictures instead of reading signs, on a port of its own."""

import asyncio
import json
import struct
import threading
import time
import urllib.request
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import simplejpeg
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from slt_jax.decoding.results import Segment
from slt_jax.errors import UserError
from slt_jax.serve.app import Service
from slt_jax.serve.bounds import Bounds
from slt_jax.serve.server import Server, listen

WORD, SENTENCE = 2, 6  # frames


class CountingExtractor:
    """Every picture is a frame."""

    every = 1

    def __init__(self, model):
        self._model, self.closed = model, False
        model.extractors.append(self)

    def frame(self, picture, time):
        self._model.delay()
        return [SimpleNamespace(time=time, boxes={"face": (1, 2, 30, 40), "hand_l": None},
                                landmarks=np.ones((self._model.points, 3)))]  # fmt: skip

    def flush(self):
        return []

    def close(self):
        self.closed = True


class CountingStream:
    def __init__(self, language):
        self.language, self.frames, self.first = language, 0, 0

    def push(self, count):
        self.frames += count
        ended = []
        while self.frames - self.first >= SENTENCE:
            ended.append(self._segment(self.first + SENTENCE))
        return self._update(ended)

    def finish(self):
        return self._update([self._segment(self.frames)] if self.frames > self.first else [])

    def _segment(self, end):
        segment = Segment(self.first / 10, end / 10, self._words(end - self.first))
        self.first = end
        return segment

    def _words(self, count):
        return " ".join(f"{self.language or 'w'}{n}" for n in range(count // WORD))

    def _update(self, ended):
        text = self._words(self.frames - self.first)
        return SimpleNamespace(settled=text, pending="...", ended=tuple(ended), time=self.frames / 10)


class CountingModel:
    """As ServedModel."""

    fps, name, points = 10.0, "counting", 33

    def __init__(self, languages=(), delay=0.0, device=0.0, compiling=None):
        self.languages, self.language = languages, next(iter(languages), None)
        self.extractors: list[Any] = []
        self.batches: list[int] = []
        self.folders: list[str] = []
        self.looked, self.parts = 0, 4  # pictures and parts of files, counted as they are begun; parts of a file
        self._delay, self._device, self._compiling = delay, device, compiling

    def delay(self):
        self.looked += 1
        time.sleep(self._delay)

    def described(self):
        return {"name": self.name, "languages": list(self.languages), "language": self.language, "fps": self.fps,
                "streams": ["face"], "landmarks": "upper13", "seconds": 1.0, "mirrored": False}  # fmt: skip

    def compile(self):
        if self._compiling:
            self._compiling()

    def open_extractor(self):
        return CountingExtractor(self)

    def open_stream(self, language):
        return CountingStream(language)

    def push(self, pairs):
        time.sleep(self._device)
        self.batches.append(len(pairs))
        return [stream.push(len(frames)) for stream, frames in pairs]

    @staticmethod
    def finish(stream):
        return stream.finish()

    def translate_file(self, path, folder, progress, *, language, bounds):
        with open(path, "rb") as file:
            content = file.read()
        self.folders.append(folder)
        if b"broken" in content:
            raise UserError(f"{path}: cannot be opened as a video (no)")
        for done in range(self.parts):
            progress(done, self.parts)
            self.delay()
        yield Segment(0.0, 1.0, f"{len(content)} bytes")
        yield Segment(1.0, 2.5, language or "¿más?")


@contextmanager
def running(model=None, bounds=None, *, host="127.0.0.1", wait=True, **options):
    """A service on a free port; `url` and `ws` lead to it."""
    listening = listen(host, 0)
    port = listening.getsockname()[1]
    started = {}

    def run():
        async def main():
            service = Service(model or CountingModel(), bounds or Bounds(), **options)
            server = Server(service, host, port)
            started.update(service=service, server=server)
            await server.serve(sockets=[listening])

        asyncio.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: "server" in started and started["server"].started)
    if wait:
        until(started["service"].ready.is_set)
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", ws=f"ws://127.0.0.1:{port}/v1/stream", port=port,
                              thread=thread, **started)  # fmt: skip
    finally:
        started["server"].should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def ask(url, body=None, headers=None, method=None):
    """Status, headers and body of an answer."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def form(content=b"\x00\x00\x00\x18ftypmp42", name="a.mp4", field="file", **others):
    """Body and headers of a form with a file."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
             for key, value in others.items()]  # fmt: skip
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    return b"".join([*parts, head, content, b"\r\n--x--\r\n"]), {"Content-Type": "multipart/form-data; boundary=x"}


def jpeg(width=64, height=48, value=100):
    return simplejpeg.encode_jpeg(np.full((height, width, 3), value, np.uint8), colorsubsampling="420")


def picture(at, data=None):
    return struct.pack("<d", at) + (jpeg() if data is None else data)


@contextmanager
def begun(server, *, headers=None, **start):
    """A session that is ready."""
    with connect(server.ws, additional_headers=headers, max_size=None, close_timeout=2) as socket:
        socket.send(json.dumps({"type": "start"} | start))
        assert json.loads(socket.recv(timeout=10))["type"] == "ready"
        yield socket


def rest(socket):
    """The messages until the service closes, and its code and reason."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(timeout=10)))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else None, closed.rcvd.reason if closed.rcvd else ""
