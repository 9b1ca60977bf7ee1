"""`POST /v1/translate`: a video comes up, its text goes down as JSON, as subtitles or, with progress, as events."""

import asyncio
import json
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from slt_jax.decoding.results import Segment
from slt_jax.errors import UserError
from slt_jax.serve.bounds import Bounds, Refused
from slt_jax.serve.translate_video import srt

JSON, SRT, EVENTS = "application/json", "application/x-subrip", "text/event-stream"
KINDS = {JSON: JSON, SRT: SRT, "text/srt": SRT, EVENTS: EVENTS, "*/*": JSON, "application/*": JSON, "text/*": SRT}
# How files of videos begin. Others, such as playlists, could make the decoder read what lies elsewhere.
MAGIC = ((0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"GIF8"), *((4, name) for name in (b"ftyp", b"moov", b"mdat", b"wide",
         b"free", b"skip")))  # fmt: skip
FIELD = "file"


class Cancelled(Exception):
    """Nobody waits for the answer any longer."""


def wanted(accept: str) -> str:
    """The kind of answer that an `Accept` header asks for. Raises Refused for one that cannot be given."""
    weighed = []
    for place, part in enumerate(accept.split(",") if accept.strip() else ["*/*"]):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with suppress(ValueError):
                    weight = float(parameter[2:])
        if kind in KINDS and weight > 0:
            weighed.append((-weight, place, KINDS[kind]))
    if not weighed:
        raise Refused(406, f"Accept: {JSON}, {SRT} or {EVENTS}")
    return min(weighed)[2]


