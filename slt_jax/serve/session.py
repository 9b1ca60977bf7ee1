"""One signer at the WebSocket `/v1/stream`: pictures come up, boxes, points and text go down.

Up: a JSON text `{"type": "start"}` with `token` and `language` where they are needed; then binary messages, each of 8
bytes of time (seconds, float64, little-endian) and a JPEG; `{"type": "end"}` at last. Down: JSON texts of the types
`ready`, `frame`, `text` and `error`.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import simplejpeg
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from slt_jax.errors import UserError, shortened
from slt_jax.serve import bounds as codes
from slt_jax.serve.access import client
from slt_jax.serve.batching import Batcher, Member
from slt_jax.serve.bounds import BAD_DATA, FAILED, TIMEOUT, Bounds, Closed, picture_of
from slt_jax.serve.metrics import Metrics
from slt_jax.serve.pace import Pacemaker

LOG = logging.getLogger("slt_jax.serve")
START_SECONDS, SEND_SECONDS = 10.0, 10.0
IN_FLIGHT = 3  # pictures that a client should have under way at most
SLOW_SECONDS = 0.2  # for one picture; then one is to be under way, so that it is fresh when its turn comes
LATE_SECONDS = 0.3  # a picture that has waited for longer is dropped where a newer one waits too
TOLD = 4  # messages about frames that wait for a slow reader; the newest count
REMEMBERED = 10_000  # frames whose times are known: far more than a model looks at together
TEXT_BYTES = 4096  # of a JSON message that comes up
END = None  # in the queue of pictures: nothing more comes


class Session:
    """A connection from its start to its end. `run` returns when everything of it is freed."""

    def __init__(
        self, socket: WebSocket, model: Any, batcher: Batcher, bounds: Bounds, metrics: Metrics, *,
        allowed: Callable[[str], bool], draining: asyncio.Event, threads: Executor,
    ):  # fmt: skip
        self._socket, self._model, self._batcher = socket, model, batcher
        self._bounds, self._metrics = bounds, metrics
        self._allowed, self._draining, self._threads = allowed, draining, threads
        self._pictures: deque[tuple[float, float, memoryview] | None] = deque()
        self._arrived, self._something = asyncio.Event(), asyncio.Event()
        self._last = -1.0
        self._received = self._dropped = self._framed = 0
        self._room = IN_FLIGHT  # pictures that may be under way
        self._full = 0  # times when the client had to hold pictures back
        self._times: deque[float] = deque(maxlen=REMEMBERED)  # of the last frames, by the pictures' own clock
        self._told: deque[dict[str, Any]] = deque(maxlen=TOLD)
        self._text: dict[str, Any] | None = None  # what the reader does not know yet
        self._ended: Closed | None = None  # how to close once everything is said
        self._member: Member | None = None
        self._extractor: Any = None
        self._busy: Future | None = None

    async def run(self) -> None:
        """Serve the connection, and log one line about it."""
        began, closed = time.monotonic(), Closed(FAILED, "the service has failed; its log says why")
        try:
            closed = await self._serve()
        except Exception:
            LOG.exception("a session failed")
        finally:
            await self._free()
            self._metrics.endings.labels(str(closed.code)).inc()
            LOG.info("%s stream %d %s(%d pictures, %d dropped, %.1f s)", client(self._socket.scope), closed.code,
                     f"{closed.reason} " if closed.reason else "", self._received, self._dropped,
                     time.monotonic() - began)  # fmt: skip
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            async with asyncio.timeout(SEND_SECONDS):
                await self._close(closed)

    async def _serve(self) -> Closed:
        try:
            await self._start()
            async with asyncio.TaskGroup() as tasks:
                for part in (self._read, self._look, self._write, self._limit):
                    tasks.create_task(part())
        except (Closed, WebSocketDisconnect) as error:
            errors: list[BaseException] = [error]
        except BaseExceptionGroup as group:
            errors = flat(group)
        for reason in errors:  # the first is why the others ended
            if isinstance(reason, Closed):
                return reason
            if isinstance(reason, WebSocketDisconnect):
                return Closed(reason.code)
        raise errors[0]

    async def _close(self, closed: Closed) -> None:
        if self._socket.client_state == self._socket.application_state == WebSocketState.CONNECTED:
            if closed.code not in (1000, codes.GOING_AWAY):
                await self._socket.send_json({"type": "error", "code": closed.code, "message": closed.reason})
            await self._socket.close(closed.code, closed.reason)

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Work on a thread."""
        self._busy = self._threads.submit(work, *arguments)
        return await asyncio.wrap_future(self._busy)

    async def _free(self) -> None:
        if self._member is not None:
            self._batcher.remove(self._member)
        if self._busy is not None:  # a picture may still be looked at
            looking = asyncio.wrap_future(self._busy)
            await asyncio.wait([looking])
            looking.cancelled() or looking.exception()  # which has been told already
        if self._extractor is not None:
            await self._run(self._extractor.close)

    async def _start(self) -> None:
        """Wait for the start message, and make what the session needs."""
        tasks = [asyncio.create_task(one) for one in (self._socket.receive(), self._draining.wait())]
        try:
            done, _ = await asyncio.wait(tasks, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if tasks[1] in done:
            raise Closed(codes.GOING_AWAY, "the service stops")
        if not done:
            raise Closed(TIMEOUT, f"no start message within {START_SECONDS:g} seconds")
        asked = read_json(tasks[0].result())
        if asked.get("type") != "start":
            raise Closed(BAD_DATA, 'the first message is {"type": "start"}')
        token, language = asked.get("token", ""), asked.get("language")
        if not (isinstance(token, str) and self._allowed(token)):
            raise Closed(codes.UNAUTHORISED, "the token is missing or wrong")
        if language is not None and language not in self._model.languages:
            known = ", ".join(self._model.languages) or "none"
            raise Closed(BAD_DATA, f"language {shortened(ascii(language), 20)} is unknown; known: {known}")
        self._extractor = await self._run(self._model.open_extractor)
        self._member = Member(await self._run(self._model.open_stream, language), self._take, self._fail)
        await self._send({"type": "ready", "fps": self._model.fps, "in_flight": IN_FLIGHT,
                          "language": language or self._model.language})  # fmt: skip

    async def _read(self) -> None:
        """Take what comes."""
        while True:
            try:
                async with asyncio.timeout(self._bounds.idle_seconds if self._ended is None else None):
                    message = await self._socket.receive()
            except TimeoutError:
                if self._ended is not None:
                    continue
                raise Closed(TIMEOUT, f"no picture for {self._bounds.idle_seconds:g} seconds") from None
            if (picture := message.get("bytes")) is not None:
                if self._ended is None:
                    self._queue(picture)
            elif read_json(message).get("type") == "end":
                self._end(Closed(1000))
            else:
                raise Closed(BAD_DATA, 'a JSON message after the start is {"type": "end"}')

    def _queue(self, message: bytes) -> None:
        at, jpeg = picture_of(message, self._bounds)
        if at <= self._last:
            raise Closed(BAD_DATA, f"the time of a picture, {at:g} s, is not after the one before, {self._last:g} s")
        self._last = at
        self._received += 1
        self._pictures.append((time.monotonic(), at, jpeg))
        if len(self._pictures) > self._bounds.max_queue:
            self._pictures.popleft()
            self._count_dropped()
        self._arrived.set()

    def _count_dropped(self) -> None:
        self._dropped += 1
        self._metrics.frames.labels("dropped").inc()

    def _end(self, closed: Closed) -> None:
        """Take nothing more; close when everything is said."""
        if self._ended is None:
            self._ended = closed
            self._pictures.append(END)
            self._arrived.set()

    async def _limit(self) -> None:
        """End the session when it has taken its time, or when the service stops; what it has is still translated."""
        try:
            async with asyncio.timeout(self._bounds.max_seconds):
                await self._draining.wait()
            self._end(Closed(codes.GOING_AWAY, "the service stops"))
        except TimeoutError:
            self._end(Closed(TIMEOUT, f"a session takes at most {self._bounds.max_seconds:g} seconds"))

    async def _look(self) -> None:
        """Find the signer in one picture after another."""
        assert self._member is not None
        pacemaker = Pacemaker(self._extractor)
        while True:
            picture, began = await self._next(), time.monotonic()
            try:
                if picture is END:
                    found = await self._run(self._extractor.flush)
                else:
                    _, at, jpeg = picture
                    found = await self._run(look, self._extractor, jpeg, at)
            except UserError as error:
                raise Closed(BAD_DATA, shortened(str(error), 120)) from None
            if picture is not END:
                self._metrics.frames.labels("seen").inc()
                self._full += len(self._pictures) >= self._room - 1
                pacemaker.tell(self._full)
                self._room = 1 if time.monotonic() - began > SLOW_SECONDS else IN_FLIGHT
            for frame in found:
                self._times.append(frame.time)
                self._framed += 1
                await self._batcher.add(self._member, frame)
            self._say_frame(found[-1] if found else None)
            if picture is END:
                self._batcher.end(self._member)
                return

    async def _next(self) -> tuple[float, float, memoryview] | None:
        """The next picture, without those that have become late; END after the last."""
        while not self._pictures:
            self._arrived.clear()
            await self._arrived.wait()
        late = time.monotonic() - LATE_SECONDS
        while True:
            picture, newer = self._pictures.popleft(), self._pictures[0] if self._pictures else END
            if picture is END or newer is END or picture[0] >= late:
                return picture
            self._count_dropped()

    def _say_frame(self, frame: Any) -> None:
        said = {"type": "frame", "done": self._received - len([p for p in self._pictures if p]),
                "dropped": self._dropped, "in_flight": self._room}  # fmt: skip
        if frame is not None:
            said |= {"time": frame.time, "boxes": drawn_boxes(frame.boxes), "points": drawn_points(frame.landmarks)}
        self._told.append(said)
        self._something.set()

    def _take(self, update: Any, last: bool) -> None:
        """Remember what the stream says until it is sent; sentences that ended are never lost."""
        earlier = self._text["ended"] if self._text else []
        ended = [{"start": self._clock(segment.start), "end": self._clock(segment.end), "text": segment.text}
                 for segment in update.ended]  # fmt: skip
        self._text = {"type": "text", "time": self._clock(update.time), "settled": update.settled,
                      "pending": update.pending, "ended": [*earlier, *ended]}  # fmt: skip
        if last:
            self._text["last"] = True
        self._something.set()

    def _clock(self, seconds: float) -> float:
        """The pictures' time at a stream's, which counts frames and knows nothing of gaps between pictures."""
        place = round(seconds * self._model.fps) - (self._framed - len(self._times))
        if not self._times:
            return seconds
        known = min(max(place, 0), len(self._times) - 1)
        return round(self._times[known] + max(place - known, 0) / self._model.fps, 3)

    def _fail(self) -> None:
        self._ended = Closed(FAILED, "the service has failed; its log says why")
        self._text = (self._text or {"type": "text", "ended": []}) | {"last": True}
        self._something.set()

    async def _write(self) -> NoReturn:
        """Send what there is to say; a slow reader gets the newest."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._told:
                await self._send(self._told.popleft())
            if self._text is not None:
                text, self._text = self._text, None
                last = text.pop("last", False)
                if "settled" in text:
                    await self._send(text)
                if last and self._ended is not None:
                    raise self._ended

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
        except TimeoutError:
            raise Closed(TIMEOUT, f"nothing was read for {SEND_SECONDS:g} seconds") from None


def flat(group: BaseExceptionGroup) -> list[BaseException]:
    """The exceptions in a group and in the groups in it."""
    return [one for error in group.exceptions
            for one in (flat(error) if isinstance(error, BaseExceptionGroup) else [error])]  # fmt: skip


def read_json(message: Any) -> dict[str, Any]:
    """The object in a message. Raises Closed, and WebSocketDisconnect for the last one."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code") or 1006)
    text = message.get("text")
    if text is None:
        raise Closed(BAD_DATA, 'the first message is {"type": "start"}')
    if len(text) > TEXT_BYTES:
        raise Closed(codes.TOO_BIG, f"a JSON message of {len(text)} characters; at most {TEXT_BYTES}")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        raise Closed(BAD_DATA, "a text message that is no JSON") from None
    if not isinstance(asked, dict):
        raise Closed(BAD_DATA, "a JSON message that is no object")
    return asked


def look(extractor: Any, jpeg: memoryview, at: float) -> Any:
    """What the extractor finds in a JPEG. Raises Closed for one that cannot be decoded."""
    try:
        picture = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    except ValueError:
        raise Closed(BAD_DATA, "a JPEG that is damaged") from None
    return extractor.frame(picture, at)


def drawn_boxes(boxes: Any) -> dict[str, list[int]]:
    """Boxes to draw, in whole pixels: left, top, right, bottom by stream; without those that were not found."""
    found = {name: np.asarray(box, float) for name, box in boxes.items() if box is not None}
    return {name: np.rint(box).astype(int).tolist() for name, box in found.items() if np.isfinite(box).all()}


def drawn_points(landmarks: Any) -> list[list[float]]:
    """Points to draw: x and y in pixels, and how sure they are."""
    return [] if landmarks is None else np.round(np.asarray(landmarks, float), 2).tolist()