class Uploads:
    """Takes uploads: one is translated at a time, some wait, more are refused."""

    def __init__(self, model: Any, bounds: Bounds, scratch: Path, metrics: Any):
        self._model, self._bounds, self._scratch, self._metrics = model, bounds, scratch, metrics
        self._open, self._turn = 0, asyncio.Lock()

    @property
    def open(self) -> int:
        """How many are being answered."""
        return self._open

    async def answer(self, request: Request) -> Response:
        """Answer one request. Raises Refused."""
        kind = wanted(request.headers.get("accept", ""))
        if self._open >= self._bounds.max_uploads:
            raise Refused(429, f"{self._open} videos are being translated; try again later", retry=10)
        self._enter(1)
        stack = ExitStack()
        stack.callback(self._enter, -1)
        try:
            language, video = await self._received(request, stack)
            if language is not None and language not in self._model.languages:
                raise Refused(400, f"language: known are {', '.join(self._model.languages) or 'none'}")
            work = Work(self, request, video, language)
            if kind == EVENTS:
                return Events(work, stack.pop_all())
            segments = [segment async for segment in work.segments(lambda *_: None)]
        except ClientDisconnect:
            raise Refused(499, "the client has gone") from None
        finally:
            stack.close()
        if kind == SRT:
            return Response(srt(segments), media_type=SRT)
        return JSONResponse(as_json(segments))

    def _enter(self, number: int) -> None:
        self._open += number
        self._metrics.uploads.set(self._open)

    async def _received(self, request: Request, stack: ExitStack) -> tuple[str | None, BinaryIO]:
        """The language and the video of a request; the video is a file without a name, and goes with `stack`."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
            raise Refused(415, f"send the video as the field {FIELD!r} of multipart/form-data")
        limit = self._bounds.upload_bytes
        too_big = Refused(413, f"the request is larger than {self._bounds.max_upload_mb:g} MB")
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise too_big
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await request.receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise too_big
            return message

        counting = Request(request.scope, counted)
        try:
            form = await counting.form(max_files=1, max_fields=4, max_part_size=1024)
        except TimeoutError:
            raise Refused(408, f"nothing came for {self._bounds.idle_seconds:g} seconds") from None
        except MultiPartException as error:
            raise Refused(400, f"the form cannot be read: {error.message}") from None
        except Exception as error:
            if type(error).__name__ != "HTTPException":  # Starlette's, of a form within an application
                raise
            raise Refused(400, f"the form cannot be read: {getattr(error, 'detail', '')}") from None
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                stack.callback(value.file.close)
        video, language = form.get(FIELD), form.get("language")
        if not isinstance(video, UploadFile):
            raise Refused(400, f"the form has no file in the field {FIELD!r}")
        file: Any = video.file
        return (language or None) if isinstance(language, str) else None, file


class Work:
    """The translation of one video. It stops when the client has gone."""

    def __init__(self, uploads: Uploads, request: Request, video: BinaryIO, language: str | None):
        self._uploads, self._request, self._video, self._language = uploads, request, video, language
        self._stopped = threading.Event()

    async def segments(self, told: Callable[[int, int], None]) -> AsyncIterator[Segment]:
        """Yield the segments; `told(frames, frames expected)` is called now and then. Raises Refused."""
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Segment | Exception | None] = asyncio.Queue()

        def put(item: Segment | Exception | None) -> None:
            loop.call_soon_threadsafe(found.put_nowait, item)

        def progress(done: int, expected: int) -> None:
            if self._stopped.is_set():
                raise Cancelled
            loop.call_soon_threadsafe(told, done, expected)

        def work() -> None:
            try:
                for segment in self._translated(progress):
                    put(segment)
                    if self._stopped.is_set():
                        return
                put(None)
            except Exception as error:
                put(error)

        watch = asyncio.create_task(self._watch())
        try:
            async with self._uploads._turn:
                running = loop.run_in_executor(None, work)
                try:
                    while (item := await found.get()) is not None:
                        if isinstance(item, Segment):
                            yield item
                        elif isinstance(item, UserError):
                            raise Refused(422, self._without_path(str(item)))
                        elif isinstance(item, Cancelled):
                            raise ClientDisconnect
                        else:
                            raise item
                finally:
                    self._stopped.set()
                    await asyncio.shield(running)
        finally:
            watch.cancel()

    async def events(self) -> AsyncIterator[str]:
        """The answer as server-sent events: `progress`, `segment`, and at last `done` or `error`."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        shown = -1

        def told(done: int, expected: int) -> None:
            nonlocal shown
            if (percent := 100 * done // max(expected, 1)) > shown:
                shown = percent
                lines.put_nowait(event("progress", {"frames": done, "expected": expected}))

        async def collect() -> None:
            segments = []
            try:
                async for segment in self.segments(told):
                    segments.append(segment)
                    lines.put_nowait(event("segment", asdict(segment)))
                lines.put_nowait(event("done", as_json(segments)))
            except Refused as refused:
                lines.put_nowait(event("error", {"status": refused.status, "error": refused.message}))
            except ClientDisconnect:
                pass
            finally:
                lines.put_nowait(None)

        task = asyncio.create_task(collect())
        try:
            while (line := await lines.get()) is not None:
                yield line
            await task
        finally:
            self._stopped.set()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._stopped.set()

    def _translated(self, progress: Callable[[int, int], None]) -> Any:
        uploads, file = self._uploads, self._video
        file.seek(0)
        start = file.read(16)
        if not any(start[place : place + len(magic)] == magic for place, magic in MAGIC):
            raise UserError("the file is no video: mp4, mov, m4v, mkv, webm, avi or gif")
        with tempfile.TemporaryDirectory(dir=uploads._scratch) as folder:
            yield from uploads._model.translate_file(
                named(file, folder), folder, progress, language=self._language, bounds=uploads._bounds
            )

    def _without_path(self, message: str) -> str:
        """What the decoder says about a path, said about the file."""
        return "the file: " + message.partition(": ")[2] if message.startswith("/") else message


class Events(StreamingResponse):
    """A translation as server-sent events; it frees what it holds, also where nobody reads a single one."""

    def __init__(self, work: Work, held: ExitStack):
        super().__init__(work.events(), media_type=EVENTS)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette's."""
        with self._held:
            await super().__call__(scope, receive, send)


def named(file: Any, folder: str) -> str:
    """A path by which a file without a name can be read again; a copy in `folder` where there is no such thing."""
    if hasattr(file, "rollover"):
        file.rollover()  # from memory to the disk, where it has no name
    path = f"/proc/self/fd/{file.fileno()}"
    file.flush()
    if os.path.exists(path):
        return path
    file.seek(0)
    copy = os.path.join(folder, "video")
    with open(copy, "wb") as target:
        shutil.copyfileobj(file, target)
    return copy


def event(name: str, content: Any) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n"


def as_json(segments: list[Segment]) -> dict[str, Any]:
    """The answer in JSON."""
    text = " ".join(segment.text for segment in segments if segment.text)
    return {"text": text, "segments": [asdict(segment) for segment in segments]}
